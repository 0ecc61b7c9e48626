"""Tables of every format, changed in a hundred ways: read as an independent reader reads them, or refused in a line."""

import contextlib
import csv
import io
import math
import random
import signal
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import SECONDS, Hangs, check, resflow

from resflow import InvalidInputError, load_dataset
from resflow.notebook.checks import check_dataset_name

NAMES = [
    "a",
    "b c",
    "Größe",
    "1",
    "x,y",
    'say "x"',
    "ß;ü",
    "NA",
    "a.b",
    "=1+1",
    "#",
    "true",
    "日本",
    "x" * 90,
    "-",
    "e=1",
]
CLASSES = [
    "NA",
    "None",
    "null",
    "nan",
    "yes",
    "no",
    "US",
    "ja, bitte",
    'a "b"',
    "Ünï",
    "-",
    "#x",
    "inf",
    "1;2",
    "0x1",
    "?",
]
ODD_VALUES = [
    *[
        "",
        " ",
        "?",
        "n/a",
        "NA",
        "nan",
        "inf",
        "-Infinity",
        "1e999",
        "1,5",
        "1,234.5",
        "0x1f",
        "1_000",
        "true",
        "False",
    ],
    *[
        "9007199254740993",
        "123456789012345678901234567890",
        "1.2.3",
        "--1",
        "+1",
        ".5",
        "5.",
        " 7 ",
        "1e",
        "2020-01-01",
    ],
    *["\t3", "١", "1\x00", "#", '"', "'1'", "$5", "5%", "1e-400", "-0", "1d5", "\u00a01", "1 2", "x" * 300, "9" * 5000],
]


class Table(NamedTuple):
    """What a file says: names, features, and the target's values, which are numbers or texts."""

    names: list[str]
    X: list[list[float]]
    target: str
    values: list[Any]


def table(rng: random.Random) -> Table:
    n, d = rng.randint(2, 9), rng.randint(1, 4)
    *names, target = rng.sample(NAMES, d + 1)
    X = [[number(rng) for _ in range(d)] for _ in range(n)]
    classes = rng.sample(CLASSES, 2)
    values = rng.choice([[number(rng) for _ in range(n)], [*classes, *rng.choices(classes, k=n - 2)]])
    return Table(names, X, target, values)


def number(rng: random.Random) -> float:
    kind = rng.random()
    if kind < 0.3:
        return float(rng.randint(-99, 99))
    if kind < 0.7:
        return rng.gauss(0, 1)
    value = struct.unpack("d", rng.getrandbits(64).to_bytes(8, "little"))[0]
    return value if math.isfinite(value) else 0.1


# Text.


def text(rng: random.Random, truth: Table, separator: str) -> bytes:
    out, end = io.StringIO(), rng.choice(["\n", "\r\n", "\r"])
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerow([*truth.names, truth.target])
    writer.writerows([*row, value] for row, value in zip(truth.X, truth.values, strict=True))
    return out.getvalue().encode()


def changed_text(rng: random.Random, content: bytes, separator: str) -> bytes:
    lines = content.decode().splitlines(keepends=True)
    fields = lines[at := rng.randrange(len(lines))].rstrip("\r\n").split(separator)
    end = lines[at][len(lines[at].rstrip("\r\n")) :]
    place = rng.randrange(len(fields))

    def line(new: list[str]) -> bytes:
        return "".join([*lines[:at], separator.join(new) + end, *lines[at + 1 :]]).encode()

    flipped = bytearray(content)
    flipped[rng.randrange(len(content))] = rng.randrange(256)
    cut = rng.randrange(len(content))
    changes = [
        lambda: content,
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.decode().encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-7", "utf-8-sig"])),
        lambda: content.decode().encode("latin-1", "replace"),
        lambda: content.replace(separator.encode(), rng.choice([b";", b"\t", b"|", b" ", b", ", b",,"])),
        lambda: content.replace(b".", b","),
        lambda: line([*fields[:place], rng.choice(ODD_VALUES), *fields[place + 1 :]]),
        lambda: line([*fields[:place], rng.choice(ODD_VALUES), *fields[place + 1 :]]),
        lambda: line([*fields[:place], *fields[place + 1 :]]),
        lambda: line([*fields[:place], rng.choice(["7", "", "x"]), *fields[place:]]),
        lambda: line([*fields, ""]),
        lambda: "".join([*lines[:at], rng.choice(["\n", "# note\n", "  \n", "#,,\n", '""\n']), *lines[at:]]).encode(),
        lambda: "".join([*lines[:at], *lines[at + 1 :]]).encode(),
        lambda: "".join([*lines[:at], lines[at], *lines[at:]]).encode(),
        lambda: "".join(separator.join([str(i) if i else "", line]) for i, line in enumerate(lines)).encode(),
        lambda: bytes(flipped),
        lambda: content[:cut],
        lambda: content[:cut] + content[cut + 1 :],
        lambda: (
            content[:cut] + rng.choice([b'"', b"\x00", b"\r", b"\n", b"\xff", separator.encode(), b"#"]) + content[cut:]
        ),
        lambda: rng.randbytes(rng.randrange(300)),
    ]
    return rng.choice(changes)()


def read_text(content: bytes, separator: str, target: str) -> Table:
    """The table as Python's own reader has it."""
    records = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=separator))
    names, *rows = [row for row in records if row and (len(row) > 1 or not row[0] or row[0].strip(" \t"))]
    assert all(len(row) == len(names) for row in rows), "rows of different lengths were read"
    column, _, positive = (target, "", "") if target in names else target.rpartition("=")
    assert names.count(column) == 1
    place = names.index(column)
    truth = {"true": 1.0, "false": 0.0}
    X = [
        [truth.get(v.lower(), 0) if v.lower() in truth else float(v) for v in [*r[:place], *r[place + 1 :]]]
        for r in rows
    ]
    values: list[Any] = [row[place] for row in rows]
    if not positive and values and values[0].strip()[-1:] in "0123456789.":
        with contextlib.suppress(ValueError):
            values = [float(value) for value in values]
    return Table([*names[:place], *names[place + 1 :]], X, column, values)


# Arrays: each function returns the file, and whether it must be read or must be refused (None: either).


def frame(truth: Table) -> pd.DataFrame:
    return pd.DataFrame(truth.X, columns=truth.names).assign(**{truth.target: truth.values})


def parquet(rng: random.Random, truth: Table) -> tuple[bytes, bool | None]:
    data = frame(truth)
    first, n = truth.names[0], len(data)
    odd = rng.choice(
        [["x"] * n, [None] * n, [[1.0]] * n, [b"x"] * n, [{"k": 1}] * n, [np.datetime64("2020")] * n, [1 + 2j]]
    )
    typed = pa.Table.from_pandas(data, preserve_index=False)
    double = pa.Table.from_arrays(
        [*typed.columns, typed.column(0)], names=[*typed.column_names, rng.choice(typed.column_names)]
    )
    metadata = {
        b"pandas": rng.choice([b"{", b"[]", b"{}", b"null", b'{"index_columns": [{"kind": "range"}]}', b"\xff"])
    }
    changes: list[tuple[Any, bool | None]] = [
        (typed, True),
        (data.set_axis(rng.sample(range(99), n)), True),
        (data.set_axis(pd.MultiIndex.from_product([range(n), ["u"]])), True),
        (data.assign(more=odd) if len(odd) == n else double, False),
        (data.where(pd.DataFrame({name: np.arange(n) != 1 for name in data.columns})), False),
        (double, False),
        (typed.replace_schema_metadata(metadata), None),
        (typed.slice(0, 0), False),
        (data.astype({first: "category"}), True),
        (data.rename_axis("id"), False),
    ]
    made, must = rng.choice(changes)
    made = pa.Table.from_pandas(made) if isinstance(made, pd.DataFrame) else made
    out = io.BytesIO()
    options = {"compression": rng.choice(["none", "snappy", "zstd"]), "use_dictionary": rng.random() < 0.5}
    pq.write_table(made, out, write_page_checksum=rng.random() < 0.5, row_group_size=rng.choice([2, 1000]), **options)
    return damaged(rng, out.getvalue(), must)


def archive(rng: random.Random, truth: Table) -> tuple[bytes, bool | None]:
    X, y = np.array(truth.X), np.array(truth.values)
    arrays: dict[str, Any] = {"X": X, truth.target: y, "feature_names": np.array(truth.names)}
    n, d = X.shape
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**42}, {d}), }}".ljust(117) + "\n"
    lie = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + X.tobytes()
    changes: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"X": np.asfortranarray(X)}, True),
        ({"X": X.astype(">f8")}, True),
        ({"X": X.astype(np.longdouble)}, True),
        ({"X": X + 0j}, False),
        ({"X": X.astype(object)}, False),
        ({"X": X.astype(str)}, False),
        ({"X": X[rng.randrange(n)]}, False),
        ({"X": np.array(3.0)}, False),
        ({"X": X[None]}, False),
        ({"X": X[:0]}, False),
        ({"X": np.where(np.arange(n)[:, None] == 1, np.nan, X)}, False),
        ({"X": np.zeros(X.shape, "datetime64[s]")}, False),
        ({"X": np.full(X.shape, 2**53 + 1)}, False),
        ({"X": lie}, False),
        ({"more": y}, False),
        ({"more": np.array([None])}, False),
        ({truth.target: y[1:]}, False),
        ({truth.target: y[:, None]}, False),
        ({"feature_names": np.array("a")}, False),
        ({"feature_names": np.arange(d)}, False),
        ({"feature_names": np.array([*truth.names[1:], truth.target])}, False),
        ({"readme.txt": b"hello"}, False),
        ({"../X": lie}, False),
    ]
    change, must = rng.choice(changes)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as file:
        for name, array in (arrays | change).items():
            content = array if isinstance(array, bytes) else npy(array)
            file.writestr(
                name if "." in name and isinstance(array, bytes) and name[0] != "." else f"{name}.npy", content
            )
    return damaged(rng, out.getvalue(), must)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def damaged(rng: random.Random, content: bytes, must: bool | None) -> tuple[bytes, bool | None]:
    """The content in one of two cases, else with a few bytes changed, cut off or put in."""
    if rng.random() < 0.5:
        return content, must
    cut, byte = rng.randrange(len(content)), bytes([rng.randrange(256)])
    tail = len(content) - 1 - min(int(rng.expovariate(0.01)), len(content) - 1)
    few = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        few[rng.randrange(len(few))] = rng.randrange(256)
    made = rng.choice(
        [
            content[:cut],
            content[:cut] + byte + content[cut + 1 :],
            content[:tail] + byte + content[tail + 1 :],
            content[:cut] + byte + content[cut:],
            content[:cut] + rng.randbytes(40) + content[cut + 40 :],
            content[:cut] + bytes(40) + content[cut + 40 :],
            content[: len(content) // 2] + content[cut:],
            bytes(few),
        ]
    )
    return made, None


def loaded(path: str, target: str, mutant: object) -> Any:
    """The data set; None if it is refused, which must be in one line, and again where the beginning is checked."""

    def hang(number, frame):
        raise Hangs(f"{mutant}: more than {SECONDS} s")

    former = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        try:
            check_dataset_name(path)
        except InvalidInputError:
            with pytest.raises(InvalidInputError):
                load_dataset(path, target=target)
        return load_dataset(path, target=target)
    except InvalidInputError as error:
        message = str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert message.isprintable(), f"{mutant}: {message!r}"
    assert len(message) < 1500, f"{mutant}: {message}"
    return None


def check_equal(data: Any, truth: Table, positive: str | None, mutant: object) -> None:
    assert data.feature_names == tuple(truth.names), mutant
    assert data.target == truth.target, mutant
    np.testing.assert_array_equal(data.X, truth.X, err_msg=str(mutant))
    if positive is not None:
        expected = [1.0 if value == positive else -1.0 for value in truth.values]
        assert data.classes == ("the rest", positive), mutant
    elif isinstance(truth.values[0], str):
        low, high = sorted(set(truth.values))
        expected = [1.0 if value == high else -1.0 for value in truth.values]
        assert data.classes == (low, high), mutant
    else:
        expected = truth.values
        assert data.classes is None, mutant
    np.testing.assert_array_equal(data.y, expected, err_msg=str(mutant))


def test_tables_are_read_as_they_are_written_or_refused(seeds, tmp_path):
    for seed in seeds:
        rng = random.Random(seed)
        truth, suffix = table(rng), rng.choice(["csv", "csv", "tsv", "parquet", "npz"])
        path, mutant = tmp_path / f"mutant{seed}.{suffix}", f"mutant {seed}.{suffix}"
        positive = rng.choice([None, truth.values[0]]) if isinstance(truth.values[0], str) else None
        target = truth.target if positive is None else f"{truth.target}={positive}"
        if suffix in ("csv", "tsv"):
            separator = "," if suffix == "csv" else "\t"
            content = text(rng, truth, separator)
            path.write_bytes(content)
            data = loaded(str(path), target, mutant)
            constant = len(set(truth.values)) == 1
            if not (constant or truth.names[0] == "#" or truth.target in truth.values):
                assert data is not None, mutant
                check_equal(data, truth, positive, mutant)
            content = changed_text(rng, content, separator)
            path.write_bytes(content)
            if (data := loaded(str(path), target, mutant)) is not None:
                check_equal(data, read_text(content, separator, target), positive, mutant)
            continue
        content, must = (parquet if suffix == "parquet" else archive)(rng, truth)
        path.write_bytes(content)
        data = loaded(str(path), target, mutant)
        if must is not None and len(set(truth.values)) > 1:
            assert (data is not None) == must, mutant
        if data is not None and (must or suffix == "npz"):
            check_equal(data, truth, positive, mutant)


NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "train_residual_unit.ipynb"


def test_the_command_refuses_a_table_before_any_kernel_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in ("a;b;y\n1;2;3\n4;5;6\n", "a,b,y\n1,2,3,4\n", ",a,y\n0,1,2\n1,2,3\n", "\x00", "a,y,y\n1,2,3\n"):
        (tmp_path / "t.csv").write_text(content)
        ended = resflow("run", str(NOTEBOOK), "-p", "dataset", "t.csv", "-p", "target", "y")
        check(ended, content)
        assert ended.code == 2
        assert "t.csv" in ended.err
    assert {path.name for path in tmp_path.iterdir()} == {"t.csv"}
