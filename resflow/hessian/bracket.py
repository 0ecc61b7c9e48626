"""The smallest eigenvalue of a partial Hessian between a Cholesky factorisation below and a Rayleigh quotient above."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from resflow.floating import hypot, lower_root, ratio
from resflow.hessian.partial_hessian import PartialHessian

__all__ = ["Bracket", "is_closed", "search_bracket"]

_MAX_FACTORIZATIONS = 40
_PATIENCE = 12  # factorisations, before rounding is taken for a reason to stop
_LANCZOS_STEPS = 12  # an output, up to four of them: as many eigenvalues may lie close together


class _Form(NamedTuple):
    """The quadratic form xᵀKx + 2 Σ_j γ_j a_jᵀu_j on (x, u), x = (A, C) by rows, u_j ⟂ Q, as the search needs it.

    Vectors u, and the part of x that they are coupled with, have the shape (m, d) of A.
    """

    K: jax.Array
    gamma: jax.Array  # (m,), descending
    has_u: bool  # false if Q spans everything
    Q: jax.Array  # zero at W = 0, where u may be anything
    u: jax.Array  # some unit vector orthogonal to Q, zero if there is none

    @property
    def lanczos_steps(self) -> int:
        """At most so many between two factorisations."""
        return min(self.K.shape[0], _LANCZOS_STEPS * min(self.u.shape[0], 4))

    def project(self, x):
        """The rows of A without their part in Q's span."""
        m, d = self.u.shape
        A = x[: m * d].reshape(m, d)
        if m == 1:
            return A - (A @ self.Q) @ self.Q.T
        return A @ (jnp.eye(d, dtype=A.dtype) - self.Q @ self.Q.T)  # to more digits, which a tiny R needs

    def shifted(self, sigma):
        """S(σ), definite if and only if σ < 0 lies below every eigenvalue."""
        order, (m, d) = self.K.shape[0], self.u.shape
        S = self.K - sigma * jnp.eye(order, dtype=self.K.dtype)
        if not self.has_u:
            return S
        complement = jnp.eye(d, dtype=S.dtype) - self.Q @ self.Q.T
        blocks = (self.gamma * ratio(self.gamma, sigma))[:, None, None] * complement
        for j in range(m):
            S = S.at[j * d : (j + 1) * d, j * d : (j + 1) * d].add(blocks[j])
        return S

    def rayleigh(self, x):
        """The least Rayleigh quotient on the span of (x, 0) and (0, u), u_j = γ_j Pa_j, and its vector, of norm 1."""
        h = x @ (self.K @ x)
        if not self.has_u:
            return h, x, self.u
        # relative to the largest γ, and of one output without it: squares are taken
        along = ratio(self.gamma, self.gamma[0])[:, None] * self.project(x)
        size = jnp.linalg.norm(along)
        t = self.gamma[0] * size
        value = lower_root(h, t)
        length = hypot(value, t)
        u = jnp.where(size > 0, ratio(along, size), self.u)
        return value, ratio(value, length) * x, jnp.where(length > 0, ratio(t, length), 1.0) * u


class Bracket(NamedTuple):
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
def search_bracket(hessian: PartialHessian, ridge_difference, rtol) -> tuple[Bracket, jax.Array, jax.Array]:
    """The bracket of λ_min − ridge_V of a Hessian, δ = ridge_W − ridge_V added on A, and its direction (A, B)."""
    # One R for its singular values and vectors: XLA may else sum it twice, and where it is all rounding they disagree.
    hessian = jax.lax.optimization_barrier(hessian)
    form, start = _prepare(hessian, jnp.asarray(ridge_difference, hessian.K.dtype), rtol)

    finite, gamma = hessian.finite, form.gamma[0]
    # Vectors of the iteration have entries as large as 1/γ, of which no squares can be taken at either end.
    workable = finite & ((gamma == 0) | (gamma > jnp.finfo(gamma.dtype).tiny ** 0.45))
    in_A = form.u.size

    def rounding(state: Bracket):
        A, C = state.x[:in_A], state.x[in_A:]
        in_K = hessian.K_scale @ state.x**2
        in_R = hessian.R_scale * jnp.sqrt((A @ A) * (C @ C + jnp.sum(state.u**2)))
        return 4.0 * jnp.finfo(form.K.dtype).eps * (in_K + in_R)

    def unfinished(state: Bracket):
        hopeless = (state.count >= _PATIENCE) & (state.upper - state.lower <= rounding(state))
        return workable & ~state.converged & ~hopeless & (state.count < _MAX_FACTORIZATIONS)

    state = jax.lax.while_loop(unfinished, partial(_narrow, form, rtol=rtol), start)
    lower = jnp.where(finite, jnp.minimum(state.lower, state.upper), jnp.nan)
    return state._replace(lower=lower, rounding=rounding(state)), *hessian.direction(state.x, state.u)


def _prepare(hessian: PartialHessian, delta, rtol) -> tuple[_Form, Bracket]:
    """The form, with δ = ridge_W − ridge_V on A, and what is known of λ_min − ridge_V before any factorisation."""
    m, (d, q) = hessian.gamma.shape[0], hessian.Q.shape
    order, dtype = hessian.K.shape[0], hessian.K.dtype
    in_A = (jnp.arange(order) < m * d).astype(dtype)
    size = jnp.abs(jnp.diagonal(hessian.K))
    gamma, has_u = hessian.gamma, q < d
    # The sums over samples are positive semidefinite but for rounding. With this much more they are so again, as
    # they have to be where K is singular: there a shift of λ_min's size is all that a pivot has.
    K = hessian.K + jnp.diag(4.0 * jnp.finfo(dtype).eps * size + delta * in_A)
    Q, u = hessian.Q, jnp.zeros((m, d), dtype)
    if has_u:
        # At W = 0 no direction is W's: u may be any vector of R^d, and then there is no need of C.
        at_zero = hessian.W_norm == 0
        K = jnp.where(at_zero, in_A[:, None] * in_A, 1.0) * K
        Q = jnp.where(at_zero, 0.0, Q)
        seen = jnp.sum(Q**2, axis=1)
        other = -Q @ Q[jnp.argmin(seen)]  # the unit vector that is furthest from Q's span, without its part in it
        other = other.at[jnp.argmin(seen)].add(1.0)
        u = u.at[0].set(ratio(other, jnp.linalg.norm(other)))
    form = _Form(K, gamma, has_u, Q, u)

    # K's part from the samples is positive semidefinite, so that only δ and R can pull below zero.
    lower = lower_root(jnp.minimum(delta, 0.0), gamma[0])
    if has_u:
        x, upper = jnp.zeros(order, dtype), jnp.zeros((), dtype)
        estimate = lower_root(jnp.maximum(in_A @ size / (m * d) + delta, 0.0), gamma[0])
        shift = lower * (1.0 + 1.0 / 16.0)
    else:
        x = jnp.zeros(order, dtype).at[jnp.argmin(jnp.diagonal(K))].set(1.0)
        upper, x, u = form.rayleigh(x)
        estimate = lower
        shift = lower - jnp.abs(lower) / 16.0 - order * jnp.finfo(dtype).eps * jnp.max(size)
    start = Bracket(
        lower=lower,
        upper=upper,
        failed=jnp.asarray(jnp.inf, dtype),
        shift=shift,
        estimate=estimate,
        start=jnp.cos(jnp.arange(order, dtype=dtype) ** 2),  # no vector in particular
        x=x,
        u=u,
        converged=is_closed(lower, upper, rtol),
        count=jnp.zeros((), int),
        rounding=jnp.zeros((), dtype),
    )
    return form, start


def _narrow(form: _Form, state: Bracket, *, rtol) -> Bracket:
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
        converged=is_closed(lower, upper, rtol),
        count=state.count + 1,
    )


def _improve(form: _Form, factor, state: Bracket, *, rtol):
    """A better vector by Lanczos iteration with a factor LLᵀ = S(σ), and how far below it to try the next shift.

    S(λ) = S(σ) − (λ − σ) M with M = I + (1/(σλ)) diag(γ²) ⊗ P, exactly: so at λ = λ_min the largest eigenvalue of
    (λ − σ) M^½ S(σ)⁻¹ M^½ is 1 and its vector is the one sought, however far from λ_min the shift σ is. Far
    away the iteration is run twice, the second time with what the first found in λ's place.
    """
    far = state.count == 0
    closed = is_closed(state.shift, state.upper, rtol)
    steps = jnp.where(closed, 1, form.lanczos_steps)  # one is inverse iteration: a last polish

    solve = partial(jax.scipy.linalg.cho_solve, (factor, True))

    def improve(_, current):
        estimate, _, start, *_ = current
        weight = 1.0 + ratio(form.gamma, estimate) * ratio(form.gamma, state.shift)  # of M, row by row
        inverse = 1.0 / jnp.sqrt(weight[0])

        def root_M(x):  # over its norm, which may be as large as 1/γ
            if not form.has_u:
                return x
            along = form.project(x)
            scaled = jnp.sqrt(weight / weight[0])[:, None] * along - inverse * along
            return (inverse * x).at[: along.size].add(scaled.ravel())

        x = solve(root_M(_lanczos(lambda y: root_M(solve(root_M(y))), root_M(start), steps, form.lanczos_steps)))
        x = x / jnp.max(jnp.abs(x))
        x = x / jnp.linalg.norm(x)
        value, x_part, u_part = form.rayleigh(x)
        return value, jnp.abs(value - estimate), x, x_part, u_part

    begin = (state.estimate, jnp.zeros_like(state.upper), state.start, state.x, state.u)
    value, change, _, x, u = jax.lax.fori_loop(0, jnp.where(far & ~closed, 2, 1), improve, begin)
    # Of quotients that are equal but for rounding the newer one's vector: its residual is the smaller.
    better = value <= state.upper + 8.0 * jnp.finfo(value.dtype).eps * jnp.abs(state.upper)
    upper, x, u = (jnp.where(better, new, old) for new, old in ((value, state.upper), (x, state.x), (u, state.u)))
    # A factor a hundredth away makes the next iteration converge; one that fails is lost.
    margin = jnp.where(far & (change > 1e-3 * rtol * jnp.abs(upper)), 32.0 * change + 1e-2 * jnp.abs(upper), 0.0)
    return upper, x, u, margin


def _lanczos(operator, start, steps, size: int):
    """The vector of the largest Ritz value of a symmetric operator after steps ≤ size steps, orthogonalised in full."""
    eps = jnp.finfo(start.dtype).eps

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


def is_closed(lower, upper, rtol):
    """Whether two bounds differ by no more than the tolerance, relative to the larger."""
    return upper - lower <= rtol * jnp.maximum(jnp.abs(lower), jnp.abs(upper))
