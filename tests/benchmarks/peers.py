"""How λ_min of a partial Hessian is found elsewhere: eigsh on three kinds of products, matfree, dense autodiff."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matfree import decomp, eig
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from resflow import Point
from resflow.losses import Logistic
from tests.problems import flat, objective

LOSS = Logistic()


class Outcome(NamedTuple):
    """λ_min as a peer gives it, the products with the Hessian it took, and whether it said that it converged."""

    value: float
    products: int | None = None
    converged: bool | None = None


Peer = Callable[[], Outcome]


def _eigsh(product: Callable[[np.ndarray], Any], size: int, max_products: int | None = None) -> Peer:
    """eigsh at its defaults, from one and the same start."""
    start = np.random.default_rng(0).standard_normal(size)
    product(start)  # compiled before it is timed

    def run() -> Outcome:
        count = 0

        def counted(v: np.ndarray) -> np.ndarray:
            nonlocal count
            count += 1
            return np.asarray(product(v.ravel()))

        limit = None if max_products is None else max_products // 10  # of restarts, which take 10 products each
        try:
            found = eigsh(LinearOperator((size, size), counted, dtype=float), 1, which="SA", v0=start, maxiter=limit)[0]
        except ArpackNoConvergence:
            return Outcome(np.nan, count, False)
        return Outcome(float(found[0]), count, True)

    return run


@jax.jit
def _at_point(w, V, features, X, y):
    a = X + features @ V.T
    p = a @ w
    return LOSS.second_derivative(p, y) / len(y), LOSS.derivative(p, y) @ features / len(y)


@jax.jit
def _cached_product(v, curvature, g, w, V, features, X):
    a, B = v[: len(w)], v[len(w) :].reshape(V.shape)
    t = curvature * (X @ a + features @ (V.T @ a + B.T @ w))
    along = t @ features
    return jnp.concatenate([t @ X + V @ along + B @ g, (jnp.outer(w, along) + jnp.outer(a, g)).ravel()])


def cached_features(at: Point, max_products: int | None = None) -> Peer:
    """eigsh on a product whose features, slopes and curvatures are computed once, by hand."""
    w, V, features, X, y = map(jnp.asarray, (at.W, at.V, at.features, at.X, at.y))
    curvature, g = _at_point(w, V, features, X, y)
    return _eigsh(lambda v: _cached_product(v, curvature, g, w, V, features, X), w.size + V.size, max_products)


@jax.jit
def _forward_over_reverse(v, weights, at):
    return jax.jvp(lambda weights: jax.grad(objective)(weights, at), (weights,), (v,))[1]


def _flat(at: Point) -> tuple[jax.Array, Point]:
    return flat(at.W, at.V), jax.tree.map(jnp.asarray, at)


def jvp_of_grad(at: Point) -> Peer:
    """eigsh on Hessian-vector products by automatic differentiation, forward over reverse."""
    weights, at = _flat(at)
    return _eigsh(lambda v: _forward_over_reverse(v, weights, at), weights.size)


def curvature_operators(at: Point) -> Peer:
    """eigsh on the Hessian of curvlinops, by PyTorch's double backward."""
    import torch
    from curvlinops import HessianLinearOperator

    class Unit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.V = (torch.nn.Parameter(torch.tensor(array)) for array in (at.W, at.V))

        def forward(self, inputs: Any) -> Any:
            d = self.w.shape[0]
            return (inputs[:, :d] + inputs[:, d:] @ self.V.T) @ self.w

    unit = Unit()
    inputs, targets = torch.tensor(np.hstack([at.X, at.features])), torch.tensor((at.y + 1) / 2)
    loss, parameters = torch.nn.BCEWithLogitsLoss(), list(unit.parameters())
    hessian = HessianLinearOperator(unit, loss, parameters, [(inputs, targets)], check_deterministic=False).to_scipy()
    return _eigsh(hessian.matvec, at.W.size + at.V.size)


@partial(jax.jit, static_argnames="steps")
def _matfree(start, weights, at, *, steps: int):
    lanczos = eig.eigh_partial(decomp.tridiag_sym(steps, custom_vjp=False))
    return lanczos(lambda v: _forward_over_reverse(v, weights, at), start)[0][0]


def matrix_free(at: Point, steps: int = 96) -> Peer:
    """matfree's Lanczos iteration of 96 steps on products by automatic differentiation."""
    weights, at = _flat(at)
    start = jnp.asarray(np.random.default_rng(0).standard_normal(weights.size))
    jax.block_until_ready(_matfree(start, weights, at, steps=steps))
    return lambda: Outcome(float(_matfree(start, weights, at, steps=steps)), steps)


@jax.jit
def _dense(weights, at):
    return jnp.linalg.eigvalsh(jax.hessian(objective)(weights, at))[0]


def dense_hessian(at: Point) -> Peer:
    """All eigenvalues of the Hessian that jax.hessian gives."""
    weights, at = _flat(at)
    jax.block_until_ready(_dense(weights, at))
    return lambda: Outcome(float(_dense(weights, at)))
