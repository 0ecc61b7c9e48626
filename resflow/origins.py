"""Of whose code and data a value consists: descriptions by which what was made of it in another process is found again.

A description holds the data and names the code, and `sources` is a digest of the code itself: of this package, and of
those that its programs are traced through. What has code of any other origin in it, a user's feature map for instance,
has no description: nobody could tell that it changed.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import pickle
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from types import CodeType
from typing import Any

__all__ = ["described", "pickled", "sources", "told"]

_PACKAGE = Path(__file__).parent
_TRACED = ("equinox", "jax", "jaxtyping", "matfree", "optax")
_BESIDE = ("jaxlib", "numpy")
"""Packages of which the version is enough: they are compiled, for the most part, or make constants."""

_ORIGINS = {_PACKAGE.name, *_TRACED, *_BESIDE} | sys.stdlib_module_names


def described(value: Any) -> bytes | None:
    """What the value consists of, the same in every process; None if something in it is of other origin."""
    return _dumped(value, _Describer)


def told(value: Any) -> bytes | None:
    """As `described`, for who sees to it that the code is the same: what is of other origin counts by its instructions.

    Of a function of other origin those are told with what it holds, and with the numbers and texts that it finds beside
    itself; None only where something cannot be told at all.
    """
    return _dumped(value, _Teller)


def pickled(value: Any) -> bytes | None:
    """The value's pickle; None if something in it is of other origin, or has no name to be found by."""
    return _dumped(value, _Pickler)


@cache
def sources() -> str | None:
    """A digest of the code that this process runs; None if it cannot be told, as files changed since it began."""
    digest, began = hashlib.sha256(sys.version.encode()), _began()
    for package in (*_TRACED, *_BESIDE):
        digest.update(metadata.version(package).encode())
    for folder in (_PACKAGE, *(Path(str(resources.files(package))) for package in _TRACED)):
        for file in _modules(folder):
            status = os.stat(file)
            if began is None or status.st_ctime > began:
                return None
            content = f"{status.st_size} {status.st_ctime_ns}".encode()
            if folder == _PACKAGE:
                content = Path(file).read_bytes()
            digest.update(os.path.relpath(file, folder).encode() + content)
    return digest.hexdigest()


def _modules(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (os.path.join(place, file) for file in sorted(files) if file.endswith(".py"))


def _began() -> float | None:
    """When this process began, or was forked, in seconds since the epoch; None where the system does not say."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        name, module = getattr(obj, "__qualname__", None), getattr(obj, "__module__", None)
        if not callable(obj) or name is None or module is None:
            return NotImplemented
        if module.partition(".")[0] not in _ORIGINS:
            return self.foreign(obj, module, name)
        return name if _found(module, name) is obj else self.nameless(obj)

    def foreign(self, obj: Any, module: str, name: str) -> Any:
        """How to pickle what is of other origin."""
        raise pickle.PicklingError(f"{module}.{name} is of other origin")

    def nameless(self, obj: Any) -> Any:
        """How to pickle what cannot be found by its name."""
        return NotImplemented


class _Describer(_Pickler):
    """Describes functions within others, too: by where they stand in the sources, and by what they hold."""

    def nameless(self, obj: Any) -> Any:
        if not inspect.isfunction(obj):
            return NotImplemented
        module, code = obj.__globals__["__name__"], obj.__code__  # that of its code: `wraps` gives it another's name
        if module.partition(".")[0] not in _ORIGINS:
            raise pickle.PicklingError(f"{module}.{code.co_qualname} is of other origin")
        place = module, code.co_qualname, code.co_code, [*code.co_positions()]
        held = [cell.cell_contents for cell in obj.__closure__ or ()]
        return str, (place, held, obj.__defaults__, obj.__kwdefaults__)


class _Teller(_Describer):
    """Describes what is of other origin, too: functions by their instructions and what they hold, all else by name."""

    def foreign(self, obj: Any, module: str, name: str) -> Any:
        if not inspect.isfunction(obj):
            return name if _found(module, name) is obj else NotImplemented
        beside = {name: obj.__globals__.get(name) for name in obj.__code__.co_names}
        held = [cell.cell_contents for cell in obj.__closure__ or ()]
        plain = {name: value for name, value in beside.items() if isinstance(value, bool | int | float | str | bytes)}
        return str, (module, name, _instructions(obj.__code__), held, plain, obj.__defaults__, obj.__kwdefaults__)

    def nameless(self, obj: Any) -> Any:
        if inspect.isfunction(obj) and obj.__globals__["__name__"].partition(".")[0] not in _ORIGINS:
            return self.foreign(obj, obj.__module__, obj.__qualname__)  # under another's name, by `wraps`
        return super().nameless(obj)


def _instructions(code: CodeType) -> tuple[Any, ...]:
    constants = [
        _instructions(each)
        if isinstance(each, CodeType)
        else sorted(map(repr, each))
        if isinstance(each, frozenset)
        else each
        for each in code.co_consts
    ]
    return code.co_code, code.co_names, constants


def _dumped(value: Any, pickler: type[_Pickler]) -> bytes | None:
    file = io.BytesIO()
    writer = pickler(file)
    writer.fast = True  # nothing is referred back to: equal values have equal pickles
    try:
        writer.dump(value)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RecursionError):
        return None
    return file.getvalue()


def _found(module: str, name: str) -> Any:
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
