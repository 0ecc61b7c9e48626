"""MLflow's UI on the project's store: on this machine only, with as few processes as it can do with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from types import FrameType

import psutil

from resflow.errors import InvalidInputError
from resflow.workflow.tracking import open_client

__all__ = ["charts_link", "free_port", "serve"]

HOST = "127.0.0.1"


def serve(port: int | None = None) -> int:
    """Serve MLflow's UI until Ctrl-C or a termination signal; returns the exit code.

    Args:
        port: The port, or None for the first free one from 5000 on.

    Raises:
        InvalidInputError: If the port is taken.
    """
    client = open_client()
    port = free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", client.tracking_uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    newest = client.search_experiments(order_by=["last_update_time DESC"])
    experiments = [experiment for experiment in newest if experiment.name != "Default"] or newest
    server = subprocess.Popen(command, env=environment, start_new_session=True)

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for experiment in experiments:
            print(f"{experiment.name}: {charts_link(port, experiment.experiment_id)}", flush=True)
        print("Ctrl-C ends the server.", flush=True)
        return server.wait()
    finally:
        _end(server)
        for number, handler in former.items():
            signal.signal(number, handler)


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
    """End the server with everything it started."""
    if server.poll() is not None:
        return
    family = psutil.Process(server.pid).children(recursive=True)
    server.terminate()
    _, alive = psutil.wait_procs([psutil.Process(server.pid), *family], timeout=5)
    for process in alive:
        process.kill()
    server.wait()
