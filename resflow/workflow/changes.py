"""What else is otherwise now than when a run ran: versions, machine, code, notebook. It may explain what differs."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow import names
from resflow.workflow.environment import (
    CHANGES,
    ENVIRONMENT,
    LIBRARY,
    digests,
    environment,
    kept_environment,
    uncommitted,
)
from resflow.workflow.limits import listed
from resflow.workflow.notebook_file import read_notebook
from resflow.workflow.parameters import brief, declared_in_notebook
from resflow.workflow.project import project_root
from resflow.workflow.provenance import PACKAGES, git, notebook_digest, versions_of

if TYPE_CHECKING:
    from resflow.workflow.records import Run

__all__ = ["changes"]


def changes(run: Run, notebook: Any = None, again: Run | None = None) -> Iterator[str]:
    """What is otherwise here and now than where and when a run ran, one line for each thing.

    Args:
        run: The run.
        notebook: Its notebook as it ran; then it is said in what the file of that name is another now.
        again: The run of executing it again, whose environment is then that of now; this process's if None.
    """
    tags, root, then = run.stored.data.tags, project_root(), kept_environment(run)
    now = (again and kept_environment(again)) or environment()
    kept, code = then.get("code", {}), now.get("code") or digests(then.get("code", ()), root)
    if files := [name for name, digest in kept.items() if code.get(name, digest) != digest]:
        yield f"code changed: {listed(files)}"
    ours = [name for name in kept if name.startswith(LIBRARY)]
    if again and (elsewhere := [name for name in kept.keys() - code.keys() if name not in ours] if code else []):
        yield f"code that was loaded and is not now: {listed(sorted(elsewhere))}"
    yield from _uncommitted(run)
    if notebook is not None:
        yield from _of_notebook(tags, notebook)
    versions = {names.COMMIT: git(root, "rev-parse", "--verify", "--quiet", "HEAD")}
    versions |= {f"{names.VERSION}{package}": version for package, version in versions_of(PACKAGES).items()}
    versions |= {names.PYTHON: platform.python_version(), names.PLATFORM: platform.platform()}
    if ours and not set(ours).intersection(files):  # its files say more than its number
        del versions[f"{names.VERSION}resflow"]
    for key, value in versions.items():
        if key in tags and tags[key] != value:
            yield f"{key.removeprefix(names.VERSION).rpartition('.')[2]} was {tags[key]}, is {value or 'unknown'}"
    if then and (others := _unlike(then["packages"], now["packages"], but=PACKAGES)):
        yield f"other packages changed: {listed(others)}"
    if then.get("process") == now.get("process"):
        yield from _of_kernels(then, now)


def _unlike(one: Mapping[str, str], other: Mapping[str, str], *, but: tuple[str, ...]) -> list[str]:
    """The packages whose versions are not the same, but for those that are told one by one."""
    told = {name.replace("-", "_") for name in but}
    unlike = [name for name in {**one, **other} if one.get(name) != other.get(name) and name not in told]
    return [f"{name} {one.get(name, 'none')} → {other.get(name, 'none')}" for name in unlike]


def _of_kernels(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What kernels compute with, where it is not the same; of BLAS and devices only if both had loaded any."""
    for key in ("implementation", "processor", "cores"):
        if then.get(key) != now.get(key):
            yield f"{key} was {then.get(key)}, is {now.get(key)}"
    if then.get("devices") and now.get("devices") and then["devices"] != now["devices"]:
        yield f"devices were {', '.join(then['devices'])}, are {', '.join(now['devices'])}"
    blas = [{each.get("internal_api", ""): each for each in one.get("blas", [])} for one in (then, now)]
    for name in blas[0].keys() & blas[1].keys():
        if blas[0][name] != blas[1][name]:
            told = [" ".join(str(value) for value in each[name].values()) for each in blas]
            yield f"the library {told[0]} (threads last) is {told[1]}"
    flags, others = then.get("flags", {}), now.get("flags", {})
    for key in {**flags, **others}:
        if flags.get(key) != others.get(key):
            yield f"{key} was {flags.get(key, 'not set')}, is {others.get(key, 'not set')}"


def _uncommitted(run: Run) -> Iterator[str]:
    """That other changes are uncommitted now, and in which files they are others."""
    attached = run.files(ENVIRONMENT)
    before = run.read_text(CHANGES) if CHANGES in attached else ""
    if attached and before != (after := uncommitted(project_root())):
        parts, others = _by_file(before), _by_file(after)
        files = [name for name in {**parts, **others} if parts.get(name) != others.get(name)]
        where = f", in {listed(files)}" if files else ""
        yield f"uncommitted changes were {CHANGES if before else 'none'}, are others{where}"


def _by_file(diff: str) -> dict[str, str]:
    """A diff by the files that it is of."""
    parts = re.split(r"^diff --git a/(.+) b/.+$", diff, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _of_notebook(tags: Mapping[str, str], notebook: Any) -> Iterator[str]:
    """In what the notebook's file is another now: defaults of parameters by name, other cells by their number."""
    path = project_root() / (source := tags.get(names.SOURCE, ""))
    if not source or not path.is_file():
        return
    try:
        current = read_notebook(path)
    except InvalidInputError as error:
        yield f"the file {source} can no longer be read: {error}"
        return
    if notebook_digest(current) == tags.get(names.NOTEBOOK_DIGEST):
        return
    before, after = ({each.name: each.default for each in declared_in_notebook(nb)} for nb in (notebook, current))
    unlike = [name for name in {**before, **after} if repr(before.get(name)) != repr(after.get(name))]
    told = [f"the default of {name} was {brief(before.get(name))}, is {brief(after.get(name))}" for name in unlike]
    cells = [
        [
            cell.source
            for cell in nb.cells
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
        ]
        for nb in (_as_written(notebook), current)
    ]
    if changed := sum(cell not in cells[1] for cell in cells[0]) or len(cells[1]) - len(cells[0]):
        told.append(f"{abs(changed)} of its {len(cells[0])} other code cells changed")
    yield f"{source} is another now: {'; '.join(told) or 'its text changed'}"


def _as_written(notebook: Any) -> Any:
    """The notebook without the cell of parameters that were set for the run."""
    kept = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    return type(notebook)(notebook | {"cells": kept})
