"""Tables in files are read as they are written, or refused in one line that says what stands where."""

import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resflow import Dataset, InvalidInputError, load_dataset
from resflow.notebook.checks import check_dataset_name


def written(folder, content, name="table.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def refused(path, match, target="label"):
    with pytest.raises(InvalidInputError, match=match) as caught:
        load_dataset(path, target=target)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


ROWS = "0.5,1,yes\n-1e-3,2,no\n+.25,3.,yes\n"


@pytest.mark.parametrize(
    "content",
    [
        "a,b,label\n" + ROWS,
        "\ufeffa,b,label\n" + ROWS,
        "\n  \na,b,label\n\n" + ROWS + "\n\n",
        ("a,b,label\n" + ROWS).replace("\n", "\r\n"),
        ("a,b,label\n" + ROWS).replace("\n", "\r"),
        "a,b,label\n" + ROWS.rstrip(),
        '"a","b","label"\n"0.5","1","yes"\n" -1e-3 ", 2\t,"no"\n+.25,3.,yes\n',
    ],
    ids=["plain", "BOM", "blank lines", "CRLF", "CR", "no last line break", "quotes and blanks"],
)
def test_every_way_of_writing_one_table_reads_the_same(tmp_path, content):
    for name, text in (("table.csv", content), ("table.tsv", content.replace("\t", "").replace(",", "\t"))):
        data = load_dataset(written(tmp_path, text, name), target="label")
        assert data.feature_names == ("a", "b")
        np.testing.assert_array_equal(data.X, [[0.5, 1], [-1e-3, 2], [0.25, 3]])
        np.testing.assert_array_equal(data.y, [1, -1, 1])
        assert data.classes == ("no", "yes")


def test_numbers_are_the_nearest_of_float64(tmp_path):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2**64, 4000, dtype=np.uint64).view(float)
    texts = [repr(float(number)) for number in numbers[np.isfinite(numbers)]]
    texts += ["5e-324", "2.4703282292062328e-324", "0." + "3" * 400, "9007199254740993.0", "1.7976931348623157e308"]
    data = load_dataset(
        written(tmp_path, "a,b\n" + "\n".join(f"{text},{i}" for i, text in enumerate(texts))), target="b"
    )
    np.testing.assert_array_equal(data.X[:, 0], [float(text) for text in texts])


@pytest.mark.parametrize(
    "text", ["NA", "None", "null", "NaN", "nan", "N/A", "n/a", "-", "?", "#N/A", "inf", "1,5", 'a"b']
)
def test_a_class_may_be_called_as_missing_values_often_are(tmp_path, text):
    rows = [f"{i},{'US' if i % 3 else chr(34) + text.replace(chr(34), chr(34) * 2) + chr(34)}" for i in range(9)]
    path = written(tmp_path, "a,label\n" + "\n".join(rows))
    data = load_dataset(path, target="label")
    assert set(data.classes) == {"US", text}
    expected = [data.classes[1] == ("US" if i % 3 else text) for i in range(9)]
    np.testing.assert_array_equal(data.y > 0, expected)
    np.testing.assert_array_equal(load_dataset(path, target=f"label={text}").y > 0, [i % 3 == 0 for i in range(9)])


def test_a_class_is_chosen_by_its_number_however_that_is_written(tmp_path):
    path = written(tmp_path, "a,label\n1,1\n2,1.0\n3,2\n4,other\n")
    np.testing.assert_array_equal(load_dataset(path, target="label=1").y, [1, 1, -1, -1])
    np.savez(tmp_path / "t.npz", X=np.eye(3), label=[1, 2, 1])
    np.testing.assert_array_equal(load_dataset(str(tmp_path / "t.npz"), target="label=1.0").y, [1, -1, 1])


@pytest.mark.parametrize("value", ["?", "n/a", "NA", "nan", "inf", "-Infinity", "1e999", "0x10", "1_000", "x", "True"])
@pytest.mark.parametrize("column", ["b", "label"])
def test_a_value_that_is_no_number_is_shown_with_its_line_and_column(tmp_path, value, column):
    rows = ["1,2,3", "4,5,6", "", f"7,{value if column == 'b' else 8},{value if column == 'label' else 9}"]
    path = written(tmp_path, "a,b,label\n" + "\n".join(rows))
    assert f"'{value}'" in refused(path, f"table.csv, line 5, column '{column}': ")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a,b,label\n1,2,3,yes\n4,5,6,no\n", r"line 2: 4 values \('1', '2', '3', 'yes'\) under 3 names \('a', 'b', "),
        ("a,b,label\n1,2,yes\n4,5,6,no\n", r"line 3: 4 values"),
        ("a,b,label\n1,2,yes,\n4,5,no,\n", r"line 2: 4 values"),
        ("a,b,label\n1,2,yes\n4,no\n", r"line 3: 2 values \('4', 'no'\) under 3 names"),
        (
            "a,b,label\n1,2,yes\n# a comment\n4,5,no\n",
            r"line 3: 1 value \('# a comment'\).*no comments, delete the line",
        ),
        ("# a comment\na,b,label\n1,2,yes\n", r"line 1: the first name begins with '#'"),
        ("a,y,label,label\n1,2,yes,no\n", r"line 1: the name 'label' stands 2 times, as columns 3 and 4"),
        ("a,a ,label\n1,2,yes\n", r"the name 'a' stands 2 times"),
        ("Unnamed: 0,a,label\n0,2,yes\n1,3,no\n", r"column 1 is called 'Unnamed: 0', as an index does"),
        (",a,label\n0,2,yes\n1,3,no\n", r"column 1 has no name, as an index does.*index=False"),
        ('"a\nb",c,label\n0,2,yes\n', r"the name 'a\\nb' holds a line break"),
        (
            "a;b;label\n1,5;2;yes\n",
            r"one column, 'a;b;label': separated by semicolons\? Save it with commas and decimal",
        ),
        ("a\tb\tlabel\n1\t2\tyes\n", r"separated by tabs\?"),
        ("a|b|label\n1|2|yes\n", r"separated by bars\?"),
        ("a b label\n1 2 yes\n", r"separated by blanks\?"),
        (
            'a,label\n"1,5",yes\n"2,5",no\n',
            r"line 2, column 'a': '1,5' has a comma: write numbers with a decimal point",
        ),
        ('a,label\n1,yes\n"1,234",no\n', r"line 3, column 'a': '1,234' has a comma"),
        ("a,label\n1,yes\n,no\n", r"line 3, column 'a': the value is missing"),
        ("a,label\n1,yes\n2,\n", r"target 'label', line 3: the value is missing"),
        ("a,label\n1,yes\n2, \n3,no\n", r"target 'label', line 3: the value is missing"),
        ("a,label\n1,yes\n2,yes \n3,no\n", r"classes 'yes' and 'yes ', which differ in blanks alone \(line 3\)"),
        ("a,label\n9007199254740993,yes\n1,no\n", r"line 2, column 'a': '9007199254740993' is beyond 2\^53"),
        (
            "a,label\n1.5,yes\n-18446744073709551617,no\n",
            r"line 3, column 'a': '-18446744073709551617' is beyond 2\^53",
        ),
        ("a,label\n1,0\n2,9007199254740993\n", r"line 3, column 'label': '9007199254740993' is beyond 2\^53"),
        ("a,label\ntrue,yes\nfalse,no\n1,no\n", r"line 4, column 'a': '1' is neither true nor false"),
        ("a,label\n2020-01-01,yes\n2020-01-02,no\n", r"line 2, column 'a': '2020-01-01' is not a number"),
        ("a,label\n1,?\n2,3\n4,5\n", r"holds numbers, as '3' \(line 3\), and texts, as '\?' \(line 2\)"),
        ("a,label\n1,yes\n2,yes\n", r"target 'label' is 'yes' in every row \(2\): there is nothing to predict"),
        ("a,label\n1,3\n2,3\n", r"target 'label' is 3 in every row"),
        ("0.3,0.1,label\n0.1,0.5,1\n", r"line 1: the first line holds numbers \('0.3', '0.1'\) where the names"),
        ("1,0,label\n", r"line 1: the table has no rows|has no rows"),
        ("a,b,label\n", r"the table has no rows"),
        ("", r"the file is empty"),
        ("\n \n", r"blank lines alone"),
        ("label\nyes\nno\n", r"the table has one column, 'label': there must be a column to predict and at least one"),
        ('a,label\n1,yes\n2,"no\n3,yes\n', r"line 3: not a readable row: .* is a quote left open"),
        ('a,label\n1,yes\n2,"no\n3,yes"\n4,no\n', r"line 3: the class 'no\\n3,yes' holds a line break"),
        (b"a,label\n1,yes\n2,caf\xe9\n", r"line 3: the byte 0xe9 is not text in UTF-8"),
        ("a,label\n1,yes\n2,no\n".encode("utf-16"), r"it holds text in UTF-16: save the table as text in UTF-8"),
        ("a,label\n1,yes\n2,no\n".encode("utf-16-le"), r"control character"),
        (b"a,label\n1,yes\n2,n\x00o\n", r"line 3: the class 'n\\x00o' holds a line break or a control character"),
        (b"a,label\n1,yes\n2,no\x00\n", r"line 3: the class 'no\\x00' holds a line break or a control character"),
        (b"a,label\n1,yes\n\x002,no\n", r"line 3, column 'a': '\\x002' is not a number"),
        (b"\x1f\x8b\x08\x00abc", r"it holds data compressed by gzip"),
        (b"\x89PNG\r\n\x1a\n", r"it holds a PNG image"),
    ],
)
def test_what_a_text_does_not_say_plainly_is_refused(tmp_path, content, match):
    refused(written(tmp_path, content), match)


def test_lines_are_counted_through_quoted_line_breaks(tmp_path):
    refused(written(tmp_path, 'a,label\n1,"x\ny"\n\n2,no\n?,no\n'), "line 6, column 'a'", target="label=no")


def test_a_file_without_names_does_not_lose_its_first_row(tmp_path):
    path = written(tmp_path, "1,2,yes\n3,4,no\n5,6,yes\n")
    refused(path, "'yes' is the name of column 3 on line 1 and a value in it", target="yes")


def test_columns_may_be_called_by_numbers(tmp_path):
    X = np.random.default_rng(0).normal(size=(9, 4))
    pd.DataFrame(X).to_csv(tmp_path / "t.csv", index=False)
    data = load_dataset(str(tmp_path / "t.csv"), target="3")
    assert data.feature_names == ("0", "1", "2")
    np.testing.assert_array_equal(np.column_stack([data.X, data.y]), X)
    assert (
        load_dataset(written(tmp_path, "2021,2020,label\n1,2,yes\n3,4,no\n"), target="label").feature_names[0] == "2021"
    )


def test_types_that_change_far_below_are_noticed(tmp_path):
    content = "a,b,label\n" + "1,2,3\n" * 70_000 + "1,True,4\n"
    refused(written(tmp_path, content), "line 70002, column 'b': 'True' is not a number")


def test_a_table_may_be_very_wide(tmp_path):
    names, values = [f"c{j}" for j in range(4_000)], ",".join(["1.5"] * 4_000)
    data = load_dataset(written(tmp_path, f"{','.join(names)}\n{values}\n{values.replace('1', '2')}\n"), target="c7")
    assert data.X.shape == (2, 3_999)
    assert data.y.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.zip", "t.npz.xz"])
def test_compressed_files_are_to_be_unpacked(name):
    with pytest.raises(InvalidInputError, match="compressed is not read: unpack it"):
        load_dataset(name, target="y")


def test_names_of_files_are_one_line(tmp_path):
    for name in ("new\nline.csv", "nul\0.csv", "x" * 5000 + ".csv", "~nobody-of-that-name/t.csv"):
        with pytest.raises(InvalidInputError) as caught:
            check_dataset_name(name)
        assert str(caught.value).isprintable()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidInputError, match="this is a folder"):
        check_dataset_name(str(tmp_path / "folder.csv"))


# Parquet.


@pytest.fixture
def frame():
    rng = np.random.default_rng(1)
    return pd.DataFrame(rng.normal(size=(12, 3)), columns=["a", "b", "c"]).assign(label=["yes", "no", "no"] * 4)


def saved(tmp_path, frame, **options):
    frame.to_parquet(tmp_path / "t.parquet", **options)
    return str(tmp_path / "t.parquet")


def arrow(tmp_path, **columns):
    pq.write_table(pa.table({"a": pa.array([1.0, 2.0]), **columns}), tmp_path / "t.parquet")
    return str(tmp_path / "t.parquet")


def test_an_index_with_a_name_is_a_column_and_one_without_is_none(tmp_path, frame):
    for table, names in (
        (frame, ("a", "b", "c")),
        (frame[frame["a"] > 0], ("a", "b", "c")),
        (frame.set_index("a"), ("b", "c", "a")),
        (frame.set_index(["a", "c"]), ("b", "a", "c")),
    ):
        data = load_dataset(saved(tmp_path, table), target="label")
        assert data.feature_names == names
        np.testing.assert_array_equal(data.X, table.reset_index()[list(names)])
    data = load_dataset(saved(tmp_path, frame.set_index("label")), target="label")
    assert data.classes == ("no", "yes")
    refused(saved(tmp_path, frame.rename_axis("id")), "the index 'id' counts rows and has a name")
    frame.insert(0, "__index_level_0__", range(12))
    pq.write_table(pa.Table.from_pandas(frame).replace_schema_metadata(None), tmp_path / "t.parquet")
    refused(str(tmp_path / "t.parquet"), "column 1 is called '__index_level_0__', as an index does")


def test_numbers_of_every_width_and_categories_are_read_as_they_are(tmp_path):
    small = [pa.int8(), pa.uint16(), pa.float16(), pa.float32(), pa.int64(), pa.uint64(), pa.float64()]
    columns = {f"c{j}": pa.array([3, 1], kind) for j, kind in enumerate(small)}
    columns |= {"bool": pa.array([True, False]), "category": pa.array([3, 1]).dictionary_encode()}
    path = arrow(tmp_path, **columns, label=pa.array(["NA", "x"]).dictionary_encode())
    data = load_dataset(path, target="label")
    np.testing.assert_array_equal(data.X, [[1] + [3] * 7 + [1, 3], [2] + [1] * 7 + [0, 1]])
    assert data.classes == ("NA", "x")


@pytest.mark.parametrize(
    ("column", "match"),
    [
        (pa.array([[1.0], [2.0]]), "of type list"),
        (pa.array([{"x": 1}, {"x": 2}]), "of type struct"),
        (pa.array([b"x", b"y"]), "of type binary"),
        (pa.array(["x", "y"]), "column 'odd' is not numeric but of type string"),
        (pa.array([1, 2], pa.timestamp("ns")), r"of type timestamp\[ns\]"),
        (pa.array([1, 2], pa.date32()), "of type date32"),
        (pa.array([1, 2]).cast(pa.decimal128(30, 2)), "of type decimal128"),
        (pa.array([None, None]), "of type null"),
        (pa.array([1.0, None]), r"row 1 \(counted from 0\), column 'odd': the value is missing"),
        (pa.array([1.0, float("inf")]), r"\(inf\) in column 'odd', row 1"),
        (
            pa.array([1, 2**53 + 1]),
            r"row 1 \(counted from 0\), column 'odd': 9007199254740993 of type int64 has no equal",
        ),
        (pa.array([1, 2**64 - 1], pa.uint64()), "18446744073709551615 of type uint64 has no equal"),
    ],
)
def test_columns_of_parquet_that_hold_no_plain_numbers_are_refused(tmp_path, column, match):
    refused(arrow(tmp_path, odd=column, label=pa.array([0, 1])), match)


def test_parquet_files_that_are_damaged_or_something_else_are_refused_in_one_line(tmp_path, frame):
    path = saved(tmp_path, frame)
    content = (tmp_path / "t.parquet").read_bytes()
    for damaged, match in (
        (b"", "the file is empty"),
        (content[:-100], "not a readable PARQUET file"),
        (content[: len(content) // 2], "not a readable PARQUET file"),
        (content[:4] + bytes(len(content) - 8) + content[-4:], "not a readable PARQUET file"),
        (b"PARE" + content[4:-4] + b"PARE", "it holds an encrypted Parquet table"),
        (b"\x89PNG\r\n\x1a\n" + content, "it holds a PNG image"),
        (b"a,b,label\n1,2,3\n", "it holds something else"),
    ):
        (tmp_path / "t.parquet").write_bytes(damaged)
        refused(path, match)
        if b"label" in damaged[-1000:]:
            with pytest.raises(InvalidInputError, match=match):
                check_dataset_name(path)


def test_duplicate_columns_and_broken_metadata_of_parquet_are_refused(tmp_path, frame):
    table = pa.Table.from_arrays([pa.array([1.0, 2]), pa.array([1, 0]), pa.array([0, 1])], names=["a", "y", "y"])
    pq.write_table(table, tmp_path / "t.parquet")
    refused(str(tmp_path / "t.parquet"), "the name 'y' stands 2 times", target="y")
    for metadata in (b"{", b"[1]", b'{"index_columns": 3}', json.dumps({"index_columns": [None, 3, {}]}).encode()):
        pq.write_table(table.select([0, 1]).replace_schema_metadata({b"pandas": metadata}), tmp_path / "t.parquet")
        if metadata != b"{":
            np.testing.assert_array_equal(load_dataset(str(tmp_path / "t.parquet"), target="y").X[:, 0], [1, 2])
        else:
            refused(str(tmp_path / "t.parquet"), "not a readable PARQUET file", target="y")


# NPZ.

X = np.random.default_rng(2).normal(size=(8, 3))
y = np.arange(8.0)


def packed(tmp_path, **arrays):
    np.savez(tmp_path / "t.npz", **arrays)
    return str(tmp_path / "t.npz")


def zipped(tmp_path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(tmp_path / "t.npz", "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(tmp_path / "t.npz")


def npy(shape, content, descr="<f8"):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue() + content


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f4", ">f8", "<i1", ">i8", "<u8", "?"])
def test_arrays_of_every_width_and_order_are_read_as_they_are(tmp_path, kind):
    whole = np.arange(24).reshape(8, 3) % 2
    for array in (whole.astype(kind), np.asfortranarray(whole.astype(kind))):
        np.testing.assert_array_equal(load_dataset(packed(tmp_path, X=array, y=y)).X, whole)


def test_an_archives_target_may_be_texts_or_truth_values_as_a_tables(tmp_path):
    data = load_dataset(packed(tmp_path, X=X, y=["NA", "x"] * 4))
    assert data.classes == ("NA", "x")
    np.testing.assert_array_equal(load_dataset(packed(tmp_path, X=X, y=y > 3)).y, np.where(y > 3, 1, -1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_missing_value_is_no_member_of_the_rest(tmp_path, value):
    refused(packed(tmp_path, X=X, y=np.where(y == 3, value, y)), rf"row 3 .*: {value} is missing or not finite", "y=1")


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"y": ["1", "2"] * 4}, "target 'y' holds numbers as texts, such as '1'"),
        ({"X": X + 0j}, "array 'X' is of type complex128 and shape"),
        ({"X": np.array(3.0)}, r"shape \(\), but must be of numbers, one row for each sample"),
        ({"X": y}, r"array 'X' is of type float64 and shape \(8,\)"),
        ({"X": X[None]}, r"shape \(1, 8, 3\)"),
        ({"X": X.astype(str)}, "array 'X' is of type <U"),
        ({"X": X.astype("S")}, "array 'X' is of type"),
        ({"X": X.astype(object)}, "holds Python objects, and loading those could run code"),
        ({"X": np.zeros((8, 2), "datetime64[s]")}, "datetime64"),
        ({"X": np.zeros((8, 2), [("p", float), ("q", float)])}, "'p'"),
        ({"X": X[:0], "y": y[:0]}, "X has no rows"),
        ({"X": X[:, :0]}, "at least one sample and one feature"),
        ({"X": np.where(X > 1, np.nan, X)}, r"missing or not finite, the first \(nan\) in column 'x"),
        ({"X": np.full((8, 2), 2**53 + 1)}, r"X\[0, 0\]: 9007199254740993 of type int64 has no equal"),
        ({"y": y[1:]}, r"array 'y' is of type float64 and shape \(7,\)"),
        ({"y": y[:, None]}, r"shape \(8, 1\)"),
        ({"y": y * 0}, "target 'y' is 0 in every row"),
        ({"y": y * 1j}, "complex"),
        ({"feature_names": "a"}, r"array 'feature_names' is of type <U1 and shape \(\)"),
        ({"feature_names": ["a", "b"]}, r"shape \(2,\)"),
        ({"feature_names": [1, 2, 3]}, "must be of texts"),
        ({"feature_names": ["a", "a", "b"]}, "the name 'a' stands 2 times"),
        ({"feature_names": ["a", "y", "b"]}, "the target 'y' is the name of a feature, too"),
        ({"feature_names": ["a", "b\n", "c"]}, "holds a line break"),
        ({"weights": y}, "besides X and 'y' the archive holds 'weights', which nobody would read"),
        ({"weights": np.array([None])}, "Python objects"),
    ],
)
def test_archives_of_anything_but_samples_and_labels_are_refused(tmp_path, arrays, match):
    refused(packed(tmp_path, **({"X": X, "y": y} | arrays)), match, target=None)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="long double is float64 here")
def test_extended_floats_are_read_where_float64_has_them(tmp_path):
    np.testing.assert_array_equal(load_dataset(packed(tmp_path, X=X.astype(np.longdouble), y=y)).X, X)
    refused(packed(tmp_path, X=X / np.longdouble(3), y=y), r"X\[0, 0\]: .* has no equal in float64", target=None)


def test_archives_that_are_damaged_or_something_else_are_refused_in_one_line(tmp_path):
    good = {"X.npy": npy((8, 3), X.tobytes()), "y.npy": npy((8,), y.tobytes())}
    content = Path(zipped(tmp_path, good)).read_bytes()
    np.testing.assert_array_equal(load_dataset(str(tmp_path / "t.npz")).X, X)
    middle = len(content) // 3
    for damaged, match in (
        (b"", "the file is empty"),
        (content[:-30], "not a readable NPZ file"),
        (content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :], "not a readable NPZ file"),
        (good["X.npy"], "it holds one NumPy array, as .npy files do"),
        (b"\x80\x04\x95" + content, "a Python pickle, which is never loaded"),
    ):
        (tmp_path / "t.npz").write_bytes(damaged)
        refused(str(tmp_path / "t.npz"), match, target=None)
    encrypted = bytearray(content)
    encrypted[6] |= 1
    encrypted[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "t.npz").write_bytes(encrypted)
    refused(str(tmp_path / "t.npz"), "array 'X' is encrypted", target=None)
    for members, match in (
        ({"readme.txt": "hello"}, "the archive holds 'readme.txt', but must hold arrays"),
        ({}, "empty"),
        (good | {"X.npy": b"\x93NUMPY\x01\x00v\x00{'descr': __import__('os')}"}, "readable"),
        (good | {"X.npy": npy((8, 4), X.tobytes())}, r"declares type float64 and shape \(8, 4\), which"),
        (good | {"X.npy": npy((8, 3), X.tobytes() + b"more")}, "but the archive holds 196"),
    ):
        refused(zipped(tmp_path, members), match, target=None)


def test_no_file_makes_more_memory_needed_than_its_data(tmp_path):
    huge = npy((2**21, 2**21), b"")
    bomb = npy((2**27,), bytes(2**27), descr="|b1")
    for members, match in (
        (
            {"X.npy": huge, "y.npy": npy((8,), y.tobytes())},
            r"declares type float64 and shape \(2097152, 2097152\), which takes 3.518e\+13 bytes",
        ),
        ({"X.npy": bomb}, "says that it unpacks to 1.34e.08 bytes, over 256 times its own"),
    ):
        path = zipped(tmp_path, members)
        tracemalloc.start()
        refused(path, match, target=None)
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()
    rows = pa.array(np.zeros(20_000_000, np.int8)).dictionary_encode()
    pq.write_table(pa.table({"a": rows, "label": rows}), tmp_path / "t.parquet")
    refused(str(tmp_path / "t.parquet"), "says that it unpacks to 3.2e.08 bytes")


# Data sets.


def test_names_are_unique_texts_and_none_is_the_targets(unchecked_types):
    for names, match in (
        (("a", "a", "b"), "the name 'a' stands 2 times, as columns 1 and 2"),
        (("a", 1, "b"), "the name 1 is of type int, but must be text"),
        (("a", "y", "b"), "the target 'y' is the name of a feature, too"),
        (("a", "b\x1b[2J", "c"), r"the name 'b\\x1b\[2J' holds a line break or a control character"),
    ):
        with pytest.raises(InvalidInputError, match=match):
            Dataset("made up", X, y, names)
    for samples, match in (
        (X + 0j, "complex"),
        (np.ma.masked_array(X, X > 0), "mask"),
        (X.astype(str), "must hold real numbers"),
    ):
        with pytest.raises(InvalidInputError, match=f"made up: X .*{match}"):
            Dataset("made up", samples, y, ("a", "b", "c"))
