"""λ_min of a torch network in all of its parameters: products with the Hessian by torch, the iteration by JAX."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resflow.arrays import as_numpy, in_full_precision
from resflow.errors import InvalidInputError
from resflow.hessian.lanczos import most_products, smallest_operator_eigenvalue
from resflow.losses import Loss
from resflow.probing.curvature import STEPS, Curvature, curvature_of
from resflow.probing.stream import Head
from resflow.progress import Progress, reported

__all__ = ["torch_curvature"]

_ASYMMETRY = 1e-9
"""What rounding in float64 leaves of products with a Hessian of any size is far below."""


@in_full_precision
def torch_curvature(
    torch: Any,
    net: Any,
    scores: Callable[[Callable[[Any], Any], Any], Any],
    batches: list[Any],
    y: np.ndarray,
    head: Head,
    loss: Loss,
    max_restarts: int,
    progress: bool | Progress,
) -> Curvature:
    """λ_min of the Hessian of the mean loss in all parameters that ask for a gradient, in float64.

    The network is left alone: everything is computed with copies, on its own device, batch by batch.

    Args:
        torch: The framework.
        net: The module, in evaluation mode.
        scores: Of a function that calls the network and of samples, what the head gives.
        batches: The training samples, as the network takes them.
        y: Their labels, as the loss takes them.
        head: The head, for the shape of predictions.
        loss: The loss.
        max_restarts: Of the iteration.
        progress: As of `smallest_hessian_eigenvalue`.

    Raises:
        InvalidInputError: If no parameter asks for a gradient.
    """
    moving = {name: each for name, each in net.named_parameters() if each.requires_grad}
    if not moving:
        raise InvalidInputError("the network has no parameters that ask for a gradient (requires_grad)")
    start = {name: _double(each.detach()) for name, each in moving.items()}
    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    fixed = {name: _double(each.detach()) for name, each in state.items() if name not in moving}
    device, n = next(iter(start.values())).device, len(y)
    sizes = [each.numel() for each in start.values()]
    parts: list[tuple[Any, np.ndarray]] = []
    for X in batches:
        at = sum(len(labels) for _, labels in parts)
        parts.append((_double(X), y[at : at + len(X)]))

    def predictions(parameters: dict[str, Any], X: Any) -> Any:
        p = scores(lambda X: torch.func.functional_call(net, {**fixed, **parameters}, (X,)), X)
        return p.reshape(len(p)) if head.W.ndim == 1 else p

    def in_torch(array: Any) -> Any:
        return torch.as_tensor(np.array(array, dtype=np.float64), device=device)

    def split(vector: Any) -> list[Any]:
        pieces = torch.split(in_torch(vector), sizes)
        return [piece.reshape(each.shape) for piece, each in zip(pieces, start.values(), strict=True)]

    def flat(tensors: Any) -> np.ndarray:
        return torch.cat([each.reshape(-1) for each in tensors]).detach().cpu().numpy()

    def summed(vector: Any = None) -> np.ndarray:
        """Hv, or the gradient where there is no v: with p and u = Jv, Σ_i of Jᵀℓ'', u and of ℓ'_i times p's own."""
        total = np.zeros(sum(sizes))
        with torch.enable_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            for X, labels in parts:
                own = {name: each.clone().requires_grad_() for name, each in start.items()}
                p, leaves = predictions(own, X), list(own.values())
                values = p.detach().cpu().numpy()
                slopes = in_torch(loss.derivative(values, labels)).requires_grad_()
                options = {"allow_unused": True, "materialize_grads": True}
                slope = torch.autograd.grad(p, leaves, slopes, create_graph=vector is not None, **options)
                if vector is None:
                    total += flat(slope)
                    continue
                inner = sum((g * v).sum() for g, v in zip(slope, split(vector), strict=True))
                *second, moved = torch.autograd.grad(inner, [*leaves, slopes], retain_graph=True, **options)
                curved = loss.curved(values, labels, moved.detach().cpu().numpy())
                first = torch.autograd.grad(p, leaves, in_torch(curved), **options)
                total += flat(first) + flat(second)
        return total / n

    def product_of_bits(bits: Any) -> np.ndarray:
        """Hv, float64 as pairs of whole numbers: a callback's thread would round it to JAX's default precision."""
        if tell is not None:
            tell(next(done))
        return summed(np.array(bits).view(np.float64)[:, 0])[:, None].view(np.uint32)

    def level(t: float, direction: list[Any]) -> float:
        moved = {name: each + t * v for (name, each), v in zip(start.items(), direction, strict=True)}
        with torch.no_grad():
            values = [loss.value(predictions(moved, X).cpu().numpy(), labels).sum() for X, labels in parts]
        return float(np.sum(values)) / n

    def along(direction: list[Any]) -> np.ndarray:
        return np.array([level(t, direction) for t in (0.0, *STEPS)])

    gradient = summed()
    _check_symmetric(summed, sum(sizes))  # here, so that a network without second derivatives says so itself
    with jax.enable_x64(True):
        like = jnp.zeros(sum(sizes))
        halves = jax.ShapeDtypeStruct((sum(sizes), 2), jnp.uint32)

        @jax.jit
        def smallest() -> Any:
            def product(v: jax.Array) -> jax.Array:
                bits = jax.lax.bitcast_convert_type(v, jnp.uint32)
                bits = jax.pure_callback(product_of_bits, halves, bits, vmap_method="sequential")
                return jax.lax.bitcast_convert_type(bits, jnp.float64)

            return smallest_operator_eigenvalue(product, like, key=jax.random.key(0), max_restarts=max_restarts)

        done = count(1)
        with reported(progress, most_products(len(like), like.dtype, max_restarts), "product") as tell:
            found = as_numpy(jax.block_until_ready(smallest()))
    direction, grad_norm = split(found.direction), float(np.linalg.norm(gradient))
    return curvature_of(
        found,
        of="network",
        direction={name: v.cpu().numpy() for name, v in zip(start, direction, strict=True)},
        parameters=sum(sizes),
        grad_norm=grad_norm,
        levels=along(direction),
        downhill=along(split(-gradient / max(grad_norm, np.finfo(float).tiny))),
    )


def _check_symmetric(product: Callable[[np.ndarray], np.ndarray], size: int) -> None:
    """Check that u·Hv is v·Hu: not all that torch differentiates twice is differentiated right."""
    u, v = np.random.default_rng(0).standard_normal((2, size))
    Hu, Hv = product(u), product(v)
    apart, scale = abs(u @ Hv - v @ Hu), np.linalg.norm(u) * np.linalg.norm(Hv) + np.linalg.norm(v) * np.linalg.norm(Hu)
    if apart > _ASYMMETRY * scale:
        raise InvalidInputError(
            f"torch's second derivatives of the network are not symmetric (by {apart / scale:.1g} of their size), as "
            "of weight_norm: remove such a parametrization (torch.nn.utils.parametrize.remove_parametrizations)"
        )


def _double(tensor: Any) -> Any:
    return tensor.double() if tensor.is_floating_point() else tensor
