"""Importing: a bundle's runs, written into the store in use once each, whoever stopped on the way."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from resflow.errors import InvalidInputError, shown
from resflow.workflow import names
from resflow.workflow.bundles.exporting import COLUMNS
from resflow.workflow.bundles.layout import (
    artifact_folder,
    metrics_place,
    model_folder,
    model_id_of,
    run_folder,
    run_id_of,
    run_place,
)
from resflow.workflow.bundles.reader import Bundle, opened
from resflow.workflow.names import Role
from resflow.workflow.records import (
    CopiedModel,
    CopiedRun,
    Copy,
    MetricValue,
    copies_of,
    experiment_id_of,
    experiments,
    origin_of,
    parent_of_sweep,
    restore,
    usable_experiment,
)
from resflow.workflow.scratch import TakenError, only_holder, temporary_folder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["Imported", "import_bundle"]

_Copied = TypeVar("_Copied", CopiedRun, CopiedModel)


class Imported(NamedTuple):
    """What came of it.

    Attributes:
        runs: MLflow's id of each run of the bundle, by its origin.
        written: How many of them were written now; the others were there already.
        experiments: Where those are.
    """

    runs: dict[str, str]
    written: int
    experiments: list[str]


class _Entry(NamedTuple):
    """What has to be known of a run before any is written."""

    parent: str
    experiment: str
    sweep: str


def import_bundle(client: MlflowClient, file: Path, experiment: str = "") -> Imported:
    """Write the runs of a bundle into a store: first all of it is checked, then each run that is not there is written.

    Args:
        client: A client of the store.
        file: The bundle.
        experiment: The name of the experiment that they go to; that which they had without one.

    Raises:
        InvalidInputError: If it is no bundle, or unsafe, or not as it was exported; nothing is written then. Or if
            another process imports into this store, or there is another sweep of the same name.
    """
    with opened(file) as bundle:
        entries = {run_id: _checked(bundle, run_id, experiment) for run_id in _run_ids(bundle)}
        order = _parents_first(bundle, entries)
        with _alone(client):
            there = copies_of(client, entries)
            for origin, entry in entries.items():
                _check_sweep(client, origin, entry)
            for name in {entry.experiment for entry in entries.values()} - {""}:
                usable_experiment(client, name)
            ids = {origin: copy.run_id for origin, copy in there.items() if copy.is_whole}
            missing = [origin for origin in order if origin not in ids]
            for origin in missing:
                ids[origin] = _write(client, bundle, origin, entries[origin].experiment, ids, there.get(origin))
    return Imported(ids, len(missing), sorted({entries[origin].experiment for origin in missing}))


def _run_ids(bundle: Bundle) -> list[str]:
    """The origins of all runs, each of which has its own files."""
    found = list(dict.fromkeys(filter(None, map(run_id_of, bundle.places))))
    for run_id in found:
        for place in (run_place(run_id), metrics_place(run_id)):
            if place not in bundle.places:
                raise bundle.fault(place, "is missing")
    if not found:
        raise bundle.fault("", "it has no runs")
    return found


def _checked(bundle: Bundle, run_id: str, experiment: str) -> _Entry:
    """Read all of a run, so that whatever is wrong with it is known before any is written."""
    run = _run(bundle, run_id)
    for _ in _values(bundle, run_id):
        pass
    _models(bundle, run_id)
    sweep = run.tags.get(names.SWEEP, "") if run.tags.get(names.ROLE) == Role.SWEEP else ""
    return _Entry(run.tags.get(names.PARENT, ""), experiment or run.experiment, sweep)


def _run(bundle: Bundle, run_id: str) -> CopiedRun:
    place = run_place(run_id)
    run = _copied(bundle, place, CopiedRun.from_json)
    if run.id != run_id:
        raise bundle.fault(place, f"is of the run {run.id}")
    return run


def _values(bundle: Bundle, run_id: str) -> Iterator[MetricValue]:
    """Every value of a run's metrics."""
    place = metrics_place(run_id)
    rows = csv.reader(_lines(bundle.chunks(place)))
    try:
        if tuple(next(rows, ())) != COLUMNS:
            raise ValueError(f"has other columns than {','.join(COLUMNS)}")
        for row in rows:
            yield MetricValue.from_texts(row)
    except InvalidInputError:
        raise
    except (ValueError, csv.Error) as error:
        raise bundle.fault(place, f"is no table of metrics ({error})") from None


def _models(bundle: Bundle, run_id: str) -> list[CopiedModel]:
    """The models that are copied with a run."""
    own = [place for place in bundle.places if place.startswith(run_folder(run_id))]
    found = []
    for model_id in dict.fromkeys(filter(None, map(model_id_of, own))):
        place = f"{model_folder(run_id, model_id)}model.json"
        if place not in bundle.places:
            raise bundle.fault(place, "is missing")
        model = _copied(bundle, place, CopiedModel.from_json)
        if model.id != model_id:
            raise bundle.fault(place, f"is of the model {model.id}")
        found.append(model)
    return found


def _copied(bundle: Bundle, place: str, from_json: Callable[[Any], _Copied]) -> _Copied:
    """What a file of the bundle has in JSON."""
    try:
        content = json.loads(bundle.text(place))
        json.dumps(content, ensure_ascii=False).encode()  # what is no text cannot be written to a store
        return from_json(content)
    except InvalidInputError:
        raise
    except UnicodeEncodeError:
        raise bundle.fault(place, "has a text that is no UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise bundle.fault(place, f"is no JSON ({error})") from None
    except ValueError as error:
        raise bundle.fault(place, str(error)) from None


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Pieces of a text in UTF-8, line by line."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")(), ""
    for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        yield from (f"{line}\n" for line in lines)
    if rest := rest + decoder.decode(b"", final=True):
        yield rest


def _parents_first(bundle: Bundle, entries: dict[str, _Entry]) -> list[str]:
    """The runs in an order in which each comes after the one that it is nested in."""
    order: dict[str, None] = {}
    for run_id in entries:
        line = [run_id]
        while (above := entries[line[-1]].parent) and above not in order:
            if above not in entries:
                raise bundle.fault(run_place(line[-1]), f"is nested in {shown(above)}, which is not in it")
            if above in line:
                raise bundle.fault(run_place(above), "is nested in itself")
            line.append(above)
        order |= dict.fromkeys(reversed(line))
    return list(order)


def _check_sweep(client: MlflowClient, origin: str, entry: _Entry) -> None:
    """Check that a sweep does not get mixed with another one of its name."""
    if not entry.sweep or not (found := experiments(client, entry.experiment)):
        return
    other = parent_of_sweep(client, next(iter(found)), entry.sweep)
    if other is not None and origin_of(other) != origin:
        raise InvalidInputError(
            f"the experiment {shown(entry.experiment)} has another sweep {shown(entry.sweep)} already: "
            "name another experiment by --experiment"
        )


def _write(
    client: MlflowClient, bundle: Bundle, origin: str, experiment: str, ids: dict[str, str], begun: Copy | None
) -> str:
    run = _run(bundle, origin)
    experiment_id = experiment_id_of(client, experiment, run.description)
    with temporary_folder() as folder:
        (artifacts := folder / "artifacts").mkdir()
        for place in bundle.artifacts(origin):
            bundle.unpack(place, artifacts / place.removeprefix(artifact_folder(origin)))
        models = {}
        for number, model in enumerate(_models(bundle, origin)):
            (files := folder / f"model{number}").mkdir()
            inside = f"{model_folder(origin, model.id)}artifacts/"
            for place in bundle.places:
                if place.startswith(inside):
                    bundle.unpack(place, files / place.removeprefix(inside))
            models[files] = model
        values = _values(bundle, origin)
        at = begun.run_id if begun else ""
        return restore(client, run, experiment_id, ids=ids, values=values, artifacts=artifacts, models=models, begun=at)


@contextmanager
def _alone(client: MlflowClient) -> Iterator[None]:
    """Keep other processes of this machine from importing into the same store while this is entered."""
    digest = hashlib.sha256(client.tracking_uri.encode()).hexdigest()
    try:
        with only_holder(Path(tempfile.gettempdir()) / f"resflow-import-{os.getuid()}-{digest[:16]}.lock"):
            yield
    except TakenError:
        raise InvalidInputError("another process imports into this store: wait until it is done") from None
