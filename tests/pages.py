"""Pages of documentation as what a reader does with them: types commands, saves files, and compares what is printed.

A page is Markdown, and means, from top to bottom:

- Indented lines are commands, typed in one shell in a project's folder; each of them must succeed.
- A fenced block with a `title` is a file to be saved under that name. Python blocks titled as a notebook are its cells,
  one after another, the first of them tagged `parameters`.
- A fenced block `text` is what the commands before it print: these lines in this order, `…` standing for anything.
- A comment `<!-- keeps running -->` before commands says that they do not end by themselves; the page goes on once
  they have printed what the `text` after them shows. `<!-- exit code 2 -->` says that the last of them ends with it.
- A comment `<!-- not run: why -->` leaves a block out.

Any other fenced block only shows something.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil

BIN = Path(sys.executable).parent
PATIENCE = 300.0
"""Seconds that a block of commands may take."""


class Block(NamedTuple):
    """One thing that a page has a reader do.

    Attributes:
        kind: commands, file, or output.
        text: What stands in it.
        title: The file's name.
        remark: What the comment before it says.
        line: Where it begins.
    """

    kind: str
    text: str
    title: str
    remark: str
    line: int


_FENCE = re.compile(r"```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?$")
_REMARK = re.compile(r"<!-- (keeps running|exit code \d|not run: .+) -->$")


def blocks(page: str) -> Iterator[Block]:
    """What a page has its reader do, in order.

    Raises:
        ValueError: If a comment is none of the above, so that nobody believes it means something.
    """
    lines = page.splitlines()
    number, remark = 0, ""
    while number < len(lines):
        line, first = lines[number], number + 1
        number += 1
        if line.startswith("<!--"):
            if not (found := _REMARK.match(line)):
                raise ValueError(f"line {first}: {line} means nothing")
            remark = found[1]
        elif fence := _FENCE.match(line):
            end = lines.index("```", number)
            text = "\n".join(lines[number:end]) + "\n"
            number = end + 1
            if fence["title"]:
                yield Block("file", text, fence["title"], remark, first)
            elif fence["language"] == "text":
                yield Block("output", text, "", remark, first)
            remark = ""
        elif line.startswith("    "):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(line.removeprefix("    ") for line in lines[first - 1 : end]).strip() + "\n"
            number = end
            yield Block("commands", text, "", remark, first)
            remark = ""


def commands(page: str) -> list[str]:
    """Every command of a page, each on one line, without its comment."""
    texts = (block.text.replace("\\\n", " ") for block in blocks(page) if block.kind == "commands")
    lines = (re.split(r"(?:^|\s)#", line)[0].strip() for text in texts for line in text.splitlines())
    return [" ".join(line.split()) for line in lines if line]


def follow(page: str, folder: Path, notes: Path, **environment: str) -> None:
    """Do in a folder what a page says, top to bottom.

    Args:
        page: The page's text.
        folder: The project's folder.
        notes: An empty folder elsewhere, for what the commands print.
        environment: Further environment variables.

    Raises:
        AssertionError: If a command fails, or prints something else than the page says; with its line.
    """
    with _Shell(folder, notes, environment) as shell:
        steps = list(blocks(page))
        for place, block in enumerate(steps):
            if block.remark.startswith("not run"):
                continue
            if block.kind == "file":
                _save(block, shell.folder)
            elif block.kind == "commands" and block.remark == "keeps running":
                assert steps[place + 1].kind == "output", f"line {block.line}: what is printed once it runs?"
                shell.start(block, _pattern(steps[place + 1].text))
            elif block.kind == "commands":
                shell.run(block)
            elif block.kind == "output":
                said = shell.said()
                assert _pattern(block.text).search(said), f"line {block.line}:\n{block.text}\nis not in\n{said}"


def _save(block: Block, folder: Path) -> None:
    path = folder / block.title
    if path.suffix != ".ipynb":
        path.write_text(block.text)
        return
    python = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.read(path, as_version=4) if path.exists() else nbformat.v4.new_notebook(metadata=python)
    first = {} if notebook.cells else {"metadata": {"tags": ["parameters"]}}
    notebook.cells.append(nbformat.v4.new_code_cell(block.text.rstrip(), **first))
    nbformat.write(notebook, path)


def _pattern(text: str) -> re.Pattern[str]:
    """What matches lines in this order, blanks at their ends aside; `…` stands for anything within a line."""
    lines = [r"[^\n]*".join(map(re.escape, line.strip().split("…"))) for line in text.splitlines() if line.strip()]
    return re.compile(r"^[ \t]*" + r"[ \t]*\n(?:[^\n]*\n)*?[ \t]*".join(lines) + r"[ \t]*$", re.MULTILINE)


class _Shell:
    """One shell, in which a page's commands are typed one block after another."""

    def __init__(self, folder: Path, notes: Path, environment: dict[str, str]) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING", "PYTEST_"))}
        own |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | environment
        self._notes, self._count = notes, 0
        self._bash = subprocess.Popen(
            ["bash"], cwd=folder, env=own, stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self) -> _Shell:
        return self

    def __exit__(self, *error: object) -> None:
        """End the shell, and whatever still runs in it; after a second by force."""
        deadline = time.monotonic() + 1.0
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGTERM)
            while time.monotonic() < deadline:
                self._bash.poll()  # else it would count as running for ever
                os.killpg(self._bash.pid, 0)
                time.sleep(0.02)
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()

    def run(self, block: Block) -> None:
        """Run commands to their end."""
        self._count += 1
        status = self._notes / f"{self._count}.status"
        expected = int(block.remark.removeprefix("exit code ") or 0)
        said = f'>"{self._file}" 2>&1 </dev/null'
        if expected:
            self._type(f'( set -e\n{block.text}) {said}; echo $? >"{status}"\n')
        else:  # in this very shell, so that what is exported stays; the first that fails ends it
            ended = f"""trap 'echo $? >"{status}"' EXIT; set -e\n"""
            self._type(f'{ended}{{\n{block.text}}} {said}\nset +e; trap - EXIT; echo 0 >"{status}"\n')
        self._wait(lambda: status.exists() and status.read_text().strip(), block)
        assert int(status.read_text()) == expected, f"line {block.line}:\n{block.text}\n{self.said()}"

    def start(self, block: Block, ready: re.Pattern[str]) -> None:
        """Start commands that keep running, and wait for what they print once they are ready."""
        self._count += 1
        self._type(f'{{\n{block.text}}} >"{self._file}" 2>&1 </dev/null &\n')
        self._wait(lambda: self._file.exists() and ready.search(self.said()), block)

    def said(self) -> str:
        """What the last commands printed."""
        return self._file.read_text()

    @property
    def folder(self) -> Path:
        """The folder that the commands so far led to."""
        return Path(psutil.Process(self._bash.pid).cwd())

    @property
    def _file(self) -> Path:
        return self._notes / f"{self._count}.txt"

    def _type(self, text: str) -> None:
        assert self._bash.stdin
        self._bash.stdin.write(text)
        self._bash.stdin.flush()

    def _wait(self, done, block: Block) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert self._bash.poll() is None or done(), f"line {block.line}: the shell ended in\n{block.text}"
            assert time.monotonic() < deadline, f"line {block.line}: no end of\n{block.text}\n{self.said()}"
            time.sleep(0.05)
