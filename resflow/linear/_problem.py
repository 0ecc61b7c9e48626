"""The best linear predictor as a problem in coordinates, and one pass over the samples that evaluates it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from resflow.linear._algebra import Rows, add_gram
from resflow.linear._device import DeviceSamples
from resflow.linear._sums import Blocks, sums
from resflow.linear._terms import loss_terms
from resflow.losses import Loss, Squared

__all__ = ["TOLERANCE", "Evaluation", "Problem", "add_weighted_gram", "evaluate", "weighted_gram"]

TOLERANCE = 1e-12
"""What may be left of both scales of a problem for a claim to rest on the minimiser."""


class Problem(NamedTuple):
    """mean_i c_i ℓ(p_i; y_i) + ½ ridge |z|² over |z| ≤ radius, where p_i = zᵀx_i or, for several outputs, A Z x_i.

    Attributes:
        rows: The x_i, shape (r,) each, in their coordinates.
        y: Labels, shape (n,), or (n, m) for the squared loss of m outputs and for probabilities of m classes.
        loss: ℓ.
        ridge: At least 0.
        radius: Positive, np.inf for none.
        objective_scale: The mean loss at z = 0, which suboptimality is judged by.
        gradient_scale: sqrt(mean |x|² · mean |ℓ'(0; y)|²), which the KKT residual is judged by.
        outputs: A, orthonormal, shape (m, c), where z has the rows of Z, shape (c, r), one after another; None for one
            output, where z has shape (r,).
        weights: c, shape (n,), positive and 1 in the mean; None if all are 1.
        device: The same samples on an accelerator, which then makes the passes over them; None if there is none.
        tolerance: What may be left of both scales where an iteration may end.
    """

    rows: Rows
    y: np.ndarray
    loss: Loss
    ridge: float
    radius: float
    objective_scale: float
    gradient_scale: float
    outputs: np.ndarray | None
    weights: np.ndarray | None = None
    device: DeviceSamples | None = None
    tolerance: float = TOLERANCE

    @property
    def goal(self) -> float:
        """The suboptimality at which an iteration may end."""
        return self.tolerance * self.objective_scale

    @property
    def quadratic(self) -> bool:
        """Whether the Hessian is the same everywhere, and the same for each output: then that one stands for all."""
        return type(self.loss) is Squared

    @property
    def size(self) -> int:
        """How many numbers z has."""
        return self.rows.width * (1 if self.outputs is None else self.outputs.shape[1])

    @property
    def free(self) -> bool:
        """Whether neither ridge nor bound makes sure that there is a minimiser."""
        return self.ridge == 0.0 and math.isinf(self.radius)

    def weighed(self, values: Any, part: slice = slice(None)) -> Any:
        """Values of some samples, each times its weight."""
        if self.device is not None and not isinstance(values, np.ndarray):
            return values if self.device.weights is None else values * self.device.weights
        return self.weighed_columns(values.T, part).T

    def weighed_columns(self, values: np.ndarray, part: slice) -> np.ndarray:
        """The same of values with the samples along the last axis."""
        return values if self.weights is None else values * self.weights[part]

    def every(self, stride: int) -> Problem:
        """The problem of every stride-th sample, not on an accelerator."""
        weights = None if self.weights is None else self.weights[::stride]
        return self._replace(rows=self.rows.every(stride), y=self.y[::stride], weights=weights, device=None)

    def within(self, basis: np.ndarray) -> Problem:
        """The problem in coordinates of a basis of the rows; without an accelerator whose memory has no room for it."""
        device = None if self.device is None else self.device.within(basis)
        return self._replace(rows=self.rows.within(basis), device=device)

    def times(self, z: np.ndarray) -> Any:
        """The predictions at z, without any product of the outputs' basis; where the samples are."""
        matrix = self.matrix(z)
        return self.rows.times(matrix) if self.device is None else self.device.times(matrix)

    def matrix(self, z: np.ndarray) -> np.ndarray:
        """What multiplies the rows from the right to give predictions: shape (r,), or (r, m) for several outputs."""
        return z if self.outputs is None else (self.outputs @ z.reshape(self.outputs.shape[1], -1)).T

    def flat(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient in z of what has this gradient in `matrix(z)`."""
        return gradient if self.outputs is None else (gradient @ self.outputs).T.ravel()


class Evaluation(NamedTuple):
    """One pass over the samples at z. `hessian` is None if it was not asked for; only its lower triangle is filled.

    What there is of each sample, predictions and ℓ'', is where the samples are.
    """

    objective: float
    gradient: np.ndarray
    hessian: np.ndarray | None
    predictions: Any
    curvatures: Any  # ℓ'' of each sample, empty for several outputs


def evaluate(problem: Problem, z: np.ndarray, *, hessian: bool) -> Evaluation:
    """Mean loss, its gradient and, if asked for, its Hessian at z, in one pass over the rows."""
    if problem.device is not None and problem.outputs is None:
        return Evaluation(*problem.device.evaluate(problem.loss, z, hessian=hessian))
    rows, y, n, one = problem.rows, problem.y, problem.rows.n, problem.outputs is None
    matrix = problem.matrix(z)
    order = rows.width if problem.quadratic else problem.size
    H = np.zeros((order, order), order="F") if hessian else None
    gradient, totals = np.zeros(matrix.shape), []
    predictions, curvatures = np.empty((n, *matrix.shape[1:])), np.empty(n if one else 0)
    for part, block in rows.blocks():
        p = np.matmul(block, matrix, out=predictions[part])
        value, slope, curvature = loss_terms(problem.loss, p, y[part], curved=one or hessian)
        totals.append(float(np.sum(problem.weighed(value, part))))
        gradient += block.T @ problem.weighed(slope, part)
        if one:
            curvatures[part] = curvature
        if H is not None and problem.quadratic:
            add_weighted_gram(H, block, problem, part)
        elif H is not None:
            _add_hessian(H, problem, block, problem.weighed(curvature, part))
    H = None if H is None else H / n
    return Evaluation(math.fsum(totals) / n, problem.flat(gradient) / n, H, predictions, curvatures)


def add_weighted_gram(H: np.ndarray, block: np.ndarray, problem: Problem, part: slice) -> None:
    """H += Σ_i c_i x_i x_iᵀ over the samples of a block, in place."""
    add_gram(H, block if problem.weights is None else block * np.sqrt(problem.weights[part])[:, None])


def weighted_gram(problem: Problem, counted: Callable[[slice, np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """Σ_i c_i x_i x_iᵀ, shape (r, r); each term times what `counted` makes of its block, if that is given."""
    if problem.device is not None and counted is None:
        return problem.device.weighted_gram()
    order = problem.rows.width

    def of_group(blocks: Blocks) -> list[Any]:
        gram = np.zeros((order, order), order="F")
        for part, block in blocks:
            if counted is None:
                add_weighted_gram(gram, block, problem, part)
            else:
                add_gram(gram, block * np.sqrt(problem.weighed(counted(part, block), part))[:, None])
        return [gram]

    (gram,) = sums(problem.rows, of_group, outputs=order, size=order**2)
    return gram


def _add_hessian(H: np.ndarray, problem: Problem, block: np.ndarray, curvature: np.ndarray) -> None:
    if problem.outputs is None:
        add_gram(H, block * np.sqrt(curvature)[:, None])
        return
    n, r = block.shape
    curvature = problem.outputs.T @ curvature @ problem.outputs
    for i in range(curvature.shape[1]):
        weighted = (curvature[:, i, : i + 1, None] * block[:, None, :]).reshape(n, -1)
        H[i * r : (i + 1) * r, : (i + 1) * r] += block.T @ weighted
