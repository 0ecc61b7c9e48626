"""Stationary points of every index, found from thousands of starting points at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from resflow.arrays import as_number
from resflow.errors import InvalidInputError, shown
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless
from resflow.hessian.lanczos import split_parameters
from resflow.models.residual_unit import trainable
from resflow.parallel import in_threads
from resflow.point import checked_data

__all__ = ["STATUSES", "SearchCounts", "SearchOptions", "StationaryPoints", "find_stationary_points"]

STATUSES = ("converged", "kernel_stuck", "diverged", "not_converged")
"""What can become of a start; `StationaryPoints.status` counts in this order."""

MERGES = ("point", "spectrum", "none")
_CONVERGED, _KERNEL_STUCK, _DIVERGED, _NOT_CONVERGED, _RUNNING = range(5)


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        tolerance: A start has converged where ‖∇F‖ ≤ tolerance × scale and the next step fails to halve ‖∇F‖ (or was
            the last): at rounding level, mostly. The scale is the median of the non-zero gradient norms at the starts,
            or of 10⁻⁴ ‖∇²F‖ ‖x‖ where that is larger.
        max_steps: Steps after which a start has diverged if its norm grew by a tenth in the second half of them, as it
            does on the way to a limit at infinity, and has otherwise not converged.
        max_norm: A start whose parameters exceed this norm (and 10 times their norm at the start) has diverged.
        kernel_tolerance: A start is stuck where ‖∇²F ∇F‖ ≤ kernel_tolerance × ‖∇²F‖ ‖∇F‖ and ‖∇F‖ is not small.
        index_tolerance: Eigenvalues above −index_tolerance × the largest modulus do not count as negative.
        merge: Which converged points become one. "point": those within merge_tolerance in parameters. "spectrum":
            those whose objective and Hessian spectrum agree to it, so that images under an orthogonal symmetry (hidden
            units exchanged, signs flipped) and a continuum of equal curvature count once, as do points that agree by
            accident. "none": nothing. Chains of neighbours become one point.
        merge_tolerance: Relative to the typical size of what is compared.
        chunk_size: Starts advanced in lockstep under vmap, each of which waits for the slowest. On a CPU 1 is fastest;
            try 4096 on a GPU.
        workers: Threads; by default one for every core, and one alone where JAX computes on an accelerator.

    Raises:
        InvalidInputError: If a value is out of range.
    """

    tolerance: float = 1e-10
    max_steps: int = 500
    max_norm: float = 1e3
    kernel_tolerance: float = 1e-6
    index_tolerance: float = 1e-8
    merge: str = "point"
    merge_tolerance: float = 1e-6
    chunk_size: int = 1
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("tolerance", "max_norm", "kernel_tolerance", "index_tolerance", "merge_tolerance"):
            allowed = "must be a positive finite number"
            as_number(name, getattr(self, name), allowed, lambda size: 0 < size < math.inf)
        for name in ("max_steps", "chunk_size"):
            count = as_number(name, getattr(self, name), "must be at least 1", lambda count: count >= 1, whole=True)
            object.__setattr__(self, name, count)
        if self.workers is not None:
            allowed = "must be at least 1, or None for one a core"
            count = as_number("workers", self.workers, allowed, lambda count: count >= 1, whole=True)
            object.__setattr__(self, "workers", count)
        if self.merge not in MERGES:
            raise InvalidInputError(f"merge={self.merge!r} is unknown: choose one of {', '.join(MERGES)}")


class SearchCounts(NamedTuple):
    """What became of the starts; the four outcomes add up to `starts`.

    Attributes:
        starts: How many there were.
        converged: Reached a stationary point.
        kernel_stuck: Stopped where ∇F ≠ 0 lies in the Hessian's kernel: stationary for ½‖∇F‖², not for F.
        diverged: Ran away towards infinity, left the numbers, or was not finite to begin with.
        not_converged: Ran out of steps, or no step however small made ‖∇F‖ smaller: at a ReLU's kink, mostly.
        distinct: Stationary points left after merging.
    """

    starts: int
    converged: int
    kernel_stuck: int
    diverged: int
    not_converged: int
    distinct: int


class StationaryPoints(NamedTuple):
    """The m distinct stationary points that a search found, by ascending objective, and what became of each start.

    Attributes:
        points: The points: the starts' pytree, its trainable leaves with a leading axis of length m.
        objective: F, shape (m,).
        grad_norm: ‖∇F‖, shape (m,).
        eigenvalues: Of ∇²F in the searched parameters, ascending, shape (m, D).
        lambda_min: The smallest of them, shape (m,).
        index: The number of negative eigenvalues, shape (m,).
        block_lambda_min: λ_min of the block of ∇²F in the parameters that `block` chose, shape (m,); None without.
        multiplicity: How many starts ended there, shape (m,).
        counts: How many starts converged, and what became of the others.
        status: What became of each start, shape (S,), as an index into `STATUSES`.
        start_grad_norm: ‖∇F‖ where each start ended, shape (S,); NaN where that is not finite.
        start_kernel_ratio: ‖∇²F ∇F‖ / (‖∇²F‖ ‖∇F‖) there, shape (S,).
        start_steps: Steps that each start took, shape (S,).
        grad_tolerance: The gradient norm below which a start counted as converged.
    """

    points: Any
    objective: Float[np.ndarray, "m"]
    grad_norm: Float[np.ndarray, "m"]
    eigenvalues: Float[np.ndarray, "m D"]
    lambda_min: Float[np.ndarray, "m"]
    index: Int[np.ndarray, "m"]  # type: ignore[assignment]  # of a saddle, not of a tuple
    block_lambda_min: Float[np.ndarray, "m"] | None
    multiplicity: Int[np.ndarray, "m"]
    counts: SearchCounts
    status: Int[np.ndarray, "S"]
    start_grad_norm: Float[np.ndarray, "S"]
    start_kernel_ratio: Float[np.ndarray, "S"]
    start_steps: Int[np.ndarray, "S"]
    grad_tolerance: float

    def above(self, level: float, tolerance: float = 1e-8) -> np.ndarray:
        """Which points have F > level + tolerance, e.g. lie above the best linear predictor, shape (m,)."""
        return self.objective > level + tolerance

    def spurious(self, level: float, tolerance: float = 1e-8) -> np.ndarray:
        """Which points lie above the level though no curvature leads down: F > level + tolerance, λ_min ≥ −tolerance.

        By Corollary 1 of Shamir 2018 (arXiv:1804.06739) no local minimum of a plain residual unit is among them,
        the level being the best linear predictor's objective.
        """
        return self.above(level, tolerance) & (self.lambda_min >= -tolerance)


def find_stationary_points(
    objective: Callable[..., Any],
    starts: Any,
    *data: Any,
    block: Callable[[Any], Any] | None = None,
    **options: Any,
) -> StationaryPoints:
    """Points with ∇F = 0, of every index, by Levenberg and Marquardt's method on ½‖∇F‖² from every start.

    With ∇²F = Q diag(λ) Qᵀ, dense, a step is −Q diag(λ / (λ² + μ)) Qᵀ∇F, and μ follows the step's success. It goes
    to saddles as readily as to minima, converges quadratically also where stationary points form a manifold, and
    knows nothing of the network. Always in float64. For D parameters a step costs D³ and D gradients: meant for
    D up to about 50.

    Args:
        objective: F(point, *data) → scalar, twice differentiable by JAX; hashable, so that a second search with it
            need not be compiled again (a function at module level, or a frozen dataclass like `MeanLoss`).
        starts: A pytree (e.g. of a model, as `random_starts` gives) whose trainable arrays have a leading axis of
            length S, one entry a start; other leaves are shared and held fixed.
        data: What the objective takes besides the point, e.g. X and y; for a `MeanLoss` labels as a `Point` takes them.
        block: Which parameters to report the Hessian's block of, e.g. `lambda model: (model.w, model.V)` for the
            partial Hessian of a residual unit whose θ is searched as well. `lambda_min` and `index` are always of the
            whole Hessian in the searched parameters.
        options: Fields of `SearchOptions` with other values than their defaults, e.g. max_steps=100.

    Raises:
        InvalidInputError: If the starts' arrays disagree about S, there are none, the data is not finite, or X and y do
            not suit a `MeanLoss`.

    References:
        Frye 2019 (arXiv:1901.10603) for gradient-norm minimisation and the points where it gets stuck.
    """
    how = SearchOptions(**options)
    if not callable(objective):
        raise InvalidInputError(
            f"objective={shown(objective)} must be a function of a point and the data, such as MeanLoss('squared')"
        )
    moving, fixed = eqx.partition(starts, trainable(starts))
    _check_starts(moving)
    data = checked_data(objective, eqx.combine(jax.tree.map(lambda leaf: leaf[0], moving), fixed), data)
    with jax.enable_x64(True):
        as_double = lambda leaf: jnp.asarray(leaf, float) if eqx.is_inexact_array_like(leaf) else leaf  # noqa: E731
        moving, fixed, data = jax.tree.map(as_double, (moving, fixed, data))
        if not all_finite(data):
            raise InvalidInputError("the data has values that are not finite: drop those samples before a search")
        grad_tolerance = how.tolerance * _typical_gradient(objective, moving, fixed, data)

        one, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], moving))
        rows = None
        if block is not None:  # where in x the parameters of the block are
            places = eqx.combine(unravel(jnp.arange(len(one), dtype=float)), fixed)
            rows = ravel_pytree(split_parameters(places, block)[0])[0].astype(int)
        search = lambda share: _search(objective, share, fixed, data, grad_tolerance, how, rows)  # noqa: E731
        ends = in_threads(search, moving, workers=how.workers)
        flat, status = ends["x"], ends["status"]
        converged = np.flatnonzero(status == _CONVERGED)
        chosen, multiplicity = _merge(how, flat[converged], *(ends[key][converged] for key in _COMPARED))
        chosen = converged[chosen]
        points = jax.tree.map(np.asarray, jax.vmap(unravel)(flat[chosen]))
    eigenvalues = ends["eigenvalues"][chosen]
    threshold = how.index_tolerance * np.abs(eigenvalues).max(axis=1, initial=0.0)
    return StationaryPoints(
        points=eqx.combine(points, fixed),
        objective=ends["objective"][chosen],
        grad_norm=ends["grad_norm"][chosen],
        eigenvalues=eigenvalues,
        lambda_min=eigenvalues[:, 0],
        index=np.count_nonzero(eigenvalues < -threshold[:, None], axis=1),
        block_lambda_min=None if block is None else ends["block_lambda_min"][chosen],
        multiplicity=multiplicity,
        counts=SearchCounts(len(status), *np.bincount(status, minlength=4).tolist(), len(chosen)),  # type: ignore[call-arg]
        status=status,
        start_grad_norm=ends["grad_norm"],
        start_kernel_ratio=ends["kernel_ratio"],
        start_steps=ends["steps"],
        grad_tolerance=float(grad_tolerance),
    )


def _check_starts(moving: Any) -> None:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(moving)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or () in lengths:
        raise InvalidInputError(
            f"the trainable arrays of the starts have shapes {shapes}, but must share a leading axis, one entry a start"
        )
    if lengths == {(0,)}:
        raise InvalidInputError("there are 0 starts, but there must be at least 1")


class _State(NamedTuple):
    x: Any
    gradient: Any
    eigenvalues: Any
    eigenvectors: Any
    damping: Any
    steps: Any
    norm_halfway: Any
    kernel_ratio: Any
    status: Any


@partial(exported, arrays_only=True)
def _typical_gradient(objective, moving, fixed, data):
    """The median of the non-zero gradient norms at the starts, or of ‖∇²F‖ ‖x‖ / 10⁴ if that is larger; 1 if all are 0.

    The second is there for starts that are stationary already, whose gradients are rounding: about 10⁻¹⁶ ‖∇²F‖ ‖x‖.
    """

    def norms(arguments):
        point, key = arguments
        x, unravel = ravel_pytree(point)
        gradient = jax.grad(lambda x: objective(eqx.combine(unravel(x), fixed), *data))
        # For z standard normal, ‖∇²F z‖ is ‖∇²F‖ in the Frobenius norm on average.
        g, change = jax.jvp(gradient, (x,), (jax.random.normal(key, x.shape, x.dtype),))
        return jnp.linalg.norm(g), 1e-4 * jnp.linalg.norm(change) * jnp.linalg.norm(x)

    def median(sizes):
        middle = jnp.nanmedian(jnp.where((sizes > 0) & jnp.isfinite(sizes), sizes, jnp.nan))
        return jnp.where(jnp.isfinite(middle), middle, 0.0)

    count = len(jax.tree.leaves(moving)[0])
    sizes, floors = jax.lax.map(norms, (moving, jax.random.split(jax.random.key(0), count)))
    scale = jnp.maximum(median(sizes), median(floors))
    return jnp.where(scale > 0, scale, 1.0)


@partial(exported, arrays_only=True)
def _search(objective, moving, fixed, data, grad_tolerance, options, rows):
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], moving))
    flat = jax.vmap(lambda point: ravel_pytree(point)[0])(moving)

    def F(x):
        return objective(eqx.combine(unravel(x), fixed), *data)

    gradient, hessian = jax.grad(F), jax.hessian(F)

    def end(start):
        state = _refine(gradient, hessian, start, grad_tolerance, options)
        result = {
            "x": state.x,
            "status": state.status.astype(int),
            "objective": F(state.x),
            "grad_norm": nan_unless(all_finite(state.x), jnp.linalg.norm(state.gradient)),
            "eigenvalues": state.eigenvalues,
            "kernel_ratio": state.kernel_ratio,
            "steps": state.steps.astype(int),
        }
        if rows is not None:
            result["block_lambda_min"] = jnp.linalg.eigvalsh(hessian(state.x)[rows[:, None], rows])[0]
        return result

    return jax.lax.map(end, flat, batch_size=None if options.chunk_size == 1 else options.chunk_size)


def _refine(gradient, hessian, start, grad_tolerance, options):
    """Levenberg–Marquardt on ½‖∇F‖² until ‖∇F‖ is at rounding level, or it is clear that it will not get there."""
    tiny, eps = jnp.finfo(start.dtype).tiny, jnp.finfo(start.dtype).eps
    furthest = jnp.maximum(options.max_norm, 10.0 * jnp.linalg.norm(start))

    def spectrum(x):
        H = hessian(x)
        # A start that leaves the numbers must not take LAPACK with it.
        return tuple(jnp.linalg.eigh(jnp.where(jnp.all(jnp.isfinite(H)), H, jnp.zeros_like(H))))

    def step(state):
        x, g, damping = state.x, state.gradient, state.damping
        largest = jnp.max(jnp.abs(state.eigenvalues))
        h = jnp.where(jnp.abs(state.eigenvalues) <= len(x) * eps * largest, 0.0, state.eigenvalues)
        mu = damping * largest**2 + tiny
        q = state.eigenvectors.T @ g
        trial = x - state.eigenvectors @ (h * q / (h**2 + mu))
        trial_gradient = gradient(trial)
        square, trial_square = g @ g, trial_gradient @ trial_gradient
        predicted = square - jnp.sum((q * mu / (h**2 + mu)) ** 2)
        ratio = (square - trial_square) / jnp.maximum(predicted, tiny)
        accepted = jnp.isfinite(trial_square) & (ratio > 1e-4)

        damping = jnp.where(ratio > 0.75, damping / 10, jnp.where(ratio < 0.25, damping * 3, damping))
        damping = jnp.clip(jnp.where(accepted, damping, state.damping * 6), 1e-28, 1e30)
        x, g = jnp.where(accepted, trial, x), jnp.where(accepted, trial_gradient, g)
        eigenvalues, Q = jax.lax.cond(accepted, spectrum, lambda _: (state.eigenvalues, state.eigenvectors), x)
        steps = state.steps + 1
        norm = jnp.linalg.norm(x)
        norm_halfway = jnp.where(steps == (options.max_steps + 1) // 2, norm, state.norm_halfway)

        small = jnp.sqrt(square) <= grad_tolerance
        size = jnp.max(jnp.abs(eigenvalues)) * jnp.linalg.norm(g)
        # A rejected step that is rounding beside x: a kink of F, mostly, that no smaller step will get round either.
        step_norm = jnp.linalg.norm(trial - x)
        stalled = ~accepted & (step_norm <= 1e-14 * jnp.maximum(norm, tiny))
        kernel_ratio = jnp.where(size > 0, jnp.linalg.norm(eigenvalues * (Q.T @ g)) / jnp.maximum(size, tiny), size)
        status = jnp.select(
            [
                ~(jnp.isfinite(square) & jnp.isfinite(norm)),
                small & (~accepted | (trial_square > 0.25 * square) | (steps >= options.max_steps)),
                norm > furthest,
                ~small & (kernel_ratio <= options.kernel_tolerance),
                (steps >= options.max_steps) & (norm > 1.1 * norm_halfway),
                stalled | (steps >= options.max_steps),
            ],
            [_DIVERGED, _CONVERGED, _DIVERGED, _KERNEL_STUCK, _DIVERGED, _NOT_CONVERGED],
            _RUNNING,
        )
        return _State(x, g, eigenvalues, Q, damping, steps, norm_halfway, kernel_ratio, status)

    one = jnp.ones((), start.dtype)
    eigenvalues, eigenvectors = spectrum(start)
    state = _State(start, gradient(start), eigenvalues, eigenvectors, 1e-2 * one, 0, one, one, _RUNNING)
    state = jax.tree.map(jnp.asarray, state)
    return jax.lax.while_loop(lambda state: state.status == _RUNNING, step, state)


_COMPARED = ("objective", "eigenvalues", "grad_norm")


def _merge(options: SearchOptions, flat, objective, eigenvalues, grad_norm) -> tuple[np.ndarray, np.ndarray]:
    """The row of smallest gradient of every group of equal points, by ascending objective, and each group's size."""
    m = len(flat)
    if options.merge == "none" or m == 0:
        groups = np.arange(m)
    elif options.merge == "point":
        groups = _clusters(flat / _typical(np.linalg.norm(flat, axis=1)), options.merge_tolerance)
    else:
        scales = _typical(np.abs(objective)), _typical(np.abs(eigenvalues).max(axis=1))
        signature = np.column_stack([objective / scales[0], eigenvalues / scales[1]])
        groups = _clusters(signature, options.merge_tolerance)
    order = np.lexsort([grad_norm, groups])
    best = order[np.unique(groups[order], return_index=True)[1]]
    by_objective = np.argsort(objective[best], kind="stable")
    return best[by_objective], np.bincount(groups)[by_objective]


def _typical(sizes: np.ndarray) -> float:
    """The median of those sizes that are not zero or rounding beside the largest; 1 if there are none."""
    large = sizes[sizes > 1e-12 * sizes.max()]
    return float(np.median(large)) if len(large) else 1.0


def _clusters(rows: np.ndarray, radius: float) -> np.ndarray:
    """A number for each row: rows within `radius` of each other share it, and chains of such rows do."""
    # Cells first: thousands of equal rows would otherwise make millions of pairs.
    cells, cell = np.unique(np.round(rows / radius), axis=0, return_inverse=True)
    # Rounding moves a row by half a cell in every coordinate, hence √D more than the 1 that `radius` is here.
    pairs = cKDTree(cells).query_pairs(1.0 + np.sqrt(rows.shape[1]), output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(cells), len(cells)))
    return connected_components(graph, directed=False)[1][cell.ravel()]
