"""MLflow's UI on the project's store: on this machine only, with as few processes as it can do with."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from resflow.errors import InvalidInputError
from resflow.workflow import guarded
from resflow.workflow.interruption import Interruptions
from resflow.workflow.records import open_client

__all__ = ["charts_link", "free_port", "serve"]

HOST = "127.0.0.1"

POLL_SECONDS = 0.2


def serve(port: int | None = None) -> int:
    """Serve MLflow's UI at a `free_port` until Ctrl-C, a termination signal, or the end of this process.

    Returns the exit code.
    """
    client = open_client()
    port = free_port(port)
    command = [sys.executable, "-P", guarded.__file__, sys.executable, "-m", "mlflow", "server"]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["MLFLOW_BACKEND_STORE_URI"] = client.tracking_uri  # a command line is for everybody to see
    newest = client.search_experiments(order_by=["last_update_time DESC"])
    experiments = [experiment for experiment in newest if experiment.name != "Default"] or newest

    with Interruptions() as interruptions:
        server = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            with interruptions.raised():
                for experiment in experiments:
                    print(f"{experiment.name}: {charts_link(port, experiment.experiment_id)}", flush=True)
                print("Ctrl-C ends the server.", flush=True)
                while server.poll() is None:
                    time.sleep(POLL_SECONDS)  # waiting in one call, a signal that came just before it would be missed
                return server.returncode
        finally:
            _end(server)


def charts_link(port: int, experiment_id: str) -> str:
    """Where the UI shows an experiment's runs as charts; its list of runs is one click away."""
    return f"http://{HOST}:{port}/#/experiments/{experiment_id}/runs?compareRunsMode=CHART"


def free_port(port: int | None) -> int:
    """The port itself if it is free; without one, the first free one from 5000 on.

    Raises:
        InvalidInputError: If it is taken, or none of a hundred is free.
    """
    for candidate in [port] if port else range(5000, 5100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
        return candidate
    raise InvalidInputError(f"port={port or '5000 to 5099'} is taken on {HOST}: choose another with --port")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server with everything it started; its guard does so as soon as its standard input is closed."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    if group := server.stdout.readline():
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(2 * guarded.GRACE_SECONDS)
        guarded.end_group(int(group), signal.SIGKILL)  # if the guard was killed
    server.stdout.close()
    server.wait()
