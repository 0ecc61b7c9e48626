"""The guide's promises: its pages, followed from top to bottom, do what they say, as do the README's commands."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import BIN, blocks, commands, follow
from warm_commands import warm_commands
from warm_kernels import warm_kernels

import resflow
from resflow.workflow.store import ensure_store

ROOT = Path(__file__).parents[1]
README = commands((ROOT / "README.md").read_text())
PAGES = {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """The environment variables under which commands and kernels have imported everything already, for all pages."""
    with (
        warm_commands(tmp_path_factory.mktemp("commands")) as programs,
        warm_kernels(tmp_path_factory.mktemp("kernels")) as variables,
    ):
        yield {"PATH": os.pathsep.join((str(programs), str(BIN), os.environ["PATH"]))} | variables


@pytest.fixture
def project(tmp_path):
    """A project folder with the notebooks, an empty store, and a space in its name."""
    folder = tmp_path / "a project"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    ensure_store(folder)
    return folder


def on_this_machine(page):
    """The page with this machine as the one that it calls HOST, and ports that are free."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = {":5000": one, ":8786": other, " 5000": one, " 8786": other}
        for port, free in ports.items():
            page = page.replace(f"HOST{port}", f"HOST{port[0]}{free.getsockname()[1]}")
            page = page.replace(f"--port{port}", f"--port {free.getsockname()[1]}")
    return page.replace("HOST", "127.0.0.1")


@pytest.mark.parametrize("page", [name for name, path in PAGES.items() if [*blocks(path.read_text())]])
def test_page_followed_from_top_to_bottom_does_what_it_says(page, project, tmp_path, warm):
    (tmp_path / "notes").mkdir()
    text = PAGES[page].read_text()
    follow(on_this_machine(text) if page == "clusters" else text, project, tmp_path / "notes", **warm)


@pytest.fixture(scope="module")
def readers_project(tmp_path_factory):
    """A project folder with the notebooks and the file that the README's commands speak of."""
    folder = tmp_path_factory.mktemp("project with a space")
    (folder / "pyproject.toml").touch()
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    X = np.random.default_rng(0).standard_normal((80, 2))
    table = np.column_stack([X, X[:, 0] + X[:, 1] ** 2])
    np.savetxt(folder / "table.csv", table, delimiter=",", header="size,age,price", comments="")
    return folder


@pytest.mark.parametrize("command", [line for line in README if line.split()[0] in ("resflow", "papermill")])
def test_readmes_commands_run_as_they_stand(command, readers_project, warm):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    environment |= warm
    done = subprocess.run(command.split(), cwd=readers_project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_every_page_is_reached(page):
    text = PAGES[page].read_text()
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
    assert page == "README" or f"({page}.md)" in PAGES["README"].read_text()


@pytest.mark.parametrize(
    ("command", "said", "message"),
    [
        ("false", "", "line 3"),
        ("echo 12", "1 2", "is not in"),
        ("echo one; echo two", "two\none", "is not in"),
    ],
)
def test_page_that_says_what_is_not_so_is_found_out(command, said, message, tmp_path):
    (tmp_path / "notes").mkdir()
    page = f"# Title\n\n    {command}\n\n```text\n{said}\n```\n"
    with pytest.raises(AssertionError, match=message):
        follow(page, tmp_path, tmp_path / "notes")


def test_page_is_followed_in_one_shell_with_its_files_and_exit_codes(tmp_path):
    (tmp_path / "notes").mkdir()
    page = """    export NAME=file.txt

```yaml title="file.txt"
one
two three
```

<!-- exit code 3 -->

    cat "$NAME"; exit 3

```text
one
two …
```

<!-- keeps running -->

    echo ready
    sleep 600

```text
ready
```
"""
    follow(page, tmp_path, tmp_path / "notes")
    with pytest.raises(ValueError, match="line 1: <!-- keep running --> means nothing"):
        [*blocks("<!-- keep running -->")]


def test_reference_is_built_of_every_public_name_and_asks_nobody(tmp_path):
    (recipe,) = re.findall(r"^docs:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    places = {"$(BIN)/python": sys.executable, "build/docs": str(tmp_path)}
    command = [places.get(word, word) for word in recipe.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    for name in resflow.__all__:
        assert f'id="{name}"' in pages["resflow.html"], name
    for page in pages.values():
        assert not re.search(r'(src|href)="(https?:)?//(?!pdoc\.dev|arxiv\.org)', page)
        assert str(ROOT) not in page
