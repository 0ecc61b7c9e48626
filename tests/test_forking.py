"""Forked kernels: as ordinary ones in all that notebooks can see, each a process of its own, and none left behind."""

from __future__ import annotations

import ast
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager, start_new_kernel
from small_notebooks import in_project, is_gone, make_project, resflow_here, runs_of, write_notebook

from resflow.workflow import records
from resflow.workflow.forking import client
from resflow.workflow.forking.client import KERNELS, KernelServer
from resflow.workflow.forking.provisioner import NAME, ForkingProvisioner

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

LIGHT = ("IPython.display", "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "numpy")
FILE = Path("given.txt")


def until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Kernel:
    """A kernel of some provisioner, to ask for values."""

    def __init__(self, *, forks: bool, modules: tuple[str, ...] = LIGHT, **options) -> None:
        self.manager = KernelManager(kernel_name="python3")
        if forks:
            self.manager.provisioner = ForkingProvisioner(
                kernel_id="k", kernel_spec=self.manager.kernel_spec, parent=self.manager, modules=list(modules)
            )
        self.manager.start_kernel(**options)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    @property
    def not_forked(self) -> str:
        return self.manager.provisioner.not_forked

    @property
    def pid(self) -> int:
        return self.value("__import__('os').getpid()")

    def value(self, expression: str):
        reply = self.client.execute("", user_expressions={"it": expression}, reply=True, timeout=60)
        said = reply["content"]["user_expressions"]["it"]
        assert said["status"] == "ok", said
        return ast.literal_eval(said["data"]["text/plain"])

    def run(self, source: str, timeout: float = 60) -> str:
        reply = self.client.execute(source, reply=True, timeout=timeout, stop_on_error=False)
        return reply["content"]["status"]


SEEN = {
    "environment": "{k: v for k, v in __import__('os').environ.items() if k not in ('JPY_PARENT_PID', 'SHLVL', '_')}",
    "folder": "__import__('os').getcwd()",
    "path": "__import__('sys').path",
    "flags": "repr(__import__('sys').flags)",
    "interpreter": "__import__('sys').executable",
    "main": "[__name__, hasattr(__import__('sys').modules['__main__'], '__file__')]",
    "limits": "[__import__('resource').getrlimit(n) for n in range(16)]",
    "cores": "sorted(__import__('os').sched_getaffinity(0))",
    "mask": "oct((m := __import__('os').umask(0), __import__('os').umask(m))[0])",
    "leads": "__import__('os').getsid(0) == __import__('os').getpid() == __import__('os').getpgid(0)",
    "stdin": "__import__('os').read(0, 10)",
    "open": "sorted(__import__('os').readlink(f'/proc/self/fd/{n}') for n in (1, 2))",
    "signals": "[str(__import__('signal').getsignal(n)).split(' at ')[0] for n in (1, 2, 10, 15, 17)]",
    "blocked": "__import__('signal').pthread_sigmask(0, [])",
}


def test_forked_kernel_sees_what_an_ordinary_one_does(tmp_path):
    given = os.environ | {"SEEN": "ä ü", "MLFLOW_RUN_ID": "r1"}
    seen = []
    umask, limit = os.umask(0o027), resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, limit[1]))
    try:
        for forks in (True, False):
            with Kernel(forks=forks, env=dict(given), cwd=str(tmp_path)) as kernel:
                assert not forks or kernel.not_forked == ""
                seen.append({what: kernel.value(expression) for what, expression in SEEN.items()})
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_CORE, limit)
    assert seen[0] == seen[1]
    assert seen[0]["folder"] == str(tmp_path)
    assert seen[0]["environment"]["SEEN"] == "ä ü"


def test_each_is_a_fresh_process_with_random_numbers_of_its_own():
    drawn = "(__import__('numpy').random.random(), __import__('random').random(), __import__('uuid').uuid4().hex)"
    with Kernel(forks=True) as one, Kernel(forks=True) as other:
        assert one.not_forked == other.not_forked == ""
        assert one.run("import numpy; numpy.left_by_one = 1") == "ok"
        assert not other.value("hasattr(__import__('numpy'), 'left_by_one')")
        assert all(mine != theirs for mine, theirs in zip(one.value(drawn), other.value(drawn), strict=True))
        assert psutil.Process(one.pid).ppid() == psutil.Process(other.pid).ppid()


def test_interrupt_and_every_end_are_those_of_an_ordinary_kernel():
    with Kernel(forks=True) as kernel:
        asked = kernel.client.execute("import time\nwhile True: time.sleep(0.01)")
        time.sleep(0.5)
        kernel.manager.interrupt_kernel()
        reply = kernel.client.get_shell_msg(timeout=30)
        assert reply["parent_header"]["msg_id"] == asked
        assert reply["content"]["ename"] == "KeyboardInterrupt"
    for source, code in (("import os; os._exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)):
        with Kernel(forks=True) as kernel:
            kernel.client.execute(source)
            process = kernel.manager.provisioner.process
            assert process.wait(30) == code
            assert kernel.manager.is_alive() is False


LAST = """
import atexit, pathlib, sys, threading, time, types
atexit.register(pathlib.Path("handler").write_text, "called")
threading.Thread(target=lambda: (time.sleep(0.5), pathlib.Path("thread").write_text("waited for"))).start()
written = open("variable", "w")
written.write("written")
module = sys.modules["kept_open"] = types.ModuleType("kept_open")
module.file = open("module", "w")
module.file.write("written")
class Last:
    def __del__(self):
        pathlib.Path("cycle").write_text("collected")
last = Last()
last.itself = last
del last
"""


@pytest.mark.parametrize("forks", [True, False], ids=["forked", "ordinary"])
def test_all_that_is_to_happen_at_the_end_does(tmp_path, forks):
    with Kernel(forks=forks, cwd=str(tmp_path)) as kernel:
        assert kernel.run(LAST) == "ok"
        process = kernel.manager.provisioner.process
        assert not forks or kernel.not_forked == ""
        kernel.client.shutdown()
        assert process.wait(30) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "handler": "called", "thread": "waited for", "variable": "written", "module": "written", "cycle": "collected",
    }  # fmt: skip


def test_memory_limit_holds_in_the_kernel():
    script = (
        "import resource, sys; sys.path.insert(0, 'tests')\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        "from test_forking import Kernel\n"
        "with Kernel(forks=True) as kernel:\n"
        "    print(kernel.not_forked or kernel.run('bytearray(8 << 30)'), kernel.run('1 + 1'))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert said.stdout.split() == ["error", "ok"], said.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("environment", "its environment has another value of SOMETHING"),
        ("folder", "numpy.py of its folder"),
        ("source", "imported_first.py changed"),
        ("threads", "starts threads"),
    ],
)
def test_what_would_not_be_the_same_is_an_ordinary_kernel_and_says_why(tmp_path, monkeypatch, change, reason):
    """The server that a sweep's processes share is not started anew for one of them."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    (tmp_path / "modules").mkdir()
    module = tmp_path / "modules" / "imported_first.py"
    module.write_text("value = 1\n")
    if change == "threads":
        module.write_text(
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
        )
    wanted = KernelSpecManager().get_kernel_spec("python3").argv
    server = KernelServer([sys.executable, *wanted[1:-4]], os.environ, ["imported_first", *LIGHT])
    try:
        monkeypatch.setenv(KERNELS, server.address)
        until(lambda: os.path.exists(server.address))
        folder = tmp_path
        if change == "environment":
            monkeypatch.setenv("SOMETHING", "else")
        elif change == "folder":
            (tmp_path / "numpy.py").write_text("version = 'mine'\n")
        elif change == "source":
            with Kernel(forks=True) as kernel:  # which is there when everything is imported
                assert kernel.not_forked == ""
            module.write_text("value = 1000\n")
        with Kernel(forks=True, cwd=str(folder), env=dict(os.environ)) as kernel:
            assert reason in kernel.not_forked
            assert not kernel.value(f"{KERNELS!r} in __import__('os').environ")
            if change == "source":
                assert kernel.value("__import__('imported_first').value") == 1000
            if change == "folder":
                assert kernel.run("import numpy; assert numpy.version == 'mine'") == "ok"
    finally:
        server.close()


def test_process_of_its_own_servers_starts_another_when_sources_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = tmp_path / "edited_between.py"
    for value in (1, 2000):
        module.write_text(f"value = {value}\n")
        with Kernel(forks=True, modules=("edited_between", *LIGHT)) as kernel:
            assert kernel.not_forked == ""
            assert kernel.value("__import__('edited_between').value") == value


OWNER = """
import sys
sys.path.insert(0, "tests")
from test_forking import Kernel
kernel = Kernel(forks=True)
kernel.run("import subprocess; child = subprocess.Popen(['sleep', '600'])")
process = kernel.manager.provisioner.process.__class__.__name__
print(kernel.not_forked or kernel.pid, process, kernel.manager.connection_file, flush=True)
input()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_process_that_was_killed(number):
    command, pipe = [sys.executable, "-c", OWNER], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as owner:
        pid, process, connection_file = owner.stdout.readline().split()
        assert process == "ForkedProcess"
        assert Path(connection_file).is_file()
        family = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(), psutil.Process(int(pid)).parent()]
        owner.send_signal(number)
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert not Path(connection_file).exists()


def test_kernels_end_with_a_server_that_is_killed():
    with Kernel(forks=True) as kernel:
        server = psutil.Process(kernel.pid).parent()
        pid = kernel.pid
        server.kill()
        until(lambda: is_gone(pid))
        assert kernel.manager.provisioner.process.wait(10) == -signal.SIGKILL
    with Kernel(forks=True) as kernel:  # by a new one
        assert kernel.not_forked == ""


def test_server_takes_nothing_along_over_many_kernels_and_leaves_none():
    with Kernel(forks=True) as kernel:
        server = psutil.Process(kernel.pid).parent()
    before, size = len(os.listdir(f"/proc/{server.pid}/fd")), server.memory_info().rss
    described = client.Wanted([sys.executable, "-m", "ipykernel_launcher", "--version"], os.environ, os.getcwd())
    described.interpreter = client._servers.key[0]
    described.environment = dict(os.environ)
    for count in (*[3] * 50, 24):
        processes = [client.forked(described, client._servers.key[2]) for _ in range(count)]
        assert [each.wait(60) for each in processes] == [0] * count
    assert len(os.listdir(f"/proc/{server.pid}/fd")) == before
    assert server.memory_info().rss < size + (4 << 20)
    assert server.children() == []


def test_socket_is_of_its_user_alone():
    with Kernel(forks=True):
        address = Path(client._servers.current.address)
        assert address.stat().st_mode & 0o077 == 0
        assert address.parent.stat().st_mode & 0o077 == 0


def test_half_a_request_is_nobodys_kernel():
    import socket

    with Kernel(forks=True) as kernel:
        for sent in (b"", b"\0" * 4, (100).to_bytes(8, "big") + b"{"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(client._servers.current.address)
                connection.sendall(sent)
        assert kernel.value("1 + 1") == 2
        with Kernel(forks=True) as other:
            assert other.not_forked == ""


@pytest.fixture
def project(tmp_path):
    root = make_project(tmp_path / "project")
    with in_project(root):
        yield root


def test_run_says_which_kernel_it_had(project, monkeypatch):
    write_notebook(project / "plain.ipynb", ["import numpy"])
    for named, said in (("", "forked"), ("ordinary", "ordinary: RESFLOW_KERNELS=ordinary")):
        monkeypatch.setenv(KERNELS, named)
        papermill.execute_notebook("plain.ipynb", "out.ipynb", engine_name="resflow", progress_bar=False)
        run = max(runs_of(records.open_client(), "plain"), key=lambda run: run.info.start_time)
        assert run.data.tags["resflow.kernel"] == said


def test_kernel_is_forked_by_the_server_that_was_started_while_parameters_were_checked(project, monkeypatch):
    called = "def check_values(values):\n    os.environ['SET_BY_A_CALL'] = 'x'\n"
    (project / "loud_checks.py").write_text(f"import os\nos.environ['SET_BY_AN_IMPORT'] = 'x'\n{called}")
    monkeypatch.syspath_prepend(project)
    node = nbformat.read(
        write_notebook(project / "loud.ipynb", "import os; print(os.getppid(), sorted(os.environ))"), 4
    )
    node.metadata["resflow"] = {"checks": "loud_checks"}
    nbformat.write(node, project / "loud.ipynb")
    started, start = [], client.KernelServer.__init__
    monkeypatch.setattr(client.KernelServer, "__init__", lambda *given: (started.append(given[0]), start(*given))[1])
    monkeypatch.setattr(client._servers, "current", None)
    done = resflow_here(project, "run", "loud.ipynb", "out.ipynb")
    assert done.returncode == 0, done.stderr
    (server,) = started
    said = nbformat.read(project / "out.ipynb", 4).cells[-1].outputs[0].text
    assert said.startswith(f"{server.process.pid} ")
    assert "SET_BY" not in said


def test_kernel_by_the_name_of_resflow_is_installed():
    spec = KernelSpecManager().get_kernel_spec("resflow")
    assert spec.metadata["kernel_provisioner"]["provisioner_name"] == NAME


def test_plain_papermill_and_nbclient_can_ask_for_one_by_its_name(tmp_path, monkeypatch):
    spec = KernelSpecManager().get_kernel_spec("python3").to_dict()
    spec["metadata"] = {"kernel_provisioner": {"provisioner_name": NAME, "config": {"modules": list(LIGHT)}}}
    place = tmp_path / "kernels" / "forked"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    manager, kernel = start_new_kernel(kernel_name="forked")
    try:
        assert manager.provisioner.not_forked == ""
        assert type(manager.provisioner.process).__name__ == "ForkedProcess"
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
    write_notebook(tmp_path / "plain.ipynb", ["import os; print(os.getppid())"])
    nb = papermill.execute_notebook(
        str(tmp_path / "plain.ipynb"), str(tmp_path / "out.ipynb"), kernel_name="forked", progress_bar=False
    )
    assert int(nb.cells[-1].outputs[0].text) == client._servers.current.process.pid
