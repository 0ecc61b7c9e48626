import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from resflow import InvalidInputError, feature_map
from resflow.studies.ridge_minima import find_ridge_minima, judge_ridge_minima

RIDGES = np.array([0.0, 0.003, 0.3])


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 1))
    y = 0.6 * X[:, 0] + 0.2 * np.sin(3 * X[:, 0]) + 0.5 * rng.standard_normal(60)
    return feature_map("random_fourier", 1, width=6, key=jax.random.key(2)), X, y


@pytest.fixture(scope="module")
def ends(problem):
    return find_ridge_minima(*problem, loss="squared", ridges=RIDGES, starts=60, key=jax.random.key(1))


def test_ridge_makes_spurious_minima_which_its_certificate_bounds(ends):
    assert not ends.spurious[0].any()
    assert ends.spurious[1].any()
    assert ends.minimum[1:].mean() > 0.95
    certificate = ends.certificate
    assert (certificate.regularized_gap <= certificate.regularized_certificate + 1e-12).all()
    at_minima, ridge_term = (
        values[1:][ends.minimum[1:]] for values in (certificate.gap_certificate, certificate.ridge_term)
    )
    np.testing.assert_allclose(at_minima, ridge_term, rtol=1e-6, atol=1e-8)
    summary = ends.summary()
    np.testing.assert_allclose(summary["spurious_share"], ends.spurious.mean(axis=1))
    assert summary["largest_gap"].isna().tolist() == (~ends.spurious.any(axis=1)).tolist()
    assert summary.loc[1, "largest_gap"] <= summary.loc[1, "largest_certificate"]


def test_an_independent_minimiser_comes_back_to_each_spurious_minimum(problem, ends):
    f, X, y = problem
    features = np.asarray(jax.vmap(f)(jnp.asarray(X)))
    number = int(np.flatnonzero(ends.spurious[1])[0])
    place = ends.spurious.shape[1] + number
    ridge, w, V = RIDGES[1], np.asarray(ends.units.W[place]), np.asarray(ends.units.V[place])

    def objective(point):
        p = (X + features @ point[1:].reshape(V.shape).T) @ point[:1]
        return np.mean(0.5 * (p - y) ** 2) + 0.5 * ridge * point @ point

    point = np.concatenate([w, V.ravel()])
    again = minimize(objective, point + 1e-2 * np.random.default_rng(0).standard_normal(len(point)), tol=1e-10)
    np.testing.assert_allclose(again.fun, objective(point), atol=1e-9)
    u = np.linspace(-2, 2, 4001)
    linear = 0.5 * np.mean((np.outer(u, X[:, 0]) - y) ** 2, axis=1) + 0.5 * ridge * u**2
    assert objective(point) > linear.min() + 1e-3
    np.testing.assert_allclose(ends.linear_objective[1], linear.min(), atol=1e-6)


def test_ends_are_judged_again_from_their_arrays_alone(problem, ends):
    _, X, y = problem
    kept = jax.tree.map(lambda leaf: np.array(leaf) if eqx.is_array(leaf) else leaf, ends.units)
    again = judge_ridge_minima(kept, X, y, loss="squared", ridges=RIDGES)
    np.testing.assert_array_equal(again.certificate.regularized_gap, ends.certificate.regularized_gap)
    np.testing.assert_array_equal(again.lambda_min, ends.lambda_min)
    number = np.flatnonzero(ends.minimum[2])[0]
    kept.W[2 * ends.minimum.shape[1] + number] += 0.1
    moved = judge_ridge_minima(kept, X, y, loss="squared", ridges=RIDGES)
    assert np.argwhere(moved.minimum != ends.minimum).tolist() == [[2, number]]


def test_impossible_values_are_refused(problem):
    with pytest.raises(InvalidInputError, match=r"ridge_W=-1\.0"):
        find_ridge_minima(*problem, loss="squared", ridges=np.array([-1.0]), starts=2, key=jax.random.key(0))
    with pytest.raises(InvalidInputError, match="starts=0"):
        find_ridge_minima(*problem, loss="squared", ridges=RIDGES, starts=0, key=jax.random.key(0))
