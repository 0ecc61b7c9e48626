"""Deep residual networks at points along their training: curvature, what linear predictors make of every block, bounds.

Everything takes the models at these points, and gives one row a point.
"""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Real

from resflow.arrays import Array
from resflow.certificates.deep import certify_network
from resflow.hessian.smallest_eigenvalue import smallest_eigenvalue
from resflow.linear.predictor import LinearFit, fit_linear_predictor
from resflow.losses import Loss
from resflow.models.deep_network import DeepResidualNetwork
from resflow.point import ModelPoint

__all__ = ["block_fits", "bounds_at_best_w", "curvature_along"]

Models = Sequence[DeepResidualNetwork]


def curvature_along(models: Models, X: Real[Array, "n d"], y: Real[Array, "n"], *, loss: str | Loss) -> pd.DataFrame:
    """The smallest eigenvalue of the Hessian in all parameters.

    Args:
        models: The networks, L blocks each.
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        loss: A loss or its name.

    Returns:
        Columns lambda_min, lambda_min_residual and lambda_min_converged, as in `HessianEigenvalue`.
    """
    X, y = jnp.asarray(X), jnp.asarray(y)
    found = [smallest_eigenvalue(ModelPoint(model, X, y, loss)) for model in models]
    return pd.DataFrame(
        {
            "lambda_min": [float(each.lambda_min) for each in found],
            "lambda_min_residual": [float(each.lambda_min_residual) for each in found],
            "lambda_min_converged": [bool(each.converged) for each in found],
        }
    )


def block_fits(
    models: Models, X: Real[Array, "n d"], y: Real[Array, "n"], *, loss: str | Loss, max_norm: float
) -> list[list[LinearFit]]:
    """The best linear predictor on the representations of every block: x, h_1(x), ..., h_L(x).

    Args:
        models: The networks, L blocks each.
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        loss: A loss or its name.
        max_norm: Bound on the predictors' norm.

    Returns:
        L + 1 fits a network.
    """
    return [
        [fit_linear_predictor(np.asarray(h), y, loss=loss, max_norm=max_norm) for h in model.representations(X)]
        for model in models
    ]


def bounds_at_best_w(
    models: Models,
    best: Sequence[LinearFit],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    fit: LinearFit,
) -> pd.DataFrame:
    """The bounds on the gap where w is replaced by the best one for its h_L, so that the point is stationary in w.

    Args:
        models: The networks, L blocks each.
        best: The best linear predictor on h_L of each.
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        loss: A loss or its name.
        fit: The linear predictor on X that gaps are counted from.

    Returns:
        Columns linear_predictor_gap, gap_certificate and near_identity_bound; block_1, ..., block_L, what each block
        contributes to the certificate; and rho_1, ..., rho_L, by how much it moves its input at most.
    """
    X, y = jnp.asarray(X), jnp.asarray(y)
    rows = []
    for model, on_last in zip(models, best, strict=True):
        at_best = eqx.tree_at(lambda model: model.w, model, jnp.asarray(on_last.W))
        found = certify_network(ModelPoint(at_best, X, y, loss), fit)
        row = {name: float(getattr(found, name)) for name in ("linear_predictor_gap", "gap_certificate")}
        row["near_identity_bound"] = float(found.near_identity_bound)
        row |= {f"block_{block}": float(term) for block, term in enumerate(found.block_terms, 1)}
        rows.append(row | {f"rho_{block}": float(ratio) for block, ratio in enumerate(found.block_ratios, 1)})
    return pd.DataFrame(rows)
