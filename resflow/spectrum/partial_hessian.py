"""The Hessian of a residual unit in (w, V), θ held fixed, kept as the small matrix that determines it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Real

from resflow.arrays import Array, analyse, is_traced
from resflow.floating import all_finite, norm
from resflow.losses.scalar import Loss

__all__ = ["PartialHessian", "analyse_samples", "hessian_vector_product", "partial_hessian"]

_CHUNK_ENTRIES = 1 << 22
"""Entries of a chunk's n × (d+k) sample matrix: 32 MiB in float64, and a few times that while it is worked on."""


class PartialHessian(NamedTuple):
    """∇²F in (w, V), whose quadratic form is that of `K` in (a, c) plus 2γ aᵀu, on directions (a, ŵcᵀ + uĝᵀ).

    Here ŵ = w/‖w‖ (any unit vector at w = 0), u ⟂ w, γ = ‖g‖, ĝ = g/γ; every direction orthogonal to these is
    in the kernel. So K and g, of sizes d + k and k, determine all d + dk eigenvalues.

    Attributes:
        K: Quadratic form in (a, c): mean ℓ''_i j_i j_iᵀ with j_i = (x_i + V f_i, ‖w‖ f_i), plus ŵgᵀ off the diagonal.
        K_scale: What rounding on K's diagonal is relative to: the diagonal, and how much of it changes if every
            prediction changes by the size of the terms that cancel in it, mean |ℓ'''_i| (|w|ᵀ(|x_i| + |V||f_i|)) j_i².
        g: mean ℓ'_i f_i.
        g_scale: The size of the terms that cancel in g, those that cancel in the predictions included.
        w_unit: ŵ.
        w_norm: ‖w‖.
    """

    K: Float[jax.Array, "d+k d+k"]
    K_scale: Float[jax.Array, "d+k"]
    g: Float[jax.Array, "k"]
    g_scale: Float[jax.Array, ""]
    w_unit: Float[jax.Array, "d"]
    w_norm: Float[jax.Array, ""]

    @property
    def finite(self) -> Bool[jax.Array, ""]:
        """Whether all of it is: what is not on K's diagonal, or overflows beside it, is not in its entries either."""
        return all_finite(jnp.diagonal(self.K), self.g, self.w_norm)

    @property
    def g_norm(self) -> Float[jax.Array, ""]:
        """γ = ‖g‖."""
        return norm(self.g)


def analyse_samples(function: Callable[..., Any], w, V, features, X, y, *, loss: Loss, **options: Any) -> Any:
    """`analyse(function, w, V, features, X, y, loss=loss, **options)` for samples that may be many, or on many devices.

    NumPy samples for more than one chunk are passed on as they are, so that `partial_hessian` can read chunks. Under
    a mesh of explicit axes, where JAX wants to be told the sharding of every product, its compiler finds them.
    """
    arrays = (w, V, features, X, y)
    mesh, in_chunks = _explicit_mesh(arrays), _in_chunks(features, X)
    if not in_chunks:
        function = _compiled(function, inside=is_traced(*arrays) or mesh is not None)
    function = partial(function, loss=loss)
    if in_chunks and not any(isinstance(array, jax.Array) for array in arrays):
        return analyse(lambda w, V: function(w, V, features, X, y, **options), w, V)
    if mesh is not None:
        replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return analyse(jax.sharding.auto_axes(partial(function, **options), out_sharding=replicated), *arrays)
    return analyse(function, *arrays, **options)


@cache
def _compiled(function: Callable[..., Any], *, inside: bool) -> Callable[..., Any]:
    """The function under jit; `inside` says that it is part of a larger program, which has options of its own."""
    return jax.jit(function, static_argnames="loss", compiler_options=None if inside else _quick_to_compile())


@cache
def _quick_to_compile() -> dict[str, Any] | None:
    """Compiler options without XLA's newer code generator, if there is a choice.

    That one takes half as long again for the hundreds of short loops over vectors here, and they run no faster: the
    time goes into products and factorisations. From JAX 0.12 on it is quicker, and the only one.
    """
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # no such option
        return None
    return options


def _explicit_mesh(arrays: tuple[Array, ...]) -> Any:
    """The mesh of explicit axes that the first such array is on, or None."""
    meshes = (jax.typeof(array).sharding.mesh for array in arrays if isinstance(array, jax.Array))
    return next((mesh for mesh in meshes if mesh.are_all_axes_explicit and not mesh.empty), None)


def _rows_in_chunk(features: Array, X: Array) -> int:
    return max(256, _CHUNK_ENTRIES // (X.shape[1] + features.shape[1]))


def _in_chunks(features: Array, X: Array) -> bool:
    return X.shape[0] > _rows_in_chunk(features, X)


def partial_hessian(
    w: Float[jax.Array, "d"],
    V: Float[jax.Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: Loss,
) -> PartialHessian:
    """Accumulate `PartialHessian` over the samples, in chunks where they are many.

    NumPy samples, memory-mapped files among them, are read chunk by chunk and take the precision of `w`.
    Samples sharded over several devices stay where they are: each device sums its own.

    Args:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        loss: The loss.
    """
    sums = _sum_over_samples(_hessian_sums, (w, V), (features, X, y), loss)
    return _assemble(w, X.shape[0], sums)


def hessian_vector_product(
    w: Float[jax.Array, "d"],
    V: Float[jax.Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    direction_w: Float[jax.Array, "d"],
    direction_V: Float[jax.Array, "d k"],
    *,
    loss: Loss,
) -> tuple[Float[jax.Array, "d"], Float[jax.Array, "d k"]]:
    """∇²F(w, V)[a, B] from the samples themselves: (mean ℓ''_i t_i a_i + Bg, w (mean ℓ''_i t_i f_i)ᵀ + agᵀ).

    Here a_i = x_i + V f_i and t_i = aᵀa_i + wᵀBf_i. Costs a few passes over the samples; uses no `PartialHessian`.
    """
    inner = V.T @ direction_w + direction_V.T @ w
    along_X, along_features, g = (
        total / X.shape[0]
        for total in _sum_over_samples(_product_sums, (w, V, direction_w, inner), (features, X, y), loss)
    )
    product_w = along_X + V @ along_features + direction_V @ g
    return product_w, jnp.outer(w, along_features) + jnp.outer(direction_w, g)


def _sum_over_samples(sums: Callable[..., Any], point: tuple[jax.Array, ...], samples: tuple[Array, ...], loss: Loss):
    """The sum of `sums(point, samples, loss)` over chunks of the samples."""
    rows = _rows_in_chunk(*samples[:2])
    if all(isinstance(array, jax.Array) for array in samples):
        if any(_is_sharded(array) for array in samples):
            rows = samples[0].shape[
                0
            ]  # every device has its own part, which slices across all samples would move about
        return _sum_on_device(sums, point, samples, rows=rows, loss=loss)
    total = None
    for chunk in _read_chunks(samples, rows, point[0].dtype):
        part = _sum_on_device(sums, point, chunk, rows=rows, loss=loss)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


def _read_chunks(samples: tuple[Array, ...], rows: int, dtype: Any) -> Iterator[tuple[jax.Array, ...]]:
    for start in range(0, samples[0].shape[0], rows):
        yield tuple(jnp.asarray(array[start : start + rows], dtype=dtype) for array in samples)


def _is_sharded(array: Any) -> bool:
    if jax.typeof(array).sharding.mesh.size > 1:
        return True
    return not is_traced(array) and len(array.sharding.device_set) > 1


@partial(jax.jit, static_argnames=("sums", "rows", "loss"))
def _sum_on_device(sums, point, samples, *, rows: int, loss: Loss):
    n = samples[0].shape[0]
    whole, rest = divmod(n, rows)
    if whole <= 1 and rest * whole == 0:
        return sums(point, samples, loss)

    def chunk(start: Any, size: int):
        return sums(point, tuple(jax.lax.dynamic_slice_in_dim(array, start, size) for array in samples), loss)

    def add(i: jax.Array, total: Any):
        return jax.tree.map(jnp.add, total, chunk(i * rows, rows))

    total = jax.lax.fori_loop(1, whole, add, chunk(0, rows))
    return jax.tree.map(jnp.add, total, chunk(whole * rows, rest)) if rest else total


def _hessian_sums(point, samples, loss: Loss):
    w, V = point
    features, X, y = samples
    w_norm, _ = _norm_and_unit(w)
    a = X + features @ V.T
    p = a @ w
    cancelling = jnp.sum(jnp.abs(X * w), axis=1) + jnp.sum(jnp.abs(features) * (jnp.abs(V).T @ jnp.abs(w)), axis=1)
    curvature, curvature_change = jax.jvp(lambda p: loss.second_derivative(p, y), (p,), (cancelling,))
    slope = loss.derivative(p, y)
    weight = jnp.sqrt(curvature)[:, None]
    gram = _gram(jnp.concatenate([weight * a, (weight * w_norm) * features], axis=1))
    change = jnp.abs(curvature_change)
    squares = [jnp.sum(change[:, None] * part * part, axis=0) for part in (a, features)]  # as sums: nothing is stored
    K_scale = jnp.concatenate([squares[0], w_norm**2 * squares[1]]) + jnp.diagonal(gram)
    size = jnp.abs(slope) + curvature * cancelling
    return gram, K_scale, slope @ features, size @ jnp.abs(features)


def _product_sums(point, samples, loss: Loss):
    w, V, direction_w, inner = point
    features, X, y = samples
    p = X @ w + features @ (V.T @ w)
    t = loss.second_derivative(p, y) * (X @ direction_w + features @ inner)
    return t @ X, t @ features, loss.derivative(p, y) @ features


@jax.jit
def _assemble(w, n, sums) -> PartialHessian:
    gram, K_scale, g, g_scale = (total / n for total in sums)
    w_norm, w_unit = _norm_and_unit(w)
    d = w.shape[0]
    coupling = jnp.outer(w_unit, g)
    K = gram.at[:d, d:].add(coupling).at[d:, :d].add(coupling.T)
    return PartialHessian(K, K_scale, g, jnp.linalg.norm(g_scale), w_unit, w_norm)


def _norm_and_unit(w):
    """‖w‖ and w/‖w‖, the first unit vector at w = 0; scaled, as ‖w‖² may underflow or overflow."""
    largest = jnp.max(jnp.abs(w))
    scaled = jnp.where(largest > 0, w / jnp.where(largest > 0, largest, 1.0), jnp.zeros_like(w).at[0].set(1.0))
    length = jnp.linalg.norm(scaled)
    return largest * length, scaled / length


def _gram(J: jax.Array, block: int = 320) -> jax.Array:
    """JᵀJ, a symmetric product: only blocks on and below the diagonal are computed."""
    columns = J.shape[1]
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
