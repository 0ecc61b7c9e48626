"""Passwords in the store's address are used and written nowhere."""

from __future__ import annotations

import base64
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from small_notebooks import resflow_here, write_notebook

from resflow.workflow.addresses import UnshownAddress, complete_address, moved_to_environment
from resflow.workflow.engine import scrub_errors
from resflow.workflow.records import Run, create_run

SECRET = "pa/ss w0rd@x"
QUOTED = "pa%2Fss%20w0rd%40x"

USES_MLFLOW = """
import mlflow
with mlflow.start_run(run_name="inner", nested=True, experiment_id="0"):
    mlflow.log_metric("m", 1.0)
"""
FAILS = """
import os
raise OSError("cannot reach postgresql://me:" + os.environ["MLFLOW_TRACKING_PASSWORD"] + "@db/runs")
"""


class Gate(http.server.BaseHTTPRequestHandler):
    """Lets through to a server who has the password."""

    behind = ""

    def answer(self):
        wanted = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            return self.reply(401, b"who are you?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        kept = {name: self.headers[name] for name in ("Content-Type", "Accept") if name in self.headers}
        try:
            with urlopen(Request(self.behind + self.path, body, kept, method=self.command), timeout=60) as response:
                self.reply(response.status, response.read())
        except HTTPError as error:
            self.reply(error.code, error.read())

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer


@pytest.fixture
def address(tmp_path):
    """A tracking server that asks for a password, and its address with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = tmp_path / "server"
    place.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{place}/mlflow.db",
        "--artifacts-destination",
        str(place / "artifacts"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=place, env=environment, start_new_session=True, **quiet)
    gate = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    Gate.behind = f"http://127.0.0.1:{port}"
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urlopen(f"{Gate.behind}/health", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.3)
        yield f"http://me:{QUOTED}@127.0.0.1:{gate.server_address[1]}"
    finally:
        gate.shutdown()
        gate.server_close()
        os.killpg(server.pid, 9)
        server.wait()


def written(*folders):
    """Every file below the folders that has the password in it, in any of its forms."""
    forms = [SECRET.encode(), QUOTED.encode(), base64.b64encode(f"me:{SECRET}".encode())]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return files, [path for path in files if any(form in path.read_bytes() for form in forms)]


def test_password_of_a_tracking_server_is_used_and_in_no_file_and_on_no_screen(address, tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # so that they are as before afterwards
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").touch()
    write_notebook(project / "good.ipynb", USES_MLFLOW, parameters=None)
    write_notebook(project / "bad.ipynb", FAILS, parameters=None)
    good = resflow_here(project, "run", "good.ipynb", "good.out.ipynb", MLFLOW_TRACKING_URI=address)
    assert good.returncode == 0, good.stderr
    assert "View run inner at: http://127.0.0.1" in (project / "good.out.ipynb").read_text()
    bad = resflow_here(project, "run", "bad.ipynb", "bad.out.ipynb", MLFLOW_TRACKING_URI=address)
    assert bad.returncode == 1
    assert "raised OSError: cannot reach postgresql://" in bad.stderr
    where = resflow_here(project, "store", "where", MLFLOW_TRACKING_URI=address)
    files, telling = written(tmp_path)
    assert len([path for path in files if path.suffix == ".html"]) == 2
    assert telling == []
    assert not [
        text for done in (good, bad, where) for text in (done.stdout, done.stderr) if "pa" in text and "w0rd" in text
    ]


@pytest.fixture
def clean(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    return monkeypatch


def test_user_and_password_of_a_server_move_to_the_environment_and_back_for_another_machine(clean):
    address = f"https://me:{QUOTED}@host:5000/path"
    clean.setenv("MLFLOW_TRACKING_URI", address)
    assert moved_to_environment(address) == os.environ["MLFLOW_TRACKING_URI"] == "https://host:5000/path"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", SECRET)
    assert complete_address("https://host:5000/path") == address
    assert "w0rd" not in repr({"tracking_uri": complete_address("https://host:5000/path")})
    for other in ("sqlite:////a/b.db", f"postgresql://me:{QUOTED}@host/runs", "http://host", "databricks"):
        assert moved_to_environment(other) == other
    assert "w0rd" not in repr([UnshownAddress(f"postgresql://me:{QUOTED}@host/runs?password=w0rd")])


def test_password_of_a_database_is_in_no_tag_and_no_traceback(clean, tmp_path):
    from mlflow.tracking import MlflowClient

    address = "postgresql://me:w0rdpass@host/runs"
    clean.setenv("MLFLOW_TRACKING_URI", address)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = create_run(client, notebook="n", name="n", parameters={}, tags={"error": f"no answer from {address}"})
    Run(client, run.id).end("FAILED", error=f"(psycopg.OperationalError) {address} with password w0rdpass")
    error = new_output("error", ename="E", evalue=address, traceback=[f"E: {address}", "w0rdpass"])
    nb = new_notebook(cells=[new_code_cell("x", outputs=[error])])
    scrub_errors(nb)
    assert "w0rdpass" not in str(nb)
    tags = client.get_run(run.id).data.tags
    assert tags["error"] == "no answer from postgresql://host/runs"
    assert "w0rdpass" not in str(tags)
