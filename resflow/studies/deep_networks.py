"""Deep residual networks at points along their training: curvature, what linear predictors make of every block, bounds.

Everything takes these points, of networks of L blocks, and gives one row a point.
"""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd

from resflow.certificates.deep import certify_network
from resflow.hessian.smallest_eigenvalue import smallest_eigenvalue
from resflow.linear.predictor import LinearFit, fit_linear_predictor
from resflow.point import ModelPoint

__all__ = ["block_fits", "bounds_at_best_w", "curvature_along"]


def curvature_along(points: Sequence[ModelPoint]) -> pd.DataFrame:
    """The smallest eigenvalue of the Hessian in all parameters.

    Returns:
        Columns lambda_min, lambda_min_residual and lambda_min_converged, as in `HessianEigenvalue`.
    """
    found = [smallest_eigenvalue(point) for point in points]
    rows = [(float(each.lambda_min), float(each.lambda_min_residual), bool(each.converged)) for each in found]
    return pd.DataFrame(rows, columns=["lambda_min", "lambda_min_residual", "lambda_min_converged"])


def block_fits(points: Sequence[ModelPoint], *, max_norm: float) -> list[list[LinearFit]]:
    """The best linear predictors of norm at most max_norm on x, h_1(x), ..., h_L(x): L + 1 fits a point."""
    return [
        [
            fit_linear_predictor(np.asarray(h), point.y, loss=point.loss, max_norm=max_norm)
            for h in point.model.representations(point.X)
        ]
        for point in points
    ]


def bounds_at_best_w(points: Sequence[ModelPoint], best: Sequence[LinearFit], fit: LinearFit) -> pd.DataFrame:
    """The bounds on the gap where w is replaced by the best one for its h_L, so that the point is stationary in w.

    Args:
        points: The points.
        best: The best linear predictor on h_L of each.
        fit: The linear predictor on X that gaps are counted from.

    Returns:
        Columns linear_predictor_gap, gap_certificate and near_identity_bound; block_1, ..., block_L, what each block
        contributes to the certificate; and rho_1, ..., rho_L, by how much it moves its input at most.
    """
    rows = []
    for point, on_last in zip(points, best, strict=True):
        found = certify_network(eqx.tree_at(lambda point: point.model.w, point, jnp.asarray(on_last.W)), fit)
        names = ("linear_predictor_gap", "gap_certificate", "near_identity_bound")
        row = {name: float(getattr(found, name)) for name in names}
        row |= {f"block_{block}": float(term) for block, term in enumerate(found.block_terms, 1)}
        rows.append(row | {f"rho_{block}": float(ratio) for block, ratio in enumerate(found.block_ratios, 1)})
    return pd.DataFrame(rows)
