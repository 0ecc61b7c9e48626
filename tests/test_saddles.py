"""Saddles at W = 0 that the library writes down."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import resflow
from resflow.losses import as_loss
from resflow.studies.atlas import saddle_at_zero
from tests.problems import LOSSES, point
from tests.rounding import EPS


@pytest.mark.parametrize("loss", LOSSES)
def test_saddle_is_stationary_with_the_objective_of_predicting_zero_and_a_way_down(loss):
    at = point(3, 40, 5, 8, loss)
    fit = resflow.fit_linear_predictor(at.X, at.y, loss=loss)
    report = resflow.analyze(saddle_at_zero(at.features, at.X, at.y, loss), fit, epsilon=1e-12)
    assert report.verdict == "strict_saddle"
    np.testing.assert_allclose(report.objective, np.mean(as_loss(loss).value(np.zeros(40), at.y)), rtol=50 * EPS)
    assert report.linear_predictor_gap > 0 > report.lambda_min


def test_no_saddle_is_made_up_where_features_tell_nothing():
    at = point(3, 40, 5, 8, "squared")
    with pytest.raises(resflow.InvalidInputError, match="must not vanish"):
        saddle_at_zero(0 * at.features, at.X, at.y, "squared")
    found = jax.jit(lambda f: saddle_at_zero(f, at.X, at.y, "squared").V)(at.features)
    np.testing.assert_allclose(found, saddle_at_zero(at.features, at.X, at.y, "squared").V, rtol=1e-12)
