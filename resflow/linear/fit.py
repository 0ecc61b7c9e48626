"""The best linear predictor as a value: its weights, the evidence that it is the best, and how it shows itself."""

from __future__ import annotations

import html
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from resflow.arrays import is_traced
from resflow.numerals import number_text
from resflow.status import Status

__all__ = ["LinearFit"]

_UNSURE = "The linear fit did not converge: no statement about the gap can rest on it."


class LinearFit(NamedTuple):
    """The best linear predictor W and the evidence that it is the best.

    Norms are Euclidean, those of matrices Frobenius.

    Attributes:
        W: Weights, float64, shape (d,) for one output, (m, d) for several; of least norm where the samples do not
            determine them.
        objective: F_lin(W), the mean loss per sample, without the ridge term.
        grad_norm: ‖∇F_lin(W) + ridge · W + multiplier · W‖, the residual of the optimality conditions.
        status: How the fit ended. `Status.CONVERGED` if suboptimality ≤ 1e-12 F_lin(0), by evidence that holds as far
            as the minimum, and grad_norm ≤ 1e-12 sqrt(mean‖x‖² · mean‖ℓ'(0; y)‖²), or what rounding of the predictions
            leaves of it if that is more: how much of a decrease it can hide is then part of suboptimality. Of many
            classes the suboptimality alone decides where it is proven, with all rounding errors counted in: those may
            then be most of it, and 1e-10 F_lin(0) is enough.
        suboptimality: Of many classes (m d > 256, or n (m d)² > 10⁷) with a ridge term, ‖∇F‖² / (2 ridge), which strong
            convexity proves, under a bound that binds the one below, and with neither ½ λ² (1 + R λ), λ the gradient's
            length in a metric from the least probability of each sample, which proves that there is a minimiser, too.
            Otherwise by how much the objective with its ridge term can still fall within ‖W‖ ≤ max_norm: by its
            second-order model at W (half the squared Newton decrement where the bound is inactive, or a bound on it
            from XᵀX where no Hessian was formed) or, if that is less, by the bound ⟨∇F, W⟩ + max_norm ‖∇F‖, which
            convexity proves. Four times what the model says where that is not proven and the tolerance was wider. The
            objective itself where the model does not hold as far as the minimum. Infinite if nothing of that can be
            had.
        multiplier: Of the bound ‖W‖ ≤ max_norm: 0 where it is inactive, infinite for max_norm = 0.
        separable: Logistic and softmax loss only. True: some weights put no sample on the wrong side of another class
            and not all of them on the border, by exact arithmetic, so that without bound or ridge there is no
            minimiser. False: there are none, and a minimiser exists. None: not known. Either the fit did not need to
            know, or a class has no samples, or it could not be decided beyond rounding; in the last case, without
            bound or ridge, the fit has not converged.
        rank: Of X: how many of the d directions the samples determine, in the units of each feature. A direction along
            which columns cancel to within a few units of rounding of their entries, as X's dtype has them, counts as
            undetermined, and W does not use it, unless ℓ' follows what is left of it too closely for rounding: that is
            in `suboptimality`. Where that is proven of all directions, W may use all of them.
        iterations: Newton or quasi-Newton steps.
        max_norm: The bound on ‖W‖ that was asked for, or None.
        ridge: The coefficient of ½‖W‖² that was asked for.
        loss: Name of the loss.
        weighted: Whether samples count differently, by sample_weight or class_weight, so that means over the samples
            are weighted ones.
    """

    W: Float[np.ndarray, "*m d"]
    objective: float
    grad_norm: float
    status: Status
    suboptimality: float
    multiplier: float
    separable: bool | None
    rank: int
    iterations: int
    max_norm: float | None
    ridge: float
    loss: str
    weighted: bool = False

    @property
    def converged(self) -> bool:
        return self.status is Status.CONVERGED

    def __repr__(self) -> str:
        if is_traced(self.W, self.objective):
            return f"LinearFit(W={self.W}, loss={self.loss!r})"
        rows = self._rows()
        width = max(len(name) for name, _ in rows)
        lines = [] if self.converged else [_UNSURE]
        return "\n".join(lines + [f"{name:{width}}  {value}" for name, value in rows])

    def _repr_html_(self) -> str:
        warning = "" if self.converged else f"<p><b>{_UNSURE}</b></p>"
        cells = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in self._rows())
        return f"{warning}<table>{''.join(cells)}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        outputs = f"{len(self.W)} outputs, " if self.W.ndim == 2 else ""
        rows = [
            ("best linear predictor", f"{self.loss} loss, {outputs}{self.W.shape[-1]} features"),
            ("mean training loss", number_text(self.objective, 8)),
            ("at most above the minimum by", number_text(self.suboptimality, 2)),
            ("gradient norm left", number_text(self.grad_norm, 2)),
            ("converged", "yes" if self.converged else f"no. {self.status.sentence}"),
            ("‖W*‖", number_text(float(np.linalg.norm(self.W)), 6)),
            ("iterations", f"{self.iterations}"),
        ]
        if self.max_norm is not None:
            rows += [("max_norm", number_text(self.max_norm, 6)), ("multiplier", number_text(self.multiplier, 6))]
        rows += [("ridge", number_text(self.ridge, 6))] if self.ridge else []
        return [*rows, ("samples", "weighted")] if self.weighted else rows
