"""Groups of features as modalities: which columns they are, their subsets, and what is made of each."""

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from resflow import Dataset, InvalidInputError, Standardization, TrainingOptions, feature_map
from resflow.studies.modalities import compare_subsets, ends_of_subsets, modalities, subsets, supersets

rng = np.random.default_rng(0)
X = rng.standard_normal((80, 5))
Y = np.sign(X[:, 0] + 0.7 * X[:, 2] + rng.standard_normal(80))
DATA = Dataset("made up", X, Y, ("text a", "text b", "image a", "image b", "age"), "kind", ("no", "yes"))
R = 0.6


def test_modality_is_the_features_with_its_word():
    assert modalities(DATA, ["image", "text"]) == {"image": (2, 3), "text": (0, 1)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["text", "imgae"], "modality 'imgae' is in the name of no feature of made up: nearest are image"),
        (["text", "a"], "modalities 'text' and 'a' share the feature 'text a' of made up"),
        (["text", "text"], "names one of them twice"),
        (["text"], "must be at least two"),
    ],
)
def test_modalities_that_are_none_get_one_clear_line(words, message):
    with pytest.raises(InvalidInputError, match=message):
        modalities(DATA, words)


def test_every_superset_is_compared_with_each_of_its_subsets():
    chosen = ["+".join(words) for words in subsets(["a", "b", "c"])]
    assert chosen == ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
    table = pd.DataFrame({"subset": chosen, "seed": 0, "objective": [5.0, 4.0, 3.0, 2.0, 6.0, 1.0, 0.5]})
    found = supersets(table, "objective").set_index(["subset", "superset"])["improvement"]
    assert len(found) == 12
    assert found["a", "a+c"] == -1.0
    assert found["b+c", "a+b+c"] == 0.5
    assert ("a", "b+c") not in found.index


def test_subsets_are_fitted_in_nested_balls_on_the_same_split():
    groups, how = modalities(DATA, ["text", "image"]), {"loss": "logistic", "max_norm": R, "seeds": range(2)}
    options = TrainingOptions(steps=30, learning_rate=0.03, log_every=30)
    table, units = compare_subsets(
        DATA, groups, feature_map=lambda d, key: feature_map("mlp", d, width=2, key=key), options=options, **how
    )
    again = ends_of_subsets(DATA, units, groups=groups, test_fraction=0.25, epsilon=1e-3, **how)
    pd.testing.assert_frame_equal(again, table, rtol=0, atol=0)
    assert list(table["subset"]) == ["text"] * 2 + ["image"] * 2 + ["text+image"] * 2
    gains = supersets(table, "linear_objective")["improvement"]
    assert (gains >= -1e-12).all()
    assert gains.max() > 0.01
    np.testing.assert_allclose(
        table["objective"] - table["linear_objective"], table["linear_predictor_gap"], atol=1e-12
    )
    # One row by another library: with the norm bound active some ridge strength gives the same predictor.
    train, test = DATA.split(0.25, seed=1)
    scaling = Standardization.fit(train)
    train, test = (scaling.apply(part).with_intercept() for part in (train, test))
    train_X, test_X = (part.X[:, [0, 1, 5]] for part in (train, test))
    low, high = 1e-6, 1e3
    for _ in range(60):
        C = np.sqrt(low * high)
        model = LogisticRegression(C=C, fit_intercept=False, solver="newton-cholesky", tol=1e-12).fit(train_X, train.y)
        low, high = (C, high) if np.linalg.norm(model.coef_) < R else (low, C)
    row = table[(table["subset"] == "text") & (table["seed"] == 1)].iloc[0]
    for part_X, y, column in ((train_X, train.y, "linear_objective"), (test_X, test.y, "test_linear_objective")):
        expected = np.mean(np.logaddexp(0.0, -y * (part_X @ model.coef_[0])))
        np.testing.assert_allclose(row[column], expected, rtol=1e-8)
    unit = jax.tree.map(lambda leaf: leaf[1] if eqx.is_array(leaf) else leaf, units["text"])
    for part_X, y, column in ((train_X, train.y, "objective"), (test_X, test.y, "test_objective")):
        expected = np.mean(np.logaddexp(0.0, -y * unit(part_X)))
        np.testing.assert_allclose(row[column], expected, rtol=1e-12)
