"""A network as a run keeps it by its residual stream: the arrays that its report is computed from, whoever built it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from resflow.notebook.kept import preparation_tag
from resflow.notebook.probed import probed
from resflow.probing.probe import probe
from resflow.workflow.records import Run
from resflow.workflow.stored_points import VERIFIER, attach_points

__all__ = ["TrainedStream", "of_stream", "stream_in"]


@dataclass(frozen=True)
class TrainedStream:
    """The residual stream of a network that a run looked at, with its head and labels.

    Attributes:
        stream: The arguments of `resflow.probe`: representations, head, y and held_out, as arrays.
        settings: What else it was given for the report, in JSON's types: loss, ridge, hessian.
    """

    stream: Mapping[str, Any]
    settings: Mapping[str, Any]

    def keep(self, run: Run) -> None:
        """Attach the arrays to the run as points/final.npz, by the names of `load_stream`, and tag where they are."""
        description = {
            "verifier": VERIFIER,
            "data": preparation_tag(run),
            "loss": self.settings.get("loss", "softmax"),
            "stream": dict(self.settings),
        }
        run.set_tags(attach_points(run, "final", _arrays(self.stream), description))


def _arrays(stream: Mapping[str, Any]) -> dict[str, np.ndarray]:
    W, b = stream["head"]
    arrays = {"W": W, "y": stream["y"]} | ({} if b is None else {"b": b})
    arrays |= {f"h_{place}": h for place, h in enumerate(stream["representations"])}
    if stream["held_out"] is not None:
        others, labels = stream["held_out"]
        arrays |= {f"test_h_{place}": h for place, h in enumerate(others)} | {"test_y": labels}
    return {name: np.asarray(array) for name, array in arrays.items()}


def stream_in(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arguments of `resflow.probe` in the arrays that a run kept."""
    layers = range(sum(name.startswith("h_") for name in arrays))
    held_out = None
    if "test_y" in arrays:
        held_out = [arrays[f"test_h_{place}"] for place in layers], arrays["test_y"]
    representations = [arrays[f"h_{place}"] for place in layers]
    return {
        "representations": representations,
        "head": (arrays["W"], arrays.get("b")),
        "y": arrays["y"],
        "held_out": held_out,
    }


def of_stream(arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run recorded of the report on a stream that it kept: metrics and tags, and tables."""
    report = probe(**stream_in(arrays), **settings)
    found = probed(report)
    return {**found.metrics, **found.tags, **found.claim.values()}, {"blocks": report.table().reset_index()}
