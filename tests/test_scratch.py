"""Temporary folders and locks: gone after every end, and swept up where their process was killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from small_notebooks import start, wait_for, write_notebook

from resflow.workflow import scratch
from resflow.workflow.scratch import TakenError, kept, only_holder, sweep_up, temporary_folder

HOLD = """
import time
from pathlib import Path
from scratch import only_holder, temporary_folder
with temporary_folder() as folder, only_holder(folder.parent / "resflow-sweep-0-0123456789abcdef.lock"):
    (folder / "sub").mkdir()
    (folder / "sub" / "file").touch()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder for temporary folders, as this process and those it starts see it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(scratch.__file__).parent))  # the module alone, which is imported at once
    return tmp_path


def holder():
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def test_folder_is_private_and_gone_however_it_is_left(place):
    with temporary_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").touch()
    with pytest.raises(KeyError), temporary_folder():
        raise KeyError
    assert list(place.iterdir()) == []


def test_folder_of_a_killed_process_is_removed_by_the_next_and_that_of_a_living_one_is_not(place):
    killed, remnant = holder()
    living, used = None, None
    try:
        killed.kill()
        killed.wait()
        assert (remnant / "sub" / "file").exists()
        living, used = holder()
        assert not remnant.exists()
        with temporary_folder():
            assert (used / "sub" / "file").exists()
    finally:
        for process in filter(None, (killed, living)):
            process.kill()
            process.wait()
            process.stdout.close()
    sweep_up()
    assert list(place.iterdir()) == []


def test_process_that_outlives_the_maker_keeps_its_folder():
    maker, folder = holder()
    with kept(folder) as is_there:
        assert is_there
        maker.kill()
        maker.communicate()
        sweep_up()
        assert folder.exists()
    sweep_up()
    assert not folder.exists()
    with kept(folder) as is_there:
        assert not is_there


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
def test_fork_that_drops_what_it_inherited_removes_nothing(place):
    use = """
import os
from contextlib import ExitStack
from pathlib import Path
from scratch import TakenError, only_holder, sweep_up, temporary_folder
with ExitStack() as used:
    folder = used.enter_context(temporary_folder())
    lock = folder.parent / "resflow-sweep-0-0123456789abcdef.lock"
    used.enter_context(only_holder(lock))
    if (pid := os.fork()) == 0:
        used.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    try:
        with only_holder(lock):
            raise AssertionError("the fork removed the lock")
    except TakenError:
        pass
    sweep_up()
    assert folder.exists()
"""
    done = subprocess.run([sys.executable, "-c", use], stderr=subprocess.PIPE, text=True)
    assert (done.stderr, done.returncode) == ("", 0)
    assert list(place.iterdir()) == []


def test_lock_keeps_others_out_and_leaves_no_file(place):
    path = place / "resflow-sweep-1-0123456789abcdef.lock"
    with only_holder(path):
        sweep_up()
        assert path.exists()
        with pytest.raises(TakenError), only_holder(path):
            pass
    assert not path.exists()
    with only_holder(path):
        pass


def test_folder_that_was_removed_in_use_is_no_error(place):
    with temporary_folder() as folder:
        shutil.rmtree(folder)
    assert list(place.iterdir()) == []


def test_nothing_but_its_own_is_swept_up(place, monkeypatch):
    monkeypatch.setattr(scratch, "_BEING_MADE", -1.0)
    data = place / "resflow-my_data1"
    data.mkdir()
    (data / "results.csv").touch()
    (place / "resflow-notes.txt").touch()
    (place / "resflow-linked01").symlink_to(data)
    (data / ".resflow-held").symlink_to(data / "results.csv")
    (place / "resflow-empty_01").mkdir()
    sweep_up()
    assert {path.name for path in place.iterdir()} == {"resflow-my_data1", "resflow-notes.txt", "resflow-linked01"}
    assert (data / "results.csv").exists()


def test_many_processes_at_once_never_lose_a_folder_in_use(place):
    use = """
from scratch import temporary_folder
for number in range(100):
    with temporary_folder() as folder:
        (folder / "file").write_text("1")
        assert (folder / "file").read_text() == "1"
"""
    processes = [subprocess.Popen([sys.executable, "-c", use], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 4
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_run_that_is_ended_leaves_nothing_or_the_next_does_not(place, tmp_path_factory, monkeypatch, number):
    monkeypatch.delenv("PYTHONPATH")
    root = tmp_path_factory.mktemp("project")
    (root / "pyproject.toml").touch()
    write_notebook(root / "slow.ipynb", "open('pid', 'w').write('x')\nimport time\ntime.sleep(60)", parameters=None)
    process = start(root, "resflow", "run", "slow.ipynb")
    wait_for(root / "pid", process)
    assert len(ours(place)) == 4  # the notebook's copy, the sockets of kernel and server, and where steps are told
    process.send_signal(number)
    process.communicate(timeout=30)
    if number == signal.SIGKILL:
        deadline = time.monotonic() + 10
        while ours(place) and time.monotonic() < deadline:  # the kernel sees by itself that its parent is gone
            sweep_up()
            time.sleep(0.1)
    assert ours(place) == []


def ours(place):
    return [name for name in os.listdir(place) if name.startswith("resflow-")]
