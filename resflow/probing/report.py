"""The report on a network by linear probes: every number with its error, a table, metrics, and advice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from resflow.numerals import number_text
from resflow.probing._path import PathPoint
from resflow.probing.comparison import Difference
from resflow.probing.curvature import Curvature
from resflow.probing.linear_probe import LinearProbe

__all__ = ["Advice", "Baseline", "ProbeReport"]


class Advice(NamedTuple):
    """One sentence that follows from the numbers.

    Attributes:
        about: What it is about: "network", "head", "blocks", "curvature", "fits" or "samples".
        finding: What was found, in one word or a few, for programs.
        sentence: The finding in words and numbers, and what to do.
    """

    about: str
    finding: str
    sentence: str


class Baseline(NamedTuple):
    """A linear probe of a representation, and how the network and the probe before it compare with it.

    Of differences that there are not (nothing precedes h_0; no held-out samples were given) all numbers are NaN.

    Attributes:
        name: "h_l", or "augmented".
        width: How many columns the representation has.
        probe: The linear probe, with the evidence of its fit.
        certificate: mean ⟨ℓ'_i, p_i − q_i⟩ ≥ gap.value by convexity, q the probe's predictions. Of h_L that is
            ⟨∇_{(W, b)} F, (W, b) − (W*, b*)⟩.
        gap: F − F_lin(h_l) on the training samples. Negative: the network is better.
        gain: F_lin(h_{l−1}) − F_lin(h_l) on the training samples, what block l adds; of the augmented baseline
            F_lin(h_0) − F_aug, what all blocks offer.
        held_out_objective: The probe's mean loss on held-out samples.
        held_out_gap: As gap, on held-out samples.
        held_out_gain: As gain, on held-out samples.
        verdict: What block l does, by the held-out gain: "adds", "loses", "not told from 0", "dead" (h_l = h_{l−1}),
            "not judged" without held-out samples or with an unfinished fit; "" of h_0 and the augmented baseline.
    """

    name: str
    width: int
    probe: LinearProbe
    certificate: float
    gap: Difference
    gain: Difference
    held_out_objective: float
    held_out_gap: Difference
    held_out_gain: Difference
    verdict: str


@dataclass(frozen=True, repr=False)
class ProbeReport:
    """What linear probes along the residual stream say of a network. Printed, it explains itself.

    All in units of the mean loss per sample. A probe is a ridge fit, and its strength λ is chosen by cross-validation
    unless it was given: so no level here is that of every linear predictor, and F − F_lin may be negative even of h_L.

    Attributes:
        loss: Name of the loss.
        samples: How many training samples.
        held_out_samples: How many held-out ones; 0 for none.
        objective: F, the network's mean training loss.
        held_out_objective: Its mean loss on held-out samples; NaN for none.
        layers: The probes of h_0, ..., h_L.
        augmented: The probe of (h_0, h_1 − h_0, ..., h_L − h_{L−1}) side by side, of which the network's output is a
            linear function: its gap is what training left undone, its gain what the blocks offer. None where widths
            differ, or the columns are more than 2,048.
        curvature: λ_min of the Hessian; None for none.
        curvature_choice: Why that of this Hessian, or why none; "" where the caller named it.
        path: The probes of h_0, ..., h_L over strengths λ, where these were asked for.
        advice: One sentence for each finding.
    """

    loss: str
    samples: int
    held_out_samples: int
    objective: float
    held_out_objective: float
    layers: tuple[Baseline, ...]
    augmented: Baseline | None
    curvature: Curvature | None
    curvature_choice: str
    path: tuple[PathPoint, ...]
    advice: tuple[Advice, ...]

    @property
    def head(self) -> Baseline:
        """The probe of h_L, which the head could be: how unfinished the head is."""
        return self.layers[-1]

    @property
    def findings(self) -> dict[str, str]:
        """What was found of the network and its head, by what it is about."""
        return {each.about: each.finding for each in self.advice}

    def table(self) -> pd.DataFrame:
        """One row a representation, h_0 first: its probe, the network against it, and what its block adds."""
        rows = [
            {
                "block": place,
                "width": layer.width,
                "ridge": layer.probe.ridge,
                "objective": layer.probe.objective,
                "suboptimality": layer.probe.fit.suboptimality,
                "converged": layer.probe.fit.converged,
                "separable": layer.probe.separable,
                "gap": layer.gap.value,
                "gain": layer.gain.value,
                "held_out_objective": layer.held_out_objective,
                "held_out_gap": layer.held_out_gap.value,
                "held_out_gap_error": layer.held_out_gap.standard_error,
                "held_out_gain": layer.held_out_gain.value,
                "held_out_gain_error": layer.held_out_gain.standard_error,
                "verdict": layer.verdict,
            }
            for place, layer in enumerate(self.layers)
        ]
        if self.curvature is not None:  # of the network, or of its last block: in the last row
            found = self.curvature
            rows[-1] |= {
                "lambda_min": found.lambda_min,
                "lambda_min_lower": found.lambda_min_lower,
                "lambda_min_residual": found.lambda_min_residual,
            }
        return pd.DataFrame(rows).set_index("block")

    def path_table(self) -> pd.DataFrame:
        """One row a representation and strength λ of the path: its probe there, with the evidence of its fit."""
        return pd.DataFrame(self.path, columns=PathPoint._fields)

    def metrics(self) -> dict[str, float]:
        """The numbers by name, for a tracker; what there is not is left out."""
        first, head, split = self.layers[0], self.head, self.augmented
        found = {
            "objective": self.objective,
            "probe/input_gap": first.gap.value,
            "probe/head_gap": head.gap.value,
            "probe/head_certificate": head.certificate,
            "held_out/objective": self.held_out_objective,
            "held_out/input_gap": first.held_out_gap.value,
            "held_out/input_gap_error": first.held_out_gap.standard_error,
            "held_out/head_gap": head.held_out_gap.value,
            "held_out/head_gap_error": head.held_out_gap.standard_error,
        }
        if split is not None:
            found |= {"probe/training_slack": split.gap.value, "probe/feature_gain": split.gain.value}
        for place, layer in enumerate(self.layers):
            found |= {
                f"probe_objective/{layer.name}": layer.probe.objective,
                f"held_out_probe_objective/{layer.name}": layer.held_out_objective,
                f"held_out_block_gain/{place}": layer.held_out_gain.value,
                f"held_out_block_gain_error/{place}": layer.held_out_gain.standard_error,
            }
        if self.curvature is not None:
            found |= self.curvature.metrics()
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def __str__(self) -> str:
        held_out = f", {self.held_out_samples} held out" if self.held_out_samples else ""
        blocks = len(self.layers) - 1
        return "\n".join(
            [
                f"network of {blocks} blocks, {self.loss} loss, {self.samples} training samples{held_out}",
                *self._lines(),
                *([] if self.curvature is None else [f"  {self.curvature.of}: {self.curvature}"]),
                *(each.sentence for each in self.advice),
                *filter(None, [self.curvature_choice]),
            ]
        )

    def __repr__(self) -> str:
        return str(self)

    def _lines(self) -> list[str]:
        """The levels, aligned; held-out ones with their standard errors."""
        head = ["", "training", "held out", "network − probe, held out", "block adds, held out", "λ"]
        rows = [head, ["network", number_text(self.objective), _or_none(self.held_out_objective), "", "", ""]]
        for each in (*self.layers, *filter(None, [self.augmented])):
            whole = each.name == "augmented"
            rows.append(
                [
                    "probe on all blocks" if whole else f"probe on {each.name}",
                    number_text(each.probe.objective) + ("" if each.probe.finished else " (unfinished)"),
                    _or_none(each.held_out_objective),
                    _or_none(each.held_out_gap.value, str(each.held_out_gap)),
                    "" if whole else _or_none(each.held_out_gain.value, str(each.held_out_gain)),
                    number_text(each.probe.ridge, 2),
                ]
            )
        kept = [place for place in range(len(head)) if any(row[place] for row in rows[1:])]
        widths = {place: max(len(row[place]) for row in rows) for place in kept}
        return ["  " + "  ".join(row[place].ljust(widths[place]) for place in kept).rstrip() for row in rows]


def _or_none(value: float, text: str | None = None) -> str:
    return "" if math.isnan(value) else text or number_text(value)
