"""The smallest Hessian eigenvalue of any model, from products with vectors: for models without an exact form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from resflow.arrays import as_number, in_full_precision, is_traced
from resflow.errors import InvalidInputError
from resflow.floating import all_finite, nan_unless
from resflow.hessian.krylov import lowest_ritz_vector
from resflow.models.residual_unit import trainable
from resflow.progress import Progress, count_step, counted

__all__ = [
    "HessianEigenvalue",
    "check_options",
    "hessian_eigenvalues",
    "most_products",
    "smallest_hessian_eigenvalue",
    "smallest_operator_eigenvalue",
    "split_parameters",
]

_ROUNDINGS = 8.0  # that add up in a product, in units of machine precision times the largest eigenvalue
_STEPS = 96
_VECTORS = 2**30  # bytes of vectors that an iteration keeps by default, but never fewer than
_FEWEST_STEPS = 8
_WHOLE = 1024  # parameters up to which the whole matrix is formed, of 8 MiB in float64
_PRODUCTS = 16  # that are made at once for it
_MOST_EIGENVALUES = 8_192


class HessianEigenvalue(NamedTuple):
    """λ_min of a symmetric operator between two bounds, with the evidence for it.

    lambda_min_lower ≤ λ_min ≤ lambda_min_upper, up to `rounding`: the upper end always, the lower one where the whole
    matrix was formed (`certain`), and after an iteration with probability at least 1 − 1e-6 over the random start,
    whatever the operator. It may then lie far below, where nothing more is known. The residual alone says that some
    eigenvalue lies within it of λ, and nothing of λ_min. Where anything that the operator was made of is not finite,
    all numbers are NaN.

    Attributes:
        lambda_min: λ, the Rayleigh quotient of the direction.
        lambda_min_lower: No eigenvalue lies below.
        lambda_min_upper: An eigenvalue lies at or below: λ.
        lambda_min_residual: ‖Hv − λv‖, of the direction v itself and not of a recurrence.
        direction: v of norm 1, with the structure of what the Hessian is taken in.
        converged: True if the bracket's width and the residual are within the tolerance.
        certain: True if the lower end does not rest on chance.
        largest: The largest modulus of an eigenvalue seen: what the tolerance, and rounding, are relative to.
        rounding: Estimate of the effect of rounding in products with H on the bracket.
        products: How many products with H it took.
    """

    lambda_min: Float[Array, ""]
    lambda_min_lower: Float[Array, ""]
    lambda_min_upper: Float[Array, ""]
    lambda_min_residual: Float[Array, ""]
    direction: Any
    converged: Bool[Array, ""]
    certain: Bool[Array, ""]
    largest: Float[Array, ""]
    rounding: Float[Array, ""]
    products: Int[Array, ""]


@in_full_precision
def smallest_hessian_eigenvalue(
    objective: Callable[..., Any],
    model: Any,
    *data: Any,
    key: PRNGKeyArray | None = None,
    steps: int | None = None,
    max_restarts: int = 20,
    tolerance: float | None = None,
    block: Callable[[Any], Any] | None = None,
    progress: bool | Progress = False,
) -> HessianEigenvalue:
    """λ_min(∇²F) in all trainable parameters of a model, or in some, with its bracket, residual and direction.

    Of D ≤ 1,024 parameters the whole Hessian is formed, by D products with vectors. Of more it is a Lanczos iteration
    with full re-orthogonalisation, restarted from the best vector until the residual meets the tolerance and λ has
    settled. It finds an eigenvalue apart from the others to many digits, with a lower end as close. Where many are
    close to λ_min, as near a minimum, or it is tiny beside the largest, the lower end lies far below. For a residual
    unit's Hessian in (w, V) `smallest_partial_eigenvalue` does not have this limit.

    In the precision of the model's arrays. Works under jit and vmap.

    Args:
        objective: F(model, *data) → scalar, twice differentiable by JAX; hashable, so that a second call with it need
            not be compiled again (a function at module level, or a frozen dataclass like `MeanLoss`).
        model: Any pytree, e.g. an Equinox module; its trainable arrays are the D parameters.
        data: What the objective takes besides the model, e.g. X and y.
        key: Random key of the first vector; by default one and the same.
        steps: Length of the Lanczos iteration between restarts: as many vectors of length D are kept; from D on the
            whole Hessian is formed. By default D for up to 1,024 parameters, and for more 96, or as many as 1 GiB
            holds, but at least 8.
        max_restarts: How often it may start again from the best vector so far.
        tolerance: Largest residual relative to the largest modulus of an eigenvalue; by default 1e-8 in float64 and
            1e-5 in float32.
        block: Which parameters to take the Hessian in, all others held fixed: a function of a model to a pytree of its
            arrays, e.g. `lambda model: (model.w, model.V)`; by default all that are trainable.
        progress: Called with how many products with H are done and how many there may be, at most: a few times a second
            and at the end, on whatever thread; True for a progress bar. Not within a jit of one's own, where nobody is
            told.

    Returns:
        The eigenvalue with its interval, residual and direction: a pytree like the model, None where nothing moves.
        Look at `converged` before you trust it.

    Raises:
        InvalidInputError: If the model has no parameters, or steps, max_restarts or tolerance is out of range.

    References:
        Parlett 1998, The Symmetric Eigenvalue Problem, chapter 13, for the iteration; Kuczyński and Woźniakowski,
        Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start, SIAM J. Matrix Anal.
        Appl. 13, 1992, for what a random start is worth.
    """
    check_options(steps=steps, max_restarts=max_restarts, tolerance=tolerance)
    steps, max_restarts = None if steps is None else int(steps), int(max_restarts)
    moving, fixed = split_parameters(model, block)
    key = jax.random.key(0) if key is None else key
    arguments = (objective, moving, fixed, data, key, steps, max_restarts, tolerance)
    leaves = jax.tree.leaves((model, data))
    if is_traced(*leaves) or not progress:
        return _of_hessian(*arguments, None)
    D, precision = sum(leaf.size for leaf in jax.tree.leaves(moving)), jnp.result_type(*jax.tree.leaves(moving))
    most = most_products(D, precision, max_restarts, steps, at_once=_PRODUCTS)
    with counted(progress, most, "product") as reporter:
        return jax.block_until_ready(_of_hessian(*arguments, reporter))


def most_products(D: int, precision: Any, max_restarts: int, steps: int | None = None, at_once: int = 1) -> int:
    """How many times products with a Hessian in D parameters are made at most, where a whole one's are in groups."""
    length = _length(D, precision, steps)
    return -(-D // at_once) if length == D else (max_restarts + 1) * (length + 1)


@in_full_precision
def hessian_eigenvalues(
    objective: Callable[..., Any], model: Any, *data: Any, block: Callable[[Any], Any] | None = None
) -> Float[Array, "D"]:
    """All eigenvalues of ∇²F in the trainable parameters of a model, or in some, ascending; NaN if not finite.

    Arguments are those of `smallest_hessian_eigenvalue`; D, at most 8,192, products with vectors make the matrix.

    Raises:
        InvalidInputError: If there are no parameters, or too many.
    """
    moving, fixed = split_parameters(model, block)
    D = sum(leaf.size for leaf in jax.tree.leaves(moving))
    if not 1 <= D <= _MOST_EIGENVALUES:
        raise InvalidInputError(
            f"the model has {D} parameters, but a whole spectrum is for 1 to {_MOST_EIGENVALUES}: name a block of "
            "them, or ask for the smallest eigenvalue alone"
        )
    return _all_of_hessian(objective, moving, fixed, data)


@in_full_precision
def smallest_operator_eigenvalue(
    product: Callable[[Any], Any],
    like: Float[Array, "D"],
    *,
    key: PRNGKeyArray,
    steps: int | None = None,
    max_restarts: int = 20,
    tolerance: float | None = None,
    candidate: Float[Array, "D"] | None = None,
) -> HessianEigenvalue:
    """λ_min of a symmetric linear operator on vectors, as `smallest_hessian_eigenvalue` finds that of a Hessian.

    Args:
        product: v ↦ Hv, from (D,) to (D,), symmetric and linear.
        like: Any vector of the operator's length and precision.
        key: Random key of the first vector; all other options are those of `smallest_hessian_eigenvalue`.
        candidate: A unit vector that an iteration goes on from if it is better than what it found from the first one.

    Raises:
        InvalidInputError: If steps, max_restarts or tolerance is out of range, or the vector has no entries.
    """
    check_options(steps=steps, max_restarts=max_restarts, tolerance=tolerance)
    steps, max_restarts = None if steps is None else int(steps), int(max_restarts)
    if like.size == 0:
        raise InvalidInputError("an operator on vectors of length 0 has no eigenvalues")
    eps = jnp.finfo(like.dtype).eps
    if tolerance is None:
        tolerance = 1e-8 if eps < 1e-10 else 1e-5
    steps = _length(like.size, like.dtype, steps)
    start = jax.random.normal(key, like.shape, like.dtype)
    # Squares are taken of products: with entries of order 1 they neither underflow nor overflow.
    scale = jnp.max(jnp.abs(product(start)))
    scale = jnp.where(jnp.isfinite(scale) & (scale > 0), scale, 1.0)

    def scaled(x):
        return product(x) / scale

    whole = steps == like.size
    if whole:
        found = _of_whole_matrix(scaled, like)
    else:
        found = _iterate(scaled, start, steps, max_restarts, tolerance, candidate)
    rounding = (_ROUNDINGS + (like.size**0.5 if whole else 0.0)) * eps * found.largest
    lower = jnp.minimum(found.lower, found.value)
    known = (found.value - lower <= tolerance * found.largest) & (found.residual <= tolerance * found.largest)
    value, lower, residual, largest, rounding = (
        scale * number for number in (found.value, lower, found.residual, found.largest, rounding)
    )
    result = HessianEigenvalue(
        lambda_min=value,
        lambda_min_lower=lower,
        lambda_min_upper=value,
        lambda_min_residual=residual,
        direction=found.x,
        converged=known,
        certain=jnp.asarray(whole),
        largest=largest,
        rounding=rounding,
        products=found.products + 1,
    )
    return nan_unless(all_finite(value, lower, residual), result)._replace(products=result.products)


class _Found(NamedTuple):
    """What either way found, in units of the scale, and the products with H that it took."""

    x: jax.Array
    value: jax.Array
    lower: jax.Array
    residual: jax.Array
    largest: jax.Array
    products: jax.Array


def _quotient(product, x) -> tuple[jax.Array, jax.Array]:
    """The Rayleigh quotient of a unit vector, and its residual."""
    image = product(x)
    value = x @ image
    return value, jnp.linalg.norm(image - value * x)


def _length(D: int, precision: Any, steps: int | None) -> int:
    """Of an iteration between two restarts."""
    if steps is not None:
        return min(steps, D)
    if D <= _WHOLE:
        return D
    return min(_STEPS, max(_FEWEST_STEPS, _VECTORS // (D * jnp.dtype(precision).itemsize)))


def _whole_matrix(product, like) -> jax.Array:
    rows = jax.lax.map(product, jnp.eye(like.size, dtype=like.dtype), batch_size=min(like.size, _PRODUCTS))
    return 0.5 * (rows + rows.T)


def _of_whole_matrix(product, like) -> _Found:
    matrix = _whole_matrix(product, like)
    finite = all_finite(matrix)
    # LAPACK must not be given what is not finite.
    eigenvalues, vectors = jnp.linalg.eigh(jnp.where(finite, matrix, 0.0))
    eigenvalues = nan_unless(finite, eigenvalues)
    x = vectors[:, 0]
    value, residual = _quotient(product, x)
    largest = jnp.maximum(jnp.abs(eigenvalues[0]), jnp.abs(eigenvalues[-1]))
    return _Found(x, value, eigenvalues[0], residual, largest, jnp.asarray(like.size + 1))


def _iterate(product, start, steps: int, max_restarts: int, tolerance, candidate=None) -> _Found:
    eps = jnp.finfo(start.dtype).eps

    def restart(state: tuple[_Found, Any]) -> tuple[_Found, Any]:
        before, _ = state
        first = before.products == 0
        x, largest, lower = lowest_ritz_vector(product, before.x, steps)
        value, residual = _quotient(product, x)
        if candidate is not None:
            known, its_residual = _quotient(product, candidate)
            better = first & (known < value)
            x = jnp.where(better, candidate, x)
            value, residual = jnp.where(better, known, value), jnp.where(better, its_residual, residual)
        largest = jnp.maximum(jnp.maximum(before.largest, largest), jnp.abs(value))
        # A first vector that is nearly all kernel may pass for one of λ = 0; the next pass tells.
        settled = ~first & (before.value - value <= jnp.maximum(residual, _ROUNDINGS * eps * jnp.abs(value)))
        converged = settled & (residual <= tolerance * largest)
        # Only the first start is random, and says something of what the iteration has not seen.
        lower = jnp.where(first, lower, before.lower)
        return _Found(x, value, lower, residual, largest, before.products + steps + 1), converged

    def unfinished(state: tuple[_Found, Any]):
        found, converged = state
        return ~converged & jnp.isfinite(found.value) & (found.products <= max_restarts * (steps + 1))

    zero = jnp.zeros((), start.dtype)
    begin = _Found(start, zero, zero, zero, zero, jnp.zeros((), int)), jnp.asarray(False)
    return jax.lax.while_loop(unfinished, restart, begin)[0]


@eqx.filter_jit
def _of_hessian(objective, moving, fixed, data, key, steps, max_restarts, tolerance, reporter) -> HessianEigenvalue:
    flat, unravel = ravel_pytree(moving)

    def slope(x):
        value, gradient = jax.value_and_grad(lambda x: objective(eqx.combine(unravel(x), fixed), *data))(x)
        return gradient, value

    # Linearised once: every product then has the point's own quantities at hand.
    gradient, linear, value = jax.linearize(slope, flat, has_aux=True)

    def product(v):
        if reporter is not None:
            count_step(reporter)
        return linear(v)

    options = {"steps": steps, "max_restarts": max_restarts, "tolerance": tolerance}
    found = smallest_operator_eigenvalue(product, flat, key=key, **options)
    # A loss that is flat far out has derivatives of 0 at infinity, which look like any others.
    finite = all_finite(flat, fixed, data, gradient, value)
    products, found = found.products, nan_unless(finite, found)
    return found._replace(direction=unravel(found.direction), products=products)


@eqx.filter_jit
def _all_of_hessian(objective, moving, fixed, data) -> jax.Array:
    flat, unravel = ravel_pytree(moving)
    gradient = jax.grad(lambda x: objective(eqx.combine(unravel(x), fixed), *data))
    _, product = jax.linearize(gradient, flat)
    matrix = _whole_matrix(product, flat)
    finite = all_finite(flat, fixed, data, matrix)
    return nan_unless(finite, jnp.linalg.eigvalsh(jnp.where(finite, matrix, 0.0)))


def split_parameters(model: Any, block: Callable[[Any], Any] | None) -> tuple[Any, Any]:
    """The parameters of a model, or those of its trainable arrays that `block` names, and the rest of it.

    Raises:
        InvalidInputError: If there are no parameters.
    """
    free = trainable(model)
    if block is not None:
        nothing = jax.tree.map(lambda _: False, model)
        chosen = eqx.tree_at(block, nothing, replace_fn=lambda node: jax.tree.map(lambda _: True, node))
        free = jax.tree.map(lambda move, free: move and free, chosen, free)
    moving, fixed = eqx.partition(model, free)
    if not jax.tree.leaves(moving):
        raise InvalidInputError("the model has no trainable floating-point arrays to take a gradient or Hessian in")
    return moving, fixed


def check_options(
    *,
    key: Any = None,
    steps: int | None = None,
    max_restarts: int = 20,
    tolerance: float | None = None,
    progress: bool | Progress = False,
) -> None:
    """Check the options of `smallest_hessian_eigenvalue`, all but `block`, before anything is computed.

    Raises:
        InvalidInputError: If steps, max_restarts or tolerance is out of range.
    """
    if steps is not None:
        allowed = "must be at least 1: the length of the Lanczos iteration"
        as_number("steps", steps, allowed, lambda steps: 1 <= steps < math.inf, whole=True)
    as_number("max_restarts", max_restarts, "must be at least 0", lambda most: 0 <= most < math.inf, whole=True)
    if tolerance is not None:
        as_number(
            "tolerance", tolerance, "must be positive: relative to the largest eigenvalue", lambda size: 0 < size < 1
        )
