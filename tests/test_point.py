"""A point: what it carries, of which arrays and models it is made, and what it refuses in one line."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import InvalidInputError, Point
from resflow.models.architectures import ARCHITECTURES
from resflow.point import ModelPoint
from resflow.stationarity.report import VERDICTS
from tests.problems import OUTPUTS, ROUNDING, dense_hessians, flat, gradient, linear_fit, objective, point, stacked

SHAPE = (60, 5, 4)


@pytest.mark.parametrize(("loss", "m"), OUTPUTS)
def test_what_a_point_carries_is_what_its_arrays_say(loss, m):
    at = point(0, *SHAPE, loss, m)
    assert at.outputs == (m or 1)
    np.testing.assert_allclose(at.inner, at.X + at.features @ at.V.T, rtol=ROUNDING)
    np.testing.assert_allclose(at.predictions, at.inner @ at.W.T, atol=ROUNDING)
    p = jnp.asarray(at.predictions)
    total = lambda p: len(p) * objective(flat(at.W, at.V), at) + jnp.sum(at.loss.value(p, at.y))  # noqa: E731
    np.testing.assert_allclose(at.slopes, jax.grad(total)(p), atol=ROUNDING)
    directions = np.random.default_rng(0).standard_normal(p.shape)
    moved = jax.jvp(jax.grad(total), (p,), (directions,))[1]
    along = at.curvatures * directions if m is None else np.einsum("nij,nj->ni", at.curvatures, directions)
    np.testing.assert_allclose(along, moved, atol=ROUNDING)
    np.testing.assert_allclose(at.objective, objective(flat(at.W, at.V), at), rtol=ROUNDING)
    assert at.gradient[0].shape == at.W.shape
    np.testing.assert_allclose(flat(*at.gradient), gradient(at), atol=ROUNDING)


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
@pytest.mark.parametrize("kind", ["lists", "float32", "jax", "jax float32", "memory-mapped"])
def test_arrays_of_every_kind_make_the_same_point_in_their_own_precision(kind, loss, m, tmp_path):
    at = point(1, *SHAPE, loss, m)
    fit, arrays = linear_fit(at), [at.W, at.V, at.features, at.X, at.y]
    if kind == "memory-mapped":
        for i, array in enumerate(arrays[2:4], 2):
            np.save(tmp_path / f"{i}.npy", array)
            arrays[i] = np.load(tmp_path / f"{i}.npy", mmap_mode="r")
    make = {
        "lists": lambda array: array.tolist(),
        "float32": lambda array: array.astype(np.float32),
        "jax": jnp.asarray,
        "jax float32": lambda array: jnp.asarray(array, jnp.float32),
        "memory-mapped": lambda array: array,
    }[kind]
    made = Point(*map(make, arrays), loss)
    assert isinstance(made.X, jax.Array if "jax" in kind else np.ndarray)
    assert kind != "memory-mapped" or np.shares_memory(made.X, arrays[3])  # not read yet
    found, expected = resflow.certify(made, fit), resflow.certify(at, fit)
    assert isinstance(found.objective, jax.Array if "jax" in kind else np.float64)
    assert found.objective.dtype == (np.float32 if kind == "jax float32" else np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-4 if "32" in kind else 1e-12, atol=1e-5 if "32" in kind else 0)


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_points_are_made_and_passed_under_jit_and_vmap(loss, m):
    points = [point(seed, *SHAPE, loss, m) for seed in range(3)]
    together, alone = stacked(points), [float(at.objective) for at in points]
    arrays = together.W, together.V, together.features, together.X, together.y
    inside = jax.jit(jax.vmap(lambda *arrays: Point(*arrays, loss).objective))(*arrays)
    np.testing.assert_allclose(inside, alone, rtol=ROUNDING)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda at: at.objective))(together), alone, rtol=ROUNDING)
    slope = jax.jit(jax.grad(lambda W: points[0].at(W, points[0].V).objective))(points[0].W)
    np.testing.assert_allclose(slope, points[0].gradient[0], atol=ROUNDING)


def test_one_output_with_an_axis_is_one_output_without():
    at = point(2, *SHAPE, "squared")
    rows = Point(at.W[None], at.V, at.features, at.X, at.y[:, None], "squared")
    fits = linear_fit(at), linear_fit(rows)
    for name, expected in resflow.certify(at, fits[0])._asdict().items():
        np.testing.assert_allclose(getattr(resflow.certify(rows, fits[1]), name), expected, rtol=1e-11, atol=1e-12)
    found, expected = resflow.smallest_eigenvalue(rows), resflow.smallest_eigenvalue(at)
    np.testing.assert_allclose(found.lambda_min, expected.lambda_min, rtol=1e-10)
    np.testing.assert_allclose(resflow.spectrum(rows).eigenvalues, resflow.spectrum(at).eigenvalues, atol=ROUNDING)


def zoo_model(name: str, outputs: int | None):
    keys = resflow.random_keys(0)
    f = partial(resflow.feature_map, "mlp", width=4, depth=1, activation="tanh", key=keys.features)
    if name == "deep_residual_network":
        return resflow.build_model(name, 5, [f(5), f(2)], inner=2, key=keys.model)
    return resflow.build_model(name, 5, f(5), key=keys.model, outputs=outputs)


ZOO = [(name, None) for name in ARCHITECTURES] + [
    (name, 3) for name in ARCHITECTURES if name != "deep_residual_network"
]


@pytest.mark.parametrize(("name", "m"), ZOO)
def test_every_model_of_the_zoo_gets_certificate_spectrum_and_verdict(name, m):
    loss = "logistic" if m is None else "softmax"
    samples, model = point(0, *SHAPE, loss, m), zoo_model(name, m)
    fit = linear_fit(samples)
    at = Point.of(model, samples.X, samples.y, loss)
    assert isinstance(at, Point if name == "residual_unit" else ModelPoint)
    np.testing.assert_allclose(at.predictions, model(samples.X), atol=ROUNDING)
    certificate = resflow.certify(at, fit)
    np.testing.assert_allclose(certificate.linear_predictor_gap, at.objective - fit.objective, rtol=1e-9, atol=1e-14)
    assert certificate.linear_predictor_gap <= certificate.gap_certificate + ROUNDING
    eigenvalues, smallest = resflow.spectrum(at).eigenvalues, resflow.smallest_eigenvalue(at)
    rounding = smallest.rounding + ROUNDING * np.abs(eigenvalues).max()
    assert smallest.lambda_min_lower - rounding <= eigenvalues[0] <= smallest.lambda_min_upper + rounding
    assert smallest.converged
    report = resflow.analyze(at, fit, epsilon=1e-6)
    assert report.verdict == "not_stationary"
    assert report.verdict in VERDICTS
    if name == "residual_unit":
        np.testing.assert_allclose(report.lambda_min, eigenvalues[0], atol=rounding)
        np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(dense_hessians([at])[0]), atol=ROUNDING)
    else:  # the gradient says it, and what curvature there is is not looked at
        assert np.isnan(report.lambda_min)
        assert (report.lambda_min_lower, report.lambda_min_upper) == (-np.inf, np.inf)
        with pytest.raises(InvalidInputError, match=r"ridge_W=0\.1 and ridge_V=0\.0 are for residual units"):
            resflow.certify(at, fit, ridge_W=0.1)


ONE = point(0, 30, 3, 4, "logistic")
THREE = point(0, 30, 3, 4, "softmax", 3)
SEVERAL = point(0, 30, 3, 4, "squared", 2)
WRONG = [
    (ONE, {"V": ONE.V.T}, r"V has shape \(4, 3\), but must be \(3, 4\)"),
    (ONE, {"W": ONE.W[:2]}, r"W has shape \(2,\), but must be \(3,\)"),
    (ONE, {"W": np.ones((1, 1, 3))}, r"W has shape \(1, 1, 3\), but must be \(d,\), or \(m, d\) for m outputs"),
    (
        ONE,
        {"V": np.ones((3, 0)), "features": np.ones((30, 0))},
        r"features has shape \(30, 0\), but .* at least one column",
    ),
    (
        SEVERAL,
        {"W": np.ones((0, 3)), "y": np.ones((30, 0))},
        r"W has shape \(0, 3\), but there must be at least one row",
    ),
    (ONE, {"features": ONE.features[:-1]}, r"features has shape \(29, 4\), but must be \(30, 4\)"),
    (ONE, {"y": ONE.y[:, None]}, r"y has shape \(30, 1\), but the logistic loss takes one label a sample"),
    (ONE, {"y": ONE.y[:29]}, r"y has shape \(29,\), but X has 30 samples"),
    (ONE, {"y": ONE.y + 1}, r"y has the labels \{0, 2\}, but the logistic loss takes two classes"),
    (ONE, {"X": ONE.X[:0], "features": ONE.features[:0], "y": ONE.y[:0]}, "at least one sample"),
    (ONE, {"X": np.where(ONE.X[2, 1] == ONE.X, np.nan, ONE.X)}, "X has a value that is not finite.*column 1, row 2"),
    (ONE, {"X": ONE.X.astype(str)}, "X has entries such as .* but must hold real numbers"),
    (ONE, {"W": np.ones((2, 3))}, r"W has shape \(2, 3\), but the logistic loss needs \(d,\)"),
    (ONE, {"loss": "logistik"}, "loss='logistik' is unknown: nearest is 'logistic'"),
    (THREE, {"W": np.ones(3)}, r"W has shape \(3,\), but the softmax loss needs \(m, d\), one row a class"),
    (THREE, {"V": THREE.V.T}, r"V has shape \(4, 3\), but must be \(3, 4\)"),
    (THREE, {"y": np.full(30, 3)}, "y has the label 3, but the model has 3 outputs"),
    (THREE, {"y": np.full(30, 0.5)}, "y has the label 0.5 in row 0"),
    (SEVERAL, {"y": SEVERAL.y[:, 0]}, r"y has shape \(30,\), but must be \(30, 2\) to fit W \(2, 3\)"),
    (SEVERAL, {"y": np.ones((30, 3))}, r"y has shape \(30, 3\), but the model has 2 outputs"),
]


@pytest.mark.parametrize(("at", "change", "message"), WRONG, ids=[message[:40] for *_, message in WRONG])
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_input_gets_one_clear_line(at, change, message):
    parts = {name: getattr(at, name) for name in ("W", "V", "features", "X", "y", "loss")}
    with pytest.raises(InvalidInputError, match=message) as raised:
        Point(**parts | change)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("call", [resflow.certify, resflow.analyze, resflow.spectrum, resflow.smallest_eigenvalue])
def test_what_is_no_point_is_refused_by_name(call):
    arguments = {resflow.certify: (None,), resflow.analyze: (None,)}.get(call, ())
    options = {"epsilon": 0.0} if call is resflow.analyze else {}
    with pytest.raises(InvalidInputError, match=r"point is a dict, but must be a Point.*Point\.of a model"):
        call({}, *arguments, **options)
