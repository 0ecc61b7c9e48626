"""What is wrong with a store, or around a command, is one line with what to do; the traceback is in a file it names."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from small_notebooks import resflow_here, write_notebook

from resflow.workflow import boundary, remote_check, sqlite_check, store
from resflow.workflow.records import open_client, patiently
from resflow.workflow.store_errors import StoreError, UnusableStoreError, explained, is_busy

SWEEP = "notebook: tiny.ipynb\nname: toy\naxes:\n  size: [1, 2]\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The content of a store's database that holds one run."""
    root = tmp_path_factory.mktemp("model")
    client = MlflowClient(tracking_uri=store.ensure_store(root))
    experiment = client.create_experiment("tiny", artifact_location=f"{root}/elsewhere")
    client.set_terminated(client.create_run(experiment).info.run_id)
    database = root / "mlruns" / "mlflow.db"
    edit(database, f"UPDATE experiments SET artifact_location = '{root}/elsewhere'", "PRAGMA wal_checkpoint(TRUNCATE)")
    return database.read_bytes()


@pytest.fixture
def database(tmp_path, model, monkeypatch):
    """The database of the current folder's project, which can be used."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "toy.yaml").write_text(SWEEP)
    write_notebook(tmp_path / "tiny.ipynb", parameters="size: int = 1")
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(model)
    return tmp_path / "mlruns" / "mlflow.db"


def edit(database, *statements):
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def line_of(code, *arguments, **environment):
    """The one line by which a command ends with an exit code."""
    done = resflow_here(Path.cwd(), *arguments, **environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("resflow: error: ")
    return line


def kept(line):
    """What the file holds that a line names."""
    file = Path(re.search(r"\(traceback in (.*)\)$", line)[1])
    assert file.stat().st_mode & 0o077 == 0, "others may read it"
    text = file.read_text()
    file.unlink()
    return text


def foreign(database):
    database.unlink()
    edit(database, "CREATE TABLE Artist (id INTEGER)", "CREATE TABLE Album (id INTEGER)")


def scribbled_over(database):
    content = bytearray(database.read_bytes())
    for start in range(8192, len(content), 4096):
        content[start : start + 300] = b"\xa5" * 300
    database.write_bytes(content)


def replaced(by):
    def change(database):
        database.unlink()
        by(database)

    return change


def altered(*statements):
    return lambda database: edit(database, *statements)


CONDITIONS = {
    "empty": (lambda database: database.write_bytes(b""), 2, "is empty: put a backup in its place"),
    "short": (lambda database: database.write_bytes(database.read_bytes()[:50]), 1, "is damaged or cut off"),
    "cut off": (lambda database: database.write_bytes(database.read_bytes()[:50000]), 1, "is damaged or cut off"),
    "text": (lambda database: database.write_text("hello\n" * 99), 2, "is no SQLite database"),
    "image": (lambda database: database.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999)), 2, "is no SQLite database"),
    "foreign": (foreign, 2, "belongs to another program (it holds the tables Album, Artist)"),
    "no tables": (replaced(altered("CREATE TABLE x (a)", "DROP TABLE x")), 2, "is empty"),
    "folder": (replaced(Path.mkdir), 2, "is a folder"),
    "pipe": (replaced(os.mkfifo), 2, "is no ordinary file"),
    "link": (replaced(lambda database: database.symlink_to(database)), 2, "a link that leads nowhere"),
    "scribbled over": (scribbled_over, 1, "is damaged or cut off"),
    "older": (altered("UPDATE alembic_version SET version_num = 'bda7b8c39065'"), 2, "run `mlflow db upgrade"),
    "newer": (altered("UPDATE alembic_version SET version_num = 'ffffffffffff'"), 2, "install the newer MLflow"),
    "no version": (altered("DELETE FROM alembic_version"), 1, "does not say of which version its schema is"),
    "no table of versions": (altered("DROP TABLE alembic_version"), 1, "does not say of which version"),
    "no table": (altered("DROP TABLE metrics"), 1, "lacks metrics."),
    "no column": (altered("ALTER TABLE runs RENAME COLUMN entry_point_name TO x"), 1, "lacks runs.entry_point_name"),
    "upgrade cut off": (
        altered("CREATE TABLE _alembic_tmp_tags (a)", "UPDATE alembic_version SET version_num = 'bda7b8c39065'"),
        2,
        "'DROP TABLE _alembic_tmp_tags;'",
    ),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_condition_of_the_store_is_told_in_one_line_with_what_to_do(database, condition):
    change, code, words = CONDITIONS[condition]
    change(database)
    for command in (["sweep", "toy.yaml", "--dry-run"], ["report", "toy"], ["ui"], ["run", "tiny.ipynb"]):
        line = line_of(code, *command)
        assert words in line
        assert str(database) in line
        if condition != "link":  # which is seen before anything is opened
            assert "Traceback" in kept(line)
    assert not database.is_file() or condition != "foreign" or len(tables(database)) == 2, "MLflow's tables were added"


def tables(database):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()


def test_healthy_store_with_a_foreign_journal_beside_it_can_be_used(database):
    database.with_name("mlflow.db-wal").write_bytes(os.urandom(20000))
    assert resflow_here(Path.cwd(), "sweep", "toy.yaml", "--dry-run").returncode == 0


def test_command_that_the_line_names_migrates_a_store_of_an_older_schema(tmp_path, monkeypatch):
    import mlflow.db
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    database = tmp_path / "mlruns" / "mlflow.db"
    config = utils._get_alembic_config(f"sqlite:///{database}")
    *_, older = itertools.islice(ScriptDirectory.from_config(config).walk_revisions(), 4)
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{database}")
    utils.InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, older.revision)
    engine.dispose()
    with pytest.raises(UnusableStoreError, match="older MLflow") as caught:
        open_client()
    words = shlex.split(re.search(r"run `(mlflow db upgrade .*?)`", str(caught.value))[1])
    assert CliRunner().invoke(mlflow.db.commands, words[2:], catch_exceptions=False).exit_code == 0
    assert open_client().search_experiments()


def test_lock_of_another_program_is_told_within_seconds_and_waited_for_while_others_get_on(database, monkeypatch):
    monkeypatch.setattr(sqlite_check, "STUCK_SECONDS", 0.4)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        line = line_of(1, "sweep", "toy.yaml", "--dry-run")
        assert "has been locked by another program" in line
        assert "locked" in kept(line)

        def get_on():
            for _ in range(12):
                other.execute("UPDATE runs SET name = name || 'x'")
                other.execute("COMMIT")
                other.execute("BEGIN IMMEDIATE")
                threading.Event().wait(0.1)
            other.execute("COMMIT")

        other.execute("ROLLBACK")
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        writer = threading.Thread(target=get_on)
        writer.start()
        sqlite_check.check_sqlite(database)
        writer.join()


def test_read_only_store_is_told_as_one(database, monkeypatch):
    monkeypatch.setattr(sqlite_check.os, "access", lambda path, mode: mode != os.W_OK)
    line = line_of(2, "sweep", "toy.yaml", "--dry-run")
    assert "is read-only: make it writable" in line
    assert explained(sqlite_error(sqlite3.SQLITE_READONLY), "sqlite:////x").args[0].count("read-only")


def sqlite_error(code):
    error = sqlite3.OperationalError("the driver's words")
    error.sqlite_errorcode = code
    return error


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root may make a small file system")
def test_full_disk_is_told_as_one_and_the_file_goes_elsewhere(database):
    content, folder = database.read_bytes(), database.parent
    size = len(content) + 300 * 1024
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        database.write_bytes(content)
        with contextlib.suppress(OSError), (folder / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(4096))
        line = line_of(1, "sweep", "toy.yaml", "--dry-run")
        assert "no space is left where the store" in line
        assert str(folder) not in line.split("(traceback in ")[1]
        kept(line)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_folder_of_runs_that_is_a_file_and_folder_that_is_gone_are_told(database, monkeypatch):
    shutil.rmtree(database.parent)
    database.parent.write_text("")
    assert "mlruns is no folder" in line_of(2, "sweep", "toy.yaml", "--dry-run")
    here = database.parent.parent / "gone"
    here.mkdir()
    program = (
        f"import os; os.chdir({str(here)!r}); os.rmdir({str(here)!r}); from resflow.workflow.cli import main; main()"
    )
    line = [sys.executable, "-c", program, "store", "where"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        2,
        "resflow: error: the current folder is no longer there: change to one that is (cd)\n",
    )


@contextlib.contextmanager
def server(status, body=b"{}", kind="application/json", wait=0.0, healthy=False):
    """A server on this machine that answers everything alike, unless it is asked for its health; its address."""
    end = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            end.wait(0.0 if self.path == "/health" and healthy else wait)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *arguments):
            pass

        def handle(self):
            with contextlib.suppress(OSError):  # the client did not wait
                super().handle()

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.daemon_threads = True
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}"
    finally:
        end.set()
        serving.shutdown()
        serving.server_close()


ANSWERS = {
    "not known": (dict(status=401), 2, "MLFLOW_TRACKING_USERNAME"),
    "not let in": (dict(status=403), 2, "does not let this user in"),
    "not found": (dict(status=404), 2, "is no MLflow server (it answers 404"),
    "too busy": (dict(status=429), 1, "cannot answer now (429"),
    "broken": (dict(status=500), 1, "cannot answer now (500"),
    "a page": (
        dict(status=200, body=b"<html>", kind="text/html"),
        2,
        "is no MLflow server (it answers 200, text/",
    ),
    "a list": (dict(status=200, body=b"[]"), 2, "is no MLflow server"),
    "nothing": (dict(status=200, wait=9.0), 1, "did not answer within 0 seconds"),
    "late": (dict(status=404, wait=1.0, healthy=True), 2, "is no MLflow server (it answers 404"),
    "its health alone": (dict(status=200, wait=9.0, healthy=True), 1, "did not answer within 2 seconds"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_server_that_is_of_no_use_is_told_in_one_line(database, monkeypatch, answer):
    options, code, words = ANSWERS[answer]
    if "wait" in options:
        monkeypatch.setattr(remote_check, "FIRST_ANSWER_SECONDS", 0.4)
        monkeypatch.setattr(remote_check, "BUSY_SECONDS", 2.0)
    with server(**options) as address:
        own = address.replace("//", "//me:open-sesame@")
        line = line_of(code, "sweep", "toy.yaml", "--dry-run", MLFLOW_TRACKING_URI=own)
        assert words in line
        assert address in line
        assert "open-sesame" not in line + kept(line)


ADDRESSES = {
    "http://me:open-sesame@127.0.0.1:1": (1, "http://127.0.0.1:1 cannot be reached (Connection refused)"),
    "https://127.0.0.1:1": (1, "cannot be reached"),
    "http://": (2, "names no host"),
    "http://127.0.0.1:99999": (2, "Port out of range"),
    "http://[::1": (2, "Invalid IPv6"),
    "htp://127.0.0.1": (2, "has an address that MLflow does not know"),
    "postgresql://me:open-sesame@127.0.0.1:1/runs": (1, "postgresql://127.0.0.1:1/runs cannot be reached"),
    "postgresql+psycopg2://me:open-sesame@127.0.0.1:1/x": (2, "pip install psycopg2-binary"),
    "mysql+pymysql://me:open-sesame@127.0.0.1:1/x": (2, "pip install pymysql"),
    "postgresql+no://127.0.0.1/x": (2, "an address that no database has"),
    "postgresql://me:open-sesame@127.0.0.1:x/x": (2, "no address of a database"),
    "file:///tmp/runs": (2, "names a folder"),
    "mlruns": (2, "names a folder"),
    " ": (2, "has spaces or other characters"),
    "http://127.0.0.1:1/\udcff": (2, "has spaces or other characters"),
    "sqlite://": (2, "names no file"),
    "sqlite:////proc/no/such.db": (2, "cannot be made or read there"),
    "sqlite:////dev/null": (2, "is no ordinary file"),
    "databricks-uc": (2, "keeps models and no runs"),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_address_of_no_store_is_told_in_one_line_without_its_password(database, address):
    code, words = ADDRESSES[address]
    line = line_of(code, "sweep", "toy.yaml", "--dry-run", MLFLOW_TRACKING_URI=address)
    assert words in line
    assert "open-sesame" not in line
    if "(traceback in" in line:
        assert "open-sesame" not in kept(line)
    assert "open-sesame" not in resflow_here(Path.cwd(), "store", "where", MLFLOW_TRACKING_URI=address).stdout


def test_error_of_our_own_is_called_that_and_never_the_users(database, monkeypatch, capsys):
    def wrong():
        raise TypeError("one\nand two")

    assert boundary.guarded(wrong) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith("resflow: error: internal error: TypeError: one and two; please report it (traceback in ")
    assert "in wrong" in kept(line)


def test_traceback_that_can_be_kept_nowhere_leaves_the_line(database, monkeypatch, capsys):
    shutil.rmtree(database.parent)
    monkeypatch.setattr("tempfile.tempdir", "/proc/no/such/folder")
    assert boundary.guarded(lambda: 1 / 0) == 1
    assert "no place is left for a file" in capsys.readouterr().err


def test_output_that_nobody_reads_ends_the_command_without_a_traceback(database):
    program = "from resflow.workflow.cli import main; main()"
    line = [sys.executable, "-c", program, "sweep", "toy.yaml", "--dry-run"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_store_that_breaks_under_a_run_is_told_in_one_line(database, monkeypatch):
    cell = f"open({str(database)!r}, 'wb').write(b'no database ' * 999)"
    write_notebook(Path("tiny.ipynb"), cell, parameters="size: int = 1")
    line = line_of(1, "run", "tiny.ipynb")
    assert "Error" in kept(line)


def test_waiting_is_for_what_waiting_mends(database):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    def failing(code):
        error = MlflowException("failed", TEMPORARILY_UNAVAILABLE)
        error.__cause__ = sqlite_error(code)
        return error

    assert is_busy(failing(sqlite3.SQLITE_BUSY))
    calls = []

    def write():
        calls.append(1)
        raise failing(sqlite3.SQLITE_FULL)

    with pytest.raises(MlflowException):
        patiently(write)
    assert len(calls) == 1
    assert isinstance(explained(failing(sqlite3.SQLITE_FULL), "sqlite:////x"), StoreError)


@pytest.mark.parametrize("threads", [16, 64])
def test_many_threads_log_at_once(database, threads):
    client = open_client()
    run_id = client.create_run(client.get_experiment_by_name("tiny").experiment_id).info.run_id
    start = threading.Barrier(threads)

    def log(number):
        from mlflow.entities import Metric

        start.wait()
        for step in range(2):
            metrics = [Metric(f"loss{number}", step, 0, step), Metric("all", number, 0, step)]
            patiently(client.log_batch, run_id, metrics=metrics)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(log, range(threads)))
    assert len(client.get_run(run_id).data.metrics) == threads + 1
    client.set_terminated(run_id)


def test_many_threads_of_a_notebook_log_at_once_through_mlflow_itself(database):
    logging = """import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import mlflow
start, run_id = Barrier(32), os.environ["MLFLOW_RUN_ID"]
def log(number):
    start.wait()
    mlflow.log_metrics({f"loss{number}": 1.0, f"rate{number}": 0.5}, step=0, run_id=run_id)
with ThreadPoolExecutor(32) as pool:
    list(pool.map(log, range(32)))"""
    write_notebook(Path("tiny.ipynb"), logging, parameters="size: int = 1")
    done = resflow_here(Path.cwd(), "run", "tiny.ipynb", "out.ipynb")
    assert done.returncode == 0, done.stderr
    run_id = nbformat.read("out.ipynb", as_version=4).metadata["resflow"]["run_id"]
    assert len(open_client().get_run(run_id).data.metrics) == 64


def test_looking_at_a_store_leaves_the_locks_of_this_process_as_they_are(database):
    edit(database, "PRAGMA journal_mode = WAL")
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET name = 'x'")
        sqlite_check.check_sqlite(database, thorough=True)
        other = f"import sqlite3; c = sqlite3.connect({str(database)!r}); c.execute('SELECT * FROM runs'); c.close()"
        subprocess.run([sys.executable, "-c", other], check=True, timeout=60)
        # Had the other process found no lock, it would have taken itself for the last and the log with it.
        assert database.with_name("mlflow.db-wal").exists()
