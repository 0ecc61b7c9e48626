"""What figures and tables of one run say, in words that are computed and so true of this run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from resflow.notebook.claim import ROUNDING
from resflow.plots.labels import curve_name, number_text
from resflow.workflow.reports.statistics import above_linear

__all__ = [
    "above_linear",
    "below_title",
    "first_and_last",
    "fits_sentence",
    "gap_title",
    "held_out_table",
    "held_out_title",
    "split_table",
]


def gap_title(history: pd.DataFrame, *bounds: str) -> str:
    """Where the gap ended, and whether it ever exceeded one of its bounds, which would be a bug.

    >>> gap_title(pd.DataFrame({"linear_predictor_gap": [1.0, -0.5], "gap_certificate": [2.0, 0.0]}), "gap_certificate")
    'Gap -0.5 at the end, never above its certificate'

    Args:
        history: Column linear_predictor_gap, and those of the bounds.
        bounds: What must bound it at every row; what is not finite bounds nothing.
    """
    gap = history["linear_predictor_gap"]
    for bound in bounds:
        values = history[bound].replace([np.inf, -np.inf], np.nan)
        excess = (gap - values).max()
        if excess > ROUNDING * (1.0 + values.abs().max()):
            return f"The gap exceeds its {curve_name(bound)} by {excess:.2g}: the bound is violated, which is a bug"
    return f"Gap {gap.iloc[-1]:+.3g} at the end, never above its {' and its '.join(map(curve_name, bounds))}"


def first_and_last(history: pd.DataFrame, diverged_at: int | None = None) -> pd.DataFrame:
    """What was measured first and last, a column each, to four digits, under a head that says if training diverged.

    Args:
        history: Column step, and a column for each metric.
        diverged_at: The number of steps that went well before training diverged; None if it did not.
    """
    head = "step" if diverged_at is None else f"step (training DIVERGED after {diverged_at}: what follows is of there)"
    return history.iloc[[0, -1]].set_index("step").T.map(number_text).rename_axis(columns=head)


def fits_sentence(converged: Iterable[bool]) -> str:
    """Whether the gaps to several linear predictors can be relied on.

    >>> fits_sentence([True, True])
    'All 2 linear fits converged.'

    Args:
        converged: Of each fit, whether it did.
    """
    each = list(converged)
    if all(each):
        return f"All {len(each)} linear fits converged."
    return f"{each.count(False)} of {len(each)} linear fits DID NOT CONVERGE: no statement about their gaps is safe."


def below_title(history: pd.DataFrame) -> str:
    """From which step on the objective was below the best linear predictor's, or where it ended.

    Args:
        history: Columns step, objective and linear_predictor_gap.
    """
    not_below = np.flatnonzero(~(history["linear_predictor_gap"] < 0))
    first = not_below[-1] + 1 if len(not_below) else 0
    if first < len(history):
        return f"Below the best linear predictor from step {history['step'].iloc[first]} on, as far as measured"
    final = history.iloc[-1]
    level = final["objective"] - final["linear_predictor_gap"]
    return f"Final objective {final['objective']:.4g} against the linear predictor's {level:.4g}"


def held_out_table(gaps: Mapping[str, Any]) -> pd.DataFrame:
    """Both predictors' mean losses on several sets, as `plot_held_out` draws them.

    Args:
        gaps: What `held_out_gap` found, by the sets' names.
    """
    rows = [
        (name, predictor, value, error)
        for name, gap in gaps.items()
        for predictor, value, error in (
            ("linear predictor", gap.linear_objective, gap.linear_objective_error),
            ("residual unit", gap.objective, gap.objective_error),
        )
    ]
    return pd.DataFrame(rows, columns=["set", "predictor", "objective", "standard_error"])


def held_out_title(gap: Any) -> str:
    """Which predictor is better on test samples, and whether that is beyond doubt; of what `held_out_gap` found."""
    outcome = "better" if gap.gap < 0 else "worse"
    doubt = "" if abs(gap.gap) > 2 * gap.standard_error else ", by less than two standard errors"
    return f"On test samples the residual unit is {outcome}{doubt}"


def split_table(split: Any) -> pd.DataFrame:
    """The gap and the two parts that it is the difference of, in units of the loss; of what `fit_augmented` found."""
    rows = {
        "what training left undone": split.training_slack,
        "which is certified to be at most": split.slack_certificate,
        "what the features offer": split.feature_gain,
        "gap: the first minus the last": split.linear_predictor_gap,
    }
    note = "" if split.converged else f", but the fit did not converge. {split.status.sentence}"
    return pd.DataFrame({f"mean loss per sample{note}": {name: number_text(value) for name, value in rows.items()}})
