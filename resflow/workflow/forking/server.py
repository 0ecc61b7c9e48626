"""The program that forks kernels: `python server.py SOCKET MODULES`, with a pipe on standard input.

It imports the modules that are named in a JSON list, and listens at a socket. Whoever connects sends a description of a
kernel and three descriptors, its standard streams, and is answered by a line of JSON: the process id of a fork that has
become that kernel, or why an ordinary one is needed. Each further byte is a signal for the kernel's process group; a
last line says how it ended. A kernel is killed when who asked for it is gone, by kill -9 too, or closes the connection.

The byte `r` on standard input retires the server: it forks no more and ends with its last kernel. When standard input
is closed, as it is when who started the server is gone, the server kills what it forked and ends; should it be killed
itself, the system kills them.

Nothing but the standard library is imported here, so that every interpreter that runs kernels can run it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import itertools
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable, Mapping

REQUEST_SECONDS = 30.0
"""How long the description of a kernel may take to arrive."""

PR_SET_PDEATHSIG = 1

EXPORTED = ":all"

BEAR_FORKS = ("jemalloc_bg_thd",)
"""Threads that are made anew in forks, or not needed there: of pyarrow's allocator, which looks after it itself."""

PER_RUN = {
    *("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_CONTEXT", "MLFLOW_TRACKING_URI"),
    *(
        "RESFLOW_PROGRESS",
        "RESFLOW_CHECKPOINTS",
        "RESFLOW_CHECKPOINT_SECONDS",
        "RESFLOW_KEEP_DATA",
        "RESFLOW_DATA_INSTEAD",
        "RESFLOW_KERNELS",
        "RESFLOW_PROGRAMS",
        "JAX_COMPILATION_CACHE_DIR",
        "JPY_PARENT_PID",
        "JPY_SESSION_NAME",
    ),
    *("MPLBACKEND", "PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES", "PYTEST_CURRENT_TEST"),
}
"""Variables in which kernels may differ from the server: nothing reads them at import, or `_settle` makes up for it."""


_WRITTEN = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair)
"""Kinds of files that Python writes out when it ends."""


def main() -> None:
    """Serve until standard input is closed; in a fork, be the kernel; this does not return."""
    through: list[bool] = []
    atexit.register(_leave, through)  # the first to be registered is the last to be called
    _serve()
    through.append(True)


def _leave(through: list[bool]) -> None:
    """End, all threads and whatever had to be called at the end being over, without taking the modules apart.

    That would take seconds. What is of the kernel's own is still collected, and files that are open written out.
    """
    if not through:
        return  # an exception, which Python tells
    gc.collect()
    for each in (sys.__stdout__, sys.__stderr__, *gc.get_objects()):
        if isinstance(each, _WRITTEN):
            with contextlib.suppress(OSError, ValueError):  # closed, or a full disk
                each.flush()
    os._exit(0)


def _serve() -> None:
    address, modules = sys.argv[1], json.loads(sys.argv[2])
    gc.disable()  # what is imported stays: looking for garbage among it would take a third of the time
    del sys.path[0]  # this file's folder
    began_with = differing(_environment_given())
    with socket.socket(socket.AF_UNIX) as listening:
        umask = os.umask(0o077)
        listening.bind(f"{address}.new")
        listening.listen(128)  # whoever comes while modules are imported waits
        os.rename(f"{address}.new", address)
        os.umask(umask)
        _import_all(modules)
        gc.freeze()  # so that forks share the pages of what there is, the little garbage included
        gc.enable()
        wanted = _Server(listening, began_with, _obstacle()).serve()
    if wanted is not None:
        become_kernel(*wanted)


def _environment_given() -> dict[str, str]:
    """The environment this process was started with: Python may have added LC_CTYPE to its own."""
    with open("/proc/self/environ", "rb") as file:
        entries = (os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0") if entry)
        return {name: value for name, _, value in entries}


def differing(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment has to be the same in the server and in its kernels."""
    return {name: value for name, value in environment.items() if name not in PER_RUN}


def _import_all(modules: list[str]) -> None:
    """Import what is there of the modules; what they say at that is said again by no kernel, and nowhere heard."""
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel does, before them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            with contextlib.suppress(Exception):  # the notebook's own import says what is wrong with it
                module = importlib.import_module(name.removesuffix(EXPORTED))
                if name.endswith(EXPORTED):  # of a package that imports a module when something of it is used
                    for each in module.__all__:
                        getattr(module, each)


def _obstacle() -> str:
    """Why kernels cannot be forked from this process, "" if they can.

    Some libraries end their threads before a fork, as OpenBLAS does: so it is looked after one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (pid := os.fork()) == 0:
            os._exit(0)
    os.waitpid(pid, 0)
    names = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm") as file:  # it may have just ended
            names.append(file.read().strip())
    others = sorted(name for name in names if name not in BEAR_FORKS)[1:]
    return f"a module that the notebook imports starts threads: {', '.join(others[:3])}" if others else ""


class _Kernel:
    """A kernel that was forked: its process, who asked for it, and a descriptor that is readable when that is gone."""

    def __init__(self, pid: int, connection: socket.socket, asker: int | None, wanted: dict) -> None:
        self.pid, self.connection, self.asker = pid, connection, asker
        options = itertools.pairwise(wanted["command"])
        self.files = [os.path.join(wanted["folder"], value) for option, value in options if option == "-f"]

    def signal(self, number: int) -> None:
        for send in (os.killpg, os.kill):  # it may be about to become the leader of a group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(self.pid, number)
                return

    def end(self) -> None:
        """Kill it, and remove the file that says how to reach it, as who asked would have done."""
        self.signal(signal.SIGKILL)
        for path in self.files:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def forget(self) -> None:
        self.connection.close()
        if self.asker is not None:
            os.close(self.asker)


class _Server:
    """The loop of the server."""

    def __init__(self, listening: socket.socket, environment: dict[str, str], obstacle: str) -> None:
        self.listening, self.environment, self.obstacle = listening, environment, obstacle
        self.files = _loaded_files()
        self.kernels: dict[int, _Kernel] = {}
        self.retired = False
        self.selector = selectors.DefaultSelector()
        self.woken, waking = socket.socketpair()
        self.woken.setblocking(False)
        waking.setblocking(False)
        self.waking = waking

    def serve(self) -> tuple[dict, list[int]] | None:
        """Serve until it is over; in a fork, what kernel to be and on which streams."""
        signal.set_wakeup_fd(self.waking.fileno())
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # what ends this is standard input
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._watch(0, self._told_by_owner)
        self._watch(self.woken, self._reap)
        self._watch(self.listening, self._asked)
        while not self.retired or self.kernels:
            for key, _ in self.selector.select():
                if key.fileobj not in self.selector.get_map():
                    continue  # done with by what came before it
                try:
                    key.data()
                except _Fork as fork:
                    return fork.kernel, fork.streams
                except EOFError:
                    for kernel in self.kernels.values():
                        kernel.end()
                    return None
        return None

    def _watch(self, source: int | socket.socket, then: Callable[[], None]) -> None:
        self.selector.register(source, selectors.EVENT_READ, then)

    def _told_by_owner(self) -> None:
        if not os.read(0, 1):
            raise EOFError
        self.retired = True
        with contextlib.suppress(KeyError):
            self.selector.unregister(self.listening)
        self.listening.close()

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.woken.recv(1 << 10):
                pass
        for pid in list(self.kernels):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            kernel = self.kernels.pop(pid)
            with contextlib.suppress(OSError):  # nobody may be there any more
                kernel.connection.sendall(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
            self._unwatch(kernel)
            kernel.forget()

    def _asked(self) -> None:
        connection, _ = self.listening.accept()
        streams: list[int] = []
        try:
            connection.settimeout(REQUEST_SECONDS)
            wanted, streams = _received(connection)
            if reason := self.obstacle or self._difference(wanted):
                connection.sendall(json.dumps({"ordinary": reason}).encode() + b"\n")
                connection.close()
                return
            kernel = self._fork(connection, wanted, streams)
        except (OSError, ValueError):  # who asked is gone
            connection.close()
            return
        finally:
            for each in streams:
                os.close(each)
        self.kernels[kernel.pid] = kernel
        self._watch(connection, lambda: self._told(kernel))
        if kernel.asker is not None:
            self._watch(kernel.asker, lambda: self._gone(kernel))
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps({"pid": kernel.pid}).encode() + b"\n")

    def _difference(self, wanted: dict) -> str:
        """What makes a kernel other than one that imports for itself; "" if nothing does."""
        theirs = differing(wanted["environment"])
        if names := sorted(
            name for name in theirs.keys() | self.environment if theirs.get(name) != self.environment.get(name)
        ):
            return f"its environment has another value of {', '.join(names[:5])}"
        if changed := [path for path, stamp in self.files.items() if _stamp(path) != stamp]:
            return f"{os.path.basename(changed[0])} changed since it was imported"
        if hidden := _hidden(wanted["folder"]):
            return f"{hidden} of its folder is to be imported by that name"
        return ""

    def _fork(self, connection: socket.socket, wanted: dict, streams: list[int]) -> _Kernel:
        server = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX and Python warn of threads: there are none
            pid = os.fork()
        if pid == 0:
            end_with(server)
            signal.set_wakeup_fd(-1)
            kept = [os.dup(each) for each in streams]
            for each in streams:
                os.close(each)
            streams.clear()
            connection.close()
            for kernel in self.kernels.values():
                kernel.forget()
            self.selector.close()
            for end in (self.woken, self.waking, self.listening):
                end.close()
            raise _Fork(wanted, kept)
        asker = None
        with contextlib.suppress(OSError, AttributeError):  # of an old Linux; the connection has to do
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            asker = os.pidfd_open(struct.unpack("3i", credentials)[0])
        return _Kernel(pid, connection, asker, wanted)

    def _told(self, kernel: _Kernel) -> None:
        try:
            numbers = kernel.connection.recv(1 << 10)
        except OSError:
            numbers = b""
        for number in numbers:
            kernel.signal(number)
        if not numbers:
            self._gone(kernel)

    def _gone(self, kernel: _Kernel) -> None:
        self._unwatch(kernel)
        kernel.end()

    def _unwatch(self, kernel: _Kernel) -> None:
        for source in (kernel.connection, kernel.asker):
            if source is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self.selector.unregister(source)


class _Fork(BaseException):
    """In a fork: leave the server's loop and be this kernel."""

    def __init__(self, kernel: dict, streams: list[int]) -> None:
        self.kernel, self.streams = kernel, streams


def _received(connection: socket.socket) -> tuple[dict, list[int]]:
    """The description of a kernel, and its three standard streams."""
    size, streams, *_ = socket.recv_fds(connection, 8, 3)
    length, text = int.from_bytes(size, "big"), b""
    while len(text) < length:
        if not (part := connection.recv(1 << 16)):
            raise OSError("the connection was closed")
        text += part
    return json.loads(text), list(streams)


def _loaded_files() -> dict[str, tuple[int, int] | None]:
    """The files of all modules, as they are now."""
    paths = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return {path: _stamp(path) for path in paths if path}


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _hidden(folder: str) -> str:
    """A module of a folder that an ordinary kernel there would have imported in place of one of ours."""
    for entry in os.listdir(folder):
        module = sys.modules.get(entry.removesuffix(".py"))
        path = os.path.join(folder, entry if entry.endswith(".py") else f"{entry}/__init__.py")
        if module is None or entry == "__main__.py" or not os.path.isfile(path):
            continue
        loaded = getattr(module, "__file__", None)
        if not (loaded and os.path.exists(loaded) and os.path.samefile(loaded, path)):
            return entry
    return ""


def end_with(parent: int) -> None:
    """Have the system kill this process, which was just forked, when its parent ends; end if that is gone already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def become_kernel(wanted: dict, streams: list[int]) -> None:
    """Be the kernel that is wanted, until it is shut down."""
    server = os.getppid()
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # who started the server may have blocked some
    for own, given in enumerate(streams):
        os.dup2(given, own)
        os.close(given)
    for name, limits in wanted["limits"].items():
        with contextlib.suppress(ValueError, OSError):  # higher than this process may have: it keeps its own
            resource.setrlimit(getattr(resource, name), tuple(limits))
    os.umask(wanted["umask"])
    os.sched_setaffinity(0, wanted["cores"])
    coerced = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}  # as Python does at its start
    os.environ.clear()
    os.environ.update(coerced | wanted["environment"])
    os.chdir(wanted["folder"])
    sys.argv = list(wanted["command"])
    sys.orig_argv = [sys.executable, *wanted["command"]]
    _settle()

    from ipykernel import kernelapp

    kernelapp.launch_new_instance(argv=[*wanted["command"][1:], f"--IPKernelApp.parent_handle={server}"])


def _settle() -> None:
    """Make up for what modules did once for all forks: random states, and what they read of the environment."""
    importlib.invalidate_caches()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if (jax := sys.modules.get("jax")) and (folder := os.environ.get("JAX_COMPILATION_CACHE_DIR")):
        jax.config.update("jax_compilation_cache_dir", folder)


if __name__ == "__main__":
    main()
