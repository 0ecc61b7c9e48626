import numpy as np
import pandas as pd
import pytest
from sklearn import datasets as bundled

from resflow import InvalidInputError, load_dataset
from resflow.data.catalog import DATASETS, teacher
from resflow.notebook.checks import check_dataset_name


def test_breast_cancer_groups_are_the_columns_of_the_bundled_table():
    table = bundled.load_breast_cancer()
    for group, start in (("mean", 0), ("error", 10), ("worst", 20)):
        data = load_dataset(f"breast_cancer:{group}")
        np.testing.assert_array_equal(data.X, table.data[:, start : start + 10])
        assert all(group in name for name in data.feature_names)
        np.testing.assert_array_equal(data.y, 2.0 * table.target - 1)
        assert data.classes == ("malignant", "benign")


def test_breast_cancer_groups_are_joined_by_a_plus_sign_in_the_order_of_the_table():
    whole, joined = load_dataset("breast_cancer"), load_dataset("breast_cancer:worst+mean")
    np.testing.assert_array_equal(joined.X, np.column_stack([whole.X[:, :10], whole.X[:, 20:]]))
    assert joined.feature_names == whole.feature_names[:10] + whole.feature_names[20:]
    assert load_dataset("breast_cancer:mean+error+worst").digest == whole.digest


@pytest.mark.parametrize(("name", "shape"), [("digits:3", (1797, 64)), ("wine:2", (178, 13))])
def test_one_class_stands_against_the_rest(name, shape):
    data = load_dataset(name)
    table, label = getattr(bundled, f"load_{name[:-2]}")(), int(name[-1])
    assert data.X.shape == shape
    np.testing.assert_array_equal(data.y > 0, table.target == label)


def test_diabetes_is_in_its_own_units():
    assert load_dataset("diabetes").y.max() == 346.0
    assert load_dataset("diabetes").classes is None


def test_teacher_part_that_is_not_linear_grows_as_asked():
    unexplained = []
    for nonlinearity in (0.0, 0.5, 2.0):
        data = teacher(n=20_000, d=5, nonlinearity=nonlinearity, noise=0.1)
        w = np.linalg.lstsq(data.X, data.y)[0]
        unexplained.append(np.var(data.y - data.X @ w))
    np.testing.assert_allclose(unexplained, [0.01, 0.26, 4.01], rtol=0.05)


def test_teacher_takes_its_options_from_the_name():
    data = load_dataset("teacher:n=50,d=3,labels=binary,seed=4")
    assert data.X.shape == (50, 3)
    assert set(data.y) == {-1.0, 1.0}
    assert data.digest != load_dataset("teacher:n=50,d=3,labels=binary,seed=5").digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brest_cancer", r"dataset='brest_cancer' is unknown: nearest are breast_cancer"),
        ("digits", r"dataset='digits' must name one of digits:0, digits:1"),
        ("wine:3", r"must name one of wine:0, wine:1, wine:2"),
        ("breast_cancer:means", r"must name one of breast_cancer:mean"),
        ("breast_cancer:mean+", r"or different groups joined by \+, as in breast_cancer:mean\+worst"),
        ("breast_cancer:mean+all", r"must name one of breast_cancer:mean"),
        ("breast_cancer:mean+mean", r"different groups"),
        ("diabetes:x", r"must name one of diabetes:all"),
        ("teacher:nois=1", r"option 'nois' is unknown: nearest is 'noise'"),
        ("teacher:n=few", r"n=few must be of type int"),
        ("teacher:n=0", r"n=0 must be a finite number, at least 1"),
        ("teacher:noise=nan", r"noise=nan must be a finite number"),
        ("teacher:labels=text", r"labels=text is unknown: choose real or binary"),
        ("nowhere.csv", r"there is no such file"),
    ],
)
def test_bad_names_get_one_clear_line(name, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)


def test_names_are_checked_without_loading():
    for name in [*DATASETS, "breast_cancer:mean"]:
        check_dataset_name(name)
    with pytest.raises(InvalidInputError, match="nearest are diabetes"):
        check_dataset_name("diabets")
    with pytest.raises(InvalidInputError, match="no such file"):
        check_dataset_name("missing.npz")
    with pytest.raises(InvalidInputError, match="bundled: leave target out"):
        load_dataset("diabetes", target="y")


@pytest.fixture
def table():
    rng = np.random.default_rng(1)
    columns = {"a": rng.normal(size=12), "flag": rng.random(12) < 0.5, "count": rng.integers(0, 9, 12)}
    return pd.DataFrame(columns | {"kind": ["no", "yes", "perhaps"] * 4, "price": rng.normal(size=12)})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_load_with_a_named_target(tmp_path, table, suffix):
    path = tmp_path / f"table.{suffix}"
    numeric = table.drop(columns="kind")
    numeric.to_csv(path, index=False) if suffix == "csv" else numeric.to_parquet(path)
    data = load_dataset(str(path), target="price")
    assert data.feature_names == ("a", "flag", "count")
    np.testing.assert_allclose(data.X, numeric[["a", "flag", "count"]].to_numpy(dtype=float))
    np.testing.assert_allclose(data.y, numeric["price"])


def test_a_class_of_a_text_column_stands_against_the_rest(tmp_path, table):
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    data = load_dataset(str(path), target="kind=yes")
    np.testing.assert_array_equal(data.y > 0, table["kind"] == "yes")
    assert data.classes == ("the rest", "yes")


def test_two_texts_or_truth_values_are_coded_in_sorted_order(tmp_path, table):
    path = tmp_path / "table.csv"
    table.assign(kind=np.where(table["a"] > 0, "warm", "cold")).to_csv(path, index=False)
    assert load_dataset(str(path), target="kind").classes == ("cold", "warm")
    table.drop(columns="kind").to_csv(path, index=False)
    np.testing.assert_array_equal(load_dataset(str(path), target="flag").y > 0, table["flag"])


def test_npz_archives_load_with_their_names(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez(path, X=np.eye(3, dtype=np.float32), outcome=np.arange(3), feature_names=["p", "q", "r"])
    data = load_dataset(str(path), target="outcome")
    assert data.feature_names == ("p", "q", "r")
    assert data.X.dtype == data.y.dtype == np.float64
    with pytest.raises(InvalidInputError, match="there is no array 'y' for the target: nearest are 'outcome'"):
        load_dataset(str(path))


@pytest.mark.parametrize(
    ("change", "target", "message"),
    [
        (lambda t: t, None, "name the column to predict"),
        (lambda t: t.drop(columns="kind"), "prize", "there is no column 'prize' for the target: nearest are 'price'"),
        (lambda t: t, "price", "line 2, column 'kind': 'no' is not a number"),
        (lambda t: t, "kind", "3 classes"),
        (lambda t: t, "kind=maybe", "no class 'maybe'"),
        (lambda t: t.drop(columns="kind").assign(a=np.nan), "price", "line 2, column 'a': the value is missing"),
        (
            lambda t: t.drop(columns="kind").assign(price=[np.nan] + [1.0] * 11),
            "price",
            "target 'price', line 2: the value is missing",
        ),
        (lambda t: t[["price"]], "price", "has one column, 'price'"),
        (lambda t: t.iloc[:0].drop(columns="kind"), "price", "has no rows"),
    ],
)
def test_bad_tables_get_one_clear_line(tmp_path, table, change, target, message):
    path = tmp_path / "table.csv"
    change(table).to_csv(path, index=False)
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_dataset(str(path), target=target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_unreadable_files_get_one_clear_line(tmp_path, suffix):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(b"\xff\xfe\x00\x01 not what the name says")
    with pytest.raises(InvalidInputError, match="not a readable") as caught:
        load_dataset(str(path), target="y")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "m"), [("wine:all", 3), ("digits:all", 10)])
def test_all_classes_are_counted_from_zero(name, m):
    data = load_dataset(name)
    assert np.unique(data.y).tolist() == list(range(m))
    assert len(data.classes) == m
    assert np.array_equal(data.labelled_for("softmax").y, data.y)
    with pytest.raises(InvalidInputError, match=f"has {m} distinct values"):
        data.labelled_for("logistic")
    one = load_dataset(f"{name.split(':')[0]}:1")
    np.testing.assert_array_equal(one.labelled_for("softmax").y, data.y == 1)


def test_labels_that_are_hardly_classes_are_refused():
    with pytest.raises(InvalidInputError, match="has 214 distinct values, but classes must be 2 to 100"):
        load_dataset("diabetes").labelled_for("softmax")
