"""What JAX compiled is found again, and whatever befalls the folder, results are right and nothing broken is kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from resflow.workflow import compiled
from resflow.workflow.compiled import CACHE, compilation_cache, programs_of, tell_hit

COMPUTE = """
import os, signal, sys, warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp
if sys.argv[1] == "killed":
    from jax._src import lru_cache
    path_class = type(lru_cache.pathlib.Path("entry"))
    write = path_class.write_bytes
    def half(path, data):
        write(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    path_class.write_bytes = half
from resflow.workflow.compiled import tell_hit
jax.monitoring.register_event_listener(lambda event, **_: tell_hit() if event.endswith("/cache_hits") else None)
more = 2.0 if sys.argv[1] == "killed" else 1.0  # another program, which nobody has compiled before
print(float(jax.jit(lambda x: (jnp.sin(more * x) @ jnp.cos(x).T).sum())(jnp.arange(12.0).reshape(3, 4))))
"""


@pytest.fixture(autouse=True)
def no_cache_of_ones_own(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")


def compute(root, what="", inside=lambda folder: None):
    """What a process says that computes with the cache of a project, and how many programs it found and added."""
    with compilation_cache(root) as environment:
        inside(root / CACHE)
        given = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        command = [sys.executable, "-c", COMPUTE, what]
        said = subprocess.run(
            command, env=given | compiled.settings() | environment, capture_output=True, text=True, timeout=120
        )
        counts = programs_of(environment)
    assert said.returncode == (-signal.SIGKILL if what == "killed" else 0), said.stderr
    return said.stdout, counts


def kept(root):
    return sorted(path.name for path in (root / CACHE).glob("jax/*/*-cache"))


def test_second_execution_finds_what_the_first_compiled(tmp_path):
    first, (found, added) = compute(tmp_path)
    assert found == 0
    assert added == len(kept(tmp_path)) > 0
    assert compute(tmp_path) == (first, (added, 0))
    assert [path.name for path in (tmp_path / CACHE / "jax").iterdir()] != []
    assert not list((tmp_path / CACHE / "jax").glob("resflow-*"))
    assert (tmp_path / CACHE / ".gitignore").read_text() == "*\n"


def test_eight_at_once_one_of_them_killed_in_a_write_leave_whole_entries_only(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda place: compute(tmp_path, "killed" if place == 3 else ""), range(8)))
    values = {text for place, (text, _) in enumerate(said) if place != 3}
    assert len(values) == 1
    assert said[3][0] == ""
    for entry in (tmp_path / CACHE).glob("jax/*/*-cache"):
        assert zlib.decompress(entry.read_bytes())
    assert compute(tmp_path) == (values.pop(), (len(kept(tmp_path)), 0))


def test_folder_deleted_under_way_changes_nothing(tmp_path):
    value, _ = compute(tmp_path)
    assert compute(tmp_path, inside=shutil.rmtree)[0] == value
    assert compute(tmp_path)[0] == value
    assert kept(tmp_path)


def test_full_disk_changes_nothing_but_what_is_kept(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    value, _ = compute(tmp_path / "other")
    monkeypatch.setattr(os, "replace", full)
    assert compute(tmp_path)[0] == value
    assert kept(tmp_path) == []


def test_where_nothing_can_be_kept_nothing_is_said(tmp_path):
    (tmp_path / CACHE).write_text("a file")
    with compilation_cache(tmp_path) as environment:
        assert environment == {}


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_COMPILATION_CACHE_DIR", "mine"), ("JAX_ENABLE_COMPILATION_CACHE", "false")]
)
def test_users_own_choice_counts(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with compilation_cache(tmp_path) as environment:
        assert environment == {}
    assert compiled.settings() == {}
    tell_hit()
    assert list(tmp_path.iterdir()) == []


def test_oldest_entries_go_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "LARGEST", 250)
    for place in range(5):
        with compilation_cache(tmp_path) as environment:
            entry = f"{environment['JAX_COMPILATION_CACHE_DIR']}/{place}-cache"
            with open(entry, "wb") as file:
                file.write((packed := zlib.compress(os.urandom(80))) + b"")
            os.utime(entry, (place, place))
    assert len(packed) < 100
    assert kept(tmp_path) == ["3-cache", "4-cache"]


def test_entry_that_was_cut_off_is_not_taken_over(tmp_path):
    entries = {"whole": zlib.compress(b"x" * 99), "half": zlib.compress(os.urandom(99))[:50], "no": b""}
    with compilation_cache(tmp_path) as environment:
        assert environment["RESFLOW_PROGRAMS"] == environment["JAX_COMPILATION_CACHE_DIR"]
        for kind in ("cache", "trace"):
            for name, data in entries.items():
                with open(f"{environment['JAX_COMPILATION_CACHE_DIR']}/{name}-{kind}", "wb") as file:
                    file.write(data)
        assert programs_of(environment) == (0, 3)  # as many as were compiled, whole or not
    assert sorted(path.name for path in (tmp_path / CACHE).glob("jax/*/*")) == ["whole-cache", "whole-trace"]
