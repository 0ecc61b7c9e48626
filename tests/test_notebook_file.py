"""A notebook's file is read whatever can be made of it, or refused in one line that says what is wrong."""

from __future__ import annotations

import json
import os

import nbformat
import pytest
from small_notebooks import write_notebook

from resflow.errors import InvalidInputError
from resflow.workflow.notebook_file import read_notebook
from resflow.workflow.parameters import declared_in_notebook

CELL = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "a: int = 1", "outputs": []}
WHOLE = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [CELL]}


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_notebook(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.ipynb"


TEXT = json.dumps(WHOLE | {"cells": [CELL | {"source": "a: int = 1  # größe"}]}, ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_that_editors_write_are_read_with_their_byte_order_marks(path, encoding):
    assert declared_in_notebook(read(path, TEXT.encode(encoding)))[0].help == "größe"


@pytest.mark.parametrize(
    "content",
    [
        WHOLE | {"nbformat_minor": 99},
        {key: value for key, value in WHOLE.items() if key not in ("metadata", "nbformat_minor")},
        WHOLE | {"cells": [CELL | {"id": "same"}, CELL | {"id": "same"}]},
        WHOLE | {"cells": [{"cell_type": "code"}, {"cell_type": "code", "source": None, "metadata": None}, CELL]},
        WHOLE | {"cells": [CELL | {"source": ["a: int", " = 1"]}]},
        WHOLE | {"cells": [CELL | {"metadata": {"tags": "parameters"}}]},
        WHOLE | {"cells": [CELL | {"outputs": "none"}, {"cell_type": "code", "metadata": {"tags": None}}]},
        WHOLE | {"cells": [CELL | {"outputs": [{"output_type": 5, "text": "\ud800"}]}]},
        WHOLE | {"cells": [{"cell_type": "unheard-of", "source": "text"}, CELL]},
        WHOLE | {"cells": [{"cell_type": 5, "source": 5, "metadata": {"tags": 5}}, CELL]},
        WHOLE | {"metadata": {"kernelspec": {"name": 5, "language": []}, "language_info": []}},
        WHOLE | {"metadata": {"kernelspec": None, "language_info": {"name": None}, "papermill": None}},
    ],
)
def test_what_a_notebook_lacks_is_filled_in(path, content):
    node = read(path, content)
    assert [parameter.name for parameter in declared_in_notebook(node)][:1] == ["a"]
    for cell in node.cells:
        assert isinstance(cell.source, str)
        assert isinstance(cell.metadata.tags, list)
        assert cell.cell_type != "code" or cell.outputs == []
    written = nbformat.reads(nbformat.writes(node), as_version=4)
    assert len({cell.id for cell in written.cells}) == len(content["cells"])


def test_notebook_of_version_3_is_upgraded(path):
    old = nbformat.v3.new_notebook(worksheets=[nbformat.v3.new_worksheet(cells=[nbformat.v3.new_code_cell("a = 1")])])
    node = read(path, nbformat.v3.writes_json(old).encode())
    assert (node.nbformat, node.cells[0].source) == (4, "a = 1")


REFUSED = {
    "empty": (b" \n", "the file is empty"),
    "truncated": (TEXT.encode()[:-20], r"not a whole one: not JSON \(.*, line 1 column"),
    "binary": (bytes(range(256)), "not a Jupyter notebook"),
    "latin": (TEXT.encode("latin-1"), r"byte \d+ is not text in UTF-8"),
    "text": (b"not a notebook", "not a Jupyter notebook, or not a whole one: not JSON"),
    "list": ([1, 2], r"not a Jupyter notebook: \[1, 2\]"),
    "other": ({"a": 1}, "it has no nbformat of 1 to 4"),
    "version 5": (WHOLE | {"nbformat": 5}, "has nbformat 5, newer than any that can be read: save it as nbformat 4"),
    "version 99": (WHOLE | {"nbformat": 99}, "has nbformat 99"),
    "version true": (WHOLE | {"nbformat": True}, "it has no nbformat"),
    "version text": (WHOLE | {"nbformat": "4"}, "it has no nbformat"),
    "version 3 without": (
        {"nbformat": 3, "worksheets": [{"cells": 5}]},
        "not a Jupyter notebook that nbformat can read",
    ),
    "minor of 3": ({"nbformat": 3, "nbformat_minor": [], "worksheets": []}, r"nbformat_minor is \[\], not a whole"),
    "minor": (WHOLE | {"nbformat_minor": "5"}, "nbformat_minor is '5', not a whole number"),
    "cells": (WHOLE | {"cells": {}}, r"cells is \{\}, not a list"),
    "cell": (WHOLE | {"cells": [5]}, "cell 1 is 5, not an object"),
    "source": (WHOLE | {"cells": [CELL, CELL | {"source": 5}]}, "source of cell 2 is 5, not text"),
    "metadata": (WHOLE | {"cells": [CELL | {"metadata": 5}]}, "metadata of cell 1 is 5, not an object"),
    "surrogate": (WHOLE | {"cells": [CELL | {"source": "'\ud800'"}]}, "text that is not Unicode"),
    "deep": (b'{"a":' * 100_000, "nested more than 100 levels deep"),
    "deeper": (WHOLE | {"metadata": json.loads('{"a":' * 200 + "1" + "}" * 200)}, "nested more than 100 levels deep"),
    "digits": (b'{"nbformat": ' + b"9" * 5000 + b"}", "a number of thousands of digits"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_notebook_is_refused_in_one_line(path, content, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        read(path, content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500 + len(str(path))


def test_what_is_no_file_is_refused_without_being_opened(tmp_path):
    write_notebook(tmp_path / "some.ipynb", "x = 1")
    (tmp_path / "folder.ipynb").mkdir()
    os.mkfifo(tmp_path / "pipe.ipynb")
    for name, message in {
        "absent.ipynb": "there is no such notebook",
        "folder.ipynb": "it is a folder",
        "pipe.ipynb": "it is no ordinary file",
        "some.ipynb/x": "there is no such notebook",
        "a" * 300: "cannot be read: File name too long",
    }.items():
        with pytest.raises(InvalidInputError, match=message):
            read_notebook(tmp_path / name)
