"""The process that computes beside a command: other than it, with the same errors, and never left behind."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from small_notebooks import is_gone

from resflow.workflow.beside import call_here, called_beside


def process_of(code):
    """A new process, in which next to nothing is imported."""
    head = "import os, signal, sys, time\nfrom resflow.workflow.beside import called_beside\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def said_by(code):
    process = process_of(code)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_functions_are_called_in_another_process_which_has_imported_what_was_named():
    code, out, err = said_by("""
told = []
with called_beside("colorsys", lambda: told.append("meanwhile")) as call:
    there = call(os.getpid)
    assert there != os.getpid() == call(os.getppid)
    assert call(eval, "'colorsys' in __import__('sys').modules") and "colorsys" not in sys.modules
    assert call(os.getpid) == there and call(max, 1, 2) == 2
    assert told == ["meanwhile"]
print(there)
""")
    assert (code, err) == (0, "")
    assert is_gone(int(out), within=0.0)


def test_errors_are_those_of_the_function_with_where_they_were_raised():
    code, out, err = said_by("""
with called_beside("no.such.module", int) as call:
    for expression in ("1 / 0", "[].nothing"):
        try:
            call(eval, expression)
        except Exception as error:
            print(type(error).__name__, error.__notes__[0].splitlines()[-1])
    try:
        call(exec, "class Own(Exception): pass\\nraise Own('told')")
    except RuntimeError as error:
        print(error)
    print(call(max, 1, 2))
""")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "ZeroDivisionError ZeroDivisionError: division by zero",
        "AttributeError AttributeError: 'list' object has no attribute 'nothing'",
        "Own: told",
        "2",
    ]


def test_end_of_the_process_is_told_in_one_line():
    code, out, err = said_by("""
with called_beside("colorsys", lambda: None) as call:
    call(os.kill, call(os.getpid), signal.SIGKILL)
""")
    assert (code, out) == (1, "")
    assert err == "resflow: error: the process that computes ended with SIGKILL\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_command_that_is_killed(number):
    process = process_of("""
with called_beside("colorsys", lambda: print(there, flush=True)) as call:
    there = 0
    there = call(os.getpid)
    print(there, flush=True)
    call(time.sleep, 100)
""")
    assert process.stdout.readline() == "0\n"
    there = int(process.stdout.readline())
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == -number
    assert is_gone(there)
    assert err.count("Traceback") == (number == signal.SIGINT)  # of this process alone


def test_nothing_is_forked_where_threads_or_jax_are():
    ended = threading.Event()
    (thread := threading.Thread(target=ended.wait)).start()
    with called_beside("colorsys", lambda: None) as call:
        assert call is call_here
        assert call(os.getpid) == os.getpid()
    ended.set()
    thread.join()
    assert "jax" in sys.modules
    with called_beside("colorsys", lambda: None) as call:
        assert call is call_here
