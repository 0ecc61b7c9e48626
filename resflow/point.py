"""A point: the weights of a residual unit, its features, and the samples and loss that they are judged on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from inspect import Parameter, signature
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import (
    Array,
    analyse,
    as_array,
    as_floating,
    as_numpy,
    check_samples,
    in_full_precision,
    is_traced,
)
from resflow.compiling import quick_to_compile
from resflow.errors import InvalidInputError
from resflow.exported import exported
from resflow.labels import as_labels
from resflow.losses import Loss, as_loss, lifted
from resflow.models.modes import check_evaluation_mode
from resflow.models.residual_unit import ResidualUnit
from resflow.models.shapes import result_like

__all__ = [
    "ModelPoint",
    "Point",
    "analyse_point",
    "check_options_of",
    "check_point",
    "check_prediction_shape",
    "check_predictions",
    "checked_data",
    "checked_samples",
    "in_default_precision",
    "point_of_unit",
    "prediction_shape",
    "sum_over_samples",
]

_CHUNK_ENTRIES = 1 << 22
"""Entries of what is made of a chunk of samples: 32 MiB in float64, and a few times that while it is worked on."""


class Point(eqx.Module):
    """A point (W, V) of p(x) = W(x + V f(x)) with its features, samples X, labels y and a loss; checked once.

    Everything that is known of a point is a function of it: `certify`, `analyze`, `spectrum`, `smallest_eigenvalue`,
    `escape`, `solve`. NumPy arrays are analysed in float64, memory-mapped ones in chunks; JAX arrays in their own
    precision and on their own devices. A pytree: may be made inside functions under jit and vmap, and passed to them.

    The point itself (W, V and the features) may be infinite or not a number, as that of a diverged run is: what is
    computed from it then says so. Samples and labels may not.

    Attributes:
        W: Output weights, shape (d,) for one output, (m, d) for m.
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels as the loss takes them, shape (n,), or (n, m) for several outputs of the squared loss.
        loss: ℓ.

    References:
        Shamir 2018 (arXiv:1804.06739), section 2, and its appendix for several outputs.
    """

    W: Real[Array, "*m d"]
    V: Real[Array, "d k"]
    features: Real[Array, "n k"]
    X: Real[Array, "n d"]
    y: Real[Array, "n *m"]
    loss: Loss = eqx.field(static=True)

    def __init__(self, W: Any, V: Any, features: Any, X: Any, y: Any, loss: str | Loss) -> None:
        """A point of arrays, lists, data frames or tensors; features may come from any framework.

        Args:
            W, V, features, X: As the attributes.
            y: Labels: −1 and +1, 0 and 1 or truth values for the logistic loss; whole numbers 0, ..., m − 1 or one-hot
                rows for softmax; numbers, or rows of m, for the squared loss.
            loss: A loss or its name.

        Raises:
            InvalidInputError: If an array holds no real numbers, shapes disagree, naming both, the samples are not
                finite, or labels do not suit the loss or the number of outputs.
        """
        self.loss = loss = as_loss(loss)
        self.X, self.W = check_samples(X), as_array("W", W)
        if self.W.ndim not in (1, 2):
            raise InvalidInputError(f"W has shape {self.W.shape}, but must be (d,), or (m, d) for m outputs")
        self.V, self.features = as_array("V", V, 2), as_array("features", features, 2)
        (n, d), k = self.X.shape, self.features.shape[1]
        expected = {"W": (*self.W.shape[:-1], d), "V": (d, k), "features": (n, k)}
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise InvalidInputError(
                    f"{name} has shape {found}, but must be {shape} to fit X {(n, d)} and features {(n, k)}"
                )
        m = None if self.W.ndim == 1 else self.W.shape[0]
        if k == 0 or m == 0:
            name, found = ("features", self.features.shape) if k == 0 else ("W", self.W.shape)
            raise InvalidInputError(
                f"{name} has shape {found}, but there must be at least one {'column' if k == 0 else 'row'}"
            )
        if (m is None) != (loss.outputs == "one") and loss.outputs != "any":
            rows = "(d,): it is for one output" if m is not None else "(m, d), one row a class"
            raise InvalidInputError(f"W has shape {self.W.shape}, but the {loss.name} loss needs {rows}")
        self.y = as_labels(y, loss, n=n, m=m)
        if loss.outputs == "any" and self.y.ndim != self.W.ndim:
            shape = (n,) if m is None else (n, m)
            raise InvalidInputError(f"y has shape {self.y.shape}, but must be {shape} to fit W {self.W.shape}")

    @staticmethod
    def of(model: Any, X: Any, y: Any, loss: str | Loss) -> Point | ModelPoint:
        """Where a model of the zoo, or any other, stands on samples.

        Args:
            model: A residual unit, of which a `Point` is made; any other model that maps X to predictions is kept as it
                is, as a `ModelPoint`, which the same functions take as far as the theory has something to say.
            X: Samples as rows, shape (n, d).
            y: Labels, as for a `Point`.
            loss: A loss or its name.

        Raises:
            InvalidInputError: As a `Point`.
        """
        if isinstance(model, ResidualUnit):
            return point_of_unit(model, X, y, loss)
        return ModelPoint(model, X, y, loss)

    @property
    def outputs(self) -> int:
        """m, the number of outputs."""
        return 1 if self.W.ndim == 1 else self.W.shape[0]

    @property
    def rows(self) -> Float[Array, "m d"]:
        """W with an axis of outputs, also for one."""
        return self.W[None] if self.W.ndim == 1 else self.W

    @property
    def row_loss(self) -> Loss:
        """The loss on predictions with an axis of outputs."""
        return lifted(self.loss, self.y)

    @property
    def inner(self) -> Float[Array, "n d"]:
        """x_i + V f_i."""
        return self.X + self.features @ self.V.T

    @property
    def predictions(self) -> Float[Array, "n *m"]:
        """p_i = W(x_i + V f_i)."""
        # (features Vᵀ) Wᵀ is never formed: W V first costs m d k instead of n d k.
        return self.X @ self.W.T + self.features @ (self.W @ self.V).T

    @property
    def slopes(self) -> Float[Array, "n *m"]:
        """ℓ'(p_i; y_i)."""
        return self.loss.derivative(self.predictions, self.y)

    @property
    def curvatures(self) -> Float[Array, "n *mm"]:
        """ℓ''(p_i; y_i)."""
        return self.loss.second_derivative(self.predictions, self.y)

    @property
    def objective(self) -> Float[Array, ""] | float:
        """F = mean ℓ(p_i; y_i)."""
        return self.loss.value(self.predictions, self.y).mean()

    @property
    def gradient(self) -> tuple[Float[Array, "*m d"], Float[Array, "d k"]]:
        """∇F = (mean ℓ'_i (x_i + V f_i)ᵀ, Wᵀ mean ℓ'_i f_iᵀ) in (W, V), θ held fixed."""
        slopes = self.slopes.reshape(-1, self.outputs)
        R = slopes.T @ self.features / len(self.X)
        along_a = slopes.T @ self.X / len(self.X) + R @ self.V.T
        return along_a.reshape(self.W.shape), self.rows.T @ R

    def at(self, W: Any, V: Any) -> Point:
        """The same features, samples and loss at other weights, unchecked."""
        return eqx.tree_at(lambda point: (point.W, point.V), self, (W, V))

    def part(self, features: Any, X: Any, y: Any) -> Point:
        """The same weights and loss on other samples, unchecked."""
        return eqx.tree_at(lambda point: (point.features, point.X, point.y), self, (features, X, y))


class ModelPoint(eqx.Module):
    """A model of any kind on samples, where nothing is known of its weights but that JAX can differentiate in them.

    Attributes:
        model: Any pytree that maps X to predictions, shape (n,) or (n, m).
        X: Samples as rows, shape (n, d).
        y: Labels as the loss takes them.
        loss: ℓ.
    """

    model: Any
    X: Real[Array, "n d"]
    y: Real[Array, "n *m"]
    loss: Loss = eqx.field(static=True)

    def __init__(self, model: Any, X: Any, y: Any, loss: str | Loss) -> None:
        """As `Point.of`."""
        self.model, self.loss = model, as_loss(loss)
        self.X, self.y = checked_samples(X, y, self.loss)
        check_predictions(model, self.X, self.y, self.loss)

    @property
    def predictions(self) -> Float[Array, "n *m"]:
        """p_i = model(X)_i."""
        return self.model(self.X)

    @property
    def objective(self) -> Float[Array, ""]:
        """F = mean ℓ(p_i; y_i)."""
        return jnp.mean(self.loss.value(self.predictions, self.y))


def check_point(point: Any, *, of_unit: bool = False) -> None:
    """Check that what was given as a point is one, and of a residual unit if it must be.

    Raises:
        InvalidInputError: If it is not.
    """
    if not isinstance(point, Point if of_unit else Point | ModelPoint):
        needed = "the Point of a residual unit" if of_unit else "a Point of arrays, or Point.of a model"
        raise InvalidInputError(f"point is a {type(point).__name__}, but must be {needed}")


def check_options_of(function: Callable[..., Any], point: Any, options: dict[str, Any]) -> None:
    """Check that a function for such points takes options of these names.

    Raises:
        InvalidInputError: If it does not.
    """
    kinds = signature(function).parameters.items()
    known = [
        name for name, each in kinds if each.kind is Parameter.KEYWORD_ONLY and each.default is not Parameter.empty
    ]
    for name in options:
        if name not in known:
            of = "a residual unit" if isinstance(point, Point) else "a model that is no residual unit"
            raise InvalidInputError(f"{name} is no option for a point of {of}, which takes {', '.join(known)}")


def point_of_unit(unit: ResidualUnit, X: Any, y: Any, loss: str | Loss) -> Point:
    """`Point.of` a residual unit."""
    X = check_samples(X)
    _check_inputs(X, unit.inputs)
    W, V, features = unit.W, unit.V, unit.features(as_floating(X))
    if not isinstance(X, jax.Array) and not is_traced(W, V, features):  # at home in NumPy: analysed in float64
        W, V, features = (np.asarray(array) for array in (W, V, features))
    return Point(W, V, features, X, y, loss)


def checked_samples(X: Any, y: Any, loss: Loss) -> tuple[Array, Array]:
    """Samples and labels in floating point that fit each other and the loss.

    Raises:
        InvalidInputError: If they are no finite numbers, do not fit together or do not suit the loss.
    """
    X = as_floating(check_samples(X))
    return X, as_labels(y, loss, n=X.shape[0])


def checked_data(objective: Any, model: Any, data: tuple[Any, ...]) -> tuple[Any, ...]:
    """The data that an objective takes besides a model: of a mean loss X and y, with labels as the loss has them.

    Raises:
        InvalidInputError: If X and y do not suit the loss or the model. Of other objectives nothing is known.
    """
    loss = getattr(objective, "loss", None)
    if not (isinstance(loss, Loss) and len(data) == 2):
        return data
    X, y = checked_samples(*data, loss)
    check_predictions(model, X, y, loss)
    return X, y


def check_predictions(model: Any, X: Array, y: Array, loss: Loss) -> None:
    """Check that a model maps such samples to predictions of these labels: of another shape they would be broadcast.

    Raises:
        InvalidInputError: If it cannot be called, its predictions have another shape, or there are fewer than classes.
    """
    check_prediction_shape(prediction_shape(model, X), len(X), y, loss)


def prediction_shape(model: Any, X: Array) -> tuple[int, ...] | None:
    """The shape of a model's predictions of some samples; None if they are no array.

    Raises:
        InvalidInputError: If the model cannot be called, takes another number of inputs, or predicts no real
            floating-point numbers.
    """
    if not callable(model):
        raise InvalidInputError(f"model is a {type(model).__name__}, but must map samples to predictions")
    check_evaluation_mode(model)
    inputs = getattr(model, "inputs", None)
    if isinstance(inputs, int):
        _check_inputs(X, inputs)
    found = result_like("model", model, X)
    if not hasattr(found, "shape"):
        return None
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise InvalidInputError(
            f"the model's predictions are of type {found.dtype}, but must be floating-point numbers, as a loss has no "
            "slope in any other"
        )
    return found.shape


def check_prediction_shape(found: tuple[int, ...] | None, n: int, y: Array, loss: Loss) -> None:
    """Check that predictions of n samples have the shape that goes with these labels.

    Raises:
        InvalidInputError: If they have another shape, or fewer columns than there are classes.
    """
    classes = loss.labels == "classes"
    if not (found is not None and len(found) == 2 and found[0] == n if classes else found == y.shape):
        needed = f"({n}, m), one column a class" if classes else f"{y.shape}, that of y"
        raise InvalidInputError(
            f"the model's predictions have shape {found}, but for the {loss.name} loss must have {needed}: "
            "a model takes its number of outputs when it is built"
        )
    if classes:
        as_labels(y, loss, m=None if found is None else found[1])


def _check_inputs(X: Array, inputs: int) -> None:
    if X.shape[1] != inputs:
        raise InvalidInputError(f"X has shape {X.shape}, but the model takes {inputs} inputs a sample")


@in_full_precision
def analyse_point(function: Callable[..., Any], point: Point, *trees: Any, **options: Any) -> Any:
    """`analyse(function, point, *trees, **options)` for samples that may be many, or on many devices.

    NumPy samples for more than one chunk are passed on as they are, so that `sum_over_samples` can read chunks; all
    others are for one compiled program, as several take longer to compile. Under a mesh of explicit axes, where JAX
    wants to be told the sharding of every product, its compiler finds them.
    """
    leaves, in_chunks = jax.tree.leaves((point, trees)), point.X.shape[0] > _rows_in_chunk(point)
    if in_chunks and not any(isinstance(array, jax.Array) for array in (point.features, point.X, point.y)):
        chosen = any(isinstance(leaf, jax.Array) for leaf in leaves)
        with nullcontext() if chosen else jax.enable_x64(True):
            dtype = None if chosen else float
            weights = jnp.asarray(point.W, dtype), jnp.asarray(point.V, dtype)
            trees = jax.tree.map(lambda leaf: leaf if isinstance(leaf, float) else jnp.asarray(leaf, dtype), trees)
            result = function(point.at(*weights), *trees, **options)
            return result if chosen else as_numpy(result)
    mesh = _explicit_mesh(leaves)
    function = _compiled(function, inside=is_traced(*leaves) or mesh is not None)
    if mesh is not None:
        replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        function = jax.sharding.auto_axes(partial(function, **options), out_sharding=replicated)
        options = {}
    return analyse(function, point, *trees, **options)


@cache
def _compiled(function: Callable[..., Any], *, inside: bool) -> Callable[..., Any]:
    """The function under jit; `inside` says that it is part of a larger program, which has options of its own."""
    return jax.jit(function) if inside else exported(function, compiler_options=quick_to_compile())


def in_default_precision(point: Point) -> Point:
    """A point of JAX arrays in JAX's default precision; many samples in NumPy are left where they are."""
    weights = jnp.asarray(point.W, float), jnp.asarray(point.V, float)
    samples = point.features, point.X, point.y
    if any(isinstance(array, jax.Array) for array in samples) or point.X.shape[0] <= _rows_in_chunk(point):
        point = point.part(*(jnp.asarray(array, float) for array in samples))
    return point.at(*weights)


def sum_over_samples(function: Callable[..., Any], point: Point, *arguments: Any) -> Any:
    """The sum of `function(part, *arguments)` over parts of a point's samples, each a point of its own.

    NumPy samples, memory-mapped files among them, are read chunk by chunk and take the precision of W. Samples sharded
    over several devices stay where they are: each device sums its own.

    Args:
        function: To a pytree of arrays that are sums over samples; hashable, as it is compiled once.
        point: The point.
        arguments: What else the function takes.
    """
    rows, n = _rows_in_chunk(point), point.X.shape[0]
    samples = point.features, point.X, point.y
    if all(isinstance(array, jax.Array) for array in samples):
        if any(_is_sharded(array) for array in samples):
            rows = n  # every device has its own part, which slices across all samples would move about
        return _sum_on_device(function, point, arguments, rows=rows)
    total = None
    for start in range(0, n, rows):
        part = point.part(*(jnp.asarray(array[start : start + rows], dtype=point.W.dtype) for array in samples))
        chunk = _sum_on_device(function, part, arguments, rows=rows)
        total = chunk if total is None else jax.tree.map(jnp.add, total, chunk)
    return total


def _rows_in_chunk(point: Point) -> int:
    (d, k), m = point.V.shape, point.outputs
    return max(256, _CHUNK_ENTRIES // (m * d + min(m, d) * k))


def _explicit_mesh(leaves: list[Any]) -> Any:
    """The mesh of explicit axes that the first such array is on, or None."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in leaves if isinstance(leaf, jax.Array))
    return next((mesh for mesh in meshes if mesh.are_all_axes_explicit and not mesh.empty), None)


def _is_sharded(array: Any) -> bool:
    if jax.typeof(array).sharding.mesh.size > 1:
        return True
    return not is_traced(array) and len(array.sharding.device_set) > 1


@partial(exported, static=("function", "rows"))
def _sum_on_device(function, point: Point, arguments, *, rows: int):
    whole, rest = divmod(point.X.shape[0], rows)
    if whole <= 1 and rest * whole == 0:
        return function(point, *arguments)

    def chunk(start: Any, size: int):
        samples = point.features, point.X, point.y
        part = point.part(*(jax.lax.dynamic_slice_in_dim(array, start, size) for array in samples))
        return function(part, *arguments)

    def add(i: jax.Array, total: Any):
        return jax.tree.map(jnp.add, total, chunk(i * rows, rows))

    total = jax.lax.fori_loop(1, whole, add, chunk(0, rows))
    return jax.tree.map(jnp.add, total, chunk(whole * rows, rest)) if rest else total
