"""The verdict on a point in words: the comparisons it rests on, and what the theory says to it."""

from __future__ import annotations

import math
from typing import Any

from resflow.numerals import number_text


def explain(of: dict[str, Any], ridge: bool) -> str:
    """The verdict, the comparisons it rests on, and what the theory says to it."""
    objective, gradient = ("F + R", "(F + R)") if ridge else ("F", "F")
    meaning = {
        "not_stationary": f"not stationary: the gradient of {objective} exceeds ε",
        "strict_saddle": f"strict saddle: stationary, with a direction along which {objective} curves down",
        "sopsp_at_or_below_linear": "second-order stationary, and no worse than the linear predictor",
        "sopsp_above_linear": "second-order stationary, and worse than the linear predictor",
        "inconclusive": f"inconclusive: {_undecided(of)}",
        "not_finite": "not finite: the point, its objective or a derivative is not finite, as where training diverged",
    }
    threshold = f"{_number(-of['curvature_tolerance'] or 0.0)} = −sqrt(μ₂ε), μ₂ = {_number(of['mu2'])}"
    lower, upper = _number(of["lambda_min_lower"]), _number(of["lambda_min_upper"])
    bracket = f"λ_min in [{lower}, {upper}] ± {_error(of['lambda_min_error'])}"
    if of["lambda_min_lower"] == -math.inf and of["lambda_min_upper"] == math.inf:
        bracket = "λ_min not computed"
    gradient_size = f"{_number(of['grad_norm'])} ± {_error(of['grad_error'])}"
    certified = "" if math.isnan(of["gap_certificate"]) else f", certified ≤ {_number(of['gap_certificate'])}"
    lines = [
        f"{meaning[of['verdict']]}.",
        f"  gradient   ‖∇{gradient}‖ = {gradient_size}, ε = {_number(of['epsilon'])}",
        f"  curvature  {bracket}, threshold {threshold}",
        f"  gap        {_number(of['linear_predictor_gap'])} ± {_error(of['gap_error'])} to the linear predictor, "
        f"objective {_number(of['objective'])}{certified}",
    ]
    if not of["linear_converged"]:
        lines.append("  baseline   the linear fit did not converge: nothing can be said of above or below")
    return "\n".join([*lines, f"  theory     {_theory(of, ridge)}"])


def _undecided(of: dict[str, Any]) -> str:
    if any(math.isnan(of[name]) for name in ("gap_error", "grad_error", "lambda_min_error", "curvature_tolerance")):
        return "an error or a threshold that it needs is not a number"
    if of["lambda_min_lower"] == -math.inf:
        return "nothing is known of how far below the smallest eigenvalue may lie"
    if of["lambda_min_lower"] + of["lambda_min_error"] < -of["curvature_tolerance"]:
        return "stationary, but the bracket of λ_min straddles the threshold"
    if not of["linear_converged"]:
        return "second-order stationary, but the linear fit to compare with did not converge"
    return "stationary, but λ_min is within rounding of the threshold, which a larger ε moves away"


def _theory(of: dict[str, Any], ridge: bool) -> str:
    if of["verdict"] == "not_finite":
        return "nothing can be said of such a point"
    if ridge:
        return "no theorem covers a regularised objective: an SOPSP of F + R may lie above the linear predictor"
    if math.isnan(of["gap_allowed"]):
        return "no bound applies: Theorem 3 is about residual units of one output whose loss has known constants"
    radius = max(of["w_norm"], of["V_norm"])
    allowed = f"{_number(of['gap_allowed'])} within max{{‖w‖, ‖V‖}} ≤ {_number(radius)}"
    if not of["allowed_by_theory"]:
        return f"impossible: Theorem 3 allows an ε-SOPSP a gap of at most {allowed}; the arrays do not belong together"
    if of["verdict"] == "sopsp_above_linear":
        return f"allowed: the point is far out or ε is not small, and Theorem 3 permits a gap of up to {allowed}"
    return f"consistent: Theorem 3 allows an ε-SOPSP a gap of at most {allowed}"


def _number(value: float) -> str:
    return number_text(value, 6)


def _error(value: float) -> str:
    return number_text(value, 2)
