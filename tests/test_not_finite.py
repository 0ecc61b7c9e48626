"""A point that is not finite somewhere: every number is NaN and the verdict says so, never one that looks right."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow.certificates.gap import gap_certificate_terms
from resflow.certificates.regularization import ridge_gap_certificate, ridge_gap_certificate_terms
from resflow.certificates.theorems import (
    implied_epsilon,
    lipschitz_constants,
    lipschitz_constants_terms,
    theorem2_bound,
    theorem2_terms,
)
from resflow.certificates.vector import vector_gap_certificate_terms
from resflow.errors import InvalidInputError
from resflow.losses.scalar import as_loss
from resflow.losses.vector import as_vector_loss
from resflow.models.feature_maps import mlp
from resflow.search.atlas import chart_stationary_points
from resflow.search.saddles import saddle_at_zero
from resflow.search.stationary_points import STATUSES, find_stationary_points
from resflow.stationarity.escape import escape
from resflow.stationarity.newton import NewtonOptions, solve_partial, solve_residual_unit
from resflow.stationarity.terms import VERDICTS, stationarity_terms
from resflow.studies.skip_comparison import training_ends
from resflow.workflow.goal import Goal
from resflow.workflow.sweeps.state import Tally
from tests.problems import LOSSES, Point, point

N, D, K = 12, 3, 4
BAD = (np.nan, np.inf, -np.inf)
PLACES = ("w", "V", "features", "X", "y")


@cache
def fit(loss: str, seed: int = 0) -> resflow.LinearFit:
    arrays = point(seed, N, D, K, loss)
    return resflow.fit_linear_predictor(arrays.X, arrays.y, loss=loss, ridge=0.1)


def spoiled(seed: int, loss: str, places: tuple[str, ...] = PLACES) -> tuple[Point, str]:
    """A random point with one number that is not finite; zeros in w and V now and then, which may hide it."""
    rng = np.random.default_rng(seed)
    arrays = point(seed, N, D, K, loss)
    arrays = Point(*(array.copy() for array in arrays))
    if rng.random() < 0.3:
        arrays.w[:] = 0.0
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
        value = np.asarray(value)
        if name in known:
            continue
        if value.dtype == bool:
            assert not value.any(), name
        elif np.issubdtype(value.dtype, np.inexact):
            assert np.isnan(value).all(), (name, value)


POINTWISE = {
    "gap_certificate": lambda p, loss, linear: resflow.gap_certificate(*p, loss=loss, linear_fit=linear),
    "ridge_gap_certificate": lambda p, loss, linear: ridge_gap_certificate(
        *p, loss=loss, linear_fit=linear, ridge_w=0.1, ridge_V=0.2
    ),
    "partial_spectrum": lambda p, loss, linear: resflow.partial_spectrum(*p, loss=loss),
    "smallest_partial_eigenvalue": lambda p, loss, linear: resflow.smallest_partial_eigenvalue(*p, loss=loss),
    "escape": lambda p, loss, linear: escape(*p, loss=loss),
}


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("loss", LOSSES)
def test_numbers_of_a_point_that_is_not_finite_are_not_numbers(name, loss):
    for seed in range(25):
        arrays, place = spoiled(seed, loss)
        if place in ("X", "y"):  # data is asked to be finite
            with pytest.raises(InvalidInputError, match="not finite"):
                POINTWISE[name](arrays, loss, fit(loss, seed))
            continue
        is_said(POINTWISE[name](arrays, loss, fit(loss, seed)), known=("w", "V"))


@pytest.mark.parametrize("loss", LOSSES)
def test_its_verdict_is_not_finite_and_says_so(loss):
    for seed in range(100):
        arrays, place = spoiled(seed, loss, ("w", "V", "features"))
        report = resflow.analyze_point(*arrays, loss=loss, linear_fit=fit(loss, seed), epsilon=1e-3)
        assert report.verdict == "not_finite", (seed, place, report)
        assert str(report).startswith("not_finite: the point, its objective or a derivative is not finite")
        assert "nothing can be said" in str(report)
        assert np.isnan([report.objective, report.gap, report.certificate, *report.metrics().values()][:6]).all()
        assert report.allowed_by_theory


@pytest.mark.parametrize("loss", LOSSES)
def test_members_of_a_population_do_not_spoil_each_other(loss):
    """Under vmap, where no label is checked: each bad point is not finite, and each good one what it is alone."""
    bad = [spoiled(seed, loss)[0] for seed in range(20)]
    good = [point(seed, N, D, K, loss) for seed in range(4)]
    stacked = [jnp.stack([jnp.asarray(arrays[part]) for arrays in [*bad, *good]]) for part in range(5)]
    linear = (fit(loss).w, fit(loss).objective, fit(loss).suboptimality, fit(loss).converged, 1e-3)
    of_loss = as_loss(loss)

    @jax.jit
    @jax.vmap
    def together(*arrays):
        terms = stationarity_terms(*arrays, *linear, loss=of_loss)
        gap = gap_certificate_terms(*arrays, *linear[:2], loss=of_loss)
        ridge = ridge_gap_certificate_terms(*arrays, *linear[:2], 0.1, 0.1, loss=of_loss)
        return terms, gap, ridge, lipschitz_constants_terms(*arrays[2:], 1.0, loss=of_loss)

    terms, gap, ridge, constants = together(*stacked)
    assert {VERDICTS[code] for code in np.asarray(terms.verdict)[:20]} == {"not_finite"}
    for result in (terms, gap, ridge):
        is_said(
            jax.tree.map(lambda leaf: leaf[:20], result),
            known=("epsilon", "mu2", "curvature_tolerance", "linear_converged", "w_norm", "V_norm"),
        )
    assert np.isfinite(np.asarray(terms.lambda_min)[20:]).all()
    assert np.isfinite(np.asarray(gap.gap)[20:]).all()
    elsewhere = np.array([seed % 5 in (0, 1) for seed in range(20)])
    assert np.isnan(np.asarray(constants.mu0)[:20][~elsewhere]).all()
    for row, arrays in enumerate(good):
        alone = resflow.smallest_partial_eigenvalue(*arrays, loss=loss)
        assert float(terms.lambda_min[20 + row]) == pytest.approx(alone.value, rel=1e-9)


def test_theorems_of_what_is_not_finite_are_not_numbers():
    for seed in range(30):
        arrays, place = spoiled(seed, "squared", ("V", "features"))
        is_said(theorem2_bound(*arrays[1:], loss="squared", linear_fit=fit("squared", seed)))
        if place == "features":
            is_said(lipschitz_constants(*arrays[2:], loss="squared", radius=1.0))
            with pytest.raises(InvalidInputError, match=r"not finite|must not vanish"):
                saddle_at_zero(*arrays[2:], loss="squared")
    traced = jax.jit(partial(theorem2_terms, loss=as_loss("logistic")))
    good = point(0, N, D, K, "logistic")
    y = good.y.copy()
    y[3] = np.inf
    is_said(traced(*good[1:4], y, fit("logistic").w, fit("logistic").objective))
    is_said(traced(*good[1:], np.full(D, np.nan), 0.5))
    for arguments in ((np.nan, 0.0, 1.0), (1.0, np.nan, 1.0), (1.0, -1.0, np.nan)):
        assert np.isnan(implied_epsilon(*arguments))


@pytest.mark.parametrize("loss", ["softmax", "multioutput_squared"])
def test_vector_outputs_that_are_not_finite_are_said(loss):
    rng = np.random.default_rng(0)
    m = 3
    linear_W = rng.standard_normal((m, D))
    terms = jax.jit(partial(vector_gap_certificate_terms, loss=as_vector_loss(loss)))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        W, V, features, X = (rng.standard_normal(shape) for shape in ((m, D), (D, K), (N, K), (N, D)))
        Y = rng.integers(0, m, N).astype(float) if loss == "softmax" else rng.standard_normal((N, m))
        array = (W, V, features, X)[seed % 4]
        array.flat[rng.integers(array.size)] = BAD[rng.integers(3)]
        found = terms(W, V, features, X, Y, linear_W, 0.5)
        is_said(found)
        assert found.rank == -1
        if seed % 4 == 3:
            with pytest.raises(InvalidInputError, match="X has a value that is not finite"):
                resflow.vector_partial_spectrum(W, V, features, X, Y, loss=loss)
            continue
        spectrum = resflow.vector_partial_spectrum(W, V, features, X, Y, loss=loss)
        is_said(spectrum)
        assert len(spectrum.eigenvalues) == m * D + D * K


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


def network(architecture: str, activation: str = "tanh"):
    """Feature maps that are flat far out: what is infinite in θ or X may leave the predictions finite."""
    keys = jax.random.split(jax.random.key(0), 3)
    if architecture == "deep_residual_network":
        phis = [
            mlp(size, width=K, depth=1, activation=activation, key=key)
            for size, key in zip((D, 2), keys[:2], strict=True)
        ]
        return resflow.build_model(architecture, D, phis, inner=2, key=keys[2])
    phi = mlp(D, width=K, depth=1, activation=activation, key=keys[0])
    return resflow.build_model(architecture, D, phi, key=keys[2])


@pytest.mark.parametrize("architecture", ["residual_unit", "no_skip"])
def test_any_model_that_is_not_finite_is_said(architecture):
    arrays = point(0, N, D, K, "logistic")
    X, y = jnp.asarray(arrays.X), jnp.asarray(arrays.y)
    objective = resflow.MeanLoss(as_loss("logistic"))
    for seed in range(16):
        model = spoil(network(architecture), seed)
        found = resflow.smallest_hessian_eigenvalue(objective, model, X, y)
        is_said(found._replace(direction=0), known=("certain",))
        report = resflow.analyze_model(objective, model, X, y, linear_fit=fit("logistic"), epsilon=1e-3)
        assert report.verdict == "not_finite"
        assert np.isnan([report.objective, report.gap, report.grad_norm, report.lambda_min]).all()
    with pytest.raises(InvalidInputError, match="not finite"):
        resflow.smallest_hessian_eigenvalue(objective, network(architecture), spoil(X, 0), y)


def test_deep_certificates_of_what_is_not_finite_are_said():
    arrays = point(0, N, D, K, "logistic")
    for seed in range(12):
        model = spoil(network("deep_residual_network"), seed)
        found = resflow.deep_gap_certificate(model, arrays.X, arrays.y, loss="logistic", linear_fit=fit("logistic"))
        is_said(found)
        assert found.representation_rank == found.kernel_dimension == -1


@pytest.mark.parametrize("loss", LOSSES)
def test_solver_ends_at_once_at_a_point_that_is_not_finite(loss):
    for seed in range(6):
        arrays, _ = spoiled(seed, loss, ("w", "V", "features"))
        found = solve_partial(*arrays, loss=loss, linear_fit=fit(loss, seed), options=NewtonOptions(max_steps=20))
        assert not found.converged
        assert not found.norm_running_away
        assert len(found.path.step) == 1
        assert np.isnan([found.objective, found.gap, found.grad_norm, found.newton_step_norm]).all()
        is_said(found.lambda_min)
    X, y = point(0, N, D, K, loss)[3:]
    model = eqx.tree_at(lambda unit: unit.V, network("residual_unit"), jnp.full((D, K), jnp.nan))
    assert not solve_residual_unit(model, X, y, loss=loss, options=NewtonOptions(max_steps=20)).converged


def test_a_search_takes_no_start_for_stationary_that_is_not_finite():
    """The logistic loss is flat at infinity: gradient and Hessian vanish there."""
    X, y = (jnp.asarray(array) for array in point(0, N, D, K, "logistic")[3:])
    objective = resflow.MeanLoss(as_loss("logistic"))
    v = np.random.default_rng(0).standard_normal((7, 2))
    v[:6, 0] = [np.nan, np.inf, -np.inf] * 2
    found = find_stationary_points(_flat_objective, jnp.asarray(v), X[:, :2], y)
    assert [STATUSES[status] for status in found.status[:6]] == ["diverged"] * 6
    assert np.isnan(found.start_grad_norm[:6]).all()
    assert np.isfinite(found.objective).all()
    with pytest.raises(InvalidInputError, match="data has values that are not finite"):
        find_stationary_points(_flat_objective, jnp.asarray(v), jnp.tanh(X[:, :2]) / 0.0, y)
    with pytest.raises(InvalidInputError, match="linear_objective=nan must be finite"):
        chart_stationary_points(
            objective, network("no_skip"), X, y, linear_objective=np.nan, starts=2, key=jax.random.key(0)
        )


def _flat_objective(v: Any, X: Any, y: Any) -> Any:
    return jnp.mean(as_loss("logistic").value(jnp.tanh(X) @ v, y))


MEASURES = {
    "residual_unit": resflow.StationarityMeasure,
    "no_skip": resflow.ModelGapMeasure,
    "deep_residual_network": resflow.DeepGapMeasure,
}


@pytest.mark.parametrize("architecture", MEASURES)
def test_training_from_what_is_not_finite_diverges_at_once_and_records_no_number(architecture):
    arrays = point(0, N, D, K, "logistic")
    measure = MEASURES[architecture].against(fit("logistic"), "logistic")
    options = resflow.TrainingOptions(steps=4, log_every=2, batch_size=4)
    X = jnp.asarray(arrays.X)
    for seed in range(4):
        model = spoil(network(architecture), seed)
        result = resflow.train(
            model, X, arrays.y, loss="logistic", options=options, key=jax.random.key(0), measure=measure
        )
        assert result.diverged_at == 0
        np.testing.assert_array_equal(result.history["step"], [0])
        is_said(result.history, known=("step",))
        end = measure(result.model, X, jnp.asarray(arrays.y))
        is_said(end, known=("lambda_min_converged",))


def test_a_member_that_begins_not_finite_is_told_from_the_others():
    arrays = point(0, N, D, K, "logistic")
    models = jax.tree.map(
        lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0],
        network("no_skip"), spoil(network("no_skip"), 0), spoil(network("no_skip"), 1),
    )  # fmt: skip
    result = resflow.train_population(
        models, arrays.X, arrays.y, loss="logistic", options=resflow.TrainingOptions(steps=3, log_every=1),
        keys=jax.random.split(jax.random.key(0), 3),
    )  # fmt: skip
    assert result.diverged_at.tolist() == [-1, 0, 0]
    assert np.isfinite(result.history["objective"][0]).all()
    assert np.isnan(result.history["objective"][1:]).all()
    ends = training_ends(models, arrays.X, arrays.y, loss="logistic", linear_fit=fit("logistic"), epsilon=1e-3)
    assert ends["verdict"].iloc[0] != "not_finite"


def test_held_out_gap_of_predictions_that_are_not_finite_is_not_a_number():
    arrays = point(0, N, D, K, "logistic")
    for bad in BAD:
        p = np.zeros(N)
        p[3] = bad
        is_said(resflow.held_out_gap(p, arrays.X, arrays.y, loss="logistic", linear_fit=fit("logistic")), (
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
