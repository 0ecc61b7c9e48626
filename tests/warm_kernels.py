"""Real kernels that start in a moment: forked from a process that has imported what notebooks import.

Importing takes a kernel longer than a small notebook does. `warm_kernels` starts a server that imports once, and writes
a kernel specification whose command, this file again, has the server fork a kernel and lives as long as that does: what
ends the one ends the other. JAX is imported but not started before the fork: such a kernel computes as any other does.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fork_server import asked, forked, take_over, wanted_of

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / ".pytest_cache" / "programs"
"""What any of these kernels traced, for the next."""

_LIGHT = ("IPython.display", "ipykernel.kernelapp")
_IMPORTED = (
    *_LIGHT,
    "equinox",
    "jax.numpy",
    "matplotlib.pyplot",
    "mlflow.data",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "optax",
    "resflow.workflow.reports.comparison",
    "resflow.workflow.session",
    "scipy.optimize",
    "seaborn",
    "sklearn.datasets",
)


@contextmanager
def warm_kernels(folder: Path, *modules: str) -> Iterator[dict[str, str]]:
    """The environment variables under which the kernel `python3` is one of these.

    Args:
        folder: An empty folder, for the server's socket and the kernel specification.
        modules: What the server imports beside what every kernel needs; if none is named, what our notebooks do.
    """
    import subprocess

    from jupyter_client.kernelspec import KernelSpecManager

    PROGRAMS.mkdir(parents=True, exist_ok=True)
    address = str(folder / "socket")
    spec = KernelSpecManager().get_kernel_spec("python3").to_dict()
    # without site-packages, for speed
    spec["argv"] = [sys.executable, "-E", "-s", "-S", __file__, "ask", address, "-f", "{connection_file}"]
    place = folder / "share" / "kernels" / "python3"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps(spec))
    command = [sys.executable, __file__, "serve", address, *modules]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        # a kernel has a time limit to start in, and on a busy machine the imports take longer
        assert server.stdout.readline() == b"listening\n"
        yield {"JUPYTER_PATH": str(folder / "share"), "RESFLOW_PROGRAMS": str(PROGRAMS)}
    finally:
        server.communicate()  # it ends with its standard input


def ask(address: str, *options: str) -> None:
    """Have a kernel forked with these options, hand on what signals come for it, and end with it."""
    asked(address, options=options).recv(1)


def serve(address: str, *modules: str) -> None:
    """Fork a kernel for everyone who asks, until standard input is closed."""
    import gc
    import importlib

    gc.disable()  # what is imported stays: looking for garbage among it would take a third of the time
    sys.path[0] = str(ROOT)
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # a kernel sets it before it is imported
    for name in (*_LIGHT, *modules) if modules else (*_library(), *_IMPORTED):
        importlib.import_module(name)
    if "jax" in sys.modules:
        from jax._src import xla_bridge

        computes = "a module computes while it is imported: no fork would survive it"
        assert not xla_bridge.backends_are_initialized(), computes
    sys.path.pop(0)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("listening", flush=True)
        if connection := forked(listening):
            become_kernel(connection)


def _library() -> list[str]:
    paths = sorted((ROOT / "resflow").rglob("[a-z]*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name for name in names if not name.startswith("resflow.workflow")]


def become_kernel(connection: socket.socket) -> None:
    """Be the kernel that is asked for at the other end, until it is shut down."""
    server = os.getppid()
    wanted = wanted_of(connection)
    take_over(wanted["environment"], wanted["folder"])
    threading.Thread(target=follow, args=(connection,), daemon=True).start()

    from ipykernel import kernelapp

    kernelapp.launch_new_instance(argv=[*wanted["options"], f"--IPKernelApp.parent_handle={server}"])


def follow(connection: socket.socket) -> None:
    """Get the signals that were sent to the process at the other end, and end when that is gone."""
    while number := connection.recv(1):
        os.kill(os.getpid(), number[0])
    os._exit(1)


if __name__ == "__main__":
    {"ask": ask, "serve": serve}[sys.argv[1]](*sys.argv[2:])
