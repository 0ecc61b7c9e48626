"""What becomes of certificate and curvature as the output weights of a residual unit lose rank, one after another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from resflow.certificates.gap import certify_point
from resflow.data.dataset import Dataset
from resflow.hessian.lanczos import hessian_eigenvalues
from resflow.hessian.partial_eigenvalue import smallest_partial_eigenvalue
from resflow.hessian.spectrum import partial_spectrum
from resflow.linear.predictor import LinearFit
from resflow.point import Point

__all__ = ["centred", "error_rates", "spectrum_deviation", "truncated_ranks"]

_BOUNDS = ("linear_predictor_gap", "gap_certificate", "gradient_term", "rank_term", "norm_bound")
_CURVATURE = ("lambda_min", "lambda_min_lower", "lambda_min_upper", "lambda_min_residual")


def truncated_ranks(point: Point, fit: LinearFit) -> pd.DataFrame:
    """Bounds on the gap and the smallest eigenvalue at points whose W is cut down to its r largest singular values.

    Args:
        point: Of several outputs. For the softmax loss its W is centred first.
        fit: The best linear predictor on its samples.

    Returns:
        One row a rank r, from 0 to that of W: rank; fields of `GapCertificate`: linear_predictor_gap, gap_certificate,
        gradient_term, rank_term, norm_bound; and of `SmallestEigenvalue`: lambda_min, lambda_min_lower,
        lambda_min_upper, lambda_min_residual.

    References:
        Kawaguchi 2018 (arXiv:1810.09038), on points of deficient rank.
    """
    point = centred(point)
    left, singular, right = np.linalg.svd(np.asarray(point.W), full_matrices=False)
    rows = []
    for r in range(int((singular > 1e-12 * singular[0]).sum()) + 1):
        at = point.at((left[:, :r] * singular[:r]) @ right[:r], point.V)
        bounds, smallest = certify_point(at, fit), smallest_partial_eigenvalue(at)
        row = {name: float(getattr(bounds, name)) for name in _BOUNDS}
        rows.append({"rank": r} | row | {name: float(getattr(smallest, name)) for name in _CURVATURE})
    return pd.DataFrame(rows)


def spectrum_deviation(point: Point, *, largest_order: int) -> tuple[int, float]:
    """By how much the exact spectrum differs from the eigenvalues of the whole Hessian by automatic differentiation.

    The whole Hessian is affordable for few features only. Both are computed for the first k of them.

    Args:
        point: Of several outputs. For the softmax loss its W is centred first.
        largest_order: Of a Hessian that may be formed: md + dk is kept at or below it.

    Returns:
        k, and the largest deviation of an eigenvalue relative to the largest eigenvalue; 0 and NaN if not even one
        feature is affordable.
    """
    (m, d), k = point.W.shape, point.features.shape[1]
    few = min(k, (largest_order - m * d) // d)
    if few < 1:
        return 0, float("nan")
    point = centred(point)
    small = Point(point.W, point.V[:, :few], point.features[:, :few], point.X, point.y, point.loss)
    with jax.enable_x64(True):
        weights = jnp.asarray(small.W, float), jnp.asarray(small.V, float)
        whole = hessian_eigenvalues(_objective, weights, small)
    exact = np.asarray(partial_spectrum(small).eigenvalues)
    return few, float(np.abs(np.asarray(whole) - exact).max() / np.abs(whole).max())


def centred(point: Point) -> Point:
    """For the softmax loss the same predictions up to a number added to all outputs, by a W whose columns sum to 0."""
    return point.at(point.W - point.W.mean(axis=0), point.V) if point.loss.name == "softmax" else point


def _objective(weights: Any, point: Point) -> Any:
    return point.at(*weights).objective


def error_rates(model: Any, fit: LinearFit, test: Dataset) -> dict[str, float]:
    """The shares of test samples that a classifier and the linear predictor put into another class than theirs."""
    return {
        "test_error_rate": float(np.mean(np.argmax(model(test.X), axis=1) != test.y)),
        "linear_test_error_rate": float(np.mean(np.argmax(test.X @ fit.W.T, axis=1) != test.y)),
    }
