"""How far a training is, kept on disk, so that one that was cut off goes on from there, to the same bits."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import zipfile
import zlib
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resflow.errors import InvalidInputError
from resflow.origins import told

__all__ = ["FOLDER", "SECONDS", "Checkpoints", "checkpoints_of"]

FOLDER = "RESFLOW_CHECKPOINTS"
"""The environment variable that names the folder; without it nothing is kept."""

SECONDS = "RESFLOW_CHECKPOINT_SECONDS"
"""That of the seconds between two times that it is written."""

_DEFAULT_SECONDS = 10.0
_SHARE = 20.0  # of the time between two, what it takes to write one is a twentieth at most
_RESUMED = "resumed"
_trainings = count()


def checkpoints_of(settings: Any, *trees: Any) -> Checkpoints | None:
    """Where the next training of this process keeps how far it is; None where the environment names no folder.

    Trainings are told apart by how many came before them in the process, by their settings and by every number that
    they are given or that their functions hold: another one does not go on from there. Whoever names the folder sees to
    it that the same folder means the same code. Nothing is kept of one whose settings cannot be told, as they hold an
    open file, say.

    Args:
        settings: What is no array.
        trees: Pytrees of all arrays that the training is given.

    Raises:
        InvalidInputError: If the environment names something else than a number of seconds.
    """
    folder, number = os.environ.get(FOLDER), next(_trainings)
    if not folder:
        return None
    try:
        seconds = float(os.environ.get(SECONDS, _DEFAULT_SECONDS))
    except ValueError:
        raise InvalidInputError(f"{SECONDS}={os.environ[SECONDS]!r} must be a number of seconds, e.g. 10") from None
    if (contents := told(settings)) is None:
        return None
    structure = jax.tree.structure(trees)
    devices = [device.device_kind for device in jax.devices()]
    shown = f"{number} {jax.__version__} {devices} {structure}"
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", shown).encode() + contents)
    for leaf in jax.tree.leaves(trees):
        array = np.asarray(_numbers(leaf))
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return Checkpoints(Path(folder), digest.hexdigest()[:32], seconds)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _numbers(leaf: Any) -> Any:
    """An array, and of random keys the numbers that they consist of."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(kept: np.ndarray, old: Any) -> jax.Array:
    """The array that was kept, in the type and on the device of what stands in its place."""
    there = jax.device_put(kept.view(_numbers(old).dtype), old.sharding if isinstance(old, jax.Array) else None)
    return jax.random.wrap_key_data(there, impl=jax.random.key_impl(old)) if _is_key(old) else there


class Checkpoints:
    """The file of one training, or of the part of it that a label names.

    Args:
        folder: Where it is, or will be.
        name: Of the training.
        seconds: Between two times that it is written.
        every_end: Whether the end is kept however soon it comes, as that of one of many parts.
    """

    def __init__(self, folder: Path, name: str, seconds: float, *, every_end: bool = False) -> None:
        self._folder, self._name, self._seconds, self._every_end = folder, name, seconds, every_end
        self._path = folder / f"{name}.npz"
        self._began = self._kept = self._asked = time.monotonic()

    def part(self, label: Any, *, of_many: bool) -> Checkpoints:
        """Those of a part of the training."""
        return Checkpoints(self._folder, f"{self._name}-{label}", self._seconds, every_end=of_many)

    def found(self, state: Any) -> tuple[Any, int]:
        """The state that was kept last and the tick before which it was, or that given and 0 if there is none.

        Args:
            state: That before the first tick, whose structure, shapes and devices it has.
        """
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                tick, leaves = int(kept["tick"]), [kept[f"leaf{i}"] for i in range(len(kept.files) - 1)]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return state, 0  # none, or none that can be read
        here, structure = jax.tree.flatten(state)
        if len(here) != len(leaves) or any(_numbers(a).shape != b.shape for a, b in zip(here, leaves, strict=True)):
            return state, 0
        self._tell_resumed(tick)
        return jax.tree.unflatten(structure, map(_like, leaves, here)), tick

    def reached(self, state: Any, tick: int, last: int) -> None:
        """Keep the state before a tick, if it would be too late the next time, or at the end of what took so long."""
        now = time.monotonic()
        next_time, self._asked = now + (now - self._asked), now
        if next_time - self._kept < self._seconds and not (
            tick == last and (self._every_end or now - self._began >= self._seconds)
        ):
            return
        leaves = jax.device_get([_numbers(leaf) for leaf in jax.tree.leaves(state)])
        written = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with written.open("wb") as file:
                np.savez(file, tick=tick, **{f"leaf{i}": leaf for i, leaf in enumerate(leaves)})
            os.replace(written, self._path)
        except OSError:  # a full disk, say: training goes on, with less to go on from
            with contextlib.suppress(OSError):
                written.unlink()
        self._kept = time.monotonic()
        self._seconds = max(self._seconds, _SHARE * (self._kept - now))

    def _tell_resumed(self, tick: int) -> None:
        with contextlib.suppress(OSError), (self._folder / _RESUMED).open("a") as file:
            file.write(f"{tick}\n")
