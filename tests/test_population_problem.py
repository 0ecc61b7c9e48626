"""How members of a population came out is what the functions of a point say of each, for any number of outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow.models.residual_unit import ResidualUnit
from resflow.studies.population_problem import population_outcomes, population_problem

K, EPSILON = 3, 1e-2
SEEDS = (0, 1, 0)
LOSSES = ("logistic", "softmax")


@pytest.fixture(scope="module", params=LOSSES)
def members(request):
    """A random unit, one that is solved for (W, V), and one at W = 0, V = 0."""
    loss = request.param
    data = resflow.load_dataset("wine:1" if loss == "logistic" else "wine:all").labelled_for(loss)
    data = resflow.Dataset("two features", data.X[:, [1, 2]], data.y, data.feature_names[1:3], classes=data.classes)
    options = [{"seed": seed, "max_norm": None, "ridge": 0.0} for seed in SEEDS]
    problem = population_problem(data, options, test_fraction=0.25, standardize=True, intercept=True, loss=loss)
    keys = resflow.random_keys(0)
    f = resflow.feature_map("mlp", 3, width=K, depth=1, activation="tanh", key=keys.features)
    start = resflow.build_model("residual_unit", 3, f, key=keys.model, outputs=None if loss == "logistic" else 3)
    zero = jnp.zeros_like(start.W), jnp.zeros_like(start.V)
    part = problem.train[1]
    found = resflow.solve(resflow.Point.of(start, part.X, part.y, loss), epsilon=1e-8, fit=problem.linear_fits[1])
    units = [start, ResidualUnit(jnp.asarray(found.point.W), jnp.asarray(found.point.V), f), ResidualUnit(*zero, f)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *units)
    return loss, problem, units, population_outcomes(problem, stacked, range(3), loss=loss, epsilon=EPSILON)


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
