"""The verdict on a point: is it stationary, to which order, and is it at least as good as a linear predictor?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax

from resflow.arrays import analyse, as_number
from resflow.certificates.gap import check_ridge
from resflow.certificates.theorems import check_curvature_constants
from resflow.errors import InvalidInputError
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.point import Point
from resflow.stationarity._text import explain
from resflow.stationarity.terms import VERDICTS, FitEvidence, StationarityTerms, stationarity_terms, verdict_codes

__all__ = ["StationarityReport", "analyze_point", "check_tolerances", "stationarity_verdict"]


@dataclass(frozen=True)
class StationarityReport:
    """What is known of one point, and the verdict that follows. Printed, it explains itself.

    All in the units of the mean loss per sample; partial means in (W, V), θ held fixed. Under a ridge term R,
    `objective`, `linear_predictor_gap`, `gap_certificate`, the gradient and the Hessian are those of F + R, and the gap
    is to the linear predictor's F_lin(W*) + ½ ridge_W ‖W*‖_F². NaN stands for what was not given or does not exist.

    Attributes:
        objective: The mean loss, with its ridge term.
        linear_predictor_gap: objective minus that of the linear predictor. Negative: better than linear.
        gap_error: How far the gap may be from that to the best linear predictor: suboptimality of the fit, rounding.
        gap_certificate: An upper bound on the gap, mean ⟨ℓ'_i, p_i − W*x_i⟩ but for ridge terms.
        grad_norm: ‖∇F‖.
        grad_error: Estimate of its rounding error.
        lambda_min: The smallest eigenvalue of the partial Hessian.
        lambda_min_lower: No eigenvalue lies below.
        lambda_min_upper: An eigenvalue lies at or below.
        lambda_min_error: Estimate of the effect of rounding on the bracket.
        lambda_min_residual: ‖Hv − λ_min v‖ of its direction v, ‖v‖ = 1.
        epsilon: The ε of the verdict.
        mu2: The Lipschitz constant of the Hessian that the verdict used.
        curvature_tolerance: sqrt(μ₂ε): second-order stationary is λ_min ≥ −curvature_tolerance.
        w_norm: ‖W‖, the spectral norm.
        V_norm: ‖V‖, the spectral norm.
        gap_allowed: The largest gap that Theorem 3 allows an ε-SOPSP with max{‖W‖, ‖V‖} no larger than here;
            infinite for regularised objectives, and NaN for several outputs, of which the theorem does not speak.
        linear_converged: Whether the linear fit converged, without which nothing is said of above or below.
        verdict: One of VERDICTS.
        allowed_by_theory: False only for a `sopsp_above_linear` beyond gap_allowed, which cannot be: then the arrays
            do not belong together, or the program is wrong.
        explanation: The verdict in words and numbers.
    """

    objective: float
    linear_predictor_gap: float
    gap_error: float
    gap_certificate: float
    grad_norm: float
    grad_error: float
    lambda_min: float
    lambda_min_lower: float
    lambda_min_upper: float
    lambda_min_error: float
    lambda_min_residual: float
    epsilon: float
    mu2: float
    curvature_tolerance: float
    w_norm: float
    V_norm: float
    gap_allowed: float
    linear_converged: bool
    verdict: str
    allowed_by_theory: bool
    explanation: str

    def __str__(self) -> str:
        return self.explanation

    def metrics(self) -> dict[str, float]:
        """λ_min with its evidence, and what the verdict compared it and the gap with, by their names in MLflow."""
        of_lambda_min = ("lambda_min", "lambda_min_lower", "lambda_min_upper", "lambda_min_residual")
        return {name: getattr(self, name) for name in (*of_lambda_min, "curvature_tolerance", "gap_allowed")}


def analyze_point(
    point: Point,
    fit: LinearFit,
    *,
    epsilon: float,
    mu2: float | None = None,
    ridge_W: float = 0.0,
    ridge_V: float = 0.0,
) -> StationarityReport:
    """`resflow.analyze` of a residual unit, in (W, V), θ held fixed; arguments and errors are as there."""
    check_ridge(ridge_W, ridge_V)
    check_tolerances(epsilon, mu2)
    if mu2 is None:
        check_curvature_constants(point.loss)
    # the verdict says what an unfinished fit decides
    check_baseline(fit, point.X, point.y, point.loss, finished=False, ridge=ridge_W)
    if ridge_W > 0 and fit.ridge != ridge_W:
        raise InvalidInputError(
            f"the linear fit has ridge={fit.ridge}, but ridge_W={ridge_W}: fit it with ridge={ridge_W}, or the gap is "
            "not that of the objective"
        )
    with jax.enable_x64(True):
        terms = stationarity_terms(point, FitEvidence.of(fit), epsilon, mu2=mu2, ridge_W=ridge_W, ridge_V=ridge_V)
        return _report(terms._asdict(), ridge=ridge_W > 0 or ridge_V > 0)


def stationarity_verdict(
    *,
    objective: float,
    linear_predictor_gap: float,
    grad_norm: float,
    lambda_interval: tuple[float, float],
    epsilon: float,
    mu2: float = 1.0,
    gap_error: float = 0.0,
    grad_error: float = 0.0,
    lambda_min_error: float = 0.0,
    linear_converged: bool = True,
) -> StationarityReport:
    """The verdict of `analyze` on any model, from evidence that came from elsewhere.

    That the interval holds the smallest eigenvalue, and not just some eigenvalue, as [λ − residual, λ + residual] of an
    eigenpair does, is the caller's word.

    Args:
        objective: The objective at the point.
        linear_predictor_gap: The objective minus the best linear predictor's.
        grad_norm: Norm of the objective's gradient.
        lambda_interval: Lower and upper bound on the Hessian's smallest eigenvalue.
        epsilon: ε ≥ 0.
        mu2: Lipschitz constant of the Hessian; where none is known 1 is as good as any other number.
        gap_error: How far the gap may be off.
        grad_error: How far grad_norm may be off by rounding.
        lambda_min_error: How far the interval may be off by rounding.
        linear_converged: Whether the linear fit converged.

    Raises:
        InvalidInputError: If epsilon or mu2 is negative or not a number.
    """
    check_tolerances(epsilon, mu2)
    lower, upper = lambda_interval
    evidence = {
        "linear_predictor_gap": linear_predictor_gap,
        "gap_error": gap_error,
        "grad_norm": grad_norm,
        "grad_error": grad_error,
        "lambda_min_lower": lower,
        "lambda_min_upper": upper,
        "lambda_min_error": lambda_min_error,
        "epsilon": epsilon,
        "curvature_tolerance": math.sqrt(mu2) * math.sqrt(epsilon),
        "linear_converged": linear_converged,
    }
    further = {
        "objective": objective,
        "lambda_min": 0.5 * (lower + upper),
        "lambda_min_residual": 0.5 * (upper - lower),
        "mu2": mu2,
        "verdict": analyse(verdict_codes, *evidence.values()),
    }
    return _report(dict.fromkeys(StationarityTerms._fields, math.nan) | evidence | further, ridge=False)


def _report(terms: dict[str, Any], *, ridge: bool) -> StationarityReport:
    numbers: dict[str, Any] = {name: float(value) for name, value in terms.items()}
    verdict = VERDICTS[int(terms["verdict"])]
    surely = numbers["linear_predictor_gap"] - numbers["gap_error"]
    impossible = verdict == "sopsp_above_linear" and (
        surely > numbers["gap_allowed"] or surely > numbers["gap_certificate"]
    )
    converged = bool(terms["linear_converged"])
    numbers |= {"linear_converged": converged, "verdict": verdict, "allowed_by_theory": not impossible}
    return StationarityReport(**numbers, explanation=explain(numbers, ridge))


def check_tolerances(epsilon: float, mu2: float | None) -> None:
    """Check the ε and μ₂ of a verdict."""
    for name, value in (("epsilon", epsilon), ("mu2", mu2)):
        if value is not None:
            as_number(name, value, "must be a finite number, at least 0", lambda number: 0 <= number < math.inf)
