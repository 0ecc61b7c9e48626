"""The tangent of a JAX network: products with the Jacobian of its predictions, and least squares by LSMR, compiled."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matfree import lstsq

from resflow.arrays import Array, as_numpy, in_full_precision
from resflow.errors import InvalidInputError
from resflow.models.residual_unit import trainable

__all__ = ["JaxTangent"]


class JaxTangent:
    """Of any pytree that maps X to predictions; its floating-point arrays are the parameters, but for fixed ones.

    Attributes:
        predictions: p_i, shape (n,) or (n, m), float64.
    """

    def __init__(self, model: Any, X: Array, *, centred: bool) -> None:
        """Cast model and samples to float64.

        Raises:
            InvalidInputError: If the model has no parameters.
        """
        with jax.enable_x64(True):
            model, self._X = jax.tree.map(_in_double, (model, X))
        self._moving, self._fixed = eqx.partition(model, trainable(model))
        self._centred = centred
        if not jax.tree.leaves(self._moving):
            raise InvalidInputError("the model has no trainable floating-point arrays to take a gradient in")
        self.predictions = self._call(_predictions)

    def along(self, direction: np.ndarray) -> np.ndarray:
        """Jβ."""
        return self._call(_along, direction)

    def pulled(self, weights: np.ndarray) -> np.ndarray:
        """Jᵀv."""
        return self._call(_pulled, weights)

    def least_squares(self, target: np.ndarray, damping: float, steps: int, tolerance: float) -> tuple[np.ndarray, int]:
        """The least-squares solution by matfree's LSMR, one compiled loop for every damping."""
        direction, taken = self._call(_least_squares, target, np.float64(damping), steps, tolerance)
        return direction, int(taken)

    def structured(self, direction: np.ndarray) -> Any:
        """A pytree like the model, None where nothing moves."""
        with jax.enable_x64(True):
            return as_numpy(ravel_pytree(self._moving)[1](jnp.asarray(direction)))

    @in_full_precision
    def _call(self, function: Any, *arguments: Any) -> Any:
        with jax.enable_x64(True):
            return as_numpy(function(self._moving, self._fixed, self._X, self._centred, *arguments))


def _in_double(leaf: Any) -> Any:
    is_float = isinstance(leaf, np.ndarray | jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, float) if is_float else leaf


def _of_flat(moving, fixed, X, centred):
    """The parameters in one vector, and the predictions as a function of it."""
    flat, unravel = ravel_pytree(moving)

    def predict(flat):
        p = eqx.combine(unravel(flat), fixed)(X)
        return p - jnp.mean(p, axis=1, keepdims=True) if centred and p.ndim == 2 else p

    return flat, predict


@eqx.filter_jit
def _predictions(moving, fixed, X, centred):
    flat, predict = _of_flat(moving, fixed, X, centred)
    return predict(flat)


@eqx.filter_jit
def _along(moving, fixed, X, centred, direction):
    flat, predict = _of_flat(moving, fixed, X, centred)
    return jax.jvp(predict, (flat,), (direction,))[1]


@eqx.filter_jit
def _pulled(moving, fixed, X, centred, weights):
    flat, predict = _of_flat(moving, fixed, X, centred)
    return jax.vjp(predict, flat)[1](weights)[0]


@eqx.filter_jit
def _least_squares(moving, fixed, X, centred, target, damping, steps, tolerance):
    flat, predict = _of_flat(moving, fixed, X, centred)
    _, pull = jax.vjp(predict, flat)  # once: every product then has the network's own quantities at hand
    solve = lstsq.lsmr(atol=tolerance, btol=0.0, ctol=0.0, maxiter=steps, custom_vjp=False)
    direction, stats = solve(lambda weights: pull(weights)[0], target, damp=damping)
    return direction, stats["iteration_count"]
