"""Many runs side by side, as the notebook that compares them reads and shows them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from resflow.notebook.block_gains import about_block_gains, block_gains
from resflow.plots.svg import show_well
from resflow.workflow import names
from resflow.workflow.records import Run, open_client
from resflow.workflow.reports import overview
from resflow.workflow.reports.comparison import Comparison, load_comparison
from resflow.workflow.reports.effects import about_effects, axis_effects, seeds_table
from resflow.workflow.reports.statistics import above_linear, second_axis
from resflow.workflow.ui_pages import ui_address

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.tracking import MlflowClient

__all__ = ["about_ends", "about_gaps", "load_runs", "overview", "shares_above_linear", "ui_address", "what_axes_did"]


def load_runs(source: str = "", *, metric: str = "", direction: str = "") -> tuple[MlflowClient, Comparison]:
    """The runs of a sweep or an experiment, with what they are compared by, and the client that read them.

    From here on figures are shown as SVG. A run that the notebook is executed as is tagged with what it compares, as it
    depends on more than itself.

    Args:
        source: Its name; whatever the latest run belongs to if empty.
        metric: The final value to compare; what the sweep's file names, or the gap, if empty.
        direction: "maximize" or "minimize"; may be left empty where it is known.

    Raises:
        InvalidInputError: If there are no such runs, or they did not record the metric.
    """
    show_well()
    client = open_client()
    comparison = overview.towards(load_comparison(client, source), metric, direction)
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        Run(client, run_id).set_tags({names.COMPARED: f"{comparison.kind} {comparison.name}"})
    return client, comparison


def about_gaps(comparison: Comparison) -> str:
    """What a linear-predictor gap is and what the theory says of it, in Markdown; "" where runs recorded none."""
    points = comparison.points
    if overview.GAP not in points:
        return ""
    return _PROBE_GAPS if _PROBED in points else _GAPS


def about_ends() -> str:
    """What the verdicts on the ends of training mean, in Markdown."""
    return _ENDS


def what_axes_did(comparison: Comparison, *, settings: int = 10) -> tuple[Any, ...]:
    """What each axis but seeds did: in words, the metric by its values, and the best settings over their seeds.

    And, of runs that probed a network's residual stream, what each of its blocks adds.
    """
    from IPython.display import Markdown

    axes = overview.shown_axes(comparison)
    tables = [axis_effects(comparison, axes), seeds_table(comparison, count=settings)]
    said = about_effects(comparison, axes)
    shown = [Markdown(f"{said}\n\n{_EFFECTS}"), tables[0], Markdown(_SEEDS), tables[1]] if said else []
    shown = shown if tables[1] is not None else shown[:2]
    gains = block_gains(comparison)
    return (*shown, *([] if gains is None else [Markdown(about_block_gains(gains)), _rounded(gains)]))


def shares_above_linear(comparison: Comparison) -> tuple[Any, ...]:
    """How many runs ended above the best linear predictor, and what the interval means; nothing without gaps."""
    from IPython.display import Markdown

    points = comparison.points
    if overview.GAP not in points:
        return ()
    table = above_linear(points, overview.GAP, by=second_axis(points, comparison.axes)).round(4)
    return table.set_index(table.columns[0]), Markdown(_SHARES)


def _rounded(gains: pd.DataFrame) -> pd.DataFrame:
    return gains.set_index("setting").round({"mean": 4, "standard_error": 4})


_PROBED = "probe/input_gap"
"""What runs record that compare a network with the linear probe on its own input."""

_GAPS = r"""
The **linear-predictor gap** of a model $p$,

$$\text{gap} = F - \min_{u} F_{\mathrm{lin}}(u), \qquad F = \frac{1}{n} \sum_{i=1}^{n} \ell\bigl(p(x_i); y_i\bigr),
\quad F_{\mathrm{lin}}(u) = \frac{1}{n} \sum_{i=1}^{n} \ell\bigl(u^\top x_i; y_i\bigr),$$

is negative where it is better than every linear predictor on the training set, of which the theory speaks;
`test_linear_predictor_gap` is the one on new samples. For a residual unit $p(x) = w^\top (x + V f_\theta(x))$ no local
minimum has a gap above zero (O. Shamir, *Are ResNets Provably Better than Linear Predictors?*, NeurIPS 2018,
[arXiv:1804.06739](https://arxiv.org/abs/1804.06739), Corollary 1).
"""

_PROBE_GAPS = r"""
The **linear-predictor gap** of these networks is that to the *linear probe on their own input*, the ridge fit with an
intercept, which is what *best linear predictor* stands for below:

$$\text{gap} = F - F_{\mathrm{lin}}(h_0), \qquad F = \frac{1}{n} \sum_{i=1}^{n} \ell\bigl(p(x_i); y_i\bigr).$$

It is negative where the network is better than that fit on the training samples, not than every linear predictor;
`test_linear_predictor_gap` is the one on new samples. No theorem excludes that it is positive.
"""

_EFFECTS = """
A difference is told from the spread of seeds if it exceeds its standard error by Student's t at 5 %, divided by the
number of pairs of values; each axis is tested by itself. The error says how far other seeds would have moved the
difference, with the other axes as they are. Below: each value over all else that varies. *Deviation* is the standard
deviation of single runs with finite values, other axes included; a median counts a run without one as the worst.
"""

_SEEDS = """
The settings with the best medians over their seeds; the best of many look better than they are.
"""

_SHARES = """
The interval is the exact one of Clopper and Pearson for the share, at 95 %: even if no run of 64 ends above the best
linear predictor, 5.6 % might. It takes the runs as independent, which runs that share a seed are only in part. *Above
at the end* is not yet *stuck*: a run may have been on its way down. The verdicts tell.
"""

_ENDS = r"""
A point is *second-order stationary* here if, with $\theta$ held fixed, the gradient in the weights around $f_\theta$
is at most $\varepsilon$ and the Hessian in them has no eigenvalue below $-\sqrt{\mu_2 \varepsilon}$. These weights are
$(W, V)$ of a residual unit; of a skip to the output $(w, v)$, and without a skip connection $v$, in which the objective
is convex, so that a small gradient is enough. For residual units the theorem says that such a point is not above the
linear predictor by more than an amount that vanishes with $\varepsilon$. Without a skip connection, and under
regularisation, it says nothing: such a point may be as good as its features allow, and still worse than linear; whether
training $\theta$ leads on from there the verdict does not say.
"""
