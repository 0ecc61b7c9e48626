"""The verdict on a point: is it stationary, to which order, and is it at least as good as a linear predictor?"""

from __future__ import annotations

from typing import Any

from resflow.hessian.lanczos import smallest_hessian_eigenvalue
from resflow.linear.predictor import LinearFit
from resflow.objectives import MeanLoss
from resflow.point import ModelPoint, Point, check_options_of, check_point
from resflow.stationarity.any_model import analyze_model
from resflow.stationarity.report import StationarityReport, analyze_point

__all__ = ["analyze"]


def analyze(
    point: Point | ModelPoint, fit: LinearFit, *, epsilon: float, mu2: float | None = None, **options: Any
) -> StationarityReport:
    """Whether ‖∇F‖ ≤ ε and λ_min(∇²F) ≥ −sqrt(μ₂ε) at a point, and whether F exceeds the linear predictor's.

    Of a residual unit gradient and Hessian are those in (W, V), θ held fixed, of any number of outputs; of any other
    model those in all its parameters, or in a `block` of them. The verdicts, of which exactly one holds:

        not_stationary            ‖∇F‖ > ε.
        strict_saddle             stationary, and λ_min < −sqrt(μ₂ε).
        sopsp_at_or_below_linear  an ε-second-order partial stationary point with gap ≤ 0.
        sopsp_above_linear        one with gap > 0. Impossible at ε = 0 for a plain residual unit (Corollary 1).
        inconclusive              stationary, but the evidence does not say which.
        not_finite                the point, its objective or a derivative is not finite: nothing can be said.

    All comparisons allow for errors. ‖∇F‖ ≤ ε and gap ≤ 0 count as true up to grad_error and gap_error. λ_min is
    known by a bracket: a strict saddle has all of it below the threshold, an SOPSP all of it at or above, and either by
    more than lambda_min_error. Curvature that rounding may hide is `inconclusive`, and a larger ε decides. Only at
    ε = 0, of a residual unit without ridge whose W has full row rank, which by theory has no negative curvature where
    ∇F = 0, does an SOPSP with gap ≤ 0 hold up to lambda_min_error. A linear fit that did not converge decides nothing
    about above or below.

    Of a model that is no residual unit the gradient is looked at first. Where ‖∇F‖ > ε by more than rounding can do,
    the verdict is `not_stationary` for the cost of two gradients, and λ_min is not computed: its bracket is (−∞, ∞).

    All arrays are analysed in float64: rounding in float32 would decide many a verdict. For many points under jit and
    vmap use `resflow.stationarity.terms.stationarity_terms`.

    Args:
        point: Of `Point` or `Point.of`.
        fit: The linear predictor to compare with, of `fit_linear_predictor` on the same X, y and loss; fitted with
            ridge=ridge_W if there is a ridge term.
        epsilon: ε ≥ 0, in the units of the gradient; 0 means to working precision.
        mu2: Lipschitz constant μ₂ of the Hessian. By default, for a residual unit, that of `lipschitz_constants` on the
            ball of the point's own radius max{‖W‖, ‖V‖}; for other models 1, which makes the threshold −sqrt(ε), in the
            units of the Hessian.
        options: For a residual unit `ridge_W` and `ridge_V`, as in `certify`; for other models those of
            `smallest_eigenvalue`: `block`, `key`, `steps`, `max_restarts`, `tolerance`, `progress`.

    Raises:
        InvalidInputError: If epsilon, mu2 or an option is out of range or unknown, the fit is of other data, another
            loss or another ridge, or the loss has no constants and mu2 is not given.

    References:
        Shamir 2018 (arXiv:1804.06739), Definition 1 (ε-SOPSP), Theorem 3, Corollary 1 and, for ridge, section 4;
        Kawaguchi 2018 (arXiv:1810.09038) for several outputs.
    """
    check_point(point)
    check_options_of(analyze_point if isinstance(point, Point) else smallest_hessian_eigenvalue, point, options)
    if isinstance(point, Point):
        return analyze_point(point, fit, epsilon=epsilon, mu2=mu2, **options)
    objective, mu2 = MeanLoss(point.loss), 1.0 if mu2 is None else mu2
    return analyze_model(objective, point.model, point.X, point.y, fit=fit, epsilon=epsilon, mu2=mu2, **options)
