"""What a bundle says of itself by the rules of RO-Crate 1.1 and of the profile Workflow Run Crate 0.5.

The notebook is the workflow, a run an action that it is the instrument of, a parameter's value an object of the action,
and the run's files what came of it. https://www.researchobject.org/workflow-run-crate/
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import IO, Any
from urllib.parse import quote

from resflow.workflow import names
from resflow.workflow.bundles.layout import CRATE, MANIFEST, run_folder
from resflow.workflow.bundles.workflow import Workflow
from resflow.workflow.bundles.writer import Packed
from resflow.workflow.limits import shortened
from resflow.workflow.parameters import brief
from resflow.workflow.provenance import versions_of
from resflow.workflow.records import CopiedRun

__all__ = ["CrateWriter"]

_CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
_PROCESS = "https://w3id.org/ro/wfrun/process/0.5"
_WORKFLOW = ("https://w3id.org/ro/wfrun/workflow/0.5", "https://w3id.org/workflowhub/workflow-ro-crate/1.0")
_BIOSCHEMAS = "https://bioschemas.org/profiles/"
_TYPES = {"int": "Integer", "float": "Float", "bool": "Boolean"}
_KINDS = {
    ".ipynb": "application/x-ipynb+json",
    ".npz": "application/zip",
    ".diff": "text/x-diff",
    ".md": "text/markdown",
}
_LONGEST = 1000
"""Characters of a parameter's value or an error that are repeated here; the run's own file has all of them."""

_RESFLOW, _PYTHON = "#resflow", "#python"


class CrateWriter:
    """Writes the description of a bundle, entity by entity, into a file: what it keeps in memory is names.

    Args:
        file: Where it is written.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._said: set[str] = set()
        self._parts: list[str] = []
        self._actions: list[str] = []
        self._main = ""
        file.write(f'{{"@context": {json.dumps(_CONTEXT)},\n"@graph": [\n')

    def add_workflow(self, workflow: Workflow, packed: Packed) -> None:
        """Describe a notebook, once however often it is added; the first one is the bundle's main one."""
        place = _id(packed.place)
        if place in self._said:
            return
        self._main = self._main or place
        self._parts.append(place)
        inputs: list[dict[str, Any]] = [
            {
                "@id": _formal(place, parameter.name),
                "@type": "FormalParameter",
                "name": parameter.name,
                "additionalType": _TYPES.get(parameter.annotation, "Text"),
                "conformsTo": {"@id": _BIOSCHEMAS + "FormalParameter/1.0-RELEASE"},
                "defaultValue": shortened(brief(parameter.default), _LONGEST),
                "description": parameter.help or parameter.name,
                "valueRequired": False,
            }
            for parameter in workflow.parameters
        ]
        file = _file(packed) | {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
            "name": workflow.name,
            "description": workflow.question or workflow.name,
            "programmingLanguage": {"@id": _PYTHON},
            "input": _references([each["@id"] for each in inputs]),
            "version": packed.digest[:12],
            "conformsTo": {"@id": _BIOSCHEMAS + "ComputationalWorkflow/1.0-RELEASE"},
        }
        for entity in (file, *inputs):
            self._say(entity)

    def add_run(self, run: CopiedRun, files: list[Packed], workflow: str) -> None:
        """Describe a run and its files; `workflow` is the place of the notebook that it ran, "" if there is none."""
        folder, action = run_folder(run.id), f"#run-{run.id}"
        self._parts.append(folder)
        self._actions.append(action)
        instrument = _id(workflow) if workflow else _RESFLOW
        finished = run.status == names.FINISHED
        said = {
            "@id": action,
            "@type": "CreateAction",
            "name": run.name or run.id,
            "description": run.tags.get(names.DESCRIPTION) or run.name or run.id,
            "identifier": run.id,
            "instrument": {"@id": instrument},
            "startTime": _time(run.start_time),
            "endTime": _time(run.end_time),
            "actionStatus": f"http://schema.org/{'Completed' if finished else 'Failed'}ActionStatus",
            "object": _references([*self._values(run, instrument), *self._data(run)]),
            "result": {"@id": folder},
            "agent": {"@id": self._agent(run)},
        }
        if not finished:
            said["error"] = shortened(run.tags.get(names.ERROR, run.status), _LONGEST)
        self._say(said)
        parts = _references([_id(each.place) for each in files])
        self._say({"@id": folder, "@type": "Dataset", "name": f"What came of {run.name or run.id}", "hasPart": parts})
        for each in files:
            self._say(_file(each))

    def close(self, name: str, last: int, license_: str) -> None:
        """Say what the whole is.

        Args:
            name: What it is called.
            last: When the last of its runs ended, in milliseconds since 1970.
            license_: Its licence: an address, or a text.
        """
        if is_address := license_.startswith(("https://", "http://")):
            self._say({"@id": license_, "@type": "CreativeWork", "name": license_})
        profiles = [_PROCESS, *(_WORKFLOW if self._main else ())]
        for profile in profiles:
            self._say({"@id": profile, "@type": "CreativeWork", "name": profile.rsplit("/", 2)[1].capitalize(),
                       "version": profile.rsplit("/", 1)[1]})  # fmt: skip
        self._say({"@id": _RESFLOW, "@type": "SoftwareApplication", "name": "resflow",
                   "softwareVersion": versions_of(["resflow"])["resflow"]})  # fmt: skip
        self._say({"@id": _PYTHON, "@type": "ComputerLanguage", "name": "Python, in Jupyter notebooks",
                   "url": "https://jupyter.org"})  # fmt: skip
        self._say({"@id": MANIFEST, "@type": "File", "name": "SHA-256 of every other file",
                   "encodingFormat": "text/plain"})  # fmt: skip
        root = {
            "@id": "./",
            "@type": "Dataset",
            "name": name,
            "description": f"{len(self._actions)} runs of notebooks, with what they were given, measured and made.",
            "datePublished": _time(last),
            "license": {"@id": license_} if is_address else license_,
            "conformsTo": _references(profiles),
            "hasPart": _references([*self._parts, MANIFEST]),
            "mentions": _references(self._actions),
        }
        self._say(root | ({"mainEntity": {"@id": self._main}} if self._main else {}))
        conforms = ["https://w3id.org/ro/crate/1.1", *_WORKFLOW[1:][: bool(self._main)]]
        descriptor = {"@id": CRATE, "@type": "CreativeWork", "about": {"@id": "./"}}
        self._say(descriptor | {"conformsTo": _references(conforms)}, last=True)
        self._file.write("]}\n")

    def _values(self, run: CopiedRun, instrument: str) -> Iterator[str]:
        """What the run was given, each value described once."""
        for name, value in run.params.items():
            value = shortened(value, _LONGEST)
            key = hashlib.sha256(json.dumps([instrument, name, value]).encode()).hexdigest()[:16]
            of = {"exampleOfWork": {"@id": formal}} if (formal := _formal(instrument, name)) in self._said else {}
            self._say({"@id": f"#value-{key}", "@type": "PropertyValue", "name": name, "value": value} | of)
            yield f"#value-{key}"

    def _data(self, run: CopiedRun) -> Iterator[str]:
        """The data sets that it took."""
        for each in run.datasets:
            key = f"#data-{quote(str(each['digest']))}"
            self._say({"@id": key, "@type": "CreativeWork", "name": each["name"], "identifier": each["digest"]})
            yield key

    def _agent(self, run: CopiedRun) -> str:
        user = run.tags.get(names.USER, "unknown")
        self._say({"@id": f"#user-{quote(user)}", "@type": "Person", "name": user})
        return f"#user-{quote(user)}"

    def _say(self, entity: dict[str, Any], *, last: bool = False) -> None:
        if entity["@id"] not in self._said:
            self._said.add(entity["@id"])
            self._file.write(json.dumps(entity, ensure_ascii=False) + ("\n" if last else ",\n"))


def _file(packed: Packed) -> dict[str, Any]:
    suffix = "." + packed.place.rpartition(".")[2]
    kind = _KINDS.get(suffix) or mimetypes.guess_type(packed.place)[0] or "application/octet-stream"
    name = packed.place.rpartition("/")[2]
    described = {"@id": _id(packed.place), "@type": "File", "name": name, "encodingFormat": kind}
    return described | {"contentSize": str(packed.size), "sha256": packed.digest}


def _id(place: str) -> str:
    return quote(place)


def _formal(workflow: str, name: str) -> str:
    return f"#parameter-{quote(name)}-of-{workflow}"


def _references(ids: Sequence[str]) -> list[dict[str, str]] | dict[str, str]:
    found = [{"@id": each} for each in ids]
    return found[0] if len(found) == 1 else found


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
