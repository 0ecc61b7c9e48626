"""What runs of this project's notebooks call their metrics, which reports know to read.

MLflow's UI makes a section of charts of what stands before a slash in a metric's name. The few by which a reader
compares runs stay plain, and so stand together, under "Model metrics" behind all sections; every other metric stands in
one. Docs/metrics.md says what each of them is.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from resflow.plots.labels import label_of

__all__ = ["GAP", "HELD_OUT", "LEVEL", "METRICS", "as_recorded", "named_now", "short_label", "spellings"]

GAP = "linear_predictor_gap"
"""What a run calls the distance of its objective from the best linear predictor's: where it recorded that, more can be
said of it."""
HELD_OUT = "test_linear_predictor_gap"
"""The gap on samples that were not trained on, where runs recorded it."""

_SECTIONS = {
    "bounds": (
        "gap_certificate", "theorem1_bound", "theorem2_slack", "theorem3_bound", "norm_bound", "near_identity_bound",
        "gradient_term", "rank_term", "gap_allowed", "smallest_slack", "smallest_share_within_bound",
        "largest_final_excess",
    ),
    "curvature": (
        "lambda_min", "lambda_min_lower", "lambda_min_upper", "lambda_min_residual", "lambda_min_converged",
        "curvature_tolerance", "smallest_representation_curvature", "flattest_lambda_min", "spectrum_deviation",
    ),
    "split": ("training_slack", "feature_gain"),
    "norms": ("partial_grad_norm", "w_norm", "V_norm"),
    "ranks": ("W_rank", "smallest_singular_value", "kernel_dimension", "kernel_share_of_w"),
    "counts": (
        "second_order_units", "stuck_without_skip", "stuck_with_ridge", "members", "members_diverged",
        "newton_steps_taken",
    ),
    "timing": ("training_seconds", "recording_seconds"),
}  # fmt: skip

METRICS: Mapping[str, str] = {
    **{value: f"{section}/{value}" for section, values in _SECTIONS.items() for value in values},
    "best_linear_objective": "linear/best_objective",
    "linear_fit_grad_norm": "linear/grad_norm",
    "test_linear_predictor_gap_error": "test/linear_predictor_gap_error",
    "test_error_rate": "test/error_rate",
    "linear_test_error_rate": "test/linear_error_rate",
    "median_linear_predictor_gap": "members/median_linear_predictor_gap",
    "worst_linear_predictor_gap": "members/worst_linear_predictor_gap",
    "own_feature_map_gap": "own_feature_map/linear_predictor_gap",
    "blocks_improve_at": "representations/blocks_improve_at",
    "newton_grad_norm": "norms/newton_grad_norm",
    "newton_lambda_min": "curvature/newton_lambda_min",
    "ridge_spurious_value": "spurious/ridge_value",
    "circle_spurious_value": "spurious/circle_value",
    "largest_spurious_share": "spurious/largest_share",
    "smallest_minimum_share": "spurious/smallest_minimum_share",
    "smallest_prefix_ratio": "prefix_sums/smallest_ratio",
    **{f"slope_{kind}{end}": f"slopes/{kind}{end}" for kind in ("fresh", "bootstrap") for end in ("", "_low", "_high")},
    **{f"{GAP}_{order}": f"{GAP}/{order}" for order in ("with_replacement", "random_reshuffling", "grab")},
}
"""The metric's name by that of the value, as the library and the notebooks call it, where the two differ. Runs that
version 0.1.0 recorded call their metrics as the values."""

LEVEL = METRICS["best_linear_objective"]
"""What a run calls the best linear predictor's objective."""

_FORMER = {metric: value for value, metric in METRICS.items()}


def as_recorded(name: str) -> str:
    """The name of the metric that a value is recorded as.

    >>> as_recorded("lambda_min"), as_recorded("objective")
    ('curvature/lambda_min', 'objective')
    """
    return METRICS.get(name, name)


def named_now(recorded: Container[str], metric: str) -> str:
    """A metric, also where it is called by the name that it had in version 0.1.0, and recorded by its present one.

    >>> named_now(["norms/w_norm"], "w_norm"), named_now(["w_norm"], "w_norm")
    ('norms/w_norm', 'w_norm')
    """
    now = as_recorded(metric)
    return now if metric not in recorded and now in recorded else metric


def short_label(metric: str) -> str:
    """A metric as titles of figures have it.

    >>> short_label("linear_predictor_gap"), short_label("norms/w_norm")
    ('gap', 'norms/w norm')
    """
    return "gap" if metric == GAP else label_of(metric)


def spellings(metric: str) -> tuple[str, ...]:
    """A metric's name, and the one that it had in runs of version 0.1.0 if that was another.

    >>> spellings("curvature/lambda_min"), spellings("objective")
    (('curvature/lambda_min', 'lambda_min'), ('objective',))
    """
    return (metric, _FORMER[metric]) if metric in _FORMER else (metric,)
