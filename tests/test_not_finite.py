"""A point that is not finite somewhere: every number is NaN and the verdict says so, never one that looks right."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import InvalidInputError, Point
from resflow.certificates.gap import Ridge, gap_certificate
from resflow.certificates.theorems import (
    implied_epsilon,
    lipschitz_constants,
    lipschitz_constants_terms,
    theorem2_bound,
    theorem2_terms,
)
from resflow.losses import as_loss
from resflow.point import ModelPoint
from resflow.stationarity.find import STATUSES
from resflow.stationarity.solve import solve_unit
from resflow.stationarity.terms import VERDICTS, FitEvidence, stationarity_terms
from resflow.status import Status
from resflow.studies.atlas import chart_stationary_points, saddle_at_zero
from resflow.studies.skip_comparison import training_ends
from resflow.workflow.goal import Goal
from resflow.workflow.sweeps.state import Tally

N, D, K, M = 12, 3, 4, 3
BAD = (np.nan, np.inf, -np.inf)
LOSSES = ("squared", "logistic", "pseudo_huber")  # of one output
KINDS = [*((loss, None) for loss in LOSSES), ("softmax", M), ("squared", M)]
of_every_kind = pytest.mark.parametrize(
    ("loss", "m"), KINDS, ids=[loss if m is None else f"{loss} {m}" for loss, m in KINDS]
)


class Arrays(NamedTuple):
    """What a point is made of, before anybody looks whether it can be."""

    W: np.ndarray
    V: np.ndarray
    features: np.ndarray
    X: np.ndarray
    y: np.ndarray


PLACES = Arrays._fields


def point(seed: int, loss: str, m: int | None = None) -> Arrays:
    """A random point."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, D))
    features = np.tanh(X @ rng.standard_normal((D, K)) / np.sqrt(D))
    W = rng.standard_normal((D,) if m is None else (m, D)) / np.sqrt(D)
    y = rng.standard_normal((N,) if m is None else (N, m))
    y = y.argmax(axis=1) if loss == "softmax" else np.sign(y) if loss == "logistic" else y
    return Arrays(W, rng.standard_normal((D, K)) / np.sqrt(D * K), features, X, y.astype(float))


@cache
def fit(loss: str, seed: int = 0, m: int | None = None) -> Any:
    arrays = point(seed, loss, m)
    return resflow.fit_linear_predictor(arrays.X, arrays.y, loss=loss, max_norm=1.0)


def spoiled(seed: int, loss: str, places: tuple[str, ...] = PLACES, m: int | None = None) -> tuple[Arrays, str]:
    """A random point with one number that is not finite; zeros in W and V now and then, which may hide it."""
    rng = np.random.default_rng(seed)
    arrays = point(seed, loss, m)
    if rng.random() < 0.3:
        arrays.W[:] = 0.0
    if rng.random() < 0.3:
        arrays.V[:] = 0.0
    place = places[seed % len(places)]
    array = getattr(arrays, place)
    array.flat[rng.integers(array.size)] = BAD[rng.integers(3)]
    return arrays, place


def is_said(result: Any, known: tuple[str, ...] = ()) -> None:
    """All floating-point numbers NaN, truth values False; but for what the caller gave, or was not asked about."""
    fields = result._asdict() if hasattr(result, "_asdict") else dict(result)
    for name, value in fields.items():
        if name in known:
            continue
        for leaf in map(np.asarray, jax.tree.leaves(value)):
            if leaf.dtype == bool:
                assert not leaf.any(), name
            elif np.issubdtype(leaf.dtype, np.inexact):
                assert np.isnan(leaf).all(), (name, leaf)


POINTWISE = {
    "certify": lambda point, fit: resflow.certify(point, fit),
    "certify with ridge": lambda point, fit: resflow.certify(point, fit, ridge_W=0.1, ridge_V=0.2),
    "spectrum": lambda point, fit: resflow.spectrum(point),
    "smallest_eigenvalue": lambda point, fit: resflow.smallest_eigenvalue(point),
    "escape": lambda point, fit: resflow.escape(point),
}


@of_every_kind
@pytest.mark.parametrize("name", POINTWISE)
def test_numbers_of_a_point_that_is_not_finite_are_not_numbers(name, loss, m):
    for seed in range(25):
        arrays, place = spoiled(seed, loss, m=m)
        if place in ("X", "y"):  # data is asked to be finite
            with pytest.raises(InvalidInputError, match="not finite"):
                POINTWISE[name](Point(*arrays, loss), fit(loss, seed, m))
            continue
        found = POINTWISE[name](Point(*arrays, loss), fit(loss, seed, m))
        is_said(found, known=("point",))
        if name.startswith("certify"):
            assert found.W_rank == -1
        if name == "spectrum":
            assert len(found.eigenvalues) == (m or 1) * D + D * K


@of_every_kind
def test_its_verdict_is_not_finite_and_says_so(loss, m):
    for seed in range(100 if m is None else 30):
        arrays, place = spoiled(seed, loss, ("W", "V", "features"), m)
        report = resflow.analyze(Point(*arrays, loss), fit(loss, seed, m), epsilon=1e-3)
        assert report.verdict == "not_finite", (seed, place, report)
        assert str(report).startswith("not finite: the point, its objective or a derivative is not finite")
        assert "nothing can be said" in str(report)
        numbers = [report.objective, report.linear_predictor_gap, report.gap_certificate, *report.metrics().values()]
        assert np.isnan(numbers[:7]).all()
        assert report.allowed_by_theory


@of_every_kind
def test_members_of_a_population_do_not_spoil_each_other(loss, m):
    """Under vmap, where no label is checked: each bad point is not finite, and each good one what it is alone."""
    places = PLACES if loss != "softmax" else PLACES[:-1]  # classes are whole numbers
    bad = [spoiled(seed, loss, places, m)[0] for seed in range(20)]
    good = [point(seed, loss, m) for seed in range(4)]
    stacked = Arrays(*(np.stack(column) for column in zip(*bad, *good, strict=True)))
    linear = FitEvidence(*map(jnp.asarray, FitEvidence.of(fit(loss, 0, m))))

    @jax.jit
    @jax.vmap
    def together(arrays):
        point = Point(*arrays, loss)
        return (
            stationarity_terms(point, linear, 1e-3),
            gap_certificate(point, linear.W, linear.objective),
            gap_certificate(point, linear.W, linear.objective, Ridge(0.1, 0.1)),
            lipschitz_constants_terms(point, 1.0),
        )

    terms, gap, ridge, constants = together(stacked)
    assert {VERDICTS[code] for code in np.asarray(terms.verdict)[:20]} == {"not_finite"}
    for result in (terms, gap, ridge):
        is_said(
            jax.tree.map(lambda leaf: leaf[:20], result),
            known=("epsilon", "mu2", "curvature_tolerance", "linear_converged", "w_norm", "V_norm"),
        )
    assert (np.asarray(gap.W_rank)[:20] == -1).all()
    assert np.isfinite(np.asarray(terms.lambda_min)[20:]).all()
    assert np.isfinite(np.asarray(gap.linear_predictor_gap)[20:]).all()
    elsewhere = np.array([places[seed % len(places)] in ("W", "V") for seed in range(20)])
    assert np.isnan(np.asarray(constants.mu0)[:20][~elsewhere]).all()
    for row, arrays in enumerate(good):
        alone = resflow.smallest_eigenvalue(Point(*arrays, loss))
        assert float(terms.lambda_min[20 + row]) == pytest.approx(float(alone.lambda_min), rel=1e-9)


def test_theorems_of_what_is_not_finite_are_not_numbers():
    for seed in range(30):
        arrays, place = spoiled(seed, "squared", ("V", "features"))
        at = Point(*arrays, "squared")
        is_said(theorem2_bound(at, fit("squared", seed)))
        if place == "features":
            is_said(lipschitz_constants(at, 1.0))
            with pytest.raises(InvalidInputError, match=r"not finite|must not vanish"):
                saddle_at_zero(*arrays[2:], "squared")
    traced = jax.jit(theorem2_terms)
    good, linear = Point(*point(0, "logistic"), "logistic"), fit("logistic")
    y = good.y.copy()
    y[3] = np.inf
    is_said(traced(good.part(good.features, good.X, y), linear.W, linear.objective))
    is_said(traced(good, np.full(D, np.nan), 0.5))
    for arguments in ((np.nan, 0.0, 1.0), (1.0, np.nan, 1.0), (1.0, -1.0, np.nan)):
        assert np.isnan(implied_epsilon(*arguments))


def spoil(tree: Any, seed: int) -> Any:
    """The pytree with one number of one of its arrays replaced."""
    rng = np.random.default_rng(seed)
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(arrays)
    chosen = seed % len(leaves)
    bad = np.array(leaves[chosen])
    bad.flat[rng.integers(bad.size)] = BAD[rng.integers(3)]
    leaves[chosen] = jnp.asarray(bad)
    return eqx.combine(jax.tree.unflatten(structure, leaves), rest)


def network(architecture: str, outputs: int | None = None):
    """Feature maps that are flat far out: what is infinite in θ or X may leave the predictions finite."""
    keys = jax.random.split(jax.random.key(0), 3)
    phis = [
        resflow.feature_map("mlp", size, width=K, depth=1, activation="tanh", key=key)
        for size, key in zip((D, 2), keys[:2], strict=True)
    ]
    if architecture == "deep_residual_network":
        return resflow.build_model(architecture, D, phis, inner=2, key=keys[2])
    return resflow.build_model(architecture, D, phis[0], key=keys[2], outputs=outputs)


@pytest.mark.parametrize(
    ("architecture", "loss", "m"),
    [("residual_unit", "logistic", None), ("no_skip", "logistic", None), ("output_skip", "softmax", M)],
)
def test_any_model_that_is_not_finite_is_said(architecture, loss, m):
    arrays = point(0, loss, m)
    X, y = jnp.asarray(arrays.X), jnp.asarray(arrays.y)
    for seed in range(16):
        at = ModelPoint(spoil(network(architecture, m), seed), X, y, loss)
        found = resflow.smallest_eigenvalue(at)
        is_said(found._replace(direction=0), known=("certain",))
        is_said(resflow.certify(at, fit(loss, 0, m)))
        report = resflow.analyze(at, fit(loss, 0, m), epsilon=1e-3)
        assert report.verdict == "not_finite"
        assert np.isnan([report.objective, report.linear_predictor_gap, report.grad_norm, report.lambda_min]).all()
    with pytest.raises(InvalidInputError, match="not finite"):
        Point.of(network(architecture, m), spoil(X, 0), y, loss)


def test_deep_certificates_of_what_is_not_finite_are_said():
    arrays = point(0, "logistic")
    for seed in range(12):
        model = spoil(network("deep_residual_network"), seed)
        found = resflow.certify(Point.of(model, arrays.X, arrays.y, "logistic"), fit("logistic"))
        is_said(found)
        assert found.representation_rank == found.kernel_dimension == -1


@of_every_kind
def test_solver_ends_at_once_at_a_point_that_is_not_finite(loss, m):
    for seed in range(6):
        arrays, _ = spoiled(seed, loss, ("W", "V", "features"), m)
        found = resflow.solve(Point(*arrays, loss), fit=fit(loss, seed, m), max_steps=20)
        assert found.status is Status.DIVERGED
        assert not found.converged
        assert not found.norm_running_away
        assert len(found.path.step) == 1
        numbers = [found.objective, found.linear_predictor_gap, found.grad_norm, found.newton_step_norm]
        assert np.isnan(numbers).all()
        is_said(found.smallest)
    X, y = point(0, loss, m)[3:]
    model = eqx.tree_at(lambda unit: unit.V, network("residual_unit", m), jnp.full((D, K), jnp.nan))
    assert not solve_unit(model, X, y, loss, theta_steps=0, max_steps=20).converged


def test_a_search_takes_no_start_for_stationary_that_is_not_finite():
    """The logistic loss is flat at infinity: gradient and Hessian vanish there."""
    X, y = (jnp.asarray(array) for array in point(0, "logistic")[3:])
    objective = resflow.MeanLoss(as_loss("logistic"))
    v = np.random.default_rng(0).standard_normal((7, 2))
    v[:6, 0] = [np.nan, np.inf, -np.inf] * 2
    found = resflow.find_stationary_points(_flat_objective, jnp.asarray(v), X[:, :2], y)
    assert [STATUSES[status] for status in found.status[:6]] == ["diverged"] * 6
    assert np.isnan(found.start_grad_norm[:6]).all()
    assert np.isfinite(found.objective).all()
    with pytest.raises(InvalidInputError, match="data has values that are not finite"):
        resflow.find_stationary_points(_flat_objective, jnp.asarray(v), jnp.tanh(X[:, :2]) / 0.0, y)
    with pytest.raises(InvalidInputError, match="linear_objective=nan must be finite"):
        chart_stationary_points(
            objective, network("no_skip"), X, y, linear_objective=np.nan, starts=2, key=jax.random.key(0)
        )


def _flat_objective(v: Any, X: Any, y: Any) -> Any:
    return jnp.mean(as_loss("logistic").value(jnp.tanh(X) @ v, y))


MEASURES = {
    "residual_unit": resflow.StationarityMeasure.against,
    "no_skip": resflow.GapMeasure.against,
    "deep_residual_network": resflow.GapMeasure.against,
}
TRAINED = [
    *((architecture, "logistic", None) for architecture in MEASURES),
    ("residual_unit", "softmax", M),
    ("no_skip", "softmax", M),
]


@pytest.mark.parametrize(("architecture", "loss", "m"), TRAINED)
def test_training_from_what_is_not_finite_diverges_at_once_and_records_no_number(architecture, loss, m):
    arrays = point(0, loss, m)
    measure = MEASURES[architecture](fit(loss, 0, m), loss)
    options = resflow.TrainingOptions(steps=4, log_every=2, batch_size=4)
    X = jnp.asarray(arrays.X)
    for seed in range(4):
        model = spoil(network(architecture, m), seed)
        result = resflow.train(model, X, arrays.y, loss=loss, options=options, key=jax.random.key(0), measure=measure)
        assert result.diverged_at == 0
        np.testing.assert_array_equal(result.history["step"], [0])
        is_said(result.history, known=("step",))
        end = measure(result.model, X, jnp.asarray(arrays.y))
        is_said(end, known=("lambda_min_converged",))


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", M)])
def test_a_member_that_begins_not_finite_is_told_from_the_others(loss, m):
    arrays = point(0, loss, m)
    models = jax.tree.map(
        lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0],
        network("no_skip", m), spoil(network("no_skip", m), 0), spoil(network("no_skip", m), 1),
    )  # fmt: skip
    result = resflow.train_population(
        models, arrays.X, arrays.y, loss=loss, options=resflow.TrainingOptions(steps=3, log_every=1),
        keys=jax.random.split(jax.random.key(0), 3),
    )  # fmt: skip
    assert result.diverged_at.tolist() == [-1, 0, 0]
    assert np.isfinite(result.history["objective"][0]).all()
    assert np.isnan(result.history["objective"][1:]).all()
    ends = training_ends(models, arrays.X, arrays.y, loss=loss, fit=fit(loss, 0, m), epsilon=1e-3)
    assert ends["verdict"].tolist()[1:] == ["not_finite"] * 2
    assert ends["verdict"].iloc[0] != "not_finite"


@of_every_kind
def test_held_out_gap_of_predictions_that_are_not_finite_is_not_a_number(loss, m):
    arrays = point(0, loss, m)
    for bad in BAD:
        p = np.zeros(N if m is None else (N, m))
        p.flat[3] = bad
        is_said(resflow.held_out_gap(p, arrays.X, arrays.y, loss=loss, fit=fit(loss, 0, m)), (
            "linear_objective", "linear_objective_error",
        ))  # fmt: skip


@pytest.mark.parametrize("maximize", [False, True])
def test_what_is_not_finite_is_never_the_best_of_a_sweep(maximize):
    tally = Tally(goal=Goal("accuracy", maximize=maximize))
    largest = np.finfo(float).max  # what MLflow keeps for infinity
    for value in (np.nan, np.inf, -np.inf, largest, -largest, None):
        tally.consider(value, "diverged")
    assert tally.best is None
    tally.consider(0.5, "a")
    tally.consider(np.nan, "diverged")
    assert (tally.best, tally.best_label) == (0.5, "a")
