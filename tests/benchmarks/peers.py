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

from resflow.losses import Logistic
from tests.problems import Point, objective

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


def cached_features(arrays: Point, max_products: int | None = None) -> Peer:
    """eigsh on a product whose features, slopes and curvatures are computed once, by hand."""
    w, V, features, X, y = map(jnp.asarray, arrays)
    curvature, g = _at_point(w, V, features, X, y)
    return _eigsh(lambda v: _cached_product(v, curvature, g, w, V, features, X), w.size + V.size, max_products)


_objective = partial(objective, loss="logistic")


@jax.jit
def _forward_over_reverse(v, W, features, X, y):
    return jax.jvp(lambda W: jax.grad(_objective)(W, features, X, y), (W,), (v,))[1]


def _flat(arrays: Point) -> tuple[jax.Array, ...]:
    return jnp.concatenate([arrays.w, arrays.V.ravel()]), *map(jnp.asarray, arrays[2:])


def jvp_of_grad(arrays: Point) -> Peer:
    """eigsh on Hessian-vector products by automatic differentiation, forward over reverse."""
    W, *data = _flat(arrays)
    return _eigsh(lambda v: _forward_over_reverse(v, W, *data), W.size)


def curvature_operators(arrays: Point) -> Peer:
    """eigsh on the Hessian of curvlinops, by PyTorch's double backward."""
    import torch
    from curvlinops import HessianLinearOperator

    class Unit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.V = (torch.nn.Parameter(torch.tensor(array)) for array in arrays[:2])

        def forward(self, inputs: Any) -> Any:
            d = self.w.shape[0]
            return (inputs[:, :d] + inputs[:, d:] @ self.V.T) @ self.w

    unit = Unit()
    inputs, targets = torch.tensor(np.hstack([arrays.X, arrays.features])), torch.tensor((arrays.y + 1) / 2)
    loss, parameters = torch.nn.BCEWithLogitsLoss(), list(unit.parameters())
    hessian = HessianLinearOperator(unit, loss, parameters, [(inputs, targets)], check_deterministic=False).to_scipy()
    return _eigsh(hessian.matvec, arrays.w.size + arrays.V.size)


@partial(jax.jit, static_argnames="steps")
def _matfree(start, W, features, X, y, *, steps: int):
    lanczos = eig.eigh_partial(decomp.tridiag_sym(steps, custom_vjp=False))
    return lanczos(lambda v: _forward_over_reverse(v, W, features, X, y), start)[0][0]


def matrix_free(arrays: Point, steps: int = 96) -> Peer:
    """matfree's Lanczos iteration of 96 steps on products by automatic differentiation."""
    W, *data = _flat(arrays)
    start = jnp.asarray(np.random.default_rng(0).standard_normal(W.size))
    jax.block_until_ready(_matfree(start, W, *data, steps=steps))
    return lambda: Outcome(float(_matfree(start, W, *data, steps=steps)), steps)


@jax.jit
def _dense(W, features, X, y):
    return jnp.linalg.eigvalsh(jax.hessian(_objective)(W, features, X, y))[0]


def dense_hessian(arrays: Point) -> Peer:
    """All eigenvalues of the Hessian that jax.hessian gives."""
    W, *data = _flat(arrays)
    jax.block_until_ready(_dense(W, *data))
    return lambda: Outcome(float(_dense(W, *data)))
