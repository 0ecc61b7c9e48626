"""Where a sweep's executions run: worker processes of this machine, or a Dask cluster that is running anywhere."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow.scratch import temporary_folder
from resflow.workflow.sweeps.worker.server import servers_beside

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["SAFE_PATH", "ClusterLostError", "cores", "local_cluster", "prepare_workers", "running_cluster"]

CONNECT_SECONDS = 10

SAFE_PATH = "PYTHONSAFEPATH"
"""The variable that keeps files of the current folder from being imported in place of modules."""
_IMPORTS = "resflow.workflow.sweeps.worker.imports"


class ClusterLostError(Exception):
    """The cluster went away while it was used; what was finished on it is in the store."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def prepare_workers() -> str:
    """Start what the workers of `local_cluster` are forked from, where they can be: it imports while this goes on.

    Returns:
        How `multiprocessing` is to start them: "forkserver", or "spawn".
    """
    if sys.platform != "linux":
        return "spawn"
    multiprocessing.set_forkserver_preload([_IMPORTS])
    former = os.environ.get(SAFE_PATH), tempfile.tempdir
    os.environ[SAFE_PATH] = former[0] or _IMPORTS  # who finds its own name there takes it out
    folder = ExitStack()
    try:
        # where its socket is left by kill -9, too, it is removed by the next who makes such a folder
        tempfile.tempdir = str(folder.enter_context(temporary_folder()))
        Finalize(None, folder.close, exitpriority=-1_000)  # after those of what is in it
        with _started_without_interrupts():
            forkserver.ensure_running()
    except OSError:  # a socket's path must be short, and that of temporary files is not
        return "spawn"
    finally:
        tempfile.tempdir = former[1]
        if not former[0]:
            del os.environ[SAFE_PATH]
    return "forkserver"


@contextmanager
def local_cluster(workers: int, retries: int) -> Iterator[Client]:
    """A cluster of worker processes on this machine, each of which has one task at a time.

    Its ports are open to this machine only, and speak only to who has the keys made for it; those of Dask's pages have
    no pages but the list of them. Its files are in a folder that is gone afterwards.

    Args:
        workers: How many processes.
        retries: How many workers a task may lose before it is given up.
    """
    import dask
    from distributed import Client, LocalCluster

    method = prepare_workers()
    settings: dict[str, Any] = {
        "distributed.worker.multiprocessing-method": method,
        "distributed.nanny.pre-spawn-environ": {},  # how many threads a kernel may have is for the sweep to say
        "distributed.scheduler.allowed-failures": retries,
        "distributed.scheduler.worker-saturation": 1.0,  # a task waits with the scheduler, not behind another
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.http.routes": [],  # pages have no keys: whoever asks is told that there are none
        "distributed.worker.http.routes": [],
        "distributed.admin.tick.limit": "1h",  # it would report a busy machine as a fault of ours
    }
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        settings["temporary-directory"] = str(folder)
        if method == "forkserver":
            settings |= stack.enter_context(servers_beside(workers, folder))
        stack.enter_context(dask.config.set(settings))
        with _started_without_interrupts():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # 8787 may be another sweep's
                security=True,
                memory_limit=0,  # what takes memory are processes below the workers
            )
        with cluster, Client(cluster) as client:
            yield client


@contextmanager
def _started_without_interrupts() -> Iterator[None]:
    """Within, processes are started that Ctrl-C in a terminal does not reach; it is for the driver, which ends them.

    Threads and processes inherit the mask. What a worker starts takes it off again.
    """
    resource_tracker.ensure_running()  # before: Python 3.11 takes the mask off where it starts that
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextmanager
def running_cluster(address: str) -> Iterator[Client]:
    """A running cluster, by the address of its scheduler.

    Certificates for a scheduler at tls:// are those that Dask's own configuration names: `distributed.comm.tls`, in a
    file or by the environment.

    Raises:
        InvalidInputError: If there is none.
    """
    from distributed import Client, Security

    try:
        if address.startswith("tls://") and Security().get_connection_args("client")["ssl_context"] is None:
            raise InvalidInputError(
                f"--scheduler {address}: no certificates for it: name them by DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
                "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"
            )
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InvalidInputError(f"--scheduler {address}: no Dask scheduler answers there: {reason}") from None
    with client:
        yield client
