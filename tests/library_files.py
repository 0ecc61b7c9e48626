"""Which files of tests are the library's alone, and so need its dependencies, pytest and beartype and nothing else."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["is_of_library"]

ROOT = Path(__file__).parents[1]
_ROOMS_ABOVE = ("workflow", "notebook", "plots", "networks")
_IMPORTED_AS = {"scikit_learn": "sklearn"}


def is_of_library(path: Path) -> bool:
    """Whether a file of tests, and what it imports of other files here, imports the library and its dependencies only.

    Files about the project's own folders, the sources, pages and notebooks, are not the library's.
    """
    return all(_is_allowed(name) for name in _imported(path, set()))


def _imported(path: Path, seen: set[Path]) -> Iterator[str]:
    seen.add(path)
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            # tests/chaos and others name their neighbours without the folder, which pytest puts on the path
            for file in (ROOT.joinpath(*name.split(".")).with_suffix(".py"), path.parent / f"{name}.py"):
                if file.exists() and "tests" in file.relative_to(ROOT).parts and file not in seen:
                    yield from _imported(file, seen)
            if not (path.parent / f"{name}.py").exists():
                yield name


def _is_allowed(name: str) -> bool:
    top, _, rest = name.partition(".")
    if top == "resflow":
        return rest.split(".")[0] not in _ROOMS_ABOVE
    return top in {"tests", "pytest", "beartype"} | sys.stdlib_module_names | _dependencies()


@cache
def _dependencies() -> frozenset[str]:
    """What the library's dependencies are imported as."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.match(r"[\w-]+", line).group().replace("-", "_") for line in declared]  # type: ignore[union-attr]
    return frozenset(_IMPORTED_AS.get(name, name) for name in names)
