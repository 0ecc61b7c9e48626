"""The smallest eigenvalue of a point's Hessian with its evidence, whatever the model."""

from __future__ import annotations

from typing import Any

from resflow.hessian.lanczos import HessianEigenvalue, smallest_hessian_eigenvalue
from resflow.hessian.partial_eigenvalue import SmallestEigenvalue, smallest_partial_eigenvalue
from resflow.objectives import MeanLoss
from resflow.point import ModelPoint, Point, check_options_of, check_point

__all__ = ["smallest_eigenvalue"]


def smallest_eigenvalue(point: Point | ModelPoint, **options: Any) -> SmallestEigenvalue | HessianEigenvalue:
    """λ_min(∇²F) between two bounds, with its direction.

        point               Hessian in                      how                            options
        residual unit's     (W, V), θ held fixed            a bracket as tight as asked    ridge_W, ridge_V, rtol,
                                                            for, by factorisations up to   max_order
                                                            an order of `max_order`
        any other model's   all parameters, or a `block`    the whole matrix, or Lanczos   block, key, steps,
                            of them                                                        max_restarts, tolerance,
                                                                                           progress

    See `resflow.hessian.partial_eigenvalue` and `resflow.hessian.lanczos`.

    Args:
        point: Of `Point` or `Point.of`.
        options: Of the function in question.

    Raises:
        InvalidInputError: If an option is out of range, or none for such a point.
    """
    check_point(point)
    if isinstance(point, Point):
        check_options_of(smallest_partial_eigenvalue, point, options)
        return smallest_partial_eigenvalue(point, **options)
    check_options_of(smallest_hessian_eigenvalue, point, options)
    return smallest_hessian_eigenvalue(MeanLoss(point.loss), point.model, point.X, point.y, **options)
