import jax
import numpy as np
import pytest

from resflow.errors import InvalidInputError
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses.scalar import as_loss
from resflow.search.saddles import saddle_at_zero
from resflow.stationarity.report import analyze_point
from tests.problems import LOSSES, point
from tests.rounding import EPS


@pytest.mark.parametrize("loss", LOSSES)
def test_saddle_is_stationary_with_the_objective_of_predicting_zero_and_a_way_down(loss):
    _, _, features, X, y = point(3, 40, 5, 8, loss)
    w, V = saddle_at_zero(features, X, y, loss=loss)
    fit = fit_linear_predictor(X, y, loss=loss)
    report = analyze_point(w, V, features, X, y, loss=loss, linear_fit=fit, epsilon=1e-12)
    assert report.verdict == "strict_saddle"
    np.testing.assert_allclose(report.objective, np.mean(as_loss(loss).value(np.zeros(40), y)), rtol=50 * EPS)
    assert report.gap > 0 > report.lambda_min


def test_no_saddle_is_made_up_where_features_tell_nothing():
    _, _, features, X, y = point(3, 40, 5, 8, "squared")
    with pytest.raises(InvalidInputError, match="must not vanish"):
        saddle_at_zero(0 * features, X, y, loss="squared")
    _, V = jax.jit(lambda f: saddle_at_zero(f, X, y, loss="squared"))(features)
    np.testing.assert_allclose(V, saddle_at_zero(features, X, y, loss="squared")[1], rtol=1e-12)
