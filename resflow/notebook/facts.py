"""What counts of a run's result, in words for people: the verdict, and the gaps with what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resflow.plots.labels import number_text, verdict_name

__all__ = ["facts_of"]


def facts_of(values: Mapping[str, Any], verdict: str = "") -> list[tuple[str, str]]:
    """The lines that a run's report opens with.

    >>> facts_of({"objective": 0.5, "best_linear_objective": 0.75}, "strict_saddle")
    [('verdict on the last point', 'strict saddle'), ('training objective', '0.5, of the best linear predictor 0.75')]

    Args:
        values: The run's metrics, those along training by their last values.
        verdict: The verdict on its last point; "" without one.
    """
    facts = [("verdict on the last point", verdict_name(verdict))] if verdict else []
    if "objective" in values and "best_linear_objective" in values:
        mine, linear = (number_text(values[name]) for name in ("objective", "best_linear_objective"))
        facts.append(("training objective", f"{mine}, of the best linear predictor {linear}"))
    if (gap := values.get("linear_predictor_gap")) is not None:
        text = number_text(gap)
        if (certificate := values.get("gap_certificate")) is not None and certificate == certificate:
            text += f", certified to be at most {number_text(certificate)}"
        facts.append(("gap to the best linear predictor", text))
    if (gap := values.get("test_linear_predictor_gap")) is not None:
        error = values.get("test_linear_predictor_gap_error")
        text = number_text(gap) + ("" if error is None else f" ± {number_text(error, 2)} (one standard error)")
        facts.append(("gap on samples not trained on", text))
    return facts
