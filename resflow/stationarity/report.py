"""The verdict on a point: is it stationary, to which order, and is it at least as good as a linear predictor?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Real

from resflow.arrays import Array, analyse, as_number, check_point
from resflow.certificates.regularization import check_ridge
from resflow.certificates.theorems import check_curvature_constants
from resflow.errors import InvalidInputError
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.losses.scalar import Loss, as_loss
from resflow.stationarity._text import explain
from resflow.stationarity.terms import VERDICTS, StationarityTerms, stationarity_terms, verdict_codes

__all__ = [
    "VERDICTS",
    "StationarityReport",
    "StationarityTerms",
    "analyze_point",
    "stationarity_terms",
    "stationarity_verdict",
    "verdict_codes",
]


@dataclass(frozen=True)
class StationarityReport:
    """What is known of one point, and the verdict that follows. Printed, it explains itself.

    All in the units of the mean loss per sample; partial means in (w, V), θ held fixed. Under a ridge term R,
    `objective`, `gap`, `certificate`, the gradient and the Hessian are those of F + R, and the gap is to the linear
    predictor's F_lin(u) + ½ ridge_w ‖u‖². NaN stands for what was not given or does not exist.

    Attributes:
        objective: The mean loss, with its ridge term.
        gap: objective minus that of the linear predictor. Negative: better than linear.
        gap_error: How far the gap may be from that to the best linear predictor: suboptimality of the fit, rounding.
        certificate: An upper bound on the gap, mean ℓ'_i (p_i − uᵀx_i) but for ridge terms.
        grad_norm: ‖∇F‖.
        grad_error: Estimate of its rounding error.
        lambda_min: The smallest eigenvalue of the partial Hessian.
        lambda_lower: No eigenvalue lies below.
        lambda_upper: An eigenvalue lies at or below.
        lambda_error: Estimate of the effect of rounding on the bracket.
        residual: ‖Hv − λ_min v‖ of its direction v, ‖v‖ = 1.
        epsilon: The ε of the verdict.
        mu2: The Lipschitz constant of the Hessian that the verdict used.
        curvature_tolerance: sqrt(μ₂ε): second-order stationary is λ_min ≥ −curvature_tolerance.
        w_norm: ‖w‖.
        V_norm: ‖V‖, the spectral norm.
        gap_allowed: The largest gap that Theorem 3 allows an ε-SOPSP with max{‖w‖, ‖V‖} no larger than here;
            infinite for regularised objectives, of which the theorem does not speak.
        linear_converged: Whether the linear fit converged, without which nothing is said of above or below.
        verdict: One of VERDICTS.
        allowed_by_theory: False only for a `sopsp_above_linear` beyond gap_allowed, which cannot be: then the arrays
            do not belong together, or the program is wrong.
        explanation: The verdict in words and numbers.
    """

    objective: float
    gap: float
    gap_error: float
    certificate: float
    grad_norm: float
    grad_error: float
    lambda_min: float
    lambda_lower: float
    lambda_upper: float
    lambda_error: float
    residual: float
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
        return {
            "lambda_min": self.lambda_min,
            "lambda_min_lower": self.lambda_lower,
            "lambda_min_upper": self.lambda_upper,
            "lambda_min_residual": self.residual,
            "curvature_tolerance": self.curvature_tolerance,
            "gap_allowed": self.gap_allowed,
        }


def analyze_point(
    w: Real[Array, "d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    linear_fit: LinearFit,
    epsilon: float,
    mu2: float | None = None,
    ridge_w: float = 0.0,
    ridge_V: float = 0.0,
) -> StationarityReport:
    """Whether ‖∇F‖ ≤ ε and λ_min(∇²F) ≥ −sqrt(μ₂ε) in (w, V), and whether F exceeds the linear predictor's.

    The verdicts, of which exactly one holds:

        not_stationary            ‖∇F‖ > ε.
        strict_saddle             stationary, and λ_min < −sqrt(μ₂ε).
        sopsp_at_or_below_linear  an ε-second-order partial stationary point with gap ≤ 0.
        sopsp_above_linear        one with gap > 0. Impossible at ε = 0 for a plain residual unit (Corollary 1).
        inconclusive              stationary, but the evidence does not say which.
        not_finite                the point, its objective or a derivative is not finite: nothing can be said.

    All comparisons allow for errors. ‖∇F‖ ≤ ε and gap ≤ 0 count as true up to grad_error and gap_error. λ_min is
    known by a bracket: a strict saddle has all of it, and lambda_error, below the threshold. For an SOPSP the lower end
    is at or above the threshold: up to lambda_error if the gap is at or below 0, as the theory predicts, but beyond
    it if the gap is above, against the theory; so that rounding alone never makes a counterexample. A linear fit that
    did not converge decides nothing about above or below.

    All arrays are analysed in float64: rounding in float32 would decide many a verdict. For many points under jit and
    vmap use `stationarity_terms`.

    Args:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,): −1 or +1 for the logistic loss.
        loss: A loss or its name.
        linear_fit: The linear predictor to compare with, of `fit_linear_predictor` on the same X, y and loss; fitted
            with ridge=ridge_w if there is a ridge term.
        epsilon: ε ≥ 0, in the units of the gradient; 0 means to working precision.
        mu2: Lipschitz constant μ₂ of the partial Hessian; by default that of `lipschitz_constants` on the ball of the
            point's own radius max{‖w‖, ‖V‖}.
        ridge_w: Coefficient of ½‖w‖² in the objective.
        ridge_V: Coefficient of ½‖V‖_F² in the objective.

    Raises:
        InvalidInputError: If shapes disagree, labels do not suit the loss, epsilon, mu2 or a ridge coefficient is
            negative, linear_fit has another ridge, or the loss has no constants and mu2 is not given.

    References:
        Shamir 2018 (arXiv:1804.06739), Definition 1 (ε-SOPSP), Theorem 3, Corollary 1 and, for ridge, section 4.
    """
    loss = as_loss(loss)
    check_point(w, V, features, X, y, loss)
    check_ridge(ridge_w, ridge_V)
    _check_tolerances(epsilon, mu2)
    if mu2 is None:
        check_curvature_constants(loss)
    check_baseline(linear_fit, X, y, loss, finished=False)  # the verdict itself says what an unfinished one decides
    if ridge_w > 0 and linear_fit.ridge != ridge_w:
        raise InvalidInputError(
            f"linear_fit has ridge={linear_fit.ridge}, but ridge_w={ridge_w}: fit it with ridge={ridge_w}, or the gap "
            "is not that of the objective"
        )
    evidence = (linear_fit.w, linear_fit.objective, linear_fit.suboptimality, linear_fit.converged, epsilon)
    options: dict[str, Any] = {"loss": loss, "mu2": mu2, "ridge_w": ridge_w, "ridge_V": ridge_V}
    with jax.enable_x64(True):
        terms = stationarity_terms(w, V, features, X, y, *evidence, **options)
        return _report(terms._asdict(), ridge=ridge_w > 0 or ridge_V > 0)


def stationarity_verdict(
    *,
    objective: float,
    gap: float,
    grad_norm: float,
    lambda_interval: tuple[float, float],
    epsilon: float,
    mu2: float = 1.0,
    gap_error: float = 0.0,
    grad_error: float = 0.0,
    lambda_error: float = 0.0,
    linear_converged: bool = True,
) -> StationarityReport:
    """The verdict of `analyze_point` on any model, from evidence that came from elsewhere.

    For models of which the theory has nothing to say, or without an exact spectrum: no skip connection, deep networks,
    the whole Hessian in (w, V, θ). That the interval holds the smallest eigenvalue, and not just some eigenvalue, as
    [λ − residual, λ + residual] of an eigenpair does, is the caller's word.

    Args:
        objective: The objective at the point.
        gap: The objective minus the best linear predictor's.
        grad_norm: Norm of the objective's gradient.
        lambda_interval: Lower and upper bound on the Hessian's smallest eigenvalue.
        epsilon: ε ≥ 0.
        mu2: Lipschitz constant of the Hessian. Where none is known 1 is as good as any other number: the threshold is
            then −sqrt(ε), in the units of the Hessian.
        gap_error: How far the gap may be off.
        grad_error: How far grad_norm may be off by rounding.
        lambda_error: How far the interval may be off by rounding.
        linear_converged: Whether the linear fit converged.

    Raises:
        InvalidInputError: If epsilon or mu2 is negative or not a number.
    """
    _check_tolerances(epsilon, mu2)
    lower, upper = lambda_interval
    tolerance = math.sqrt(mu2) * math.sqrt(epsilon)
    evidence = (gap, gap_error, grad_norm, grad_error, lower, upper, lambda_error, epsilon, tolerance, linear_converged)
    numbers = {
        "objective": objective,
        "gap": gap,
        "gap_error": gap_error,
        "certificate": math.nan,
        "grad_norm": grad_norm,
        "grad_error": grad_error,
        "lambda_min": 0.5 * (lower + upper),
        "lambda_lower": lower,
        "lambda_upper": upper,
        "lambda_error": lambda_error,
        "residual": 0.5 * (upper - lower),
        "epsilon": epsilon,
        "mu2": mu2,
        "curvature_tolerance": tolerance,
        "w_norm": math.nan,
        "V_norm": math.nan,
        "gap_allowed": math.nan,
        "linear_converged": linear_converged,
        "verdict": analyse(verdict_codes, *evidence),
    }
    return _report(numbers, ridge=False)


def _report(terms: dict[str, Any], *, ridge: bool) -> StationarityReport:
    numbers: dict[str, Any] = {name: float(value) for name, value in terms.items()}
    verdict = VERDICTS[int(terms["verdict"])]
    surely = numbers["gap"] - numbers["gap_error"]
    impossible = verdict == "sopsp_above_linear" and (
        surely > numbers["gap_allowed"] or surely > numbers["certificate"]
    )
    numbers |= {
        "linear_converged": bool(terms["linear_converged"]),
        "verdict": verdict,
        "allowed_by_theory": not impossible,
    }
    return StationarityReport(**numbers, explanation=explain(numbers, ridge))


def _check_tolerances(epsilon: float, mu2: float | None) -> None:
    for name, value in (("epsilon", epsilon), ("mu2", mu2)):
        if value is not None:
            as_number(name, value, "must be a finite number, at least 0", lambda number: 0 <= number < math.inf)
