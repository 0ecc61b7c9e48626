"""How a population is laid out on the devices there are: what was measured, as a rule."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from resflow.losses import Loss
from resflow.parallel import cores, free_memory

__all__ = ["PopulationLayout", "ask_for_cpu_devices", "one_device_per_core", "population_layout"]

_CPU_BYTES = 6 << 20
"""What a chunk may keep for its gradients at each step on a CPU.

On two cores with 2 MB of cache each, chunks of 4 to 5.5 MB were as fast as any smaller ones, chunks of 9 to 11 MB a
quarter slower, and members one by one took up to three times as long.
"""

_CPU_CHUNK = 32  # beyond which nothing was gained
_GPU_CHUNK = 16_384
_CALL = 32  # chunks in one call: enough for the call to cost nothing, few enough to be told of soon


def one_device_per_core() -> int:
    """Ask JAX for one CPU device a core, on which a population trains side by side; returns how many.

    To be called before JAX computes anything. Cores that this process may not use do not count, and OMP_NUM_THREADS,
    where it is set, is a limit: several processes that share a machine set it. The devices that XLA_FLAGS asks for,
    if it does, are left as they are.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return len(jax.devices("cpu"))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    devices = min(cores(), int(limit)) if limit.isdigit() and int(limit) > 0 else cores()
    jax.config.update("jax_num_cpu_devices", devices)
    return devices


def ask_for_cpu_devices(devices: int) -> None:
    """Ask JAX for as many CPU devices as something was computed on before, whatever the cores.

    Where JAX has computed something, or XLA_FLAGS asks for some, all is left as it is.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with suppress(RuntimeError):  # it has computed
            jax.config.update("jax_num_cpu_devices", devices)


@dataclass(frozen=True)
class PopulationLayout:
    """How members are laid out.

    Attributes:
        devices: Where they are trained, each device a share of every block.
        chunk: Members side by side on one device (`vmap`); at 1 the program is that of a single model.
        chunks: Chunks one after another on each device (`lax.map`) in one call of the program.
    """

    devices: tuple[jax.Device, ...]
    chunk: int
    chunks: int

    def told(self) -> tuple[tuple[str, ...], int, int]:
        """The same without devices but for their names, as it can be written down."""
        return tuple(map(str, self.devices)), self.chunk, self.chunks

    @property
    def block(self) -> int:
        """Members in one call of the program."""
        return len(self.devices) * self.chunk * self.chunks


def population_layout(
    dynamic: Any, frozen: Any, static: Any, X: Any, y: Any, *, loss: Loss, batch_size: int | None, exact: bool = False
) -> PopulationLayout:
    """The layout for members of these shapes on the devices of JAX's default backend.

    On a CPU every device (ask JAX for one a core, by `jax_num_cpu_devices`) goes through its members one chunk after
    another, each as wide as the cache allows. On a GPU all members stand side by side, as far as memory goes.

    Args:
        dynamic: The trainable arrays, with an axis of members in front.
        frozen: The model's other arrays, likewise.
        static: What of the model is no array.
        X: Samples, (n, d) or (sets, n, d).
        y: Labels.
        loss: The loss.
        batch_size: Samples a step, or None for all.
        exact: On a CPU, one member at a time on each device.
    """
    devices = tuple(jax.devices())
    m = jax.tree.leaves((dynamic, frozen))[0].shape[0]
    activations, memory = _footprint(dynamic, frozen, static, X, y, loss, batch_size)
    on_cpu = 1 if exact else min(_CPU_CHUNK, _CPU_BYTES // activations)
    widest = on_cpu if devices[0].platform == "cpu" else _GPU_CHUNK
    # The other half of an accelerator's, and the other three quarters of a CPU's, whose devices share it, stay free.
    free = free_memory(devices[0]) // (4 * len(devices) if devices[0].platform == "cpu" else 2)
    widest = max(1, min(widest, free // memory))
    share = -(-m // len(devices))
    # The widest of those that leave the fewest places of the last chunk empty, which takes as long as a full one.
    widths = range(min(widest, share), max(widest // 2, 0), -1)
    chunk = min(widths, key=lambda width: -(-share // width) * width) if share >= widest else share
    rounds = -(-share // chunk)
    calls = -(-rounds // max(1, _CALL // chunk))
    return PopulationLayout(devices, chunk, -(-rounds // calls))


def _footprint(dynamic, frozen, static, X, y, loss, batch_size) -> tuple[int, int]:
    """Bytes that one member keeps for its gradient at each step, and bytes that it takes in all."""

    def one(leaf):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    rows, d = X.shape[-2:]
    leaves, structure = jax.tree.flatten((jax.tree.map(one, (dynamic, frozen)), static))
    of_label = jax.ShapeDtypeStruct(y.shape[X.ndim - 1 :], y.dtype)

    def kept(rows: int) -> int:
        return _kept(tuple(leaves), structure, jax.ShapeDtypeStruct((rows, d), X.dtype), of_label, loss)

    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct))
    samples = rows * (d + 2) * X.dtype.itemsize
    orders = 2 * 4 * rows if batch_size else 0
    activations = kept(batch_size or rows)
    # Twice the activations: forward and backward; a whole data set is measured as well.
    memory = 8 * parameters + samples + orders + 2 * activations + 2 * kept(rows)
    return max(1, activations), memory


@cache
def _kept(leaves: tuple[Any, ...], structure: Any, X: Any, of_label: Any, loss: Loss) -> int:
    """Bytes that a model of these shapes keeps for its gradient: traced once, as tracing takes some milliseconds."""
    (dynamic, frozen), static = jax.tree.unflatten(structure, leaves)

    def backward(dynamic, frozen, X, y):
        def objective(dynamic):
            return jnp.mean(loss.value(eqx.combine(dynamic, frozen, static)(X), y))

        return jax.vjp(objective, dynamic)[1]

    y = jax.ShapeDtypeStruct((X.shape[0], *of_label.shape), of_label.dtype)
    residuals = jax.tree.leaves(jax.eval_shape(backward, dynamic, frozen, X, y))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in residuals)
