"""What a run makes of a report on a network by linear probes: a title, a claim, and values by their names."""

from __future__ import annotations

from dataclasses import dataclass

from resflow.notebook.claim import Claim
from resflow.numerals import number_text
from resflow.probing.report import ProbeReport

__all__ = ["Probed", "path_title", "probed", "probes_title"]


@dataclass(frozen=True)
class Probed:
    """What of a report a run is to keep.

    Attributes:
        claim: That the network is no worse than the linear probe on its own input, on held-out samples as far as can be
            told. Its margin is negative where it is worse by more than can be noise; not a number without such samples.
        metrics: All numbers of the report, and the gap to that probe by the names that other notebooks have for gaps.
        tags: Whether all fits are finished.
        advice: The report's advice as a list in Markdown, with why it has that λ_min or none.
    """

    claim: Claim
    metrics: dict[str, float]
    tags: dict[str, bool]
    advice: str


def probed(report: ProbeReport) -> Probed:
    """What of a report a run is to keep."""
    first = report.layers[0]
    gap = first.held_out_gap
    margin = gap.resolution - gap.value
    layers = [*report.layers, *filter(None, [report.augmented])]
    sentences = [each.sentence for each in report.advice]
    own = {"linear_predictor_gap": first.gap.value, "best_linear_objective": first.probe.objective}
    if report.held_out_samples:
        own |= {"test_linear_predictor_gap": gap.value, "test_linear_predictor_gap_error": gap.standard_error}
    return Probed(
        claim=Claim("network_no_worse_than_linear_probe", bool(margin >= 0 and first.probe.finished), margin),
        metrics=report.metrics() | own,
        tags={"linear_fit_converged": all(layer.probe.finished for layer in layers)},
        advice="\n".join(f"- {each}" for each in filter(None, [*sentences, report.curvature_choice])),
    )


def probes_title(report: ProbeReport) -> str:
    """How the network stands to the linear probe on its own input, and how many blocks add; of what `probe` found."""
    first, blocks = report.layers[0], report.layers[1:]
    gap = first.held_out_gap if report.held_out_samples else first.gap
    where = "held-out" if report.held_out_samples else "training"
    stands = {-1: "below", 0: "not told apart from", 1: "ABOVE"}[gap.sign]
    if not report.held_out_samples:
        return f"On {where} samples the network is {stands} the linear probe on its input, gap {gap}"
    adds = sum(layer.verdict == "adds" for layer in blocks)
    return (
        f"On {where} samples the network is {stands} the linear probe on its input, gap {gap}; "
        f"{adds} of {len(blocks)} blocks add what a linear probe can tell"
    )


def path_title(report: ProbeReport) -> str:
    """How the network stands to the lowest of all probes over bounds on their norm; of what `probe` found."""
    held_out = report.held_out_samples > 0
    where, column, network = (
        ("held-out", "held_out_objective", report.held_out_objective)
        if held_out
        else ("training", "objective", report.objective)
    )
    lowest = min(report.path, key=lambda point: getattr(point, column))
    level = getattr(lowest, column)
    return (
        f"On {where} samples the lowest of all probes is on h_{lowest.block}, of norm {number_text(lowest.norm, 2)}: "
        f"{number_text(level, 3)}, where the network has {number_text(network, 3)}"
    )
