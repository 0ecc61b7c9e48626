"""The best linear predictor, which every residual unit is measured against: fitted exactly, with the evidence."""

from __future__ import annotations

from jaxtyping import Real, Shaped

from resflow.arrays import Array
from resflow.linear._convex import fit_convex
from resflow.linear._inputs import checked_data, checked_options
from resflow.linear.fit import LinearFit
from resflow.losses import Loss, as_loss

__all__ = ["LinearFit", "fit_linear_predictor"]


def fit_linear_predictor(
    X: Real[Array, "n d"],
    y: Shaped[Array, "n ..."],
    *,
    loss: str | Loss = "logistic",
    max_norm: float | None = None,
    ridge: float = 0.0,
    max_iterations: int = 200,
) -> LinearFit:
    """The W that minimises mean_i ℓ(Wx_i; y_i) + ½ ridge ‖W‖² over ‖W‖ ≤ max_norm, of one output or several.

    How many outputs there are the loss and the labels say: classes for softmax, columns of y for the squared loss, and
    one otherwise. Computed with NumPy in float64, whatever JAX's settings. No intercept is added: append a constant
    column to X for one. X is read in chunks of rows, several times over, and may be a `np.memmap` larger than memory.

    By Newton's method, whose first step solves the squared loss and whose next ones refine that, or by limited-memory
    BFGS in the metric of XᵀX where samples are many. Where columns nearly depend on each other, in coordinates of the
    row space, from a QR factorisation accumulated over the chunks. The norm bound is met exactly, by its multiplier.
    Where the loss does not change when one number is added to all outputs, W is the one whose columns sum to 0, which
    has the least norm.

    For one output the largest arrays made are of shape (d, d) and (n,). For m outputs of any loss but the squared one
    they are of shape (m d, m d) and (n, m), and a step costs about n d² m² / 2 + (m d)³ / 3: meant for m d up to a few
    thousand.

    Args:
        X: Samples as rows, shape (n, d).
        y: Labels, as `as_labels` takes them: numbers, two classes as −1 and +1, 0 and 1 or truth values, several as
            0, ..., m − 1 or one-hot, shape (n,) or (n, m).
        loss: A loss or its name.
        max_norm: Bound on ‖W‖, for several outputs the Frobenius norm; None for none.
        ridge: Coefficient of ½‖W‖², at least 0; per mean loss, not per sum.
        max_iterations: Newton steps at most. If they do not suffice, the fit has not converged, and says so.

    Returns:
        The weights with their mean loss and the evidence of optimality.

    Raises:
        InvalidInputError: If shapes disagree, a value is not finite, the labels do not suit the loss, max_norm or
            ridge is out of range, or if the logistic or softmax loss has no minimiser because the data is linearly
            separable and neither max_norm nor ridge is given.

    References:
        Shamir 2018 (arXiv:1804.06739), section 2: the objective F_lin and its minimum over a ball.
        Albert and Anderson 1984: separation decides whether a logistic or multinomial minimiser exists.

    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> fit = fit_linear_predictor(X, np.array([1.0, 3.0, 5.0]), loss="squared")
    >>> fit.W.round(12), fit.converged
    (array([1., 2.]), True)
    """
    loss = as_loss(loss)
    data, labels, m = checked_data(X, y, loss)
    radius, ridge, max_iterations = checked_options(max_norm, ridge, max_iterations)
    return fit_convex(data, labels, loss, m, radius, ridge, max_iterations)
