"""Where sweeps run: a cluster of this machine that strangers on it cannot use, and one elsewhere, with certificates."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import dask
import psutil
import pytest
from distributed import Security

from resflow.errors import InvalidInputError
from resflow.workflow.sweeps.worker.cluster import local_cluster, prepare_workers, running_cluster

DASK = Path(sys.executable).parent / "dask"


def answer(port, path):
    try:
        return urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).read().decode()
    except (HTTPError, OSError) as error:
        return str(error)


def test_local_cluster_listens_to_this_machine_only_shows_no_pages_and_leaves_nothing(tmp_path, monkeypatch):
    prepare_workers()  # whose folder stays for as long as this process
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with local_cluster(1, retries=0) as client:
        assert client.submit(int, "3").result() == 3
        assert client.scheduler.address.startswith("tls://127.0.0.1")
        own = psutil.Process()
        listening = [
            connection.laddr
            for process in (own, *own.children(recursive=True))
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert {address.ip for address in listening} == {"127.0.0.1"}
        told = [
            answer(address.port, path)
            for address in listening
            for path in ("/", "/metrics", "/health", "/json/counts.json", "/info/main/workers.html", "/sitemap.json")
        ]
    assert {text for text in told if "reset" not in text} <= {
        "HTTP Error 404: Not Found",
        '{"paths": ["/sitemap.json"]}',
    }
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def certificates(tmp_path):
    """A certificate of a cluster's own, as files."""
    made = Security.temporary()
    for name, text in (("ca", made.tls_ca_file), ("cert", made.tls_client_cert), ("key", made.tls_client_key)):
        (tmp_path / f"{name}.pem").write_text(text)
    return tmp_path


def test_cluster_with_certificates_serves_who_has_them_and_nobody_else(certificates):
    options = [f"--tls-ca-file={certificates}/ca.pem", f"--tls-cert={certificates}/cert.pem"]
    options += [f"--tls-key={certificates}/key.pem"]
    file = certificates / "scheduler.json"
    local = ["--host", "tls://127.0.0.1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [
        subprocess.Popen([DASK, "scheduler", *local, "--port", "0", "--scheduler-file", file, *options], **quiet)
    ]
    try:
        deadline = time.monotonic() + 60
        while not (file.is_file() and file.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        assert address.startswith("tls://")
        worker = [address, *local, "--nthreads", "1", "--no-nanny", "--local-directory", certificates, *options]
        processes.append(subprocess.Popen([DASK, "worker", *worker], **quiet))
        for wrong in (address, address.replace("tls://", "tcp://")):
            with pytest.raises(InvalidInputError, match="--scheduler") as error, running_cluster(wrong):
                pass
            assert "\n" not in str(error.value)
        names = {f"client.{name}": str(certificates / f"{name}.pem") for name in ("cert", "key")}
        names["ca-file"] = str(certificates / "ca.pem")
        with (
            dask.config.set({f"distributed.comm.tls.{name}": value for name, value in names.items()}),
            running_cluster(address) as client,
        ):
            assert client.submit(int, "3").result(timeout=60) == 3
    finally:
        for process in processes:
            process.kill()
            process.wait()
