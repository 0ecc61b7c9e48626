"""The smallest eigenvalue of a partial Hessian between a Cholesky factorisation below and a Rayleigh quotient above."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Real

from resflow.arrays import Array, as_number, check_point, is_traced
from resflow.floating import all_finite, nan_unless, norm, ratio
from resflow.losses.scalar import Loss, as_loss
from resflow.parallel import blas_on_one_thread
from resflow.spectrum.partial_hessian import PartialHessian, analyse_samples, hessian_vector_product, partial_hessian

__all__ = ["SmallestEigenvalue", "smallest_partial_eigenvalue"]

_MAX_FACTORIZATIONS = 40
_PATIENCE = 12  # factorisations, before rounding is taken for a reason to stop
_LANCZOS_STEPS = 12


class SmallestEigenvalue(NamedTuple):
    """λ_min of the partial Hessian at one point, with the evidence for it.

    All are in the units of the mean loss per sample. The bracket is rigorous for the Hessian as accumulated in
    floating point; `rounding` estimates how far that has moved it. Where the Hessian is not finite, or λ_min is too
    large for floating point, all numbers are NaN and `converged` is False.

    Attributes:
        value: The Rayleigh quotient of the direction.
        lower: No eigenvalue lies below: from a Cholesky factorisation, or from |g|; from |g| alone where that is below
            1e-138 (1e-17 in float32), and then not converged.
        upper: An eigenvalue lies at or below: the Rayleigh quotient, the same number as `value`.
        residual: ‖Hv − value·v‖ for the direction v, of norm 1, with Hv a product with the samples themselves.
        direction_w: The part of v in w, shape (d,).
        direction_V: The part of v in V, shape (d, k).
        converged: True if upper − lower is within the tolerance, relative to the larger of the two; in float32 only if
            `rounding` is so as well, as there it decides how many digits are right.
        rounding: Estimate of the effect on `value` of rounding in the predictions, in the sums over samples and in the
            ridge terms.
        factorizations: Cholesky factorisations that it took.
    """

    value: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    residual: Float[Array, ""]
    direction_w: Float[Array, "d"]
    direction_V: Float[Array, "d k"]
    converged: Bool[Array, ""]
    rounding: Float[Array, ""]
    factorizations: Int[Array, ""]


def smallest_partial_eigenvalue(
    w: Real[Array, "d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    ridge_w: float = 0.0,
    ridge_V: float = 0.0,
    rtol: float | None = None,
) -> SmallestEigenvalue:
    """λ_min of ∇²F + diag(ridge_w, ridge_V) in (w, V), closed in from both sides, with its direction.

    With K, γ = ‖g‖ of `PartialHessian` and P the projector onto w's complement, σ < 0 lies below every eigenvalue
    if and only if S(σ) = K − σI + (γ²/σ) P has a Cholesky factorisation (Sylvester's law of inertia, u eliminated).
    Each factor that exists also serves a Lanczos iteration for the direction, whose Rayleigh quotient is the other end.

    NumPy arrays are analysed in float64, memory-mapped ones in chunks; JAX arrays in their own precision and on
    their own devices; works under jit and vmap.

    Args:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,): −1 or +1 for the logistic loss.
        loss: A loss or its name.
        ridge_w: Coefficient of ‖w‖²/2 in the objective.
        ridge_V: Coefficient of ‖V‖_F²/2 in the objective.
        rtol: Largest relative width of the bracket, of λ_min − ridge_V; by default 1e-10 in float64, 1e-4 in float32.

    Returns:
        The eigenvalue with its bracket, residual and direction. Look at `converged` before you trust it.

    Raises:
        InvalidInputError: If shapes disagree or labels do not suit the loss.

    References:
        The setting is that of Shamir 2018 (arXiv:1804.06739), section 3.
    """
    loss = as_loss(loss)
    check_point(w, V, features, X, y, loss)
    for name, value in (("ridge_w", ridge_w), ("ridge_V", ridge_V)):
        as_number(name, value, "must be a finite number, at least 0; 0 is no ridge term", lambda r: 0 <= r < jnp.inf)
    if rtol is None:
        single = any(array.dtype == jnp.float32 for array in (w, V) if isinstance(array, jax.Array))
        rtol = 1e-4 if single else 1e-10
    as_number("rtol", rtol, "must lie between 0 and 1: relative to the eigenvalue", lambda rtol: 0 < rtol < 1)
    options: dict[str, Any] = {"loss": loss, "ridge_w": ridge_w, "ridge_V": ridge_V, "rtol": rtol}
    search = partial(analyse_samples, _smallest, w, V, features, X, y, **options)
    if is_traced(w, V, features, X, y):
        return SmallestEigenvalue(*search())
    with blas_on_one_thread():
        return SmallestEigenvalue(*jax.block_until_ready(search()))  # not before the factorisations are done


def _smallest(w, V, features, X, y, *, loss: Loss, ridge_w, ridge_V, rtol) -> tuple:
    bracket, a, B = _search(partial_hessian(w, V, features, X, y, loss=loss), ridge_w - ridge_V, rtol)
    product_w, product_V = hessian_vector_product(w, V, features, X, y, a, B, loss=loss)
    return _evidence(bracket, a, B, product_w, product_V, ridge_w, ridge_V, rtol)


@jax.jit
def _evidence(bracket: _Bracket, a, B, product_w, product_V, ridge_w, ridge_V, rtol) -> tuple:
    value, lower = bracket.upper + ridge_V, bracket.lower + ridge_V
    error_w, error_V = product_w + (ridge_w - value) * a, product_V + (ridge_V - value) * B
    residual = _hypot(norm(error_w), norm(error_V))
    eps = jnp.finfo(value.dtype).eps
    rounding = bracket.rounding + 4.0 * eps * (jnp.abs(ridge_w) + jnp.abs(ridge_V))
    converged = bracket.converged
    if eps > 1e-10:
        converged &= rounding <= rtol * jnp.abs(bracket.upper)
    numbers = (value, lower, value, residual, a, B, converged, rounding)
    return *nan_unless(all_finite(value, lower), numbers), bracket.count


class _Form(NamedTuple):
    """The quadratic form xᵀKx + 2γ aᵀu on (x, u), with x = (a, c), u ⟂ w, as the search needs it."""

    K: jax.Array
    gamma: jax.Array
    has_u: bool  # false if d = 1
    in_a: jax.Array  # 1 on the coordinates of x that are a's, else 0
    w_unit: jax.Array  # ŵ in a's coordinates
    u: jax.Array  # some unit vector orthogonal to w, zero if d = 1

    def project(self, x):
        """Px, zero if d = 1."""
        return self.in_a * x - self.w_unit * (self.w_unit @ x) if self.has_u else jnp.zeros_like(x)

    def shifted(self, sigma):
        """S(σ), definite if and only if σ < 0 lies below every eigenvalue."""
        identity = jnp.eye(self.K.shape[0], dtype=self.K.dtype)
        if not self.has_u:
            return self.K - sigma * identity
        complement = self.in_a * identity - jnp.outer(self.w_unit, self.w_unit)
        return self.K - sigma * identity + self.gamma * ratio(self.gamma, sigma) * complement

    def rayleigh(self, x):
        """The smallest Rayleigh quotient in the span of (x, 0) and (0, Px), with its vector (x, u), of norm 1."""
        direction = self.project(x)
        h = x @ (self.K @ x)
        if not self.has_u:
            return h, x, direction
        size = jnp.linalg.norm(direction)
        t = self.gamma * size
        value = _lower_root(h, t)
        length = _hypot(value, t)
        u = jnp.where(size > 0, ratio(direction, size), self.u)
        return value, ratio(value, length) * x, jnp.where(length > 0, ratio(t, length), 1.0) * u


class _Bracket(NamedTuple):
    """Where the search is: λ_min ≥ lower, and `upper` is the Rayleigh quotient of (x, u), of norm 1."""

    lower: jax.Array
    upper: jax.Array
    failed: jax.Array  # the lowest shift that was found not to lie below λ_min
    shift: jax.Array  # the next to try
    estimate: jax.Array  # of λ_min
    start: jax.Array  # for the Lanczos iteration
    x: jax.Array
    u: jax.Array
    converged: jax.Array
    count: jax.Array  # type: ignore[assignment]  # a field hides tuple's method
    rounding: jax.Array


@jax.jit
def _search(hessian: PartialHessian, ridge_difference, rtol) -> tuple[_Bracket, jax.Array, jax.Array]:
    # One g for its norm and its unit vector: XLA may else sum it twice, and where it is all rounding they disagree.
    hessian = jax.lax.optimization_barrier(hessian)
    d = hessian.w_unit.shape[0]
    form, start = _prepare(hessian, jnp.asarray(ridge_difference, hessian.K.dtype), rtol)

    finite = hessian.finite
    # Vectors of the iteration have entries as large as 1/γ, of which no squares can be taken at either end.
    workable = finite & ((form.gamma == 0) | (form.gamma > jnp.finfo(form.gamma.dtype).tiny ** 0.45))

    def rounding(state: _Bracket):
        a, c = state.x[:d], state.x[d:]
        in_K = hessian.K_scale @ state.x**2
        in_g = hessian.g_scale * jnp.sqrt((a @ a) * (c @ c + state.u @ state.u))
        return 4.0 * jnp.finfo(form.K.dtype).eps * (in_K + in_g)

    def unfinished(state: _Bracket):
        hopeless = (state.count >= _PATIENCE) & (state.upper - state.lower <= rounding(state))
        return workable & ~state.converged & ~hopeless & (state.count < _MAX_FACTORIZATIONS)

    state = jax.lax.while_loop(unfinished, partial(_narrow, form, rtol=rtol), start)
    g_unit = jnp.where(form.gamma > 0, ratio(hessian.g, form.gamma), jnp.zeros_like(hessian.g).at[0].set(1.0))
    B = jnp.outer(hessian.w_unit, state.x[d:]) + jnp.outer(state.u[:d], g_unit)
    lower = jnp.where(finite, jnp.minimum(state.lower, state.upper), jnp.nan)
    return state._replace(lower=lower, rounding=rounding(state)), state.x[:d], B


def _prepare(hessian: PartialHessian, delta, rtol) -> tuple[_Form, _Bracket]:
    """The form, with δ = ridge_w − ridge_V on a, and what is known of λ_min − ridge_V before any factorisation."""
    d, k = hessian.w_unit.shape[0], hessian.g.shape[0]
    order, dtype = d + k, hessian.K.dtype
    in_a = (jnp.arange(order) < d).astype(dtype)
    w_unit = jnp.pad(hessian.w_unit, (0, k))
    size = jnp.abs(jnp.diagonal(hessian.K))
    gamma = hessian.g_norm
    # The sums over samples are positive semidefinite but for rounding. With this much more they are so again, as
    # they have to be where K is singular: there a shift of λ_min's size is all that a pivot has.
    K = hessian.K + jnp.diag(4.0 * jnp.finfo(dtype).eps * size + delta * in_a)
    if d > 1:
        # At w = 0 no direction is w's: u may be any vector of R^d, and then there is no need of c.
        at_zero = hessian.w_norm == 0
        K = jnp.where(at_zero, in_a[:, None] * in_a, 1.0) * K
        w_unit = jnp.where(at_zero, 0.0, w_unit)
    other = jnp.zeros(order, dtype).at[jnp.argmin(jnp.abs(hessian.w_unit))].set(1.0)
    form = _Form(K, gamma, d > 1, in_a, w_unit, other)
    u = form.project(other)
    form = form._replace(u=ratio(u, jnp.linalg.norm(u)))

    # K's part from the samples is positive semidefinite, so that only δ and g can pull below zero.
    lower = _lower_root(jnp.minimum(delta, 0.0), gamma)
    if d > 1:
        x, u, upper = jnp.zeros(order, dtype), form.u, jnp.zeros((), dtype)
        estimate = _lower_root(jnp.maximum(in_a @ size / d + delta, 0.0), gamma)
        shift = lower * (1.0 + 1.0 / 16.0)
    else:
        x = jnp.zeros(order, dtype).at[jnp.argmin(jnp.diagonal(K))].set(1.0)
        upper, x, u = form.rayleigh(x)
        estimate = lower
        shift = lower - jnp.abs(lower) / 16.0 - order * jnp.finfo(dtype).eps * jnp.max(size)
    start = _Bracket(
        lower=lower,
        upper=upper,
        failed=jnp.asarray(jnp.inf, dtype),
        shift=shift,
        estimate=estimate,
        start=jnp.cos(jnp.arange(order, dtype=dtype) ** 2),  # no vector in particular
        x=x,
        u=u,
        converged=_is_closed(lower, upper, rtol),
        count=jnp.zeros((), int),
        rounding=jnp.zeros((), dtype),
    )
    return form, start


def _narrow(form: _Form, state: _Bracket, *, rtol) -> _Bracket:
    """One factorisation, at `state.shift`, what follows from it, and where to try next."""
    factor = jax.lax.linalg.cholesky(form.shifted(state.shift), symmetrize_input=False)
    below = jnp.isfinite(factor[-1, -1])
    lower = jnp.where(below, jnp.maximum(state.lower, state.shift), state.lower)
    failed = jnp.where(below, state.failed, jnp.minimum(state.failed, state.shift))
    upper, x, u, margin = jax.lax.cond(
        below,
        partial(_improve, form, rtol=rtol),
        lambda factor, state: (state.upper, state.x, state.u, 16.0 * (state.upper - state.shift)),
        factor,
        state,
    )
    best = jnp.minimum(upper, failed)
    shift = best - (0.4 * rtol * jnp.abs(best) + margin)
    far = (best < 0) & (lower < 2.0 * best)
    middle = jnp.where(far, -jnp.sqrt(jnp.abs(lower)) * jnp.sqrt(jnp.abs(best)), 0.5 * (lower + best))
    shift = jnp.where(shift > lower, shift, middle)
    shift = jnp.where(failed <= lower, 2.0 * failed, shift)  # rounding refused a factor where one exists
    return state._replace(
        lower=lower,
        upper=upper,
        failed=failed,
        shift=shift,
        estimate=best,
        start=jnp.where(below, x, state.start),
        x=x,
        u=u,
        converged=_is_closed(lower, upper, rtol),
        count=state.count + 1,
    )


def _improve(form: _Form, factor, state: _Bracket, *, rtol):
    """A better vector by Lanczos iteration with a factor LLᵀ = S(σ), and how far below it to try the next shift.

    S(λ) = S(σ) − (λ − σ) M with M = I + γ²/(σλ) P, exactly: so at λ = λ_min the largest eigenvalue of
    (λ − σ) M^½ S(σ)⁻¹ M^½ is 1 and its vector is the one sought, however far from λ_min the shift σ is. Far
    away the iteration is run twice, the second time with what the first found in λ's place.
    """
    far = state.count == 0
    closed = _is_closed(state.shift, state.upper, rtol)
    steps = jnp.where(closed, 1, min(factor.shape[0], _LANCZOS_STEPS))  # one is inverse iteration: a last polish

    def solve(b):
        half = jax.lax.linalg.triangular_solve(factor, b[:, None], left_side=True, lower=True)
        return jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)[:, 0]

    def improve(_, current):
        estimate, _, start, *_ = current
        weight = jnp.sqrt(ratio(form.gamma, estimate) * ratio(form.gamma, state.shift)) if form.has_u else 0.0
        inverse = 1.0 / jnp.sqrt(1.0 + weight**2)

        def root_M(x):  # over its norm, which may be as large as 1/γ
            along = form.project(x)
            return along + inverse * (x - along)

        x = solve(root_M(_lanczos(lambda y: root_M(solve(root_M(y))), root_M(start), steps)))
        x = x / jnp.max(jnp.abs(x))
        x = x / jnp.linalg.norm(x)
        value, x_part, u_part = form.rayleigh(x)
        return value, jnp.abs(value - estimate), x, x_part, u_part

    begin = (state.estimate, jnp.zeros_like(state.upper), state.start, state.x, state.u)
    value, change, _, x, u = jax.lax.fori_loop(0, jnp.where(far & ~closed, 2, 1), improve, begin)
    better = value < state.upper
    upper, x, u = jnp.minimum(value, state.upper), jnp.where(better, x, state.x), jnp.where(better, u, state.u)
    # A factor a hundredth away makes the next iteration converge; one that fails is lost.
    margin = jnp.where(far & (change > 1e-3 * rtol * jnp.abs(upper)), 32.0 * change + 1e-2 * jnp.abs(upper), 0.0)
    return upper, x, u, margin


def _lanczos(operator, start, steps):
    """The vector of the largest Ritz value of a symmetric operator, after so many steps, orthogonalised in full."""
    size, eps = min(start.size, _LANCZOS_STEPS), jnp.finfo(start.dtype).eps

    def step(j, carry):
        basis, T = carry
        image = operator(basis[j])
        T = T.at[j, j].set(image @ basis[j])
        for _ in range(2):
            image = image - (basis @ image) @ basis
        length = jnp.linalg.norm(image)
        # In an invariant subspace nothing but rounding is left: nothing more to find then.
        length = jnp.where(length > 32.0 * eps * T[0, 0], length, 0.0)
        return basis.at[j + 1].set(ratio(image, length), mode="drop"), T.at[j + 1, j].set(length, mode="drop")

    basis = jnp.zeros((size, start.size), start.dtype).at[0].set(start / jnp.linalg.norm(start))
    # The last step's row and column beyond `steps` are left zero, and so are their Ritz values, below all others.
    basis, T = jax.lax.fori_loop(0, steps, step, (basis, jnp.zeros((size, size), start.dtype)))
    T = jnp.where(jnp.arange(size)[:, None] < steps, T, 0.0)
    _, vectors = jax.lax.linalg.eigh(T, lower=True, symmetrize_input=False)[::-1]
    return vectors[:, -1] @ basis


def _is_closed(lower, upper, rtol):
    return upper - lower <= rtol * jnp.maximum(jnp.abs(lower), jnp.abs(upper))


def _lower_root(h, t):
    """(h − sqrt(h² + 4t²))/2, the smaller eigenvalue of [[h, t], [t, 0]], without cancellation."""
    larger = 0.5 * (jnp.abs(h) + _hypot(h, 2.0 * t))
    return jnp.where(h >= 0, -t * ratio(t, larger), -larger)


def _hypot(a, b):
    """sqrt(a² + b²) without overflow; `jnp.hypot` minds infinities too and takes ten times as long to compile."""
    a, b = jnp.abs(a), jnp.abs(b)
    larger = jnp.maximum(a, b)
    return larger * jnp.sqrt(1.0 + ratio(jnp.minimum(a, b), larger) ** 2)
