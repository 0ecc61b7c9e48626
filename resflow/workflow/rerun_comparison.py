"""A run beside the same notebook executed again: every metric at every step, tags, tables, points and other files."""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from resflow.workflow import names
from resflow.workflow.changes import changes
from resflow.workflow.compared import (
    Compared,
    NoTableError,
    Outcome,
    compared_tables,
    compared_values,
    difference,
)
from resflow.workflow.kept_data import kept_data
from resflow.workflow.last_word import status_of
from resflow.workflow.logged_values import is_finite
from resflow.workflow.names import FINISHED, Role, role_of
from resflow.workflow.reports.metrics import LEVEL
from resflow.workflow.rerun import executed_again, folder_of, notebook_of
from resflow.workflow.run_parameters import parameters_of
from resflow.workflow.stored_points import UnverifiableError
from resflow.workflow.variables import changed_environment
from resflow.workflow.verification import Verification

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Run as StoredRun

    from resflow.workflow.records import Run
    from resflow.workflow.source_trees import SourceTree, SourceTrees

__all__ = ["TOLERANCE", "rerun"]

TOLERANCE = 1e-6
"""By how much a value may differ, for each unit of its size: training passes rounding on, and makes more of it."""

_PAGES = (".ipynb", ".html", ".pdf")
"""Files that say when they were made."""


def rerun(run: Run, tolerance: float = TOLERANCE, trees: SourceTrees | None = None) -> Iterator[Verification]:
    """Execute a run's notebook again, in the store that is in use, and compare it and each run below it.

    Args:
        run: A run of a store other than that.
        tolerance: By how much values may differ, for each unit of their size.
        trees: What gets the source that the run was executed from; if None, it is executed from what is here now.
    """
    stored = run.stored
    if status_of(stored) != FINISHED:
        yield Verification(stored, obstacle=f"the run is {status_of(stored)}", executed=True)
        return
    if others := stored.data.tags.get(names.COMPARED):
        why = f"it compares other runs, of the {others}, and a store to execute it in has none of them"
        yield Verification(stored, obstacle=why, executed=True)
        return
    try:
        notebook = notebook_of(run)
        tree = trees.of(run, notebook) if trees else None
        with _entered(tree), kept_data(run, folder_of(run)) as (kept, variables), changed_environment(variables):
            again, failure = executed_again(run, notebook)
            since = tuple(changes(run, notebook, again))
    except UnverifiableError as error:
        yield Verification(stored, obstacle=str(error), executed=True)
        return
    source = tree.told if tree else ""
    obstacle = _other_data(stored, again.stored) if again else ""
    if not obstacle and failure:
        obstacle = f"executed again, {failure}; since then {'; '.join(since) or 'nothing that is known has changed'}"
    if obstacle or again is None:
        yield Verification(stored, obstacle=obstacle, since=since, executed=True, source=source)
        return
    yield _beside(run, again, tolerance, since, source)._replace(data=kept)
    for below, same in _pairs(run, again):
        if same is None:
            missing = "the notebook executed again makes no such run below its own"
            yield Verification(below.stored, obstacle=missing, since=since, executed=True, source=source)
        elif data := _other_data(below.stored, same.stored):
            yield Verification(below.stored, obstacle=data, since=since, executed=True, source=source)
        else:
            yield _beside(below, same, tolerance, since, source)._replace(data=kept)


@contextmanager
def _entered(tree: SourceTree | None) -> Iterator[None]:
    """While entered, a source tree's folder is this process's, and kernels import what is in it."""
    if tree is None:
        yield
    else:
        with chdir(tree.root), changed_environment(tree.variables):
            yield


def _other_data(stored: StoredRun, again: StoredRun) -> str:
    """That the data is not what the run had, by the digests that both logged; "" if it is, as far as they did."""
    found: list[dict[tuple[str, str], str]] = [
        {(_context(each), each.dataset.name): each.dataset.digest for each in run.inputs.dataset_inputs}
        for run in (stored, again)
        if run.inputs
    ]
    for key, digest in found[0].items() if len(found) == 2 else ():
        if (now := found[1].get(key, digest)) != digest:
            return (
                f"the data changed: what is read from {key[1]} now has the digest {now[:12]}…, and {digest[:12]}… was "
                "recorded"
            )
    return ""


def _context(dataset_input: object) -> str:
    return next((tag.value for tag in dataset_input.tags if tag.key == names.DATA_CONTEXT), "")  # type: ignore[attr-defined]


def _pairs(run: Run, again: Run) -> Iterator[tuple[Run, Run | None]]:
    """The runs below a run, each with the one of the same role and parameters below the other, in their order."""
    from resflow.workflow.records import Run as RunIn
    from resflow.workflow.records import every_run, tagged

    of_both = [
        list(every_run(each.client, [each.experiment_id], tagged(names.PARENT, each.id))) for each in (run, again)
    ]
    waiting: dict[object, list[StoredRun]] = {}
    for below in of_both[1]:
        waiting.setdefault(_place(below), []).append(below)
    for below in of_both[0]:
        same = waiting.get(_place(below))
        found = RunIn(again.client, same.pop(0).info.run_id) if same else None
        yield RunIn(run.client, below.info.run_id), found


def _place(stored: StoredRun) -> tuple[str, frozenset[tuple[str, str]]]:
    return role_of(stored), frozenset(parameters_of(stored).items())


def _beside(run: Run, again: Run, tolerance: float, since: tuple[str, ...], source: str) -> Verification:
    stored, new = run.stored, again.stored
    sizes = [each.data.metrics.get(name, 0.0) for each in (stored, new) for name in ("objective", LEVEL)]
    scale = max((abs(size) for size in sizes if is_finite(size)), default=0.0)
    timed = sorted(name for name in stored.data.metrics if name.startswith(names.TIMING))
    values = [*_metrics(run, again, scale, tolerance), *_tags(stored.data.tags, new.data.tags)]
    left_out = [f"{', '.join(timed)}: time is another each time"] if timed else []
    if role_of(stored) != Role.MEMBER:  # whose files are its population's
        unlike = []
        for path, found in _files(run, again, scale, tolerance):
            values += found
            unlike += [] if found else [path]
        if unlike:
            left_out.append(f"{', '.join(unlike)}: other bytes, and nothing but bytes can be compared of them")
    return Verification(stored, tuple(values), left_out=tuple(left_out), since=since, executed=True, source=source)


def _metrics(run: Run, again: Run, scale: float, tolerance: float) -> Iterator[Compared]:
    """Every metric, at every step."""
    both = [each.stored.data.metrics for each in (run, again)]
    for name in [*both[0], *(name for name in both[1] if name not in both[0])]:
        if name.startswith(names.TIMING):
            continue
        if missing := [words for words, metrics in (("none", both[0]), ("none now", both[1])) if name not in metrics]:
            yield Compared(
                name, both[0].get(name, missing[0]), both[1].get(name, missing[0]), Outcome.DIFFERS, math.inf
            )
            continue
        before, now = (_history(each, name) for each in (run, again))
        steps = [step for step, _ in before]
        if steps != [step for step, _ in now]:
            told, other = (f"{len(each)} values, to step {each[-1][0]}" for each in (before, now))
            yield Compared(name, told, other, Outcome.DIFFERS, math.inf)
            continue
        values, others = ([value for _, value in history] for history in (before, now))
        size = max((abs(value) for value in values if is_finite(value)), default=0.0)
        places, of = [f"at step {step}" for step in steps], f"{len(steps)} steps"
        yield compared_values(name, values, others, places=places, of=of, scale=max(scale, size), tolerance=tolerance)


def _history(run: Run, metric: str) -> list[tuple[int, float]]:
    from resflow.workflow.records import history_of

    found = history_of(run.client, run.id, metric)
    return [(each.step, each.value) for each in sorted(found, key=lambda each: (each.step, each.timestamp))]


def _tags(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Compared]:
    """What a run is found by, as its verdict."""
    for key, recorded in sorted(before.items()):
        if not key.startswith(names.RESERVED):
            again = now.get(key, "none")
            yield Compared(key, recorded, again, Outcome.SAME if recorded == again else Outcome.DIFFERS)


def _files(run: Run, again: Run, scale: float, tolerance: float) -> Iterator[tuple[str, list[Compared]]]:
    """Every attached file but pages, and what came of comparing it; nothing if other bytes are all that is known."""
    there = set(again.every_file())
    for path in sorted(run.every_file()):
        kind = PurePosixPath(path).suffix
        if kind in _PAGES or path.startswith("environment/"):
            continue
        if path not in there:
            yield path, [Compared(path, "a file", "none", Outcome.DIFFERS, math.inf)]
            continue
        before, now = run.read_bytes(path), again.read_bytes(path)
        tags = run.stored.data.tags
        digest = hashlib.sha256(before).hexdigest()
        if path == tags.get(names.STORED_POINT) and digest != tags.get(names.STORED_POINT_DIGEST, digest):
            recorded = tags[names.STORED_POINT_DIGEST]
            changed = f"changed since it was stored, to SHA-256 {digest[:12]}…"
            yield path, [Compared(path, f"SHA-256 {recorded[:12]}…", changed, Outcome.DIFFERS, math.inf)]
        elif before == now:
            yield path, [Compared(path, "a file", "the same", Outcome.SAME)]
        elif kind == ".csv":
            yield path, _columns(path, before, now, scale, tolerance)
        elif kind == ".npz":
            yield path, _arrays(path, before, now, tolerance)
        else:
            yield path, []


def _columns(path: str, before: bytes, now: bytes, scale: float, tolerance: float) -> list[Compared]:
    """Every column of a table, nothing if it is none."""
    try:
        return [*compared_tables(path, before.decode(), now.decode(), scale=scale, tolerance=tolerance)]
    except (UnicodeDecodeError, NoTableError):
        return []


def _arrays(path: str, before: bytes, now: bytes, tolerance: float) -> list[Compared]:
    """All arrays of a file as one value, nothing if they are none that can be read without running code."""
    import numpy as np

    try:
        recorded, again = (
            {name: file[name] for name in file.files}
            for file in (np.load(io.BytesIO(content), allow_pickle=False) for content in (before, now))
        )
    except (ValueError, EOFError, AttributeError, KeyError, BadZipFile, zlib.error):
        return []
    kinds = [{name: (array.shape, array.dtype) for name, array in each.items()} for each in (recorded, again)]
    if kinds[0] != kinds[1]:
        return [Compared(path, f"{len(recorded)} arrays", "others, or of other shapes", Outcome.DIFFERS, math.inf)]
    found = [_array(array, again[name], tolerance) for name, array in recorded.items()]
    worst = max(found, key=lambda each: ([*Outcome].index(each[0]), each[1]), default=(Outcome.SAME, 0.0))
    unlike = [name for name, (outcome, _) in zip(recorded, found, strict=True) if outcome is not Outcome.SAME]
    return [Compared(path, f"{len(recorded)} arrays", f"{', '.join(unlike)} otherwise", *worst)]


def _array(recorded: np.ndarray, again: np.ndarray, tolerance: float) -> tuple[Outcome, float]:
    """How two arrays of one shape compare: by their largest difference, in units of the largest entry."""
    import numpy as np

    if recorded.tobytes() == again.tobytes():
        return Outcome.SAME, 0.0
    if not np.issubdtype(recorded.dtype, np.number):
        return Outcome.DIFFERS, math.inf
    finite = np.isfinite(recorded)
    if not np.array_equal(np.where(finite, 0, recorded), np.where(np.isfinite(again), 0, again), equal_nan=True):
        return Outcome.DIFFERS, math.inf
    if recorded.dtype.kind in "iu":  # whose differences may wrap around
        recorded, again = recorded.astype(np.longdouble), again.astype(np.longdouble)
    size, apart = (float(np.abs(each[finite]).max(initial=0.0)) for each in (recorded, recorded - again))
    return difference(size, size + apart, tolerance=tolerance) if apart else (Outcome.SAME, 0.0)
