"""Linear algebra of the best linear predictor: rows in chunks, their row space, and quadratics over a ball."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_solve, lapack, solve_triangular

_CHUNK_VALUES = 1 << 19
KEEP_VALUES = 1 << 25
_MOST_MULTIPLIERS = 100
EPS = float(np.finfo(np.float64).eps)
EPS_SINGLE = float(np.finfo(np.float32).eps)
WELL_CONDITIONED = 1e-11


class Rows:
    """The rows of X, or of X B for a basis B of shape (d, r), as float64 in chunks that fit the cache.

    X may be a np.memmap of any real dtype: no more than one chunk of it is copied at a time. Only X B is kept
    whole where it is small (256 MiB). An array on an accelerator comes over whole when a row is first asked for.
    `places` says which rows of X they are, None for all.
    """

    def __init__(self, X: Any, basis: np.ndarray | None = None, places: np.ndarray | None = None) -> None:
        self.n, self.d = len(X) if places is None else len(places), X.shape[1]
        self.basis, self.places = basis, places
        self.width = self.d if basis is None else basis.shape[1]
        self._X, self._factor = X, basis
        if basis is not None and self.n * self.width <= KEEP_VALUES:
            self._X, self._factor = np.concatenate([block for _, block in self.blocks()]), None
            self.places = None

    @property
    def dtype(self) -> np.dtype:
        """Of X as it was given."""
        return self._X.dtype

    @property
    def X(self) -> Any:
        """As it was given, of which `places` may be a part; with a basis not of use."""
        return self._X

    def _here(self) -> np.ndarray:
        self._X = np.asarray(self._X)
        return self._X

    def within(self, basis: np.ndarray) -> Rows:
        """The rows in coordinates of a basis."""
        return Rows(self._X, basis, self.places)

    def every(self, stride: int) -> Rows:
        """Every stride-th row, in the same coordinates."""
        if self.places is not None:
            return self._of(self._here(), self.places[::stride])
        return self._of(self._here()[::stride], None)

    def take(self, chosen: np.ndarray) -> Rows:
        """The rows of these numbers, which may recur, in the same coordinates."""
        return self._of(self._here(), chosen if self.places is None else self.places[chosen])

    def _of(self, X: np.ndarray, places: np.ndarray | None) -> Rows:
        part = Rows(X, None, places)
        part.d, part.basis, part.width, part._factor = self.d, self.basis, self.width, self._factor
        return part

    def blocks(self, chunk: int | None = None, among: slice | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Which rows, all or those among some, and the rows themselves; the caller must not write into them."""
        X, size = self._here(), chunk or max(_CHUNK_VALUES // self.d, 2 * self.d)
        first, last = (0, self.n) if among is None else (among.start, among.stop)
        for start in range(first, last, size):
            rows = slice(start, min(start + size, last))
            block = np.ascontiguousarray(X[rows if self.places is None else self.places[rows]], dtype=np.float64)
            yield rows, block if self._factor is None else block @ self._factor

    def times(self, z: np.ndarray) -> np.ndarray:
        """The products of all rows with z, of shape (r,) or (r, c): shape (n,) or (n, c)."""
        products = np.empty((self.n, *z.shape[1:]))
        for rows, block in self.blocks():
            np.matmul(block, z, out=products[rows])
        return products


def add_gram(H: np.ndarray, block: np.ndarray) -> None:
    """H += blockᵀ block in place.

    By NumPy, like every product with the rows: SciPy has a BLAS with threads of its own, and where the two libraries
    alternate, the threads of one spin while the other works (ten times slower on two cores).
    """
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the sums, and names the column
        H += block.T @ block


def reciprocal_condition(H: np.ndarray) -> float:
    """LAPACK's estimate of 1/κ₁ of H scaled to a unit diagonal, empty coordinates left out; 0 if it is singular."""
    diagonal = np.diag(H)
    live = np.flatnonzero(diagonal > 0)
    if live.size == 0:
        return 0.0
    scale = np.sqrt(diagonal[live])
    scaled = np.asfortranarray(H[np.ix_(live, live)] / scale / scale[:, None])
    lower = np.tril(scaled, -1)
    norm = float(np.max(np.abs(lower).sum(axis=0) + np.abs(lower).sum(axis=1))) + 1.0
    L, failed = lapack.dpotrf(scaled, lower=1, clean=0)
    return 0.0 if failed else float(lapack.dpocon(L, norm, uplo="L")[0])


def triangular_factor(rows: Rows) -> np.ndarray:
    """R of the QR factorisation of X, by QR of R on top of each chunk of rows, shape (≤ r, r).

    That is backward stable, unlike XᵀX, which would square the condition number of the features.
    """
    R = np.empty((0, rows.width))
    for _, block in rows.blocks(max(_CHUNK_VALUES // rows.width, 8 * rows.width)):
        R = np.asarray(np.linalg.qr(np.vstack([R, block]), mode="r"))
    return R


class RowSpace(NamedTuple):
    """The row space of X, and what rounding leaves open about it.

    Attributes:
        basis: Orthonormal, shape (d, r). A column of X that no other depends on keeps its own unit vector.
        orthonormal: An orthonormal basis in which XᵀX is diagonal. In it lengths are those of w, but a column 1e16
            times shorter than another drowns.
        unitless: A basis that knows no units, in which XᵀX is diagonal, with the singular values of X with its columns
            scaled to length 1, which decide the rank. w = unitless z is the least of all w with the same predictions.
        cut: Directions that X determines within the rounding of its own entries only, shape (d, c).
    """

    basis: np.ndarray
    orthonormal: np.ndarray
    unitless: np.ndarray
    cut: np.ndarray


def undetermined_below(dtype: np.dtype, d: int) -> float:
    """Relative to the largest, singular values of X, columns of length 1, that rounding of entries of less than
    float64 can make of 0: each entry is off by half a unit at most, or by a few if it was computed so. 0 for float64,
    where the rounding of the factorisation itself decides. Half precision is taken for float32, for its units are so
    coarse that hardly a direction would be left.
    """
    short = dtype.kind not in "biu" and dtype.itemsize < 8
    return 4.0 * EPS_SINGLE * math.sqrt(d) if short else 0.0


def row_space(R: np.ndarray, n: int, *, below: float = 0.0) -> RowSpace:
    """The row space of X, of n rows, from its triangular factor R.

    A direction counts as undetermined where X, its columns scaled to length 1, maps it to no more than a few units of
    rounding: what columns that depend on each other leave of it, after each entry was rounded and each chunk of rows
    merged into R, and no more than `below` of the largest. Neither the unit of a feature nor the number of samples has
    a say in it.
    """
    d = R.shape[1]
    norms = np.linalg.norm(R, axis=0)
    live = np.flatnonzero(norms)
    _, scaled, Vt = np.linalg.svd(R[:, live] / norms[live], full_matrices=True)
    merges = n * (d + 1) / _CHUNK_VALUES
    rank = int(np.count_nonzero(scaled > scaled[0] * max(16.0 * EPS * math.sqrt(d + merges), below)))
    basis, unitless, cut = np.zeros((d, rank)), np.zeros((d, rank)), np.zeros((d, live.size - rank))
    unitless[live] = Vt[:rank].T / norms[live, None]
    if rank == live.size:
        basis[live] = np.eye(rank)
    else:
        kernel = Vt[rank:].T
        cut[live] = kernel / norms[live, None]
        cut /= np.linalg.norm(cut, axis=0)
        # Rounding in the entries of columns that take no part would be most of the kernel if these are short.
        kernel = np.where(np.abs(kernel) > 64.0 * EPS * math.sqrt(d), kernel, 0.0) / norms[live, None]
        complete, _ = np.linalg.qr(kernel / np.linalg.norm(kernel, axis=0), mode="complete")
        basis[live] = complete[:, live.size - rank :]
        unitless = basis @ (basis.T @ unitless)  # nothing in the kernel: least norm
    _, _, Wt = np.linalg.svd(R @ basis, full_matrices=False)
    return RowSpace(basis, basis @ Wt.T, unitless, cut)


class BallStep(NamedTuple):
    """The minimiser of g·s + ½ s·Hs over |z + s| ≤ radius.

    Attributes:
        step: s, shape (r,).
        multiplier: μ ≥ 0 with (H + μ) s = −(g + μ z); 0 where the ball does not bind.
        decrease: −(g·s + ½ s·Hs), by how much the quadratic falls; half the squared Newton decrement if μ = 0.
        slope: g·s, negative unless s = 0.
        exact: False if H was too near to singular and had to be lifted for a factorisation to exist.
    """

    step: np.ndarray
    multiplier: float
    decrease: float
    slope: float
    exact: bool


Solver = Callable[[float], tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], float], bool]]
"""Of a multiplier μ: x ↦ (H+μ)⁻¹x, x ↦ xᵀ(H+μ)⁻¹x, and whether H was left as it is."""


def cholesky_solver(H: np.ndarray) -> Solver:
    """Solver of H + μ by Cholesky, of which only H's lower triangle is read; of several vectors one after another too.

    Cholesky's error does not depend on the units of the coordinates, unlike that of an eigendecomposition: columns of
    very different size need no scaling first. A coordinate that no sample touches (a zero on the diagonal) stays put.
    """
    live = np.where(np.diag(H) > 0, np.diag(H), 1.0)

    def solver(multiplier: float):
        lift = 0.0
        while True:
            A = np.array(H, order="F")
            np.fill_diagonal(A, live * (1.0 + lift) + multiplier)
            L, failed = lapack.dpotrf(A, lower=1, clean=0, overwrite_a=1)
            if not failed and np.isfinite(np.diag(L)).all():
                break
            if lift > live.size:  # then any finite H has a factor
                return lambda x: np.full_like(x, np.nan), lambda x: math.nan, False
            lift = max(100.0 * lift, 8.0 * live.size * EPS)

        def quadratic(x: np.ndarray) -> float:
            return float(np.sum(solve_triangular(L, x.reshape(-1, len(H)).T, lower=True, check_finite=False) ** 2))

        def solve(x: np.ndarray) -> np.ndarray:
            return cho_solve((L, True), x.reshape(-1, len(H)).T, check_finite=False).T.ravel()

        return solve, quadratic, lift == 0.0

    return solver


def ball_step(solver: Solver, g: np.ndarray, z: np.ndarray, radius: float, *, start: float = 0.0) -> BallStep:
    """Minimise g·s + ½ s·Hs over |z + s| ≤ radius, |z| ≤ radius, H positive definite.

    |z + s(μ)| = radius is solved for μ by Newton's method on 1/radius − 1/|z + s(μ)|, which converges from the left
    without a safeguard, since that function is convex there (Hebden 1973; Moré and Sorensen 1983). What rounding does
    to it where the sizes of coordinates differ by many orders of magnitude is kept between two bounds, the steps being
    halvings of log μ at worst. It starts from a guess of μ.
    """
    multiplier, low, high = start, 0.0, math.inf
    for _ in range(_MOST_MULTIPLIERS):
        solve, quadratic, exact = solver(multiplier)
        residual = g + multiplier * z
        step = solve(-residual)
        point = z + step
        length = float(np.linalg.norm(point))
        excess = length - radius
        if (excess <= 0.0 and multiplier == 0.0) or abs(excess) <= 4.0 * EPS * radius or not math.isfinite(length):
            break
        if excess > 0.0:
            low = max(low, multiplier)
        else:
            high = min(high, multiplier)
        # a guess from the right may be thrown below 0, or below a multiplier known to be too small
        newton = max(multiplier + excess / radius / quadratic(point / length), low)
        if newton >= high:
            newton = math.sqrt(low) * math.sqrt(high) if low > 0.0 else 1e-3 * high
        if not math.isfinite(newton) or abs(newton - multiplier) <= 4.0 * EPS * multiplier:
            break
        multiplier = newton
    if not math.isfinite(length):
        return BallStep(np.zeros_like(z), multiplier, math.inf, 0.0, False)
    # On the sphere g is nearly parallel to z, and z nearly orthogonal to s: g·s would cancel, so it is pieced together
    # from g + μz, which is small where s is, and from z·s = ½(|z + s|² − |z|² − |s|²).
    energy = max(0.0, -float(residual @ step))
    squared = float(z @ z)
    inside = radius**2 - squared if math.isfinite(radius) and squared < radius**2 * (1.0 - 16.0 * EPS) else 0.0
    decrease = 0.5 * energy + 0.5 * multiplier * inside if multiplier else 0.5 * energy
    slope = -energy - 0.5 * multiplier * (inside - float(step @ step)) if multiplier else -energy
    return BallStep(step, multiplier, decrease, slope, exact)
