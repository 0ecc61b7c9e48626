"""The exact spectrum of the Hessian in (W, V) of a residual unit with vector-valued output, θ held fixed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import Array
from resflow.certificates.vector import check_vector_point
from resflow.losses.vector import VectorLoss, as_vector_loss

__all__ = ["VectorSpectrum", "vector_hessian_product", "vector_partial_spectrum"]


class VectorSpectrum(NamedTuple):
    """All eigenvalues of the partial Hessian at one point, and the direction of the smallest.

    Where the Hessian is not finite all numbers are NaN, and nothing is known of its structure: order is md + dk.

    Attributes:
        eigenvalues: All md + dk of them, ascending, each as often as it occurs; zeros included.
        order: How many of them came from the reduced matrix: md + rank(W) k + (d − rank W) rank(R).
        kernel_dimension: How many are zero by structure.
        lambda_min: The smallest.
        residual: ‖Hv − λ_min v‖ of its direction v, of norm 1, with H from the samples and not from the reduced matrix.
        direction_W: v's part in W, shape (m, d).
        direction_V: v's part in V, shape (d, k).
    """

    eigenvalues: Float[np.ndarray, "N"]
    order: int
    kernel_dimension: int
    lambda_min: float
    residual: float
    direction_W: Float[np.ndarray, "m d"]
    direction_V: Float[np.ndarray, "d k"]


def vector_partial_spectrum(
    W: Real[Array, "m d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    Y: Real[Array, "n ..."],
    *,
    loss: str | VectorLoss,
) -> VectorSpectrum:
    """All eigenvalues of ∇²F in (W, V) from one matrix of order md + rank(W) k + (d − rank W) rank(R).

    Along (A, B) the Hessian of F = mean ℓ(W(x_i + V f_i); y_i) is mean ⟨t_i, ℓ''_i t_i⟩ + 2⟨AB, R⟩ with
    t_i = A(x_i + V f_i) + W B f_i and R = mean ℓ'_i f_iᵀ. With Q an orthonormal basis of W's row space and N of its
    complement, B = QC + NE: the first term sees B only through C, the second E only through its part in R's row space.
    Ranks are those beyond rounding. Computed with NumPy in float64.

    Args:
        W: Output weights, shape (m, d), of any rank.
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        Y: Classes, shape (n,), or vectors, shape (n, m), as the loss has it.
        loss: A loss of vector-valued predictions or its name.

    Raises:
        InvalidInputError: If shapes disagree or labels do not suit the loss.

    References:
        The setting is that of Shamir 2018 (arXiv:1804.06739), appendix; the reduction is this project's own.
    """
    loss = as_vector_loss(loss)
    check_vector_point(W, V, features, X, Y, loss)
    W, V, features, X, Y = (np.asarray(array, dtype=np.float64) for array in (W, V, features, X, Y))
    (m, d), k, n = W.shape, features.shape[1], len(X)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it says so itself
        a = X + features @ V.T
        p = a @ W.T
        R = loss.derivative(p, Y).T @ features / n
    if not all(np.isfinite(array).all() for array in (p, a, R)):
        return _not_finite(m, d, k)
    row_space, complement = _row_space(W)
    S, _ = _row_space(R)
    r, rho = row_space.shape[1], S.shape[1]

    order = m * d + r * k + (d - r) * rho
    H = np.zeros((order, order))
    sees = slice(0, m * d + r * k)
    with np.errstate(over="ignore", invalid="ignore"):
        H[sees, sees] = _curvature(loss.second_derivative(p, Y), a, features, W @ row_space)
    # 2⟨AB, R⟩ = 2⟨A, R Bᵀ⟩: A's row i is coupled with B = (basis) C by basis_(j a) R_(i b) at C_(a b)
    for basis, coefficients, first in ((row_space, R, m * d), (complement, R @ S, m * d + r * k)):
        coupling = np.einsum("ja,ib->ijab", basis, coefficients).reshape(m * d, -1)
        last = first + coupling.shape[1]
        H[: m * d, first:last] += coupling
        H[first:last, : m * d] += coupling.T

    if not np.isfinite(H).all():
        return _not_finite(m, d, k)
    values, vectors = np.linalg.eigh(H)
    kernel = m * d + d * k - order
    v = vectors[:, 0]
    direction_W = v[: m * d].reshape(m, d)
    C, E = v[m * d : m * d + r * k].reshape(r, k), v[m * d + r * k :].reshape(d - r, rho)
    direction_V = row_space @ C + complement @ E @ S.T
    if kernel and values[0] > 0:
        # every eigenvalue of the reduced matrix is positive: the smallest is a zero of the kernel
        direction_W, direction_V = np.zeros((m, d)), _kernel_direction(complement, S)
    eigenvalues = np.sort(np.concatenate([values, np.zeros(kernel)]))
    product_W, product_V = vector_hessian_product(W, V, features, X, Y, direction_W, direction_V, loss=loss)
    lambda_min = float(eigenvalues[0])
    left_W, left_V = product_W - lambda_min * direction_W, product_V - lambda_min * direction_V
    return VectorSpectrum(
        eigenvalues=eigenvalues,
        order=order,
        kernel_dimension=kernel,
        lambda_min=lambda_min,
        residual=float(np.hypot(np.linalg.norm(left_W), np.linalg.norm(left_V))),
        direction_W=direction_W,
        direction_V=direction_V,
    )


def _not_finite(m: int, d: int, k: int) -> VectorSpectrum:
    order = m * d + d * k
    directions = np.full((m, d), np.nan), np.full((d, k), np.nan)
    return VectorSpectrum(np.full(order, np.nan), order, 0, np.nan, np.nan, *directions)


def vector_hessian_product(
    W: Float[np.ndarray, "m d"],
    V: Float[np.ndarray, "d k"],
    features: Float[np.ndarray, "n k"],
    X: Float[np.ndarray, "n d"],
    Y: Real[np.ndarray, "n ..."],
    direction_W: Float[np.ndarray, "m d"],
    direction_V: Float[np.ndarray, "d k"],
    *,
    loss: VectorLoss,
) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "d k"]]:
    """∇²F(W, V)[A, B] from the samples: (mean s_i a_iᵀ + R Bᵀ, Wᵀ mean s_i f_iᵀ + Aᵀ R) with s_i = ℓ''_i t_i."""
    n = len(X)
    a = X + features @ V.T
    p = a @ W.T
    t = a @ direction_W.T + features @ (W @ direction_V).T
    s = np.einsum("nij,nj->ni", loss.second_derivative(p, Y), t)
    R = loss.derivative(p, Y).T @ features / n
    return s.T @ a / n + R @ direction_V.T, W.T @ (s.T @ features / n) + direction_W.T @ R


def _curvature(second: np.ndarray, a: np.ndarray, features: np.ndarray, WQ: np.ndarray) -> np.ndarray:
    """The quadratic form mean ⟨t_i, ℓ''_i t_i⟩ in (A, C), with t_i = A a_i + (WQ) C f_i, block by block."""
    (n, m, _), d, (_, r), k = second.shape, a.shape[1], WQ.shape, features.shape[1]
    inner = np.concatenate([np.broadcast_to(np.eye(m), (n, m, m)), np.broadcast_to(WQ, (n, m, r))], axis=2)
    weights = inner.transpose(0, 2, 1) @ second @ inner  # of block pair (i, j): rows of A first, then rows of C
    vectors = [a] * m + [features] * r
    starts = np.cumsum([0, *([d] * m), *([k] * r)])
    H = np.empty((starts[-1], starts[-1]))
    for i in range(m + r):
        for j in range(i + 1):
            block = vectors[i].T @ (weights[:, i, j, None] * vectors[j]) / n
            H[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = block
            H[starts[j] : starts[j + 1], starts[i] : starts[i + 1]] = block.T
    return H


def _row_space(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of the row space of a matrix and of its complement, as columns."""
    _, singular, Vt = np.linalg.svd(M, full_matrices=True)
    rank = int(np.count_nonzero(singular > max(M.shape) * np.finfo(float).eps * singular.max(initial=0.0)))
    return Vt[:rank].T, Vt[rank:].T


def _kernel_direction(complement: np.ndarray, S: np.ndarray) -> np.ndarray:
    """A unit direction in V outside of W's row space on the left and of R's on the right."""
    orthogonal = np.linalg.svd(S, full_matrices=True)[0][:, S.shape[1]] if S.shape[1] else np.eye(S.shape[0])[0]
    return np.outer(complement[:, 0], orthogonal)
