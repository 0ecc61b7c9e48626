"""Programs as they were traced in an earlier process, kept so that a later one need not trace them again.

Where the environment variable RESFLOW_PROGRAMS names a folder, a program that was traced and lowered is written there
as StableHLO, by `jax.export`, under a digest of everything that it depends on: the function, the code that it is traced
through, JAX's settings, the structure, shapes and precisions of its arguments, and whatever of them is no array. JAX's
own cache spares compiling alone, as it finds a program by its lowered text.

Kept are programs for one CPU device, of code of this package and of those that it is built on.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import update_wrapper
from importlib.util import find_spec
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple

import equinox as eqx
import jax

from resflow.arrays import is_traced
from resflow.origins import described, pickled, sources

__all__ = ["FOLDER", "exported"]

FOLDER = "RESFLOW_PROGRAMS"
"""The environment variable that names the folder."""


def exported(
    function: Callable[..., Any],
    *,
    static: Sequence[str] = (),
    arrays_only: bool = False,
    compiler_options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """The function as a compiled program, which is looked up in the folder of programs, if there is one.

    Args:
        function: A function of pytrees, to a pytree of arrays.
        static: Names of arguments that are part of the program, as of `jax.jit`.
        arrays_only: As `equinox.filter_jit` does it: whatever is no array is part of the program, numbers included.
        compiler_options: Options of XLA.
    """
    if arrays_only:
        plain = eqx.filter_jit(function)
    else:
        plain = jax.jit(function, static_argnames=static, compiler_options=compiler_options)
    is_input = eqx.is_array if arrays_only else eqx.is_array_like
    return update_wrapper(_Program(function, tuple(static), is_input, plain, compiler_options), function)


class _Array(NamedTuple):
    """What a program knows of an array that it takes."""

    shape: tuple[int, ...]
    dtype: str
    weak: bool

    @classmethod
    def of(cls, array: Any) -> _Array:
        kind = jax.typeof(array)
        return cls(kind.shape, str(kind.dtype), kind.weak_type)


@dataclass(eq=False)
class _Program:
    function: Callable[..., Any]
    static: tuple[str, ...]
    is_input: Callable[[Any], bool]
    plain: Callable[..., Any]
    compiler_options: dict[str, Any] | None
    loaded: dict[Any, Any] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        folder = os.environ.get(FOLDER)
        if not folder or not _is_plain(jax.tree.leaves((args, kwargs))):
            return self.plain(*args, **kwargs)
        given = inspect.signature(self.function).bind(*args, **kwargs).arguments
        fixed = {name: given.pop(name) for name in self.static if name in given}
        leaves, tree = jax.tree.flatten(given)
        inputs = [leaf for leaf in leaves if self.is_input(leaf)]
        parts = [_Array.of(leaf) if self.is_input(leaf) else leaf for leaf in leaves]
        settled, form = jax.tree.flatten(fixed)
        key = tree, form, tuple((type(part), part) for part in parts + settled), _settings()
        if key not in self.loaded:
            self.loaded[key] = self._load(Path(folder), jax.tree.unflatten(tree, parts), fixed, inputs)
        program = self.loaded[key]
        return self.plain(*args, **kwargs) if program is None else program(*inputs)

    def _load(self, folder: Path, given: Any, fixed: dict[str, Any], inputs: list[Any]) -> Any:
        """The program of such inputs; None if it cannot be kept."""
        code, description = sources(), described((self.function, given, fixed, self.compiler_options, _settings()))
        if code is None or description is None or find_spec("flatbuffers") is None:  # which jax.export writes with
            return None
        file = folder / f"{self.function.__name__}-{hashlib.sha256(code.encode() + description).hexdigest()}-trace"
        try:
            module, structure = pickle.loads(zlib.decompress(file.read_bytes()))
        except (OSError, zlib.error):  # none, or cut off
            program, structure = self._traced(given, fixed, inputs)
            if structure is None:
                return None
            _write(file, zlib.compress(pickle.dumps((bytes(program.serialize()), structure))))
        else:
            program = jax.export.deserialize(bytearray(module))
        form = jax.tree.structure(pickle.loads(structure))
        call = jax.jit(program.call, compiler_options=self.compiler_options)
        return lambda *inputs: jax.tree.unflatten(form, call(*inputs))

    def _traced(self, given: Any, fixed: dict[str, Any], inputs: list[Any]) -> tuple[jax.export.Exported, bytes | None]:
        """The program from some arrays to others, and the structure of what it returns; None if that is not kept."""
        parts, tree = jax.tree.flatten(given, is_leaf=lambda part: isinstance(part, _Array))
        structure = None

        def flat(*inputs: Any) -> list[Any]:
            nonlocal structure
            rest = iter(inputs)
            filled = [next(rest) if isinstance(part, _Array) else part for part in parts]
            result = self.function(**jax.tree.unflatten(tree, filled), **fixed)
            leaves, form = jax.tree.flatten(result)
            # An exported program returns arrays alone, and forgets which are weakly typed.
            if all(eqx.is_array(leaf) and not getattr(leaf, "weak_type", False) for leaf in leaves):
                structure = pickled(jax.tree.unflatten(form, range(len(leaves))))
            return [leaf for leaf in leaves if eqx.is_array(leaf)]

        program = jax.export.export(jax.jit(flat))(*inputs)
        return program, structure


def _is_plain(leaves: list[Any]) -> bool:
    """Whether a program is called from without, for one CPU device, and is to be compiled at all."""
    compiled = not jax.config.jax_disable_jit and not is_traced(*leaves)  # type: ignore[attr-defined]
    return compiled and jax.sharding.get_abstract_mesh().empty and _on_one_cpu()


def _on_one_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _settings() -> tuple[Any, ...]:
    """JAX's settings, as they are here and now."""
    return tuple([getattr(jax.config, name, None) for name in jax.config.values if "cache" not in name])


def _write(file: Path, content: bytes) -> None:
    """Write the file, whole or not at all."""
    with suppress(OSError):  # a full disk: it is traced again
        part = file.with_suffix(f".{os.getpid()}-{get_ident()}")
        part.write_bytes(content)
        part.replace(file)
