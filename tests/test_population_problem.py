"""How members of a population came out is what the functions of a point say of each, for any number of outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow.models.residual_unit import NoSkipNetwork, OutputSkipNetwork, ResidualUnit
from resflow.studies.population_problem import population_outcomes, population_problem

K, EPSILON = 3, 1e-2
SEEDS = (0, 1, 0)
LOSSES = ("logistic", "softmax")


@pytest.fixture(scope="module", params=LOSSES)
def members(request):
    """A random unit, one that is solved for (W, V), and one at W = 0, V = 0."""
    loss = request.param
    problem, start = problem_and_start(loss, "residual_unit")
    f = start.feature_map
    zero = jnp.zeros_like(start.W), jnp.zeros_like(start.V)
    part = problem.train[1]
    found = resflow.solve(resflow.Point.of(start, part.X, part.y, loss), epsilon=1e-8, fit=problem.linear_fits[1])
    units = [start, ResidualUnit(jnp.asarray(found.point.W), jnp.asarray(found.point.V), f), ResidualUnit(*zero, f)]
    return loss, problem, units, population_outcomes(problem, stacked(units), range(3), loss=loss, epsilon=EPSILON)


def problem_and_start(loss, architecture):
    data = resflow.load_dataset("wine:1" if loss == "logistic" else "wine:all").labelled_for(loss)
    data = resflow.Dataset("two features", data.X[:, [1, 2]], data.y, data.feature_names[1:3], classes=data.classes)
    options = [{"seed": seed, "max_norm": None, "ridge": 0.0} for seed in SEEDS]
    problem = population_problem(data, options, test_fraction=0.25, standardize=True, intercept=True, loss=loss)
    keys = resflow.random_keys(0)
    f = resflow.feature_map("mlp", 3, width=K, depth=1, activation="tanh", key=keys.features)
    outputs = None if loss == "logistic" else 3
    return problem, resflow.build_model(architecture, 3, f, key=keys.model, outputs=outputs)


def stacked(models):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *models)


def test_members_of_one_seed_share_their_data(members):
    loss, problem, _, _ = members
    np.testing.assert_array_equal(problem.data_sets, [0, 1, 0])
    assert problem.X.shape[0] == problem.y.shape[0] == 2
    assert problem.linear_fits[0] is problem.linear_fits[2]
    if loss == "softmax":
        assert [set(labels) for labels in problem.y] == [{0.0, 1.0, 2.0}] * 2


def test_verdicts_are_those_of_each_point(members):
    loss, problem, units, outcomes = members
    for row, (unit, place, fit) in enumerate(zip(units, problem.data_sets, problem.linear_fits, strict=True)):
        train, test = problem.train[place], problem.test[place]
        report = resflow.analyze(resflow.Point.of(unit, train.X, train.y, loss), fit, epsilon=EPSILON)
        assert outcomes["verdict"][row] == report.verdict
        np.testing.assert_allclose(outcomes["lambda_min"][row], report.lambda_min, rtol=1e-9, atol=1e-13)
        assert outcomes["best_linear_objective"][row] == fit.objective
        assert outcomes["linear_fit_converged"][row]
        held_out = resflow.held_out_gap(unit(jnp.asarray(test.X)), test.X, test.y, loss=loss, fit=fit)
        np.testing.assert_allclose(outcomes["test_linear_predictor_gap"][row], held_out.gap, rtol=1e-10, atol=1e-14)
    assert outcomes["verdict"][1] == "sopsp_at_or_below_linear"
    assert outcomes["verdict"][2] == "not_stationary"


def weights_around(model):
    return (model.W, model.v) if isinstance(model, OutputSkipNetwork) else (model.v,)


def minimised(model, X, y, loss):
    """The model with the best weights around its features, by Newton's method on the convex objective."""
    f, skips = model.feature_map, isinstance(model, OutputSkipNetwork)
    inputs = jnp.concatenate([X, model.features(X)], axis=1) if skips else model.features(X)
    best = jnp.asarray(resflow.fit_linear_predictor(np.asarray(inputs), y, loss=loss).W)
    return OutputSkipNetwork(best[..., : X.shape[1]], best[..., X.shape[1] :], f) if skips else NoSkipNetwork(best, f)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("architecture", ["output_skip", "no_skip"])
def test_verdicts_of_other_architectures_are_those_on_their_weights_around_the_features(architecture, loss):
    problem, start = problem_and_start(loss, architecture)
    minimum = minimised(start, jnp.asarray(problem.train[1].X), problem.train[1].y, loss)
    broken = eqx.tree_at(weights_around, start, tuple(jnp.full_like(part, jnp.nan) for part in weights_around(start)))
    models = [start, minimum, broken]
    outcomes = population_outcomes(problem, stacked(models), range(3), loss=loss, epsilon=EPSILON)
    for row, place in enumerate(problem.data_sets[:2]):
        part, fit = problem.train[place], problem.linear_fits[row]
        point = resflow.Point.of(models[row], part.X, part.y, loss)
        report = resflow.analyze(point, fit, epsilon=EPSILON, block=weights_around)
        assert outcomes["verdict"][row] == report.verdict
        np.testing.assert_allclose(outcomes["partial_grad_norm"][row], report.grad_norm, rtol=1e-9, atol=1e-14)
    # Three random features tell three classes of wine apart less well than a linear predictor does.
    above = architecture == "no_skip" and loss == "softmax"
    end = "sopsp_above_linear" if above else "sopsp_at_or_below_linear"
    assert outcomes["verdict"].tolist() == ["not_stationary", end, "not_finite"]
