"""The boundary between a caller's arrays and the analysis: kinds, shapes, sizes, precision are settled here, once."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from resflow.errors import InvalidInputError, shown
from resflow.tensors import plain_array

__all__ = [
    "LARGEST",
    "SMALLEST",
    "Array",
    "analyse",
    "as_array",
    "as_floating",
    "as_number",
    "as_numpy",
    "check_samples",
    "check_size",
    "in_full_precision",
    "in_type_of_jax",
    "is_traced",
    "largest",
]

Array: TypeAlias = np.ndarray | jax.Array
"""What an array argument may be: a NumPy array, a JAX array, or a tracer of one."""

SMALLEST, LARGEST = 1e-60, 1e60
"""Between these a size may lie, if it is not 0: products of a few such numbers neither overflow nor underflow."""

_MOST_WHOLE = 2.0**53


def is_traced(*arrays: Any) -> bool:
    """True if any of the arrays is being traced by jit, vmap or grad, so that its values are not known yet."""
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def in_full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with every product of matrices in the precision of their type.

    In float32 accelerators take some ten bits of each factor otherwise, which no estimate of rounding here allows for.
    """

    @wraps(function)
    def precise(*arguments: Any, **options: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments, **options)

    return precise


@in_full_precision
def analyse(function: Callable[..., Any], *trees: Any, **options: Any) -> Any:
    """Call `function(*trees, **options)`, in float64 unless the caller chose a precision by passing JAX arrays.

    If any array in the pytrees is a JAX array, they go in as they are and the result keeps their precision.
    Otherwise they are NumPy arrays (or numbers): the function runs in float64, whatever JAX's global setting,
    and its result comes back as NumPy arrays. Changes no global setting.
    """
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(trees)):
        return function(*_each(jnp.asarray, trees), **options)
    with jax.enable_x64(True):
        trees = _each(lambda leaf: jnp.asarray(as_array("array", leaf), dtype=jnp.float64), trees)
        return as_numpy(function(*trees, **options))


def _each(convert: Callable[[Any], jax.Array], trees: Any) -> Any:
    """Every array of some pytrees converted; a list is one, and Python's numbers stay, which know no precision."""
    keep = lambda leaf: leaf if type(leaf) in (float, int) else convert(leaf)  # noqa: E731
    return jax.tree.map(keep, trees, is_leaf=lambda node: isinstance(node, list))


def as_numpy(tree: Any) -> Any:
    """The pytree with NumPy arrays, or scalars of theirs, for JAX arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[()] if isinstance(leaf, jax.Array) else leaf, tree)


def as_array(name: str, values: Any, axes: int | None = None, *, finite: bool = False) -> Array:
    """Values as an array of real numbers: a JAX array as it is, anything else as a NumPy array of a real dtype.

    Lists, data frames, tensors and whatever else NumPy can read may be given, as long as every entry is a real number.
    A NumPy array of at most float64, a memory-mapped one too, is passed on without a copy.

    Args:
        name: What to call them in the message.
        values: What a caller gave.
        axes: How many axes there must be; None for any number.
        finite: Whether every number must be finite; tracers pass unseen.

    Raises:
        InvalidInputError: If they are no array of real numbers, naming the first entry that is none, have another
            number of axes, or are not finite.
    """
    array = values if isinstance(values, jax.Array) else _real_numbers(name, values)
    if isinstance(array, jax.Array) and not jnp.issubdtype(array.dtype, jnp.number) and array.dtype != bool:
        raise InvalidInputError(f"{name} has the dtype {array.dtype}, but must hold real numbers")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise InvalidInputError(
            f"{name} has complex numbers ({array.dtype}), but must hold real ones: take their parts"
        )
    if axes is not None and array.ndim != axes:
        raise InvalidInputError(f"{name} has shape {array.shape}, but must have {axes} axes")
    if finite and not is_traced(array):
        _check_finite(name, array)
    return array


def as_floating(array: Array) -> Array:
    """Real numbers in floating point: a JAX array as it is, a NumPy array of whole numbers or truth values in float64.

    In their own type what is computed from them, a square or a difference, would wrap around.
    """
    if isinstance(array, jax.Array):
        return array
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(array.dtype.newbyteorder("=") if floating else np.float64, copy=False)


def in_type_of_jax(name: str, array: Array) -> jax.Array:
    """Real numbers in the type that JAX has in place of theirs: float32 for float64, unless that is enabled.

    Raises:
        InvalidInputError: If it cannot hold the largest of them.
    """
    if isinstance(array, jax.Array):
        return array
    kept = jax.dtypes.canonicalize_dtype(array.dtype)
    if kept != array.dtype and jnp.issubdtype(kept, jnp.floating):
        limits, size = jnp.finfo(kept), largest(array)
        if size != 0.0 and not float(limits.tiny) <= size <= float(limits.max):
            raise InvalidInputError(
                f"{name} is of a size that {kept}, in which JAX computes here, does not have (its largest value is "
                f"{size:.3g}): rescale it, or enable float64 by jax.config.update('jax_enable_x64', True)"
            )
    return jnp.asarray(array)


def as_number(
    name: str, value: Any, allowed: str, holds: Callable[[float], bool] = math.isfinite, *, whole: bool = False
) -> Any:
    """Value as a float, or as an int if it must be whole; a tracer as it is.

    Args:
        name: What to call it in the message.
        value: What a caller gave: a Python number, or an array of one without axes.
        allowed: What it must be, as the end of the message, e.g. "must be at least 0".
        holds: Whether a number is allowed.
        whole: Whether it must be a whole number.

    Raises:
        InvalidInputError: If it is not one real number (a text and a truth value are none), or is not allowed.
    """
    if is_traced(value):
        return value
    number = value
    if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0:
        number = np.asarray(value)[()]
    real = isinstance(number, numbers.Real) and not isinstance(number, bool | np.bool_)
    if real:
        try:
            as_float = float(number)
        except OverflowError:  # an int of more than 308 digits
            as_float = math.nan
        if holds(as_float) and not (whole and not (abs(as_float) < _MOST_WHOLE and as_float == math.floor(as_float))):
            return int(number) if whole else as_float
    given = reprlib.repr(value) if not real or isinstance(value, int) else f"{as_float}"
    raise InvalidInputError(f"{name}={given} {allowed}".replace("\n", " "))


def check_size(name: str, size: float, what: str = "its largest value is") -> None:
    """Check that the largest modulus of some numbers is 0, or one that can be computed with.

    Raises:
        InvalidInputError: If it is not between `SMALLEST` and `LARGEST`.
    """
    if size != 0.0 and not SMALLEST <= size <= LARGEST:
        raise InvalidInputError(
            f"{name} is of a size that float64 cannot square and divide by ({what} {size:.3g}): rescale it to lie "
            f"between {SMALLEST:g} and {LARGEST:g}"
        )


def largest(array: Array) -> float:
    """The largest modulus of an array's numbers, 0 of none."""
    if array.size == 0:
        return 0.0
    if array.dtype == bool:
        return float(array.any())
    # not of the moduli: no array of its size is made, and the least integer has none
    with np.errstate(invalid="ignore"):
        ends = jax.device_get(_ends(array)) if isinstance(array, jax.Array) else (array.max(), array.min())
        return max(abs(float(end)) for end in ends)


@jax.jit
def _ends(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    return array.max(), array.min()


def check_samples(X: Any, name: str = "X") -> Array:
    """Samples as an array of two axes with finite numbers of a size that can be computed with; tracers pass unseen.

    Raises:
        InvalidInputError: If they are not that, or there is no sample or no feature.
    """
    X = as_array(name, X, 2, finite=True)
    if 0 in X.shape:
        raise InvalidInputError(f"{name} has shape {X.shape}, but there must be at least one sample and one feature")
    if not is_traced(X):
        check_size(name, largest(X))
    return X


def _real_numbers(name: str, values: Any) -> np.ndarray:
    """A NumPy array of dtype bool, integer, float of at most 64 bits, or complex, which is refused later."""
    if isinstance(values, np.ma.MaskedArray):
        raise InvalidInputError(
            f"{name} is a masked array, whose hidden entries would count: pass {name}.filled(...), or drop those rows"
        )
    if sparse.issparse(values):
        raise InvalidInputError(f"{name} is a sparse matrix of shape {values.shape}: pass {name}.toarray()")
    try:
        array = np.asarray(plain_array(values))
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from None
    except (ValueError, TypeError, RuntimeError) as error:  # such as ragged lists
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInputError(
            f"{name} is a {type(values).__name__} that does not read as an array of real numbers: {reason}"
        ) from error
    kind = array.dtype.kind
    if kind in "biuc" or (kind == "f" and array.dtype.itemsize <= 8):
        return array
    if kind == "f" or jnp.issubdtype(array.dtype, jnp.floating):
        return _as_float64(name, array)
    if kind == "O":
        _check_entries(name, values, array)
        return _as_float64(name, array)
    first = f" such as {reprlib.repr(array.ravel()[:1].tolist()[0])}" if array.size else ""
    raise InvalidInputError(f"{name} has entries{first} of dtype {array.dtype}, but must hold real numbers")


def _check_entries(name: str, values: Any, array: np.ndarray) -> None:
    for place, entry in np.ndenumerate(array):
        if not isinstance(entry, numbers.Real):
            what = "a missing value" if entry is None or str(entry) in ("<NA>", "NaT") else shown(entry)
            where = f" at {list(place)}" if place else ""
            if array.ndim == 2 and hasattr(values, "columns"):
                where = f" in row {place[0]}, column {str(values.columns[place[1]])!r}"
            raise InvalidInputError(
                f"{name} has {what}{where}, but must hold real numbers: code text as numbers, fill in what is "
                "missing, or drop that row or column"
            )


def _as_float64(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        try:
            plain = array.astype(np.float64)
        except OverflowError as error:
            raise InvalidInputError(f"{name} has a number beyond 1.8e308, the largest of float64") from error
    if array.dtype.kind != "O" and (np.isinf(plain) & np.isfinite(array)).any():
        raise InvalidInputError(f"{name} has a number beyond 1.8e308, the largest of float64")
    return plain


def _check_finite(name: str, array: Array) -> None:
    if not math.isfinite(largest(array)):
        place = np.argwhere(~np.isfinite(np.asarray(array)))[0]
        where = f"column {place[1]}, row {place[0]}" if array.ndim == 2 else f"place {list(map(int, place))}"
        raise InvalidInputError(
            f"{name} has a value that is not finite, the first in {where} (counted from 0): fill it in or drop that row"
        )
