"""Whatever a caller passes, the answer is a result or one line that says what is wrong with it."""

from __future__ import annotations

import warnings
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import resflow
from resflow import InvalidInputError, Point
from resflow.arrays import as_array
from resflow.data.catalog import teacher
from resflow.labels import one_hot
from resflow.losses import Squared
from resflow.notebook.checks import check_dataset_name

RNG = np.random.default_rng(0)
N, D, K, M = 20, 3, 4, 3
X, W, V, FEATURES = (RNG.standard_normal(shape) for shape in ((N, D), (M, D), (D, K), (N, K)))
Y, CLASSES = np.where(RNG.random(N) < 0.5, 1.0, -1.0), RNG.integers(0, M, N)
ONE_HOT = np.eye(M)[CLASSES]
FIT = resflow.fit_linear_predictor(X, Y, ridge=0.1)
CLASSES_FIT = resflow.fit_linear_predictor(X, CLASSES, loss="softmax", ridge=0.1)
KEY = jax.random.key(0)
MAP = resflow.feature_map("mlp", D, width=K, key=KEY)


def model(architecture="residual_unit", outputs=None, key=KEY):
    return resflow.build_model(architecture, D, MAP, key=key, outputs=outputs)


UNIT, DEEP = model(), resflow.build_model("deep_residual_network", D, [MAP], inner=2, key=KEY)
UNITS = eqx.filter_vmap(lambda key: model(key=key))(jax.random.split(KEY, 2))
OPTIONS = resflow.TrainingOptions(steps=2)


def no_array(values):
    """What is no array of real numbers of the right shape, under names for the messages."""
    a = np.asarray(values, float)
    high = a > a.mean()
    wrong = {
        "None": None,
        "text": "abc",
        "texts": a.astype(str),
        "texts as objects": a.astype(str).astype(object),
        "complex": a + 0j,
        "complex in JAX": jnp.asarray(a + 0j),
        "masked": np.ma.masked_array(a, mask=high),
        "ragged": [[1, 2], [3]],
        "dict": {},
        "set": {1, 2},
        "function": len,
        "dates": a.astype("M8[s]"),
        "structured": np.zeros(N, dtype=[("a", int)]),
        "no axis": np.array(1.0),
        "three axes": np.zeros((2, 2, 2)),
        "nothing": a[:0],
        "holes": np.where(high, None, a.astype(object)),
        "400 digits": np.full(a.shape, 10**400, dtype=object),
    }
    if a.ndim == 1:
        return wrong | {"series of text": pd.Series(["x"] * len(a))}
    frames = {"frame with text": pd.DataFrame(a).assign(t="x"), "frame with NA": pd.DataFrame(high).convert_dtypes()}
    frames["frame with NA"] = frames["frame with NA"].astype("Int64").mask(high)
    return wrong | frames | {"sparse": scipy.sparse.csr_array(a), "sparse matrix": scipy.sparse.coo_matrix(a)}


def no_data(values):
    """What is no data besides: not finite, or of a size that cannot be computed with."""
    a = np.asarray(values, float)
    first = a == a.flat[0]
    return no_array(a) | {
        "nan": np.where(first, np.nan, a),
        "inf": np.where(first, np.inf, a),
        "1e200": a * 1e200,
        "1e-170": a * 1e-170,
        "beyond float64": np.asarray(a, np.longdouble) * np.finfo(np.float64).max * 4,
    }


NO_NUMBER = {
    "text": "0.1",
    "truth": True,
    "list": [0.1],
    "complex": 1j,
    "nan": float("nan"),
    "negative": -1.0,
    "array": np.ones(2),
    "dict": {},
    "400 digits": 10**400,
    "-inf": -float("inf"),
}
NO_SIZE = NO_NUMBER | {"1e-140": 1e-140, "1e160": 1e160}
NO_LOSS = {"None": None, "class": Squared, "list": [], "number": 3, "unknown": "logstic"}
NO_NAME = {"unknown": "xyz", "None": None, "list": []}
NO_CLASSES = no_array(CLASSES) | {
    "negative": CLASSES - 1,
    "half": CLASSES + 0.5,
    "a million": np.where(CLASSES == 0, 10**6, CLASSES),
    "nan": np.where(CLASSES == 0, np.nan, CLASSES),
    "two classes in a row": np.eye(M)[CLASSES] + np.eye(M)[0],
}
NO_LABELS = {what: y for what, y in NO_CLASSES.items() if what != "nothing"}
NO_FIT = {
    "None": None,
    "dict": {},
    "of classes": CLASSES_FIT,
    "of another loss": resflow.fit_linear_predictor(X, Y, loss="squared"),
    "with nan": FIT._replace(W=FIT.W * np.nan),
}
NO_FIT_TO_THESE = NO_FIT | {
    "of other samples": resflow.fit_linear_predictor(X + 0.1, Y, ridge=0.1),
    "of samples in other units": resflow.fit_linear_predictor(X * 1.1, Y, ridge=0.1),
    "of fewer samples": resflow.fit_linear_predictor(X[:-1], Y[:-1], ridge=0.1),
    "of other labels": resflow.fit_linear_predictor(X, -Y, ridge=0.1),
    "of other features": resflow.fit_linear_predictor(X[:, :2], Y, ridge=0.1),
}
UNFINISHED = {"unfinished": resflow.fit_linear_predictor(X, Y, ridge=1e-3, max_iterations=1)}
NO_CLASSES_FIT = {
    "None": None,
    "of one output": FIT,
    "of other samples": resflow.fit_linear_predictor(X + 0.1, CLASSES, loss="softmax", ridge=0.1),
    "of other labels": resflow.fit_linear_predictor(X, (CLASSES + 1) % M, loss="softmax", ridge=0.1),
    "of another loss": resflow.fit_linear_predictor(X, ONE_HOT, loss="squared"),
    "of more classes": CLASSES_FIT._replace(W=np.vstack([CLASSES_FIT.W, CLASSES_FIT.W[:1]])),
}
ARRAYS = {"W": W[0], "V": V, "features": FEATURES, "X": X, "y": Y, "loss": "logistic"}
NO_ARRAYS = {name: no_array(ARRAYS[name]) for name in ("W", "V", "features")}
NO_ARRAYS |= {
    "X": no_data(X),
    "y": no_data(Y) | {"three values": np.arange(N) % 3},
    "loss": NO_LOSS | {"for classes": "softmax"},
}
SEVERAL = ARRAYS | {"W": W, "y": CLASSES, "loss": "softmax"}
NO_SEVERAL = NO_ARRAYS | {"W": no_array(W), "y": NO_CLASSES, "loss": NO_LOSS | {"for one output": "logistic"}}
NO_SEVERAL["y"] = NO_CLASSES | {"one-hot of four": np.eye(M + 1)[CLASSES]}
POINT, OF_CLASSES = Point(**ARRAYS), Point(**SEVERAL)
SKIP = Point.of(model("output_skip"), X, Y, "logistic")
NO_POINT = {"None": None, "dict": ARRAYS, "model": UNIT, "arrays": tuple(ARRAYS.values())}
NO_UNIT = NO_POINT | {"point of another model": SKIP}
DATA = {"X": X, "y": Y, "loss": "logistic"}
NO_DATA = {"X": no_data(X), "y": no_data(Y), "loss": NO_LOSS}
NO_MODEL = {
    "None": None,
    "text": "residual_unit",
    "predictions": Y,
    "with an axis of outputs": model("output_skip", 1),
    "of several outputs": model("no_skip", M),
}
WEIGHTS = {"d": D, "feature_map": MAP, "key": KEY}
LANCZOS = {name: NO_NUMBER for name in ("steps", "max_restarts", "tolerance")}
FIT_OPTIONS = {"ridge": NO_SIZE, "max_norm": NO_SIZE, "max_iterations": NO_NUMBER | {"zero": 0, "half": 1.5}}
RIDGES = {name: NO_NUMBER for name in ("ridge_W", "ridge_V")}

CASES = [
    (Point, ARRAYS, NO_ARRAYS),
    (Point, SEVERAL, NO_SEVERAL),
    (Point, SEVERAL | {"y": ONE_HOT, "loss": "squared"}, {"y": no_data(ONE_HOT) | {"one column": Y}}),
    (Point.of, DATA | {"model": model("no_skip")}, NO_DATA | {"model": NO_MODEL}),
    (Point.of, DATA | {"model": UNIT}, NO_DATA | {"model": {"of several outputs": model("residual_unit", M)}}),
    (
        Point.of,
        {"X": X, "y": CLASSES, "loss": "softmax", "model": model("output_skip", M)},
        {"y": NO_CLASSES, "model": {"of two classes": model("output_skip", 2), "of one output": model("output_skip")}},
    ),
    (resflow.fit_linear_predictor, {"X": X, "y": Y, "ridge": 0.1}, {**NO_DATA, **FIT_OPTIONS}),
    (resflow.fit_linear_predictor, {"X": X, "y": Y, "loss": "squared"}, NO_DATA),
    (
        resflow.fit_linear_predictor,
        {"X": X, "y": CLASSES, "loss": "softmax", "ridge": 0.1},
        {"X": no_data(X), "y": NO_CLASSES, "loss": NO_LOSS, **FIT_OPTIONS},
    ),
    (resflow.fit_linear_predictor, {"X": X, "y": ONE_HOT, "loss": "squared"}, {"y": no_data(ONE_HOT)}),
    (
        resflow.certify,
        {"point": POINT, "fit": FIT},
        {"point": NO_POINT, "fit": NO_FIT_TO_THESE | UNFINISHED, **RIDGES},
    ),
    (resflow.certify, {"point": OF_CLASSES, "fit": CLASSES_FIT}, {"fit": NO_CLASSES_FIT, **RIDGES}),
    *(
        (
            resflow.certify,
            {"point": Point.of(of, X, Y, "logistic"), "fit": FIT},
            {"fit": NO_FIT_TO_THESE | UNFINISHED, "ridge_W": {"any": 0.1}},
        )
        for of in (DEEP, model("output_skip"))
    ),
    (
        resflow.analyze,
        {"point": POINT, "fit": FIT, "epsilon": 0.1, "ridge_W": 0.1},
        {"point": NO_POINT, "fit": NO_FIT_TO_THESE, **{name: NO_NUMBER for name in ("epsilon", "mu2")}, **RIDGES},
    ),
    (
        resflow.analyze,
        {"point": OF_CLASSES, "fit": CLASSES_FIT, "epsilon": 0.1},
        {"fit": NO_CLASSES_FIT, "epsilon": NO_NUMBER},
    ),
    (
        resflow.analyze,
        {"point": SKIP, "fit": FIT, "epsilon": 0.1},
        {"fit": NO_FIT_TO_THESE, **{name: NO_NUMBER for name in ("epsilon", "mu2")}, **LANCZOS},
    ),
    (resflow.spectrum, {"point": POINT}, {"point": NO_POINT, **RIDGES}),
    (resflow.smallest_eigenvalue, {"point": POINT}, {"point": NO_POINT, "rtol": NO_NUMBER, **RIDGES}),
    (resflow.smallest_eigenvalue, {"point": SKIP}, LANCZOS),
    (resflow.escape, {"point": POINT}, {"point": NO_UNIT}),
    (
        resflow.solve,
        {"point": POINT},
        {
            "point": NO_UNIT,
            "fit": {what: fit for what, fit in (NO_FIT_TO_THESE | UNFINISHED).items() if what != "None"},
            **{name: NO_NUMBER for name in ("epsilon", "hessian_lipschitz", "max_steps", "radius")},
        },
    ),
    (
        resflow.held_out_gap,
        DATA | {"predictions": Y, "fit": FIT},
        NO_DATA | {"predictions": no_array(Y), "fit": NO_FIT},
    ),
    (
        resflow.held_out_gap,
        {"X": X, "y": CLASSES, "loss": "softmax", "predictions": ONE_HOT, "fit": CLASSES_FIT},
        {
            "X": no_data(X),
            "y": NO_CLASSES,
            "predictions": no_array(ONE_HOT),
            "fit": {"None": None, "of one output": FIT},
        },
    ),
    (resflow.train, DATA | {"model": UNIT, "options": OPTIONS, "key": KEY}, NO_DATA | {"model": NO_MODEL}),
    (
        resflow.train,
        {"model": model("no_skip", M), "X": X, "y": CLASSES, "loss": "softmax", "options": OPTIONS, "key": KEY},
        {"y": NO_CLASSES, "model": {"of two classes": model("no_skip", 2), "of one output": UNIT}},
    ),
    (
        resflow.train_population,
        DATA | {"models": UNITS, "options": OPTIONS, "keys": jax.random.split(KEY, 2)},
        NO_DATA
        | {"models": {"one": UNIT, "None": None}}
        | {"learning_rates": {name: rates for name, rates in no_array([1.0, 2.0]).items() if name != "None"}},
    ),
    (
        resflow.TrainingOptions,
        {},
        {name: NO_NUMBER for name in ("steps", "learning_rate", "batch_size", "log_every")} | {"optimizer": NO_NAME},
    ),
    (
        resflow.fit_augmented,
        {"point": POINT, "fit": FIT},
        {"point": NO_UNIT, "fit": NO_FIT_TO_THESE, "max_norm": NO_SIZE, "ridge": NO_SIZE},
    ),
    (
        resflow.tangent_certificate,
        DATA | {"model": UNIT, "against": FIT},
        {
            "model": {"None": None, "dict": {}, "arrays": (W, V)},
            "X": {what: no_array(X)[what] for what in ("structured", "holes", "400 digits")},
            "y": NO_DATA["y"],
            "loss": NO_LOSS,
            "against": NO_FIT_TO_THESE,
            "tolerance": NO_NUMBER,
            "max_iterations": NO_NUMBER,
        },
    ),
    (
        resflow.probe,
        {"representations": [X, X], "head": (W[:, :D], None), "y": CLASSES, "ridge": 0.1},
        {
            "representations": {f"layer {what}": [X, h] for what, h in no_data(X).items()}
            | {"None": None, "array": X, "one": [X], "another width at the head": [X, X[:, :2]]},
            "head": {f"W {what}": (W, None) for what, W in no_array(W).items()}
            | {"None": None, "nan": (W * np.nan, None), "of two classes": (W[:2], None), "bias": (W, np.ones(2))},
            "y": NO_CLASSES,
            "loss": NO_LOSS | {"for one output": "logistic"},
            "held_out": {
                "no pair": [X],
                "other layers": ([X], CLASSES),
                "other widths": ([X[:, :2], X], CLASSES),
                "other labels": ([X, X], CLASSES - 1),
            },
            "ridge": {what: value for what, value in NO_SIZE.items()},
        },
    ),
    (resflow.random_keys, {}, {"seed": NO_NUMBER | {"None": None, "half": 0.5}}),
    (one_hot, {"y": CLASSES, "m": 3}, {"y": NO_LABELS, "m": NO_NUMBER | {"zero": 0, "too many": 10**9}}),
    (resflow.PseudoHuber, {}, {"delta": NO_NUMBER | {"inf": np.inf, "zero": 0}}),
    (resflow.MeanLoss, {}, {"loss": NO_LOSS}),
    (
        resflow.Dataset,
        {"name": "a", "X": X, "y": Y, "feature_names": ("a", "b", "c")},
        {"X": no_array(X), "y": no_array(Y)},
    ),
    (
        teacher,
        {},
        {name: NO_NUMBER for name in ("n", "d", "noise", "nonlinearity", "seed")} | {"labels": NO_NAME},
    ),
    (resflow.load_dataset, {}, {"name": NO_NAME}),
    (check_dataset_name, {}, {"name": NO_NAME}),
    *(
        (
            resflow.build_model,
            WEIGHTS | {"architecture": architecture},
            {"architecture": NO_NAME, **{name: NO_NUMBER for name in ("d", "scale", "outputs")}},
        )
        for architecture in ("residual_unit", "output_skip", "no_skip")
    ),
    (
        resflow.build_model,
        {"architecture": "deep_residual_network", "d": D, "feature_map": [MAP], "inner": 2, "key": KEY},
        {name: NO_NUMBER for name in ("d", "inner", "scale")},
    ),
    (
        resflow.feature_map,
        {"name": "mlp", "d": D, "width": K, "key": KEY},
        {"name": NO_NAME, "activation": NO_NAME} | {name: NO_NUMBER for name in ("d", "width", "depth")},
    ),
    *(
        (measure.against, {"fit": FIT, "loss": "logistic"}, {"fit": NO_FIT, "loss": NO_LOSS})
        for measure in (resflow.GapMeasure, resflow.StationarityMeasure)
    ),
    (
        resflow.GapMeasure.against,
        {"fit": CLASSES_FIT, "loss": "softmax"},
        {"fit": {"None": None, "of one output": FIT}, "loss": NO_LOSS},
    ),
]
NOT_HERE = {
    "Checkpoints": "its argument is any function",
    "InvalidInputError": "the answer itself",
    "Loss": "the class of losses that users write",
    "ParametricFeatureMap": "any function with any parameters",
    "Standardization": "made by fit, of a Dataset",
    "find_stationary_points": "of any function: tests/test_find.py",
    "flax_feature_map": "tests/test_architectures.py",
    "one_device_per_core": "takes no argument",
}


def test_every_public_name_is_tried():
    tried = {getattr(function, "__qualname__", "").split(".")[0] for function, _, _ in CASES}
    assert set(resflow.__all__) - tried == set(NOT_HERE)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("function", "good", "_"), CASES, ids=[case[0].__qualname__ for case in CASES])
def test_what_the_bad_arguments_stand_in_for_is_good(function, good, _):
    """Else everything would be refused for another reason."""
    needed = {resflow.random_keys: {"seed": 0}, resflow.MeanLoss: {"loss": "squared"}}
    needed |= {resflow.load_dataset: {"name": "wine:1"}, check_dataset_name: {"name": "wine:1"}}
    function(**good | needed.get(function, {}))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("function", "good", "wrong"), CASES, ids=[case[0].__qualname__ for case in CASES])
def test_every_bad_argument_gets_one_line_that_names_it(function, good, wrong):
    for name, values in wrong.items():
        for what, value in values.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of NumPy, on the way to the value itself
                with pytest.raises(InvalidInputError) as raised:
                    function(**good | {name: value})
            assert "\n" not in str(raised.value), (name, what)
            assert 10 < len(str(raised.value)) < 400, (name, what)


class _Tensor:
    """What other libraries' tensors look like to NumPy."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


def _as_matrix(a):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(a)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    "given",
    [
        np.ndarray.tolist,
        _as_matrix,
        pd.DataFrame,
        _Tensor,
        lambda a: pd.DataFrame(a).convert_dtypes(),
        lambda a: a.astype(object),
        lambda a: np.array([[Fraction(entry) for entry in row] for row in a.tolist()]),
        lambda a: a.astype(np.float16),
        lambda a: a.astype(np.longdouble),
        lambda a: a.astype(np.int8),
        lambda a: jnp.asarray(a, jnp.bfloat16),
    ],
    ids=["list", "matrix", "frame", "tensor", "nullable", "objects", "fractions", "half", "long", "bytes", "bfloat16"],
)
def test_whatever_holds_the_same_numbers_gives_the_same_fit(given):
    whole = np.round(2 * X)
    expected = resflow.fit_linear_predictor(whole, Y, ridge=0.1)
    np.testing.assert_array_equal(resflow.fit_linear_predictor(given(whole), Y, ridge=0.1).W, expected.W)


def test_first_bad_entry_of_a_frame_is_named_by_row_and_column():
    table = pd.DataFrame({"age": [1.0, 2.0], "city": ["Rome", "Oslo"]})
    with pytest.raises(InvalidInputError, match="X has 'Rome' in row 0, column 'city', but must hold real numbers"):
        as_array("X", table, 2)


@pytest.mark.parametrize("given", [lambda y: (y + 1) / 2, lambda y: y > 0, lambda y: y.astype(int)])
def test_two_classes_are_what_people_write(given):
    np.testing.assert_array_equal(Point(**ARRAYS | {"y": given(Y)}).y, Y)


@pytest.mark.parametrize(
    "given", [lambda y: y.astype(float), lambda y: np.eye(M)[y], lambda y: np.eye(M, dtype=bool)[y]]
)
def test_several_classes_are_what_people_write(given):
    np.testing.assert_array_equal(Point(**SEVERAL | {"y": given(CLASSES)}).y, CLASSES)


def test_point_that_is_not_finite_is_no_bad_input():
    """A diverged run is something to analyse."""
    result = resflow.certify(Point(**ARRAYS | {"W": np.full(D, np.nan)}), FIT)
    assert np.isnan(result.linear_predictor_gap)


@pytest.mark.parametrize("cast", [lambda a: a.astype(np.float32), lambda a: jnp.asarray(a, jnp.float32)])
def test_fit_in_float64_is_the_baseline_of_the_same_data_in_float32(cast):
    arrays = {name: cast(ARRAYS[name]) for name in ("W", "V", "features", "X", "y")}
    assert np.isfinite(resflow.certify(Point(**arrays, loss="logistic"), FIT).linear_predictor_gap)


def test_class_without_samples_is_called_that():
    with_intercept = np.column_stack([X, np.ones(N)])
    with pytest.raises(InvalidInputError, match="class 0 has no samples"):
        resflow.fit_linear_predictor(with_intercept, 1 + (Y > 0), loss="softmax")
    with pytest.raises(InvalidInputError, match="one class alone"):
        resflow.fit_linear_predictor(with_intercept, np.zeros(N), loss="softmax")
