"""What the smallest Hessian eigenvalue advises, in one sentence."""

from __future__ import annotations

from resflow.numerals import number_text
from resflow.probing.curvature import Curvature
from resflow.probing.report import Advice, Baseline

__all__ = ["of_curvature"]

_NEAR = 0.1
"""How much of what the direction of λ_min leads down the slope may be worth next to a saddle."""


def of_curvature(found: Curvature, first: Baseline) -> Advice:
    """The finding on curvature: a saddle only where the network is above the probe on h_0, λ_min surely negative, and
    the slope small beside it.

    Next to a saddle, where the Hessian is the same, the slope along its direction of least curvature is worth no more
    than ‖∇F‖² / (2 |λ_min|) in F: to be near, that has to be little of what the direction leads down.
    """
    where = "in all parameters"
    if found.of == "last block":
        map_at = f"the last block's {found.layer}" if found.layer else "a linear map behind the last block"
        where = f"in the head and {map_at}"
    above = first.probe.finished and first.gap.sign > 0
    known = f"{found} {where}, ‖∇F‖ = {number_text(found.grad_norm, 2)}"
    if found.sign < 0:
        slope = f", one along −∇F by {number_text(found.grad_fall, 3)}" if found.grad_fall > 0 else ""
        down = (
            f"This direction leads down: a step of {number_text(found.step, 2)} along it lowers F by "
            f"{number_text(found.fall, 3)}{slope}"
            if found.fall > 0
            else "No step tried along its direction lowers F"
        )
        near = found.grad_norm**2 <= _NEAR * 2.0 * abs(found.lambda_min) * found.fall or found.grad_fall == 0.0
        if above and not near:
            return Advice(
                "curvature",
                "not stationary",
                f"Above the linear probe on h_0 by {first.gap} on the training samples, but not near a saddle, as "
                f"‖∇F‖ = {number_text(found.grad_norm, 2)}: a step along −∇F lowers F by "
                f"{number_text(found.grad_fall, 3)}, one along the direction of λ_min by {number_text(found.fall, 3)}. "
                f"Train it on. Here {found} {where}.",
            )
        if above:
            return Advice(
                "curvature",
                "saddle",
                f"Above the linear probe on h_0 by {first.gap} on the training samples, and at a saddle or near one: "
                f"{known}. {down}.",
            )
        if found.of == "last block" and not found.layer:  # a map that the network need not have
            said = "A linear map behind the last block, trained with the head, would lower the training objective"
            return Advice("curvature", "negative", f"{said}: {known}. {down}.")
        return Advice("curvature", "negative", f"At no minimum of the training objective: {known}. {down}.")
    if found.sign > 0:
        stuck = ", though the network is above the linear probe on h_0" if above else ""
        return Advice("curvature", "not negative", f"No direction curves down{stuck}: {known}.")
    return Advice(
        "curvature",
        "not known",
        f"Whether a direction curves down is not known: {known}: the bounds on λ_min lie on both sides of 0.",
    )
