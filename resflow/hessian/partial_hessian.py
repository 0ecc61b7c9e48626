"""The Hessian of a residual unit in (W, V), θ held fixed, kept as the small matrix that determines it."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from resflow.errors import InvalidInputError
from resflow.floating import all_finite, norm, singular_vectors, spectral_norm
from resflow.point import Point, sum_over_samples

__all__ = ["PartialHessian", "hessian_vector_product", "partial_hessian", "reduced_matrix", "reduced_order"]

_LARGEST_DECOMPOSED = 8_192  # of 512 MiB in float64, and a minute for its eigenvalues on two cores

_NARROW, _SHORT = 256, 1_024
_PANEL = 128
"""Matrices of so few columns and rows are summed over so many rows at a time, which takes next to no longer."""


class PartialHessian(NamedTuple):
    """∇²F in (W, V), whose quadratic form is that of `K` in (A, C) plus 2 Σ_j γ_j a_jᵀu_j.

    R = mean ℓ'_i f_iᵀ = U diag(γ) Zᵀ by singular values, a_j are the rows of A, and the form is taken on the directions
    (U A, Q C + Σ_j u_j z_jᵀ). The columns of Q, q = min(m, d) of them, are orthonormal and hold W's row space, u_j ⟂ Q.
    Every direction orthogonal to these is in the kernel, so that K and γ determine all md + dk eigenvalues. For one
    output that is a ŵcᵀ + uĝᵀ with ŵ = w/‖w‖, γ = ‖g‖, g = mean ℓ'_i f_i.

    Attributes:
        K: Quadratic form in (A, C), by rows: mean ⟨t_i, ℓ''_i t_i⟩ with t_i = A(x_i + V f_i) + W Q C f_i, plus R's part
            2⟨A Q C, R⟩ off the diagonal.
        K_scale: What rounding on K's diagonal is relative to: the diagonal, and how much of it changes if every
            prediction changes by the size of the terms that cancel in it.
        gamma: γ, the singular values of R, descending, zeros for outputs beyond k.
        U: R's left singular vectors as columns.
        Z: Its right ones; zero where there is none.
        R_scale: The size of the terms that cancel in R, those that cancel in the predictions included.
        Q: A basis whose span holds W's row space; at W = 0 any.
        W_norm: ‖W‖, the spectral norm.
    """

    K: Float[jax.Array, "N N"]
    K_scale: Float[jax.Array, "N"]
    gamma: Float[jax.Array, "m"]
    U: Float[jax.Array, "m m"]
    Z: Float[jax.Array, "k m"]
    R_scale: Float[jax.Array, ""]
    Q: Float[jax.Array, "d q"]
    W_norm: Float[jax.Array, ""]

    @property
    def finite(self) -> Bool[jax.Array, ""]:
        """Whether all of it is: what is not on K's diagonal, or overflows beside it, is not in its entries either."""
        return all_finite(jnp.diagonal(self.K), self.gamma, self.W_norm)

    def direction(self, x: Any, u: Any) -> tuple[jax.Array, jax.Array]:
        """The direction (A, B) in (W, V) of x = (A, C) by rows and u, shape (m, d)."""
        m, (d, q) = self.gamma.shape[0], self.Q.shape
        A, C = x[: m * d].reshape(m, d), x[m * d :].reshape(q, -1)
        return self.U @ A, self.Q @ C + u.T @ self.Z.T


def partial_hessian(point: Point) -> PartialHessian:
    """Accumulate `PartialHessian` over the samples of a point, in chunks where they are many."""
    W = jnp.asarray(point.rows)
    U, singular, right = singular_vectors(W)
    q = min(W.shape)
    sums = sum_over_samples(_hessian_sums, point, (U * singular)[:, :q])
    return _assemble(right[:, :q], singular[0], point.X.shape[0], sums)


def hessian_vector_product(
    point: Point, A: Float[jax.Array, "m d"], B: Float[jax.Array, "d k"]
) -> tuple[Float[jax.Array, "m d"], Float[jax.Array, "d k"]]:
    """∇²F(W, V)[A, B] from the samples themselves: (mean s_i a_iᵀ + R Bᵀ, Wᵀ mean s_i f_iᵀ + Aᵀ R), s_i = ℓ''_i t_i.

    Here a_i = x_i + V f_i and t_i = A a_i + W B f_i. Costs a few passes over the samples; uses no `PartialHessian`.
    """
    W, V = point.rows, point.V
    sums = sum_over_samples(_product_sums, point, A, A @ V + W @ B)
    along_X, along_features, R = (total / point.X.shape[0] for total in sums)
    return along_X + along_features @ V.T + R @ B.T, W.T @ along_features + A.T @ R


def reduced_order(point: Point, instead: str) -> int:
    """md + qk + (d − q) min(m, k), the order of `reduced_matrix`, if all of its eigenvalues can be found.

    Args:
        point: The point.
        instead: What to do where they cannot.

    Raises:
        InvalidInputError: If the order is above 8,192.
    """
    (d, k), m = point.V.shape, point.outputs
    q = min(m, d)
    order = m * d + q * k + (d - q) * min(m, k)
    if order > _LARGEST_DECOMPOSED:
        raise InvalidInputError(
            f"the point has m={m} outputs, d={d} inputs and k={k} features, which make a matrix of order {order}, but "
            f"at most {_LARGEST_DECOMPOSED} can be decomposed: {instead}"
        )
    return order


def reduced_matrix(hessian: PartialHessian, shift: Any = 0.0) -> tuple[jax.Array, jax.Array]:
    """The symmetric matrix of the form in (A, C, u), `shift` added on A, and the basis N, (d, d − q), that u is in.

    Its order is md + qk + (d − q) min(m, k); all other eigenvalues of ∇²F are zero.
    """
    m, k, (d, q) = hessian.gamma.shape[0], hessian.Z.shape[0], hessian.Q.shape
    N, rows, order = _complement(hessian.Q), min(m, k), hessian.K.shape[0]
    size = order + (d - q) * rows
    matrix = jnp.zeros((size, size), hessian.K.dtype).at[:order, :order].set(hessian.K)
    in_A = jnp.arange(m * d)
    matrix = matrix.at[in_A, in_A].add(shift)
    coupling = jnp.einsum("j,da,ji->jdia", hessian.gamma[:rows], N, jnp.eye(rows, dtype=N.dtype))
    coupling = coupling.reshape(rows * d, rows * (d - q))
    matrix = matrix.at[: rows * d, order:].set(coupling).at[order:, : rows * d].set(coupling.T)
    return matrix, N


def _hessian_sums(point: Point, WQ):
    """Of ℓ'' in the coordinates (A, C), not yet turned to R's singular vectors; what it is relative to; and of R."""
    W, V, features, y, loss = point.rows, point.V, point.features, point.y, point.row_loss
    a = point.inner
    p = a @ W.T
    cancelling = jnp.abs(point.X) @ jnp.abs(W).T + jnp.abs(features) @ (jnp.abs(W) @ jnp.abs(V)).T
    slope = loss.derivative(p, y)
    gram, diagonal_change, steepness = (_one_output if W.shape[0] == 1 else _several_outputs)(
        loss, p, y, cancelling, a, features, WQ
    )
    size = jnp.abs(slope) + steepness
    return gram, diagonal_change + jnp.diagonal(gram), slope.T @ features, size.T @ jnp.abs(features)


def _one_output(loss, p, y, cancelling, a, features, WQ):
    curvature, change = jax.jvp(lambda p: loss.second_derivative(p, y)[:, 0, 0], (p,), (cancelling,))
    change = jnp.abs(change)
    weight, w_norm = jnp.sqrt(curvature)[:, None], WQ[0, 0]
    gram = _gram(jnp.concatenate([weight * a, (weight * w_norm) * features], axis=1))
    squares = [jnp.sum(change[:, None] * part * part, axis=0) for part in (a, features)]  # as sums: nothing is stored
    return gram, jnp.concatenate([squares[0], w_norm**2 * squares[1]]), curvature[:, None] * cancelling


def _several_outputs(loss, p, y, cancelling, a, features, WQ):
    n, m = p.shape
    curvature = loss.second_derivative(p, y)
    inner = jnp.concatenate([jnp.eye(m, dtype=p.dtype), WQ], axis=1)  # of a direction's rows in A, then in C
    weights = inner.T @ curvature @ inner  # (n, m + q, m + q)

    def strip(weights):  # of one row of A or C against all of both
        along_a = (weights[:, :m, None] * a[:, None, :]).reshape(n, -1)
        return jnp.concatenate([along_a, (weights[:, m:, None] * features[:, None, :]).reshape(n, -1)], axis=1)

    rows = jnp.moveaxis(weights, 1, 0)
    in_A = jax.lax.map(lambda row: a.T @ strip(row), rows[:m])
    in_C = jax.lax.map(lambda row: features.T @ strip(row), rows[m:])
    columns = in_A.shape[-1]
    gram = jnp.concatenate([in_A.reshape(-1, columns), in_C.reshape(-1, columns)])
    gram = 0.5 * (gram + gram.T)

    def changed(output):  # of the diagonal of ℓ'' if this output's predictions move by what cancels in them
        moved = jnp.where(jnp.arange(m) == output, cancelling, 0.0)
        diagonal = lambda p: jnp.diagonal(loss.second_derivative(p, y), axis1=1, axis2=2)  # noqa: E731
        return jnp.abs(jax.jvp(diagonal, (p,), (moved,))[1])

    change = jnp.sum(jax.lax.map(changed, jnp.arange(m)), axis=0)
    in_C = (change @ WQ**2).T @ features**2
    squares = jnp.concatenate([(change.T @ a**2).ravel(), in_C.ravel()])
    steepness = jnp.einsum("nij,nj->ni", jnp.abs(curvature), cancelling)
    return gram, squares, steepness


def _product_sums(point: Point, A, inner):
    p = point.X @ point.rows.T + point.features @ (point.rows @ point.V).T
    loss, t = point.row_loss, point.X @ A.T + point.features @ inner.T
    s = jnp.einsum("nij,nj->ni", loss.second_derivative(p, point.y), t)
    return s.T @ point.X, s.T @ point.features, loss.derivative(p, point.y).T @ point.features


@jax.jit
def _assemble(Q, W_norm, n, sums) -> PartialHessian:
    gram, K_scale, R, R_scale = (total / n for total in sums)
    (m, k), (d, q) = R.shape, Q.shape
    U, gamma, Z = singular_vectors(R)
    if m > 1:  # A's rows turned to R's left singular vectors
        in_A = m * d
        rows = jnp.einsum("ij,iaN->jaN", U, gram[:in_A].reshape(m, d, -1)).reshape(in_A, -1)
        gram = jnp.concatenate([rows, gram[in_A:]])
        columns = jnp.einsum("Nia,ij->Nja", gram[:, :in_A].reshape(-1, m, d), U).reshape(-1, in_A)
        gram = jnp.concatenate([columns, gram[:, in_A:]], axis=1)
        scale = (jnp.abs(U).T @ jnp.sqrt(K_scale[:in_A]).reshape(m, d)) ** 2
        K_scale = jnp.concatenate([scale.ravel(), K_scale[in_A:]])
    coupling = jnp.einsum("ab,jl->jabl", Q, U.T @ R).reshape(m * d, q * k)
    K = gram.at[: m * d, m * d :].add(coupling).at[m * d :, : m * d].add(coupling.T)
    return PartialHessian(K, K_scale, gamma, U, Z, spectral_norm(R_scale) if m > 1 else norm(R_scale), Q, W_norm)


def _complement(Q: jax.Array) -> jax.Array:
    """An orthonormal basis of what is orthogonal to Q's columns, shape (d, d − q)."""
    d, q = Q.shape
    if q > 1:
        return jnp.linalg.qr(Q, mode="complete")[0][:, q:]
    # A Householder reflection sends the first unit vector to ∓Q's column and the others to a basis of its complement.
    axis = Q[:, 0].at[0].add(jnp.where(Q[0, 0] < 0, -1.0, 1.0))
    return (jnp.eye(d, dtype=Q.dtype) - 2.0 * jnp.outer(axis, axis) / (axis @ axis))[:, 1:]


def _gram_by_panels(J: jax.Array) -> jax.Array:
    """JᵀJ, its bits the same on any number of threads: these decide in what panels Eigen sums over many rows."""
    panels = [J[start : start + _PANEL] for start in range(0, len(J), _PANEL)]
    return functools.reduce(jnp.add, [panel.T @ panel for panel in panels])


def _gram(J: jax.Array, block: int = 320) -> jax.Array:
    """JᵀJ, a symmetric product: only blocks on and below the diagonal are computed."""
    columns = J.shape[1]
    if columns <= _NARROW and len(J) <= _SHORT:
        return _gram_by_panels(J)
    count = columns // block
    if count < 2:
        return J.T @ J
    edges = [columns * i // count for i in range(count + 1)]
    strips = [
        jnp.pad(J[:, start:stop].T @ J[:, :stop], ((0, 0), (0, columns - stop)))
        for start, stop in itertools.pairwise(edges)
    ]
    lower = jnp.tril(jnp.concatenate(strips))
    return lower + jnp.tril(lower, -1).T
