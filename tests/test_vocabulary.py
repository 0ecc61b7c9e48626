"""One vocabulary of the store, one writer and one reader; and what the same point is, to sweeps and to reports."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.tracking import MlflowClient

from resflow.errors import InvalidInputError
from resflow.workflow import names, store
from resflow.workflow.names import FINGERPRINT, PARENT, ROLE, SOURCE, SUPERSEDED, Role, same_points
from resflow.workflow.records import open_client, tagged

PACKAGE = Path(names.__file__).parents[1]
ROOMS = [path for path in sorted(PACKAGE.rglob("*.py")) if {"workflow", "notebook"}.intersection(path.parts)]
KEEPERS = ("store", "store_errors", "sqlite_check", "remote_check", "ui")
"""What looks after the store as a whole: its database, its server, and MLflow's own pages."""


def label(path):
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def texts(tree):
    """Every text in a program that is not a docstring, or an attribute's description."""
    described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described
    ]


@pytest.mark.parametrize("path", [path for path in ROOMS if path.name != "names.py"], ids=label)
def test_tags_are_spelled_in_one_place_only(path):
    tag = re.compile(r"(tags\.`)?(resflow|mlflow)\.(?!workflow|store\.|db\b|tracking$|data\.pandas)[\w.]+(`|$)")
    assert [text for text in texts(ast.parse(path.read_text())) if tag.match(text)] == []


def test_every_name_of_the_vocabulary_is_told_apart_and_used():
    sources = [path.read_text() for path in ROOMS if path.name != "names.py"]
    tags = {key: value for key, value in vars(names).items() if key[0] != "_" and str(value).startswith(names.RESERVED)}
    assert len(set(tags.values())) == len(tags)
    for name in tags:
        assert any(re.search(rf"\b{name}\b", source) for source in sources), f"{name} is used nowhere"


def is_for_types_only(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("path", [path for path in ROOMS if "records" not in path.parts], ids=label)
def test_only_records_write_to_mlflow_and_read_from_it(path):
    if path.stem in KEEPERS:
        return
    tree = ast.parse(path.read_text())
    typing = {id(node) for block in ast.walk(tree) if is_for_types_only(block) for node in ast.walk(block)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing:
            found += [alias.name for alias in node.names if alias.name == "MlflowClient"]
        if isinstance(node, ast.Attribute) and callable(getattr(MlflowClient, node.attr, None)):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            found += [f"{owner}.{node.attr}"] * (owner == "client")
    assert found == []


@pytest.mark.parametrize("path", [path for path in ROOMS if {"records", "sweeps"}.intersection(path.parts)], ids=label)
def test_records_and_sweeps_know_nothing_of_the_library_but_its_exception_and_how_numbers_are_worded(path):
    modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    known = ("resflow.workflow", "resflow.errors", "resflow.numerals")
    assert [name for name in modules if name and name.startswith("resflow") and not name.startswith(known)] == []


def run(parameters, **tags):
    return SimpleNamespace(data=SimpleNamespace(tags={SOURCE: "work.ipynb"} | tags, params=parameters))


def test_same_point_is_the_same_fingerprint_or_else_the_same_notebook_and_parameters():
    runs = [
        run({"a": "1"}, **{FINGERPRINT: "one"}),
        run({}, **{FINGERPRINT: "two"}),  # cut off before it had logged its parameters
        run({"a": "2"}, **{FINGERPRINT: "two"}),
        run({"a": "2"}, **{SUPERSEDED: "two"}),  # set aside, to be done again
        run({"a": "1"}, **{FINGERPRINT: "one, by other code"}),
        run({"a": "1"}),  # by hand
        run({"a": "1"}, **{SOURCE: "other.ipynb"}),
        run({"a": "1", "population": "[{'seed': 0}]"}, **{ROLE: Role.POPULATION, PARENT: "x"}),
        run({"a": "1", "population": "[{'seed': 1}]"}, **{ROLE: Role.POPULATION, PARENT: "x"}),
    ]
    keys = same_points(runs, [each.data.params for each in runs])
    same = {index: [other for other, key in enumerate(keys) if key == keys[index]] for index in range(len(runs))}
    alike = [[0, 4, 5], [1, 2, 3], [6], [7, 8]]
    assert same == {index: group for group in alike for index in group}


def test_condition_on_a_tag_has_quotes_that_the_value_has_not():
    assert tagged("a", "it's") == 'tags.`a` = "it\'s"'
    assert tagged("a", 'so "called"') == "tags.`a` = 'so \"called\"'"
    with pytest.raises(InvalidInputError, match="both kinds of quotes"):
        tagged("a", 'it\'s "so"')


@pytest.mark.parametrize("named", [False, True])
def test_store_is_checked_once_an_opening(tmp_path, monkeypatch, named):
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = store.ensure_store(tmp_path)
    if named:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    checked = []
    for module in ("store", "remote_check"):
        monkeypatch.setattr(f"resflow.workflow.{module}.check_sqlite", checked.append)
    open_client()
    assert checked == [tmp_path / "mlruns" / "mlflow.db"]
