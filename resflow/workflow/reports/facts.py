"""What counts of a run's result, in words for people, as notebooks record it and reports show it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.plots.labels import label_of, number_text, verdict_name, with_error
from resflow.workflow import names
from resflow.workflow.goal import Goal

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["Fact", "claim_of", "facts_from", "facts_of", "facts_tag"]

SHOWN_METRICS = 6
"""Of a run that did not say which facts count."""


class Fact(NamedTuple):
    """One line of a result: what it is about, and what came out."""

    about: str
    outcome: str


def facts_from(values: Mapping[str, Any], verdict: str = "", about: str = "") -> list[Fact]:
    """The lines that a run's report opens with.

    >>> for fact in facts_from({"objective": 0.5, "best_linear_objective": 0.75}, "strict_saddle"):
    ...     print(fact.about, "–", fact.outcome)
    verdict on the last point – strict saddle
    training objective – 0.5 (best linear predictor: 0.75)

    Args:
        values: The run's metrics, those along training by their last values.
        verdict: The verdict on its last point; "" without one.
        about: What all of this is of, where the run is about other things too, as "trained unit".
    """
    its = "its " if about else ""
    facts = [Fact(f"verdict on the {about or 'last point'}", verdict_name(verdict))] if verdict else []
    if "objective" in values and "best_linear_objective" in values:
        mine, linear = (number_text(values[name]) for name in ("objective", "best_linear_objective"))
        facts.append(Fact(f"{its}training objective", f"{mine} (best linear predictor: {linear})"))
    if (gap := values.get("linear_predictor_gap")) is not None:
        text = number_text(gap)
        if (certificate := values.get("gap_certificate")) is not None and certificate == certificate:
            text += f", certified at most {number_text(certificate)}"
        facts.append(Fact(f"{its}gap to the {'' if about else 'best '}linear predictor", text))
    if (gap := values.get("test_linear_predictor_gap")) is not None:
        error = values.get("test_linear_predictor_gap_error")
        text = number_text(gap) if error is None else with_error(gap, error)
        text += " (one standard error)" if "±" in text else ""
        facts.append(Fact(f"{its}gap on samples not trained on", text))
    return facts


def facts_tag(facts: Sequence[Fact]) -> dict[str, str]:
    """The tag that keeps facts."""
    return {names.FACTS: json.dumps(facts, ensure_ascii=False)}


def facts_of(run: Run) -> tuple[Fact, ...]:
    """What counts of a run's result: what its notebook recorded as that, or else its metrics."""
    recorded = _recorded(run.data.tags)
    return _metrics(run.data.metrics, Goal.in_tags(run.data.tags)) if recorded is None else recorded


def claim_of(run: Run) -> Fact | None:
    """What a run put to the test and how it came out; None if it tested nothing."""
    tags, metrics = run.data.tags, run.data.metrics
    if names.CLAIM not in tags or names.CLAIM_MARGIN not in metrics:
        return None
    came_out = "holds" if tags.get(names.CLAIM_HOLDS) == "true" else "FAILS"
    return Fact(label_of(tags[names.CLAIM]), f"{came_out}, margin {number_text(metrics[names.CLAIM_MARGIN])}")


def _recorded(tags: dict[str, str]) -> tuple[Fact, ...] | None:
    try:
        return tuple(Fact(str(about), str(outcome)) for about, outcome in json.loads(tags[names.FACTS]))
    except (KeyError, ValueError, TypeError):  # none, or of another hand
        return None


def _metrics(metrics: dict[str, float], goal: Goal | None) -> tuple[Fact, ...]:
    first = [goal.metric] if goal and goal.metric in metrics else []
    others = [name for name in sorted(metrics) if name not in (*first, names.CLAIM_MARGIN) and "/" not in name]
    shown = [*first, *others][:SHOWN_METRICS]
    wish = f" (to {goal.direction})" if goal else ""
    return tuple(Fact(label_of(name) + (wish if name in first else ""), number_text(metrics[name])) for name in shown)
