"""Stores that are not as they were left, and addresses of none: one line, the right exit code, nothing RUNNING."""

import contextlib
import os
import random
import re
import shutil
import socket
import sqlite3
from pathlib import Path

import nbformat
import pytest
from command import check, resflow

BROKEN, USERS = 1, 2
ANY = (0, 1, 2)
TABLES = ("experiments", "runs", "tags", "params", "metrics", "latest_metrics", "experiment_tags", "inputs", "datasets")
VALUES = (
    None,
    "",
    "x",
    -1,
    2**62,
    1e300,
    float("inf"),
    b"\xff\xfe",
    "\ud7ff\n\x1b[31m",
    "0" * 5000,
    "nan",
    "'; --",
    0.5,
)
FILES = (
    b"text\n" * 500,
    b"\x89PNG\r\n\x1a\n" + bytes(5000),
    b"PK\x03\x04" * 99,
    b"{}",
    b"\0" * 4096,
    b"SQLite format 2\0",
)
SWEEP = "notebook: tiny.ipynb\nname: toy\naxes:\n  size: [1, 2]\n"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A project with a small store: an experiment with a sweep's parent, a finished run and one that goes on."""
    from mlflow.tracking import MlflowClient

    from resflow.workflow import store
    from resflow.workflow.provenance import owner_tag

    folder = tmp_path_factory.mktemp("healthy")
    cell = nbformat.v4.new_code_cell("size: int = 1  # how much", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), folder / "tiny.ipynb")
    (folder / "toy.yaml").write_text(SWEEP)
    (folder / "pyproject.toml").touch()
    client = MlflowClient(tracking_uri=store.ensure_store(folder))
    # The store's mutants are copied: a location within the project would be the old one's.
    experiment = client.create_experiment("tiny", artifact_location=f"{folder}/elsewhere")
    for role, status in (("sweep", "FINISHED"), ("point", "FINISHED"), ("point", None)):
        tags = {"resflow.sweep": "toy", "resflow.role": role, "resflow.fingerprint": "f", "resflow.owner": owner_tag()}
        run = client.create_run(experiment, tags=tags).info.run_id
        client.log_param(run, "size", 1)
        client.log_metric(run, "objective", 0.5)
        if status:
            client.set_terminated(run, status)
    database = folder / "mlruns" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/elsewhere",))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = database.read_bytes()
    with contextlib.chdir(folder):  # importing may take a while, which no mutant is to be charged with
        for command in (["sweep", "toy.yaml", "--dry-run"], ["report", "nobody"]):
            resflow(*command, seconds=120)
    shutil.rmtree(folder / "mlruns")
    return folder, content


@pytest.fixture(autouse=True)
def loopback_and_no_kernels(monkeypatch):
    """No name is asked for and nobody outside this machine called; notebooks are not executed, only recorded."""
    from resflow.workflow.execution import RunExecution

    ask = socket.getaddrinfo

    def asked(host, *arguments, **options):
        assert host in ("127.0.0.1", "::1", "localhost", None), f"{host} was asked for"
        return ask(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(RunExecution, "execute_notebook", lambda nb, *arguments, **options: nb)
    monkeypatch.setattr("resflow.workflow.reports.notebook_html.notebook_to_html", lambda *_, **__: "<html></html>")


def edit(database, *statements):
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # else most of the time would be the disk's
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for statement, values in statements:
            connection.execute(statement, values)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def flipped(rng, content, start, end):
    content = bytearray(content)
    for _ in range(rng.choice((1, 3, 30, 300))):
        content[rng.randrange(start, min(end, len(content)))] = rng.randrange(256)
    return content


def damaged_pages(rng, database, content):
    database.write_bytes(flipped(rng, content, 100, len(content)))
    return "bytes flipped", ANY


def damaged_header(rng, database, content):
    database.write_bytes(flipped(rng, content, 0, 100))
    return "header flipped", ANY


def cut_off(rng, database, content):
    length = rng.choice((0, rng.randrange(1, 101), rng.randrange(len(content))))
    database.write_bytes(content[:length])
    return f"cut off after {length}", BROKEN if length else USERS


def more_than_there_was(rng, database, content):
    database.write_bytes(content + rng.randbytes(rng.randrange(1, 9000)))
    return "bytes appended", 0


def without_a_table(rng, database, content):
    database.write_bytes(content)
    table = rng.choice((*TABLES, "alembic_version"))
    edit(database, ("PRAGMA foreign_keys = OFF", ()), (f"DROP TABLE {table}", ()))
    return f"no table {table}", BROKEN


def with_other_columns(rng, database, content):
    database.write_bytes(content)
    table = rng.choice(TABLES)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    column = rng.choice(columns)
    try:
        edit(database, (f"ALTER TABLE {table} RENAME COLUMN {column} TO {column}_", ()))
    except sqlite3.OperationalError:  # something else depends on it
        edit(database, (f"DROP TABLE {table}", ()))
    return f"no column {table}.{column}", BROKEN


def of_another_schema(rng, database, content):
    database.write_bytes(content)
    version = rng.choice(("bda7b8c39065", "ffffffffffff", "", "x y", "'", "é", "0", -1, b"\x00\xff"))
    edit(database, ("UPDATE alembic_version SET version_num = ?", (version,)))
    return f"schema {version!r}", USERS


def of_no_or_two_schemas(rng, database, content):
    database.write_bytes(content)
    statement = rng.choice(("DELETE FROM alembic_version", "INSERT INTO alembic_version VALUES ('bda7b8c39065')"))
    edit(database, (statement, ()))
    return statement, BROKEN


def with_odd_values(rng, database, content):
    database.write_bytes(content)
    done = []
    for _ in range(rng.choice((1, 1, 2, 5))):
        table = rng.choice(TABLES)
        with contextlib.closing(sqlite3.connect(database)) as connection:
            column = rng.choice([row[1] for row in connection.execute(f"PRAGMA table_info({table})")])
        value = rng.choice(VALUES)
        with contextlib.suppress(sqlite3.IntegrityError):
            edit(database, (f"UPDATE {table} SET {column} = ?", (value,)))
            done.append(f"{table}.{column} = {value!r:.40}")
    return "; ".join(done), ANY


def with_odd_tags(rng, database, content):
    database.write_bytes(content)
    key = rng.choice(("resflow.owner", "resflow.fingerprint", "resflow.role", "mlflow.parentRunId", "resflow.sweep"))
    value = rng.choice(
        ("", "{", "[1, 2]", "null", '{"pid": "x"}', '{"pid": -1, "host": null}', "a:b:c", "é\n", "9" * 4000)
    )
    edit(database, ("UPDATE tags SET value = ? WHERE key = ?", (value, key)))
    return f"tag {key} = {value!r:.40}", ANY


def with_odd_journals(rng, database, content):
    database.write_bytes(content)
    for ending in rng.sample(("-wal", "-shm", "-journal", ".lock", ".unfinished"), rng.randrange(1, 4)):
        beside = database.with_name(database.name + ending)
        if rng.random() < 0.3:
            beside.mkdir()
        else:
            beside.write_bytes(rng.randbytes(rng.choice((0, 31, rng.randrange(5000)))))
    return "journals", ANY


def something_else(rng, database, content):
    def foreign():
        edit(database, ("CREATE TABLE Artist (id INTEGER)", ()), ("CREATE TABLE Album (id INTEGER)", ()))

    def loop():
        database.symlink_to(database)

    makers = [foreign, loop, database.mkdir, lambda: os.mkfifo(database)]
    makers += [lambda: database.write_bytes(rng.choice(FILES))] * 3
    rng.choice(makers)()
    # What is shorter than any database may be one that was cut off.
    short = database.is_file() and 0 < database.stat().st_size < 512
    return "something else", (1, 2) if short or database.is_symlink() else USERS


def healthy_store(rng, database, content):
    database.write_bytes(content)
    return "healthy", 0


def no_folder(rng, database, content):
    database.parent.rmdir()
    database.parent.write_text("")
    return "mlruns is a file", USERS


MUTATIONS = (
    [damaged_pages] * 5
    + [with_odd_values] * 4
    + [damaged_header, cut_off, with_odd_journals, with_odd_tags, something_else] * 2
    + [more_than_there_was, without_a_table, with_other_columns, of_another_schema, of_no_or_two_schemas]
    + [healthy_store, no_folder]
)


def running(database):
    """How many runs are RUNNING; 0 if that cannot be told."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0]
    except (sqlite3.Error, UnicodeDecodeError):  # the latter is what Python says to a name that is no UTF-8
        return 0


def judge(ended, mutant, wanted):
    check(ended, mutant)
    assert "internal error" not in ended.err, f"{mutant}: {ended.err}\n{Path(kept(ended.err)).read_text()}"
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    assert ended.code in wanted, f"{mutant}: exit code {ended.code} and not {wanted}: {ended.err}"
    if file := kept(ended.err):
        assert "Traceback" in Path(file).read_text()
        os.unlink(file)


def kept(line):
    found = re.search(r"\(traceback in (.*)\)$", line.strip())
    return found[1] if found else ""


def test_store_in_any_condition_is_used_or_refused_in_one_line(healthy, seeds, tmp_path, monkeypatch):
    model, content = healthy
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for seed in seeds:
        rng = random.Random(seed)
        project = tmp_path / str(seed)
        shutil.copytree(model, project)
        (project / "mlruns").mkdir()
        database = project / "mlruns" / "mlflow.db"
        what, wanted = rng.choice(MUTATIONS)(rng, database, content)
        monkeypatch.chdir(project)
        command = rng.choice(
            (["sweep", "toy.yaml", "--dry-run"],) * 4 + (["report", "nobody"],) * 2 + (["run", "tiny.ipynb"],)
        )
        ended = resflow(*command)
        if command[0] == "report" and wanted == 0:
            wanted = 2  # for there is no sweep of that name
        judge(ended, f"seed {seed}, {what}, {' '.join(command)}", wanted)
        assert running(database) <= 1, f"seed {seed}, {what}: a run is left RUNNING"
        where = resflow("store", "where")
        judge(where, f"seed {seed}, {what}, store where", ANY)
        shutil.rmtree(project)


def address(rng):
    """An address that names no store in use, on this machine, and the exit codes that it may have."""
    user = rng.choice(
        ("", "", "me@", "me:secret-1@", "me:se%40cret-1@", f"{rng.randbytes(3).hex()}:secret-1@", "é:secret-1@")
    )
    path = rng.choice(
        ("", "/", "/x", "/ x", "/%zz", f"/{rng.randbytes(4).hex()}", "/é", "?password=secret-1", "/x?a=b&c")
    )
    schemes = "http https HTTP htp postgresql postgres postgresql+psycopg postgresql+psycopg2 mysql mysql+pymysql mssql"
    scheme = rng.choice(f"{schemes} oracle redis ws s3 file sqlite uc databricks-uc http+unix".split())
    port = rng.choice(("1", "1", "1", "", "0", "65535", "65536", "-1", "x", "1:1", " 1", "9" * 30))
    if not port and scheme.lower() in ("http", "https"):
        port = "1"
    odd = (
        " ",
        "\t",
        "\n",
        "\udcff",
        "mlruns",
        "./x",
        "/",
        "~",
        "C:\\x",
        "://",
        ":",
        "http:",
        "http://",
        "sqlite://",
        "-",
    )
    return rng.choice(
        (f"{scheme}://{user}127.0.0.1:{port}{path}",) * 4 + (rng.choice(odd) + rng.choice(("", "", " ", "x")),)
    )


def test_address_of_no_store_is_refused_in_one_line_that_shows_no_password(healthy, seeds, tmp_path, monkeypatch):
    model, _ = healthy
    monkeypatch.chdir(model)
    monkeypatch.setattr("resflow.workflow.remote_check.FIRST_ANSWER_SECONDS", 3.0)
    for seed in seeds:
        rng = random.Random(seed)
        given = address(rng)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        ended = resflow("sweep", "toy.yaml", "--dry-run")
        file = kept(ended.err)
        text = Path(file).read_text() if file else ""
        assert "secret-1" not in ended.err + ended.out + text, f"seed {seed}, {given!r}: {ended.err}\n{text}"
        judge(ended, f"seed {seed}, {given!r}", (1, 2))
        where = resflow("store", "where")
        assert "secret-1" not in where.err + where.out
        judge(where, f"seed {seed}, {given!r}, store where", (0, 2))
