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
from resflow import InvalidInputError
from resflow.arrays import as_array

RNG = np.random.default_rng(0)
N, D, K = 20, 3, 4
X, W, V, FEATURES = (RNG.standard_normal(shape) for shape in ((N, D), (3, D), (D, K), (N, K)))
Y, CLASSES = np.where(RNG.random(N) < 0.5, 1.0, -1.0), RNG.integers(0, 3, N)
FIT = resflow.fit_linear_predictor(X, Y, ridge=0.1)
VECTOR_FIT = resflow.fit_vector_linear_predictor(X, CLASSES, ridge=0.1)
KEY = jax.random.key(0)
MAP = resflow.feature_map("mlp", D, width=K, key=KEY)
UNIT = resflow.residual_unit(D, MAP, key=KEY)
DEEP = resflow.deep_residual_network(D, [MAP], inner=2, key=KEY)
UNITS = eqx.filter_vmap(lambda key: resflow.residual_unit(D, MAP, key=key))(jax.random.split(KEY, 2))
OPTIONS = resflow.TrainingOptions(steps=2)
OBJECTIVE = resflow.MeanLoss(resflow.Logistic())


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
NO_LOSS = {"None": None, "class": resflow.Squared, "list": [], "number": 3, "unknown": "logstic"}
NO_NAME = {"unknown": "xyz", "None": None, "list": []}
NO_CLASSES = no_array(CLASSES) | {
    "negative": CLASSES - 1,
    "half": CLASSES + 0.5,
    "a million": np.where(CLASSES == 0, 10**6, CLASSES),
    "nan": np.where(CLASSES == 0, np.nan, CLASSES),
}
NO_LABELS = {what: y for what, y in NO_CLASSES.items() if what != "nothing"}
NO_FIT = {
    "None": None,
    "dict": {},
    "of several outputs": VECTOR_FIT,
    "of another loss": resflow.fit_linear_predictor(X, Y, loss="squared"),
    "with nan": FIT._replace(w=FIT.w * np.nan),
}
NO_FIT_TO_THESE = NO_FIT | {
    "of other samples": resflow.fit_linear_predictor(X + 0.1, Y, ridge=0.1),
    "of samples in other units": resflow.fit_linear_predictor(X * 1.1, Y, ridge=0.1),
    "of fewer samples": resflow.fit_linear_predictor(X[:-1], Y[:-1], ridge=0.1),
    "of other labels": resflow.fit_linear_predictor(X, -Y, ridge=0.1),
    "of other features": resflow.fit_linear_predictor(X[:, :2], Y, ridge=0.1),
}
UNFINISHED = {"unfinished": resflow.fit_linear_predictor(X, Y, ridge=1e-3, max_iterations=1)}
NO_VECTOR_FIT = {
    "None": None,
    "of one output": FIT,
    "of other samples": resflow.fit_vector_linear_predictor(X + 0.1, CLASSES, ridge=0.1),
    "of other labels": resflow.fit_vector_linear_predictor(X, (CLASSES + 1) % 3, ridge=0.1),
    "of another loss": resflow.fit_vector_linear_predictor(X, np.eye(3)[CLASSES], loss="multioutput_squared"),
}
POINT = {"w": W[0], "V": V, "features": FEATURES, "X": X, "y": Y, "loss": "logistic"}
NO_POINT = {name: no_array(POINT[name]) for name in ("w", "V", "features")}
NO_POINT |= {"X": no_data(X), "y": no_data(Y), "loss": NO_LOSS}
VECTOR_POINT = {"W": W, "V": V, "features": FEATURES, "X": X, "Y": CLASSES, "loss": "softmax"}
NO_VECTOR_POINT = {name: no_array(VECTOR_POINT[name]) for name in ("W", "V", "features")}
NO_VECTOR_POINT |= {"X": no_data(X), "Y": NO_CLASSES, "loss": NO_LOSS}
DATA = {"X": X, "y": Y, "loss": "logistic"}
NO_DATA = {"X": no_data(X), "y": no_data(Y), "loss": NO_LOSS}
WEIGHTS = {"d": D, "feature_map": MAP, "key": KEY}
LANCZOS = {name: NO_NUMBER for name in ("steps", "max_restarts", "tolerance")}
FIT_OPTIONS = {"ridge": NO_SIZE, "max_norm": NO_SIZE, "max_iterations": NO_NUMBER | {"zero": 0, "half": 1.5}}


def model_stationarity(X, y, **options):
    return resflow.analyze_model(OBJECTIVE, UNIT, X, y, **options)


def model_eigenvalue(X, y, **options):
    return resflow.smallest_hessian_eigenvalue(OBJECTIVE, UNIT, X, y, **options)


CASES = [
    (resflow.fit_linear_predictor, {"X": X, "y": Y, "ridge": 0.1}, {**NO_DATA, **FIT_OPTIONS}),
    (resflow.fit_linear_predictor, {"X": X, "y": Y}, {"y": {"0 and 1": (Y + 1) / 2, "truths": Y > 0}}),
    (resflow.fit_linear_predictor, {"X": X, "y": Y, "loss": "squared"}, NO_DATA),
    (
        resflow.fit_vector_linear_predictor,
        {"X": X, "Y": CLASSES, "ridge": 0.1},
        {"X": no_data(X), "Y": NO_CLASSES, "loss": NO_LOSS, **FIT_OPTIONS},
    ),
    (
        resflow.fit_vector_linear_predictor,
        {"X": X, "Y": np.eye(3)[CLASSES], "loss": "multioutput_squared"},
        {"Y": no_data(np.eye(3)[CLASSES])},
    ),
    (resflow.gap_certificate, POINT | {"linear_fit": FIT}, NO_POINT | {"linear_fit": NO_FIT_TO_THESE | UNFINISHED}),
    (
        resflow.analyze_point,
        POINT | {"linear_fit": FIT, "epsilon": 0.1, "ridge_w": 0.1},
        NO_POINT
        | {"linear_fit": NO_FIT_TO_THESE}
        | {name: NO_NUMBER for name in ("epsilon", "mu2", "ridge_w", "ridge_V")},
    ),
    (resflow.partial_spectrum, POINT, NO_POINT | {"ridge_w": NO_NUMBER}),
    (resflow.smallest_partial_eigenvalue, POINT, NO_POINT | {"ridge_V": NO_NUMBER, "rtol": NO_NUMBER}),
    (
        resflow.vector_gap_certificate,
        VECTOR_POINT | {"linear_fit": VECTOR_FIT},
        NO_VECTOR_POINT | {"linear_fit": NO_VECTOR_FIT},
    ),
    (resflow.vector_partial_spectrum, VECTOR_POINT, NO_VECTOR_POINT),
    (
        resflow.deep_gap_certificate,
        DATA | {"model": DEEP, "linear_fit": FIT},
        NO_DATA | {"model": {"None": None, "unit": UNIT}, "linear_fit": NO_FIT_TO_THESE | UNFINISHED},
    ),
    (
        resflow.held_out_gap,
        DATA | {"predictions": Y, "linear_fit": FIT},
        NO_DATA | {"predictions": no_array(Y), "linear_fit": NO_FIT},
    ),
    (
        model_stationarity,
        {"X": X, "y": Y, "linear_fit": FIT, "epsilon": 0.1},
        {"X": no_data(X), "y": no_data(Y), "linear_fit": NO_FIT_TO_THESE, "epsilon": NO_NUMBER} | LANCZOS,
    ),
    (model_eigenvalue, {"X": X, "y": Y}, {"X": no_data(X), "y": no_data(Y)} | LANCZOS),
    (resflow.train, DATA | {"model": UNIT, "options": OPTIONS, "key": KEY}, NO_DATA),
    (
        resflow.train_population,
        DATA | {"models": UNITS, "options": OPTIONS, "keys": jax.random.split(KEY, 2)},
        NO_DATA | {"learning_rates": {name: rates for name, rates in no_array([1.0, 2.0]).items() if name != "None"}},
    ),
    (
        resflow.TrainingOptions,
        {},
        {name: NO_NUMBER for name in ("steps", "learning_rate", "batch_size", "log_every")} | {"optimizer": NO_NAME},
    ),
    (
        resflow.one_hot,
        {"y": CLASSES, "m": 3},
        {
            "y": {what: y for what, y in NO_CLASSES.items() if what != "nothing"},
            "m": NO_NUMBER | {"zero": 0, "too many": 10**9},
        },
    ),
    (resflow.PseudoHuber, {}, {"delta": NO_NUMBER | {"inf": np.inf, "zero": 0}}),
    (
        resflow.Dataset,
        {"name": "a", "X": X, "y": Y, "feature_names": ("a", "b", "c")},
        {"X": no_array(X), "y": no_array(Y)},
    ),
    (
        resflow.teacher,
        {},
        {name: NO_NUMBER for name in ("n", "d", "noise", "nonlinearity", "seed")} | {"labels": NO_NAME},
    ),
    (resflow.load_dataset, {}, {"name": NO_NAME}),
    (resflow.check_dataset_name, {}, {"name": NO_NAME}),
    *(
        (function, WEIGHTS, {"d": NO_NUMBER, "scale": NO_NUMBER})
        for function in (resflow.residual_unit, resflow.output_skip, resflow.no_skip)
    ),
    (resflow.vector_output, WEIGHTS | {"outputs": 3}, {"outputs": NO_NUMBER, "d": NO_NUMBER}),
    (
        resflow.deep_residual_network,
        {"d": D, "feature_maps": [MAP], "inner": 2, "key": KEY},
        {name: NO_NUMBER for name in ("d", "inner", "scale")},
    ),
    (resflow.build_model, WEIGHTS, {"architecture": NO_NAME}),
    (
        resflow.feature_map,
        {"name": "mlp", "d": D, "width": K, "key": KEY},
        {"name": NO_NAME, "activation": NO_NAME} | {name: NO_NUMBER for name in ("d", "width", "depth")},
    ),
    *(
        (measure.against, {"linear_fit": FIT, "loss": "logistic"}, {"linear_fit": NO_FIT, "loss": NO_LOSS})
        for measure in (
            resflow.GapMeasure,
            resflow.ModelGapMeasure,
            resflow.StationarityMeasure,
            resflow.DeepGapMeasure,
        )
    ),
    (
        resflow.VectorGapMeasure.against,
        {"linear_fit": VECTOR_FIT, "loss": "softmax"},
        {"linear_fit": {"None": None, "of one output": FIT}, "loss": NO_LOSS},
    ),
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("function", "good", "wrong"), CASES, ids=[getattr(case[0], "__qualname__", "") for case in CASES]
)
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
    np.testing.assert_array_equal(resflow.fit_linear_predictor(given(whole), Y, ridge=0.1).w, expected.w)


def test_first_bad_entry_of_a_frame_is_named_by_row_and_column():
    table = pd.DataFrame({"age": [1.0, 2.0], "city": ["Rome", "Oslo"]})
    with pytest.raises(InvalidInputError, match="X has 'Rome' in row 0, column 'city', but must hold real numbers"):
        as_array("X", table, 2)


def test_point_that_is_not_finite_is_no_bad_input():
    """A diverged run is something to analyse."""
    result = resflow.gap_certificate(**POINT | {"w": np.full(D, np.nan)}, linear_fit=FIT)
    assert np.isnan(result.gap)


@pytest.mark.parametrize("cast", [lambda a: a.astype(np.float32), lambda a: jnp.asarray(a, jnp.float32)])
def test_fit_in_float64_is_the_baseline_of_the_same_data_in_float32(cast):
    arrays = {name: cast(POINT[name]) for name in ("w", "V", "features", "X", "y")}
    assert np.isfinite(resflow.gap_certificate(**arrays, loss="logistic", linear_fit=FIT).gap)


def test_class_without_samples_is_called_that():
    with pytest.raises(InvalidInputError, match="class 0 has no samples"):
        resflow.fit_vector_linear_predictor(np.column_stack([X, np.ones(N)]), 1 + (Y > 0))
    with pytest.raises(InvalidInputError, match="one class alone"):
        resflow.fit_vector_linear_predictor(np.column_stack([X, np.ones(N)]), np.zeros(N))
