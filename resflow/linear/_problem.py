"""The best linear predictor as a problem in coordinates, and one pass over the samples that evaluates it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from resflow.linear._algebra import Rows, add_gram
from resflow.losses import Logistic, Loss, Softmax, Squared

__all__ = ["Evaluation", "Problem", "add_weighted_gram", "evaluate", "loss_terms", "softmax_columns"]


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

    def weighed(self, values: np.ndarray, part: slice = slice(None)) -> np.ndarray:
        """Values of some samples, each times its weight."""
        return values if self.weights is None else (values.T * self.weights[part]).T

    def matrix(self, z: np.ndarray) -> np.ndarray:
        """What multiplies the rows from the right to give predictions: shape (r,), or (r, m) for several outputs."""
        return z if self.outputs is None else (self.outputs @ z.reshape(self.outputs.shape[1], -1)).T

    def flat(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient in z of what has this gradient in `matrix(z)`."""
        return gradient if self.outputs is None else (gradient @ self.outputs).T.ravel()


class Evaluation(NamedTuple):
    """One pass over the samples at z. `hessian` is None if it was not asked for; only its lower triangle is filled."""

    objective: float
    gradient: np.ndarray
    hessian: np.ndarray | None
    predictions: np.ndarray
    curvatures: np.ndarray  # ℓ'' of each sample, empty for several outputs


def evaluate(problem: Problem, z: np.ndarray, *, hessian: bool) -> Evaluation:
    """Mean loss, its gradient and, if asked for, its Hessian at z, in one pass over the rows."""
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


def _add_hessian(H: np.ndarray, problem: Problem, block: np.ndarray, curvature: np.ndarray) -> None:
    if problem.outputs is None:
        add_gram(H, block * np.sqrt(curvature)[:, None])
        return
    n, r = block.shape
    curvature = problem.outputs.T @ curvature @ problem.outputs
    for i in range(curvature.shape[1]):
        weighted = (curvature[:, i, : i + 1, None] * block[:, None, :]).reshape(n, -1)
        H[i * r : (i + 1) * r, : (i + 1) * r] += block.T @ weighted


def loss_terms(
    loss: Loss, p: np.ndarray, y: np.ndarray, *, curved: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ℓ, ℓ' and, if it is asked for, ℓ'' at once; the logistic and softmax losses share one exponential among
    them.

    These two take probabilities for labels, too: ℓ is then the mean over the labels. Two classes as −1 and +1 have the
    mean label y, and several a row of probabilities.
    """
    if type(loss) is Softmax and (y.ndim == 2 or not curved):
        value, slope = softmax_columns(p.T.copy(), y)
        return value, slope.T, loss.second_derivative(p, y) if curved else np.empty(0)
    if type(loss) is not Logistic:
        return loss.value(p, y), loss.derivative(p, y), loss.second_derivative(p, y) if curved else np.empty(0)
    size, sign = np.abs(p), np.where(p >= 0.0, 1.0, -1.0)
    tail = np.exp(-size)
    sigmoid = 1.0 / (1.0 + tail)
    # how much of the label is on the side where p is not, and where it is
    against, along = 0.5 * (1.0 - sign * y), 0.5 * (1.0 + sign * y)
    slope = sign * (against - along * tail) * sigmoid
    return against * size + np.log1p(tail), slope, tail * sigmoid * sigmoid


def softmax_columns(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ℓ and ℓ' of the softmax loss of predictions as columns, which are overwritten: few rows are fast to add up.

    Relative to p_y nothing cancels: a loss or an ℓ' of 1e-300 keeps its digits.
    """
    if y.ndim == 2:
        p -= p.max(axis=0)
        sigma = np.exp(p)
        sums = sigma.sum(axis=0)
        return np.einsum("ij,ji->j", np.log(sums) - p, y), sigma / sums - y.T
    own = y, np.arange(len(y))
    p -= p[own]
    p[own] = -np.inf
    top = np.maximum(p.max(axis=0), 0.0)
    np.exp(np.subtract(p, top, out=p), out=p)
    sums, one = p.sum(axis=0), np.exp(-top)
    value = np.where(top > 0.0, top + np.log(sums + one), np.log1p(sums))
    p[own] = -sums
    p /= sums + one
    return value, p
