from dataclasses import replace

import numpy as np
import pytest

from resflow import Dataset, InvalidInputError, Standardization


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(5, 2, 40), rng.normal(-1, 1e-3, 40), np.full(40, 7.0)])
    return Dataset("made up", X, rng.integers(0, 2, 40).astype(float), ("a", "b", "constant"), "outcome")


def test_digest_changes_with_the_data_and_only_with_it(dataset):
    same = Dataset("another name", dataset.X.copy(), dataset.y.copy(), dataset.feature_names, dataset.target)
    changed = Dataset(dataset.name, dataset.X + np.eye(40, 3) * 1e-13, dataset.y, dataset.feature_names, "outcome")
    transposed_order = Dataset("order", np.asfortranarray(dataset.X), dataset.y, dataset.feature_names, "outcome")
    assert dataset.digest == same.digest == transposed_order.digest
    assert dataset.digest != changed.digest


def test_two_classes_become_minus_one_and_one(dataset):
    labelled = dataset.labelled_for("logistic")
    np.testing.assert_array_equal(labelled.y, 2 * dataset.y - 1)
    assert labelled.classes == ("0", "1")
    assert dataset.labelled_for("squared") is dataset


def test_more_than_two_classes_are_refused_under_the_logistic_loss(dataset):
    many = Dataset("made up", dataset.X, np.arange(40.0) % 3, dataset.feature_names, "outcome")
    with pytest.raises(InvalidInputError, match=r"target 'outcome' has 3 distinct values \(0, 1, 2\)"):
        many.labelled_for("logistic")


def test_split_is_disjoint_complete_stratified_and_reproducible(dataset):
    labelled = dataset.labelled_for("logistic")
    train, test = labelled.split(0.25, seed=3)
    again, _ = labelled.split(0.25, seed=3)
    other, _ = labelled.split(0.25, seed=4)
    assert (len(train.y), len(test.y)) == (30, 10)
    rows = {tuple(row) for row in np.vstack([train.X, test.X])}
    assert rows == {tuple(row) for row in labelled.X}
    assert abs((train.y > 0).mean() - (test.y > 0).mean()) < 0.05
    assert train.digest == again.digest != other.digest


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, 0.001, float("nan")])
def test_split_refuses_fractions_that_leave_a_set_empty(dataset, fraction):
    with pytest.raises(InvalidInputError, match="test_fraction="):
        dataset.split(fraction, seed=0)


def test_standardisation_has_mean_zero_and_deviation_one_and_leaves_constants(dataset):
    standard = Standardization.fit(dataset).apply(dataset)
    np.testing.assert_allclose(standard.X.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(standard.X[:, :2].std(axis=0), 1, rtol=1e-10)
    np.testing.assert_array_equal(standard.X[:, 2], 0)


def test_standardisation_fitted_on_one_set_applies_to_another(dataset):
    train, test = dataset.split(0.5, seed=0)
    scaling = Standardization.fit(train)
    expected = (test.X - train.X.mean(axis=0)) / np.where(train.X.std(axis=0) > 1e-9, train.X.std(axis=0), 1)
    np.testing.assert_allclose(scaling.apply(test).X, expected)


def test_class_labels_survive_standardisation_and_real_ones_are_scaled(dataset):
    labelled = dataset.labelled_for("logistic")
    np.testing.assert_array_equal(Standardization.fit(labelled).apply(labelled).y, labelled.y)
    np.testing.assert_allclose(Standardization.fit(dataset).apply(dataset).y.std(), 1)


def test_intercept_is_a_constant_last_feature_added_once(dataset):
    extended = dataset.with_intercept()
    np.testing.assert_array_equal(extended.X[:, -1], 1.0)
    assert extended.feature_names[-1] == "intercept"
    with pytest.raises(InvalidInputError, match="has a feature 'intercept' already"):
        extended.with_intercept()


def test_missing_values_are_named_by_column_and_row(dataset):
    X = dataset.X.copy()
    X[7, 1] = np.nan
    with pytest.raises(InvalidInputError, match=r"made up: 1 values .* column 'b', row 7"):
        Dataset("made up", X, dataset.y, dataset.feature_names)


def test_shapes_that_do_not_fit_are_refused(dataset, unchecked_types):
    with pytest.raises(InvalidInputError, match=r"X has shape \(40, 3\) and y \(39,\)"):
        Dataset("made up", dataset.X, dataset.y[1:], dataset.feature_names)
    with pytest.raises(InvalidInputError, match="2 feature names for 3 features"):
        Dataset("made up", dataset.X, dataset.y, ("a", "b"))


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_classes_keep_their_codes_and_names_where_a_part_lacks_one(loss):
    classes = {"softmax": 3, "logistic": 2}[loss]
    y = np.arange(12.0) % classes
    whole = Dataset("made up", np.eye(12), y, tuple("abcdefghijkl")).labelled_for(loss)
    part = replace(whole, X=whole.X[y > 0], y=whole.y[y > 0])
    for again in (part.labelled_for(loss), part.labelled_for("softmax").labelled_for(loss)):
        np.testing.assert_array_equal(again.y, part.y)
        assert again.classes == whole.classes


def test_two_classes_change_their_codes_with_the_loss(dataset):
    several = dataset.labelled_for("softmax")
    np.testing.assert_array_equal(several.labelled_for("logistic").y, dataset.labelled_for("logistic").y)
    np.testing.assert_array_equal(dataset.labelled_for("logistic").labelled_for("softmax").y, several.y)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", 2**32, None])
def test_what_is_no_seed_of_a_split_gets_one_clear_line(dataset, seed, unchecked_types):
    with pytest.raises(InvalidInputError, match=r"seed=.* must be a whole number from 0 to 2\^32 − 1"):
        dataset.split(0.25, seed=seed)


def test_split_leaves_no_side_fewer_samples_than_classes():
    with pytest.raises(InvalidInputError, match="each set needs at least 3"):
        Dataset("made up", np.eye(200), np.arange(200.0) % 3, tuple(map(str, range(200)))).labelled_for(
            "softmax"
        ).split(0.01, seed=0)


@pytest.mark.parametrize("factor", [1e160, 1e-170])
@pytest.mark.parametrize("column", ["a", "outcome"])
def test_columns_that_cannot_be_squared_are_not_standardised_to_nothing(dataset, column, factor):
    X, y = dataset.X.copy(), dataset.y.copy()
    if column == "a":
        X[:, 0] *= factor
    else:
        y *= factor
    with pytest.raises(InvalidInputError, match=f"made up: column '{column}' is of a size that float64 cannot square"):
        Standardization.fit(replace(dataset, X=X, y=y))


def test_a_constant_target_is_left_at_its_scale():
    fitted = Standardization.fit(Dataset("made up", np.arange(3.0)[:, None], np.full(3, 0.1), ("a",)))
    assert fitted.target_scale == 1.0
