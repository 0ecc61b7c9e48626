"""MLflow's UI on the project's store: on this machine only, with as few processes as it can do with."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from typing import IO, TYPE_CHECKING

from resflow.errors import InvalidInputError
from resflow.workflow import guarded
from resflow.workflow.goal import Goal
from resflow.workflow.interruption import Interruptions
from resflow.workflow.limits import one_line
from resflow.workflow.names import ROLE, SWEEP, Role
from resflow.workflow.records import every_run, open_client, parents_of_sweeps, tagged
from resflow.workflow.store_errors import StoreError
from resflow.workflow.ui_pages import (
    ABOVE_LINEAR,
    FIRST_PORT,
    HOST,
    LOWEST_GAP,
    WORST_GAP,
    run_page,
    runs_page,
    server_address,
    ui_address,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["free_port", "links", "serve"]

PORTS = range(FIRST_PORT, FIRST_PORT + 100)
"""Which are tried where none is asked for."""

ABOVE_POINTS = (Role.SWEEP, Role.POPULATION)
"""The runs of a sweep that are no points of it."""

POLL_SECONDS = 0.2


def serve(port: int | None = None) -> int:
    """Serve MLflow's UI at a `free_port` until Ctrl-C, a termination signal, or the end of this process.

    Where to look is said as soon as the server answers. A store behind a server has a UI there already, and only where
    that is is said.

    Returns:
        The exit code: 0 after Ctrl-C, which is how a UI is ended.

    Raises:
        StoreError: If the server ends by itself.
    """
    client = open_client()
    if address := server_address(client.tracking_uri):
        print("\n".join(links(client, address)))
        return 0
    port = free_port(port)
    command = [sys.executable, "-P", guarded.__file__, sys.executable, "-m", "mlflow", "server"]
    command += ["--host", HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    environment["MLFLOW_BACKEND_STORE_URI"] = client.tracking_uri  # a command line is for everybody to see
    print("MLflow's server is starting; its addresses follow once it answers.", file=sys.stderr, flush=True)
    with Interruptions() as interruptions, tempfile.TemporaryFile() as said:
        server = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
        try:
            with interruptions.raised():
                told = False
                while server.poll() is None:
                    if not told and (told := _answers(port)):
                        where = "\n".join(links(client, ui_address(client.tracking_uri, port)))
                        print(where, "Ctrl-C ends the server.", sep="\n", flush=True)
                    time.sleep(POLL_SECONDS)  # waiting in one call, a signal that came just before it would be missed
                raise StoreError(f"MLflow's server ended with exit code {server.returncode}{_last_line(said)}")
        except KeyboardInterrupt:
            return 0
        finally:
            _end(server)


def links(client: MlflowClient, address: str) -> Iterator[str]:
    """Where a UI shows experiments, the latest first, the runs in them above linear, and sweeps; a line each."""
    newest = client.search_experiments(order_by=["last_update_time DESC"])
    experiments = [experiment for experiment in newest if experiment.name != "Default"] or newest
    for experiment in experiments:
        place = experiment.experiment_id
        yield f"{experiment.name}: {runs_page(place, address, charts=True)}"
        if list(islice(every_run(client, [place], ABOVE_LINEAR), 1)):
            yield f"  above linear: {runs_page(place, address, condition=ABOVE_LINEAR, by=WORST_GAP, charts=True)}"
    for name, parent in parents_of_sweeps(client, [experiment.experiment_id for experiment in experiments]).items():
        place = parent.info.experiment_id
        yield f"sweep {name}: {run_page(place, parent.info.run_id, address)}"
        condition = " and ".join([tagged(SWEEP, name), *(f"tags.`{ROLE}` != '{role}'" for role in ABOVE_POINTS)])
        goal = Goal.in_tags(parent.data.tags) or LOWEST_GAP
        yield f"  its runs, best first: {runs_page(place, address, condition=condition, by=goal, charts=True)}"


def _last_line(said: IO[bytes]) -> str:
    """What the server said last, behind a colon; "" if it said nothing."""
    said.seek(0)
    lines = said.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {one_line(last)}" if last else ""


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):  # not yet
        return False
    finally:
        connection.close()


def free_port(port: int | None) -> int:
    """The port itself if it is free; without one, the first free one from 5000 on.

    Raises:
        InvalidInputError: If it is taken, or none of a hundred is free.
    """
    for candidate in [port] if port else PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
        return candidate
    raise InvalidInputError(
        f"port={port or f'{PORTS[0]} to {PORTS[-1]}'} is taken on {HOST}: choose another with --port"
    )


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
