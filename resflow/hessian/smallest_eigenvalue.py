"""The smallest eigenvalue of a point's Hessian with its evidence, whatever the model."""

from __future__ import annotations

from typing import Any

from resflow.errors import InvalidInputError
from resflow.hessian.bracket import SmallestEigenvalue, smallest_partial_eigenvalue
from resflow.hessian.lanczos import HessianEigenvalue, smallest_hessian_eigenvalue
from resflow.objectives import MeanLoss
from resflow.point import ModelPoint, Point

__all__ = ["smallest_eigenvalue"]


def smallest_eigenvalue(point: Point | ModelPoint, **options: Any) -> SmallestEigenvalue | HessianEigenvalue:
    """λ_min(∇²F) between two bounds, with its direction.

        point                         Hessian in                how                                     options
        `Point` of a residual unit    (W, V), θ held fixed      `smallest_partial_eigenvalue`: a       ridge_W, ridge_V,
                                                                bracket as tight as asked for           rtol
        of any other model            all parameters, or a      `smallest_hessian_eigenvalue`: the     block, key, steps,
                                      block of them             whole matrix, or Lanczos               max_restarts, tolerance

    Args:
        point: Of `Point` or `Point.of`.
        options: Of the function in question.

    Raises:
        InvalidInputError: If an option is out of range.
    """
    if isinstance(point, Point):
        return smallest_partial_eigenvalue(point, **options)
    if not isinstance(point, ModelPoint):
        raise InvalidInputError(f"point is a {type(point).__name__}, but must be a Point, or Point.of a model")
    return smallest_hessian_eigenvalue(MeanLoss(point.loss), point.model, point.X, point.y, **options)
