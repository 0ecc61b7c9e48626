"""λ_min of a JAX network in all of its parameters, over batches of samples, by a Lanczos iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resflow.arrays import as_numpy, in_full_precision
from resflow.errors import InvalidInputError
from resflow.hessian.lanczos import smallest_hessian_eigenvalue
from resflow.losses import Loss
from resflow.networks._passes import Pass
from resflow.probing.curvature import STEPS, Curvature, curvature_of
from resflow.probing.stream import Head
from resflow.progress import Progress
from resflow.tensors import plain_array

__all__ = ["jax_curvature", "parameters_of"]


@in_full_precision
def jax_curvature(
    traced: Callable[[Any, jax.Array], Pass],
    moving: Any,
    fixed: Any,
    batches: list[Any],
    y: np.ndarray,
    head: Head,
    loss: Loss,
    max_restarts: int,
    *,
    progress: bool | Progress,
) -> Curvature:
    """λ_min of the Hessian of the mean loss in all floating-point arrays of `moving`, in float64.

    Batches go through one after another, their activations made again where they are needed, so that memory is that of
    one batch and of the vectors of the iteration.

    Args:
        traced: The pass of ((moving, fixed), X); its scores are the predictions.
        moving: The network's parameters.
        fixed: What else it holds.
        batches: The training samples.
        y: Their labels, as the loss takes them.
        head: The head, for the shape of predictions.
        loss: The loss.
        max_restarts: Of the iteration.
        progress: As of `smallest_hessian_eigenvalue`.

    Raises:
        InvalidInputError: If batches hold samples of different shapes.
    """
    batches = [np.asarray(plain_array(X)) for X in batches]
    if len({batch.shape[1:] for batch in batches}) > 1:
        raise InvalidInputError(
            "hessian='network' needs samples of one shape in all batches: pad them to one, or pass fewer"
        )
    single = head.W.ndim == 1
    with jax.enable_x64(True):
        data = _stacked(np.concatenate(batches), y, len(batches[0]))
        leaves, structure = jax.tree.flatten(_in_double(moving))
        others = _in_double(fixed)
        example = jax.ShapeDtypeStruct((1, *data[0].shape[2:]), data[0].dtype)
        _check_precision(jax.make_jaxpr(traced)((jax.tree.unflatten(structure, leaves), others), example).jaxpr)
        free = [place for place, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        held = [None if place in free else leaf for place, leaf in enumerate(leaves)]

        def objective(parameters: list[jax.Array], others: Any, held: Any, data: Any) -> jax.Array:
            own = list(held)
            for place, leaf in zip(free, parameters, strict=True):
                own[place] = leaf
            given = jax.tree.unflatten(structure, own), others

            def add(total: jax.Array, batch: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
                X, labels, weights = batch
                scores = traced(given, X).scores
                p = scores.reshape(len(X)) if single else scores
                return total + jnp.sum(weights * loss.value(p, labels)), None

            return jax.lax.scan(jax.checkpoint(add), jnp.zeros(()), data)[0]

        parameters = [leaves[place] for place in free]
        how: dict[str, Any] = {"max_restarts": max_restarts, "progress": progress}
        found = as_numpy(smallest_hessian_eigenvalue(objective, parameters, others, held, data, **how))
        gradient = as_numpy(jax.jit(jax.grad(objective))(parameters, others, held, data))

        @jax.jit
        def levels(parameters: Any, direction: Any, others: Any, held: Any, data: Any) -> jax.Array:
            def at(t: jax.Array) -> jax.Array:
                return objective([w + t * v for w, v in zip(parameters, direction, strict=True)], others, held, data)

            return jax.lax.map(at, jnp.asarray([0.0, *STEPS]))

        along = levels(parameters, found.direction, others, held, data)
        grad_norm = float(np.sqrt(sum(np.vdot(part, part) for part in gradient)))
        steepest = [-part / max(grad_norm, np.finfo(float).tiny) for part in gradient]
        downhill = levels(parameters, steepest, others, held, data)
    direction: list[Any] = [None] * len(leaves)
    for place, part in zip(free, found.direction, strict=True):
        direction[place] = part
    return curvature_of(
        found,
        of="network",
        direction=jax.tree.unflatten(structure, direction),
        parameters=sum(leaf.size for leaf in parameters),
        grad_norm=grad_norm,
        levels=np.asarray(along),
        downhill=np.asarray(downhill),
    )


def _check_precision(jaxpr: Any) -> None:
    """Check that nothing in a pass is rounded to less than float64, which would be the Hessian of another function."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "convert_element_type":
            given, new = equation.invars[0].aval, equation.outvars[0].aval.dtype
            narrow = jnp.issubdtype(new, jnp.floating) and new != np.float64
            if narrow and given.dtype == np.float64 and given.ndim:
                raise InvalidInputError(
                    f"the network rounds to {new} within itself, whatever it is given, where products with the "
                    "Hessian need float64: build it without that"
                )
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda each: hasattr(each, "eqns")):
            if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                _check_precision(inner)


def _stacked(X: np.ndarray, y: np.ndarray, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Samples, labels and what each counts, in batches of one size: the last one is filled up with what counts 0."""
    n = len(X)
    count = -(-n // size)
    places = np.arange(count * size) % n
    weights = (np.arange(count * size) < n) / n

    def in_batches(each: np.ndarray) -> jax.Array:
        return jnp.asarray(_double(each)).reshape(count, size, *each.shape[1:])

    return in_batches(X[places]), in_batches(y[places]), in_batches(weights)


def _double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _in_double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def parameters_of(moving: Any) -> int:
    """How many parameters λ_min is in."""
    return sum(leaf.size for leaf in jax.tree.leaves(moving) if jnp.issubdtype(leaf.dtype, jnp.floating))
