"""The tangent of a torch module: products with its Jacobian by torch.func, least squares by SciPy's LSMR."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, lsmr

from resflow.errors import InvalidInputError
from resflow.models.modes import in_training_mode

__all__ = ["TorchTangent"]


@contextmanager
def _differentiable(torch: Any) -> Iterator[None]:
    """Attention by operations that can be differentiated twice, as its fused ones cannot."""
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)


class TorchTangent:
    """Of a module in evaluation mode; the parameters that ask for a gradient move, all else stays as it is.

    The module is left alone: everything is computed with copies in float64, on its own device.

    Attributes:
        predictions: p_i, shape (n,) or (n, m), float64.
    """

    def __init__(self, module: Any, X: Any, *, centred: bool) -> None:
        """Copy parameters and samples in float64.

        Raises:
            InvalidInputError: If the module is in training mode, or none of its parameters asks for a gradient.
        """
        import torch

        training = next((name for name, each in module.named_modules() if each.training), None)
        if training is not None:
            raise in_training_mode(training)
        moving = {name: each.detach() for name, each in module.named_parameters() if each.requires_grad}
        if not moving:
            raise InvalidInputError("the module has no parameters that ask for a gradient (requires_grad)")

        def double(tensor: Any) -> Any:
            return tensor.detach().double() if tensor.is_floating_point() else tensor

        self._parameters = {name: double(each) for name, each in moving.items()}
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        fixed = {name: double(each) for name, each in state.items() if name not in moving}
        device = next(iter(moving.values())).device
        samples = double(X if isinstance(X, torch.Tensor) else torch.as_tensor(np.array(X))).to(device)
        if not (samples.is_floating_point() or any(isinstance(each, torch.nn.Embedding) for each in module.modules())):
            samples = samples.double()

        def predict(parameters: dict[str, Any]) -> Any:
            with _differentiable(torch):
                p = torch.func.functional_call(module, {**fixed, **parameters}, (samples,))
            return p - p.mean(dim=1, keepdim=True) if centred and p.ndim == 2 else p

        self._torch, self._device = torch, device
        found, self._pull = torch.func.vjp(predict, self._parameters)
        # Jᵀv is linear in v, so that pulling back through it is J: forward-mode derivatives are not needed
        _, self._push = torch.func.vjp(lambda v: torch.func.vjp(predict, self._parameters)[1](v)[0], found.detach())
        self.predictions = found.detach().cpu().numpy()

    def along(self, direction: np.ndarray) -> np.ndarray:
        """Jβ."""
        tangents = {name: self._tensor(each) for name, each in self.structured(direction).items()}
        (moved,) = self._push(tangents)
        return moved.detach().cpu().numpy()

    def pulled(self, weights: np.ndarray) -> np.ndarray:
        """Jᵀv."""
        (gradients,) = self._pull(self._tensor(weights.reshape(self.predictions.shape)))
        return np.concatenate([gradients[name].detach().cpu().numpy().ravel() for name in self._parameters])

    def least_squares(self, target: np.ndarray, damping: float, steps: int, tolerance: float) -> tuple[np.ndarray, int]:
        """The least-squares solution by SciPy's LSMR."""
        shape = target.size, sum(each.numel() for each in self._parameters.values())
        J = LinearOperator(
            shape, matvec=lambda b: self.along(b.ravel()).ravel(), rmatvec=lambda v: self.pulled(v), dtype=np.float64
        )
        direction, _, taken, *_ = lsmr(
            J, target.ravel(), damp=damping, atol=tolerance, btol=0.0, conlim=0.0, maxiter=steps
        )
        return direction, int(taken)

    def structured(self, direction: np.ndarray) -> dict[str, np.ndarray]:
        """The parts of a vector by the parameters' names."""
        sizes = np.cumsum([each.numel() for each in self._parameters.values()])[:-1]
        parts = zip(self._parameters.items(), np.split(direction, sizes), strict=True)
        return {name: part.reshape(tuple(each.shape)) for (name, each), part in parts}

    def _tensor(self, array: np.ndarray) -> Any:
        return self._torch.as_tensor(array, dtype=self._torch.float64, device=self._device)
