"""Bundles that are not as they were exported, or were never exported: refused in one line, and nothing written."""

import hashlib
import json
import random
import shutil
import sqlite3
import stat
import zipfile
from contextlib import closing

import pytest
from command import check, resflow

MANIFEST = "manifest-sha256.txt"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A project with a store, into which its own bundle was imported; and that bundle, of a run and one below it."""
    from mlflow.tracking import MlflowClient

    from resflow.workflow import store
    from resflow.workflow.bundles.exporting import export
    from resflow.workflow.bundles.importing import import_bundle

    root = tmp_path_factory.mktemp("bundles")
    clients = []
    for name in ("one", "other"):
        (root / name).mkdir()
        (root / name / "pyproject.toml").touch()
        clients.append(MlflowClient(tracking_uri=store.ensure_store(root / name)))
    client = clients[0]
    experiment = client.create_experiment("tiny", artifact_location=f"{root}/artifacts")
    parent = client.create_run(experiment).info.run_id
    child = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
    for run in (parent, child):
        client.log_param(run, "size", 1)
        for step in range(50):
            client.log_metric(run, "objective", 1 / (1 + step), step=step)
        client.log_text(run, "text " * 500, "notes/note.txt")
        client.set_terminated(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "other")
        export(client, client.get_run(parent), root / "bundle.zip", "not stated")
        import_bundle(clients[1], root / "bundle.zip")  # what is imported later costs no mutant its time
    shutil.rmtree(root / "other" / "mlruns")
    store.ensure_store(root / "other")
    return root / "other", (root / "bundle.zip").read_bytes(), parent, child


class Pack:
    """A bundle's files, to be changed and packed again by somebody who knows how."""

    def __init__(self, path):
        with zipfile.ZipFile(path) as archive:
            self.entries = [(entry, archive.read(entry)) for entry in archive.infolist() if not entry.is_dir()]

    def names(self, ending=""):
        return [
            entry.filename
            for entry, _ in self.entries
            if entry.filename.endswith(ending) and entry.filename != MANIFEST
        ]

    def content(self, name):
        return next(content for entry, content in self.entries if entry.filename == name)

    def put(self, name, content, mode=0, kind=zipfile.ZIP_DEFLATED):
        entry = zipfile.ZipInfo(name)
        entry.external_attr, entry.compress_type = mode << 16, kind
        self.entries.append((entry, content))

    def replace(self, name, content):
        self.drop(name)
        self.put(name, content)

    def drop(self, name):
        self.entries = [each for each in self.entries if each[0].filename != name]

    def write(self, path, *, sealed=False, listed=True):
        if listed:
            lines = [f"{hashlib.sha256(content).hexdigest()}  {entry.filename}\n" for entry, content in self.entries
                     if entry.filename != MANIFEST]  # fmt: skip
            self.replace(MANIFEST, "".join(lines).encode())
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in self.entries:
                archive.writestr(entry, content)


def flipped_byte(rng, path, runs):
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"bit flipped in byte {place}", ""


def cut_off(rng, path, runs):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])
    return "cut off", ""


def longer(rng, path, runs):
    content = path.read_bytes()
    more = rng.randbytes(rng.randrange(1, 300))
    path.write_bytes(content + more if rng.random() < 0.5 else more + content)
    return "more bytes than there were", ""


def changed_file(rng, path, runs):
    pack = Pack(path)
    name = rng.choice(pack.names())
    content = bytearray(pack.content(name))
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    pack.replace(name, bytes(content))
    pack.write(path, listed=False)
    return f"a bit of {name} changed", name


def missing_file(rng, path, runs):
    pack = Pack(path)
    name = rng.choice(pack.names())
    pack.drop(name)
    listed = rng.random() < 0.3 and name.endswith((".json", ".csv"))
    pack.write(path, listed=listed)
    return f"{name} is missing", "" if listed and name.startswith("ro-crate") else name


def more_files(rng, path, runs):
    pack = Pack(path)
    name = f"runs/{runs[0]}/artifacts/more.txt"
    pack.put(name, b"more")
    pack.write(path, listed=False)
    return "one more", name


def odd_name(rng, path, runs):
    pack = Pack(path)
    name = rng.choice((
        "../../x", "/tmp/x", f"runs/{runs[0]}/artifacts/../../../../x", f"runs/{runs[0]}/artifacts/a\\..\\b", "C:/x",
        f"runs/{runs[0]}/artifacts//x", f"runs/{runs[0]}/artifacts/./x", f"runs/{runs[0]}/artifacts/x\n", "x.txt",
        "runs/x/run.json", f"runs/{runs[0]}/artifacts/..", "workflows/../x", f"runs/{runs[0].upper()}x/artifacts/x",
        f"runs/{runs[0]}/artifacts/\x1b[31m",
    ))  # fmt: skip
    pack.put(name, b"x")
    pack.write(path)
    return f"the name {name!r}", name.encode("unicode_escape").decode().replace("\\\\", "\\").split("\\")[0]


def link(rng, path, runs):
    pack = Pack(path)
    name = f"runs/{runs[0]}/artifacts/link"
    pack.put(name, rng.choice((b"/etc/passwd", b"../../..", b"note.txt")), mode=stat.S_IFLNK | 0o777)
    pack.write(path)
    return "a link", name


def device(rng, path, runs):
    pack = Pack(path)
    name = f"runs/{runs[1]}/artifacts/odd"
    pack.put(name, b"", mode=rng.choice((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)) | 0o600)
    pack.write(path)
    return "a device", name


def twice(rng, path, runs):
    pack = Pack(path)
    name = rng.choice(pack.names())
    pack.put(name, b"another")
    with pytest.warns(UserWarning, match="Duplicate name"):
        pack.write(path)
    return f"{name} twice", name


def file_and_folder(rng, path, runs):
    pack = Pack(path)
    name = f"runs/{runs[0]}/artifacts/notes"
    pack.put(name, b"not a folder")
    pack.write(path)
    return "a file and a folder", name


def bomb(rng, path, runs):
    pack = Pack(path)
    name = f"runs/{runs[0]}/artifacts/zeros"
    pack.put(name, bytes(70 << 20))
    pack.write(path)
    return "a bomb", name


def overlapping(rng, path, runs):
    """Two entries of the directory that lead to one place, by the second's offset."""
    pack = Pack(path)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in pack.entries:
            archive.writestr(entry, content)
        one, other = archive.filelist[0], archive.filelist[rng.randrange(1, len(archive.filelist))]
        other.header_offset = one.header_offset
    return "two entries in one place", ""


def odd_run(rng, path, runs):
    pack = Pack(path)
    name = f"runs/{rng.choice(runs)}/run.json"
    run = json.loads(pack.content(name))
    key = rng.choice(sorted(run))
    odd = [
        None,
        1.5,
        True,
        [],
        {"": ""},
        {"a": 1},
        {"../a": "x"},
        {"a": "x" * 9000},
        "RUNNING",
        -1,
        2**70,
    ]
    if key in ("experiment", "description", "name"):
        odd = [None, 1, [], {}]
    if key == "datasets":
        odd = [None, 1, {}, [1], [{}], [{"name": 1}]]
    run[key] = rng.choice(odd if key not in ("params", "tags") else [None, 1, [], {"a": 1}, {"../a": "x"}, {"a": None}])
    if rng.random() < 0.2:
        run["more"] = 1
    text = rng.choice([json.dumps(run)] * 6 + ["[" * 100_000, "{", "", "nul", "\ufeff{}"])
    pack.replace(name, text.encode())
    pack.write(path)
    return f"{name} with {key}={run[key]!r:.40}", name


def odd_parent(rng, path, runs):
    pack = Pack(path)
    parent, child = runs
    name, above = rng.choice(((f"runs/{parent}/run.json", child), (f"runs/{child}/run.json", "0" * 32),
                              (f"runs/{child}/run.json", child)))  # fmt: skip
    run = json.loads(pack.content(name))
    run["tags"]["mlflow.parentRunId"] = above
    pack.replace(name, json.dumps(run).encode())
    pack.write(path)
    return f"{name} below {above}", "runs/"


def odd_metrics(rng, path, runs):
    pack = Pack(path)
    name = f"runs/{rng.choice(runs)}/metrics.csv"
    rows = pack.content(name).decode().splitlines()
    odd = ["a,1,2", "a,1,2,x", "a,1.5,2,3", "a,1,-5,1", "../a,1,1,1", ",1,1,1", '"a,1,1,1', "a,1,1,1,1"]
    row = rng.choice((*odd, f"a,{2**64},1,1", "a\0b,1,1,1"))
    rows[rng.choice((0, len(rows) - 1))] = row
    pack.replace(name, "\n".join(rows).encode() + rng.choice((b"", b"\xff\xfe")))
    pack.write(path)
    return f"{name} with {row!r}", name


def encrypted(rng, path, runs):
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 8] |= 1
    with zipfile.ZipFile(path) as archive:
        del content[len(content) - len(archive.comment) :]
    content[-2:] = b"\0\0"
    path.write_bytes(content)
    return "encrypted", MANIFEST


def something_else(rng, path, runs):
    path.write_bytes(rng.choice((b"", b"PK\x05\x06" + bytes(18), b"text", b"\x1f\x8b" + bytes(99), b"{}", bytes(5000))))
    if rng.random() < 0.2:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "another archive")
    return "something else", ""


MUTATIONS = (
    [flipped_byte] * 6
    + [odd_name, odd_run] * 3
    + [changed_file, missing_file, link, odd_metrics] * 2
    + [
        cut_off,
        longer,
        more_files,
        device,
        twice,
        file_and_folder,
        overlapping,
        odd_parent,
        encrypted,
        something_else,
        bomb,
    ]
)


def written(root):
    """Everything in a project's store."""
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db")) as connection:
        rows = [
            connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("runs", "tags", "experiments", "params")
        ]
    return rows, sorted(root.rglob("*.txt"))


def test_bundle_that_is_not_as_it_was_exported_is_refused_and_nothing_is_written(healthy, seeds, tmp_path, monkeypatch):
    root, content, *runs = healthy
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(root)
    before = written(root)
    for seed in seeds:
        rng = random.Random(seed)
        (path := tmp_path / f"{seed}.zip").write_bytes(content)
        what, name = rng.choice(MUTATIONS)(rng, path, runs)
        ended = resflow("import", str(path))
        check(ended, f"seed {seed}, {what}")
        assert ended.code == 2, f"seed {seed}, {what}: exit code {ended.code}: {ended.err}"
        assert path.name in ended.err, f"seed {seed}, {what}: {ended.err}"
        assert name in ended.err, f"seed {seed}, {what}: {name} is not named: {ended.err}"
        assert written(root) == before, f"seed {seed}, {what}: something was written"
        assert [each.name for each in tmp_path.iterdir()] == [path.name]
        path.unlink()
