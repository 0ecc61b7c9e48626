"""Mutants of valid sweep files through `resflow sweep FILE --dry-run`: a plan, or one line that says what is wrong."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
from command import check, resflow
from small_notebooks import write_notebook

PARAMETERS = """width: int = 32
rate: float = 0.5
kind: str = "a"
flag: bool = False
batch: int | None = None
sizes: list = [1]
anything = None
seed: int = 0
population: list | None = None
"""

VALID = (
    """name: one
notebook: work.ipynb
description: What the sweep is for.
parameters: {kind: b, sizes: [1, [2, 3]], anything: {a: 1, b: [c]}}
axes:
  width: [1, 2, 4]
  rate: {from: 1e-4, to: 1e-1, count: 4, scale: log}
  batch: [null, 16]
when: width * rate < 3 and kind in ['a', 'b']
drop:
  - batch is not None and batch > 20
  - rate / width > 1.5 or not (0 < seed + 1 <= 8)
metric: accuracy
direction: maximize
tags: {question: width, part: 2}
""",
    """notebook: work.ipynb
experiment: trials
axes:
  width: &whole {from: 10, to: 50, step: 20}
  seed: {<<: *whole, from: 0}
  flag: {values: [true, false]}
  kind: ["no", 'on', plain]
strategy: {kind: random, count: 5, seed: 3}
""",
    """notebook: work.ipynb
axes:
  rate: {from: 0.1, to: 0.5}
  width: {from: 1, to: 64, scale: log}
  seed: {seeds: 3, first: 10, run: population}
strategy: {kind: optuna, count: 8}
metric: loss
direction: minimize
drop: rate > 0.4
""",
)

WORDS = (
    "null", "~", "true", "no", "on", "1:30", "12:30:45", "010", "1_000", "0x1F", "0b1", "0o7", "1.", ".5", "-0.0",
    "-0", "0", "-1", "1e999", "-1e999", "1e-400", "1e-320", ".inf", "-.inf", ".nan", "9" * 400, "9" * 5000, "1e5",
    "2024-01-01", "2001-12-14t21:59:43.10-05:00", "!!python/name:os.system x",
    "!!python/object/apply:os.system ['true']", "!foo 1", "!!binary aGVq", "!!set {a, b}", "!!omap [a: 1]", "!!str 1",
    "!!int a", "!!float 1", "!!null x", "! a", "!<tag:x> 1", "[]", "{}", "[[[[]]]]", "[" * 3000, "{a: " * 300, "'",
    '"', '"\\U00110000"', '"\\uD800"', '"\\0"', '"\\e[31m"', '"a\\nb"', "a" * 6000, "ä\u202eö", "&a [*a, *a]",
    "*nowhere", "&b 1", "<<", "{<<: 1}", "{<<: [1]}", "{<<: {width: 1}}", "=", "?", "? [a]\n  : b", "|\n   text",
    ">-\n   text", "# comment", "---", "...", "%YAML 1.1", "\t", "\x00", "\x07", "\x85", "\ufeff", "\u2028",
    "{from: 1, to: 2, step: 1e-320}", "{from: 1, to: 1e9, step: 1}", "{from: 5, to: 1, count: 3}",
    "{from: 0, to: 1, count: 3, scale: log}", "{from: -1e308, to: 1e308, count: 3}", "{from: 1, to: 2, count: 1}",
    "{from: 1e-308, to: 1e308, count: 50, scale: log}", "{from: 1, to: 9, count: 1000000000}", "{seeds: 100000}",
    "{seeds: 3, first: 9223372036854775807}", "[1, 1.0]", "[0.0, -0.0]", "[true, 1]", "[.nan, .nan]", "[1, 2, 1]",
    "width", "rate", "kind", "population", "seed", "work.ipynb", ".", "..", "/dev/null", "/", "a" * 300, "no.ipynb",
    "grid", "random", "optuna", "{kind: random, count: 1000000000}", "{kind: random, count: 40}", "notebook",
    "'%' % 1 == ''", "[0] * 10**11 == 0", "[0] * 100000000000 == 0", "'a' * 1000000000 == ''", "10**10**10 > 1",
    "1 / 0 > 1", "width // 0 > 1", "kind < 3", "kind > None", "batch > 3", "width", "not width", "1 < width < 3 < 9",
    "(" * 300+ "1", "-" * 900+ "1 > 0", "not " * 200+ "flag", "9" * 900+ " > width", "width * 1e308 * 10 > 1",
    "width is 1", "'\\d' == kind", "1if flag else 2", "__import__('os').system('true')", "kind[0] == 'a'",
    "width == width", "f'{width}' == kind", "1j == width", "... == width", "b'a' == kind", "lambda: 1", "width in 3",
    "seed << 99 > 1", " and ".join(["width > 0"] * 100), "[*sizes] == 1", "anything", "sizes == [1, [2, 3]]",
    "2 in sizes",
)  # fmt: skip


def mutate(text: str, rng: random.Random) -> str | bytes:
    """One to three mutations in a row."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutation: Callable[[str, random.Random], str] = rng.choice(MUTATIONS)
        text = mutation(text, rng)
    if rng.random() < 0.05:
        return rng.choice(
            (text.encode("utf-16"), text.encode() + b"\xff\xfe", b"\xef\xbb\xbf" + text.encode(), b"\x80")
        )
    return text


def value_replaced(text, rng):
    """Another word where a value was: behind a colon or within brackets."""
    places = [match.span(1) for match in re.finditer(r"(?:: |\[|, )([^\[\]{},\n]+)", text)]
    return _put(text, rng.choice(places), rng.choice(WORDS)) if places else text


def value_of_a_line_replaced(text, rng):
    """Another word where all behind a colon was."""
    places = [match.span(1) for match in re.finditer(r"^ *\w+: (.+)$", text, re.MULTILINE)]
    return _put(text, rng.choice(places), rng.choice(WORDS)) if places else text


def name_replaced(text, rng):
    """Another word where a name was."""
    places = [match.span(1) for match in re.finditer(r"\b(\w{1,30}):", text)]
    return _put(text, rng.choice(places), rng.choice(WORDS)) if places else text


def word_inserted(text, rng):
    """A word anywhere."""
    at = rng.randrange(len(text) + 1)
    return _put(text, (at, at), rng.choice(WORDS))


def character_replaced(text, rng):
    """A character anywhere."""
    at = rng.randrange(len(text) + 1)
    character = rng.choice(" \n\t:,[]{}#&*!|>'\"%@`-?\x00\x1b\x7f\ufffe0a.")
    return _put(text, (at, min(len(text), at + rng.randrange(2))), character)


def piece_removed(text, rng):
    """A piece less."""
    at = rng.randrange(len(text) + 1)
    return _put(text, (at, min(len(text), at + rng.choice((1, 3, 10, 50)))), "")


def line_moved(text, rng):
    """A line twice, removed, indented otherwise, or somewhere else."""
    lines = text.splitlines()
    if not lines:
        return text
    at = rng.randrange(len(lines))
    line = lines[at]
    kind = rng.randrange(4)
    if kind != 0:
        del lines[at]
    if kind != 1:
        changed = rng.choice((line, " " * rng.randrange(5) + line.strip(), "\t" + line)) if kind < 3 else line
        lines.insert(rng.randrange(len(lines) + 1) if kind == 3 else at, changed)
    return "\n".join(lines) + "\n"


def grown(text, rng):
    """Something that a small file makes large: aliases of aliases, long lists, deep nesting, another document."""
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    return rng.choice(
        (
            text + laughs,
            laughs.replace("\n", "\n  ").join(("parameters:\n  ", "\n")) + text,
            text + "---\n" + text,
            text + "parameters: {sizes: [" + ", ".join(map(str, range(30_000))) + "]}\n",
            text + "x: " + "[" * 500 + "]" * 500 + "\n",
            text + "#" + "x" * 400_000 + "\n",
            text.replace("[1, 2, 4]", "[" + ", ".join(map(str, range(1, 1500))) + "]"),
            re.sub(r"axes:\n", "axes:\n  sizes: [[1], [2], [1]]\n  anything: [{a: 1}, {a: 2}, null]\n", text),
        )
    )  # fmt: skip


MUTATIONS = (
    value_replaced, value_replaced, value_of_a_line_replaced, value_of_a_line_replaced, name_replaced, word_inserted,
    character_replaced, piece_removed, line_moved, grown,
)  # fmt: skip


def _put(text: str, span: tuple[int, int], word: str) -> str:
    return text[: span[0]] + word + text[span[1] :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "pyproject.toml").touch()
    write_notebook(folder / "work.ipynb", "x = 1", parameters=PARAMETERS)
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)


def test_files_that_mutants_are_made_of_are_valid(folder):
    for text in VALID:
        (folder / "sweep.yaml").write_text(text)
        assert resflow("sweep", "sweep.yaml", "--dry-run", seconds=60).code == 0


def test_mutant_of_a_sweep_file_is_planned_or_refused_in_one_line_with_the_place(folder, seeds):
    for seed in seeds:
        rng = random.Random(seed)
        mutant = mutate(rng.choice(VALID), rng)
        data = mutant if isinstance(mutant, bytes) else mutant.encode("utf-8", "surrogatepass")
        (folder / "sweep.yaml").write_bytes(data)
        ended = resflow("sweep", "sweep.yaml", "--dry-run", *rng.choice(((), ("--json",))))
        check(ended, (seed, mutant))
        assert ended.code in (0, 2), f"{seed}: {mutant!r}: {ended.err}"  # a dry run asks the world for nothing
        if ended.code:
            said = re.match(r"resflow: error: sweep\.yaml:(\d+): ", ended.err)
            assert said, f"{seed}: {mutant!r}: {ended.err}"
            lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", data.decode(errors="replace"))  # as YAML counts them
            assert 1 <= int(said[1]) <= len(lines), f"{seed}: {mutant!r}: {ended.err}"
