"""Runs executed again from their own record: the same bits, or what differs and why, and nothing left of it."""

import io
import re
import shutil
import signal
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from small_notebooks import in_project, make_project, resflow_here, start, wait_for, write_notebook
from warm_kernels import warm_kernels

import resflow
from resflow.workflow import names
from resflow.workflow.compared import NoTableError, compared_tables
from resflow.workflow.records import Run, every_run, experiments, open_client
from resflow.workflow.rerun_comparison import _arrays, _columns

PARAMETERS = "rate: float = 0.5\ntable: str = 'table.csv'"
CELLS = [
    "from resflow.workflow.session import start_run\nrun = start_run(globals(), notebook='study')",
    """import hashlib, os, random, time
from pathlib import Path
import numpy as np
import pandas as pd
import helper
from resflow.numerals import number_text
from resflow.workflow.stored_points import attach_points""",
    """content = Path(table).read_bytes()
X = np.array(content.split(), float)
run.log_dataset(table, X[:, None], digest=hashlib.sha256(content).hexdigest())""",
    """if Path("slow").exists():
    Path("begun").write_text("checkpoints: " + os.environ["RESFLOW_CHECKPOINTS"])
    time.sleep(60)""",
    """history = {step: {"objective": helper.factor * X.mean() / (1 + rate * step)} for step in range(5)}
run.log_history(history)
run.log_metrics({"third": float(number_text(1 / 3)), "timing/seconds": time.perf_counter()})
if Path("chance").exists():
    run.log_metrics({"third": random.random()})
run.log_table(pd.DataFrame({"x": X * helper.factor, "kind": "a"}), "points")
run.log_text("as it was", "note.txt")
run.set_tags(attach_points(run, "final", {"w": X}, {}) | {"verdict": "fine"})""",
    "run.finish()",
]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Kernels that have imported everything already."""
    with warm_kernels(tmp_path_factory.mktemp("kernels")) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory, kernels):
    root = make_project(tmp_path_factory.mktemp("rerun") / "project")
    (root / "table.csv").write_text("0.5\n1.5\n2.25\n")
    (root / "helper.py").write_text("factor = 1.0\n")
    write_notebook(root / "study.ipynb", *CELLS, parameters=PARAMETERS)
    with in_project(root):
        yield root


def made(project, notebook="study.ipynb", *more):
    done = resflow_here(project, "run", notebook, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1]


@pytest.fixture(scope="module")
def run_id(project):
    return made(project, "study.ipynb", "-p", "rate", "0.25")


@pytest.fixture
def unchanged(project):
    """The project's files as they were, whatever a test makes of them."""
    kept = {path: path.read_bytes() for path in project.iterdir() if path.is_file()}
    yield
    for path in set(project.iterdir()) - set(kept):
        if path.is_file():
            path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)


def rerun(project, name, *more, **environment):
    return resflow_here(project, "verify", "--rerun", name, *more, **environment)


def verdict_of(done):
    return next(line for line in done.stdout.splitlines() if line.startswith("verified"))


def runs(project):
    client = open_client()
    return {run.info.run_id: run for run in every_run(client, list(experiments(client)))}


def test_run_executed_again_has_the_same_bits_and_leaves_only_its_tag(project, run_id, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files, before = set(project.rglob("*")), runs(project)
    done = rerun(project, run_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert verdict_of(done) == "verified  6 with the same bits"
    assert re.search(r"\n  objective +0.708333  same bits at all 5 steps\n", done.stdout)
    assert re.search(r"\n  points/final.npz +a file  same bits\n", done.stdout)
    assert "left out  timing/seconds: time is another each time" in done.stdout
    assert "since " not in done.stdout
    after = runs(project)
    assert set(after) == set(before)
    assert set(after[run_id].data.tags) - set(before[run_id].data.tags) == {names.EXECUTED}
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d UTC, executed: 6 with the same bits \(Linux.*\)",
        after[run_id].data.tags[names.EXECUTED],
    )
    assert ", executed: 6 with the same bits" in (artifacts(project, run_id) / "study.html").read_text()
    assert {path for path in project.rglob("*") if "mlflow.db" not in path.name} <= files
    assert list(tmp_path.iterdir()) == []


def artifacts(project, run_id):
    return Path(Run(open_client(), run_id).artifact_folder)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_changed_character_of_the_data_is_the_reason(project, run_id, unchanged):
    edit(project / "table.csv", "1.5", "1.6")
    done = rerun(project, run_id)
    assert done.returncode == 1
    assert re.fullmatch(
        r"verified  could not be checked: the data changed: what is read from table.csv now has the digest "
        r"[0-9a-f]{12}…, and [0-9a-f]{12}… was recorded",
        verdict_of(done),
    )


def test_changed_default_and_cell_of_the_notebook_are_told_and_what_ran_is_run_again(project, run_id, unchanged):
    node = nbformat.read(project / "study.ipynb", as_version=4)
    node.cells[0].source = node.cells[0].source.replace("0.5", "0.75")
    node.cells[4].source += "\n# and more"
    nbformat.write(node, project / "study.ipynb")
    done = rerun(project, run_id)
    assert done.returncode == 0, done.stdout
    told = "study.ipynb is another now: the default of rate was 0.5, is 0.75; 1 of its 6 other code cells changed"
    assert f"since     {told}\n" in done.stdout
    assert verdict_of(done) == "verified  6 with the same bits"


def test_changed_line_of_the_projects_own_code_is_the_reason(project, run_id, unchanged):
    edit(project / "helper.py", "1.0", "1.0 + 1e-8")
    done = rerun(project, run_id)
    assert done.returncode == 0
    assert "since     code changed: helper.py\n" in done.stdout
    assert re.fullmatch(
        r"verified  5 with the same bits, 2 within the tolerance \(at most 4.5e\+07 units\)", verdict_of(done)
    )
    done = rerun(project, run_id, "--tolerance", "1e-9")
    assert done.returncode == 1
    assert re.search(
        r"objective +1.41667  differs at 5 of 5 steps, first at step 0, 4.5e\+07 units, now 1.41667", done.stdout
    )
    assert verdict_of(done).endswith("2 DIFFER: objective, tables/points.csv: x, since then code changed: helper.py")


def test_changed_line_of_the_library_is_the_reason(project, run_id, tmp_path):
    package = tmp_path / "resflow"
    shutil.copytree(Path(resflow.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    edit(package / "numerals.py", "digits: int = 4", "digits: int = 5")
    done = rerun(project, run_id, PYTHONPATH=str(tmp_path), JUPYTER_PATH="")
    assert done.returncode == 1
    assert "1 DIFFER: third, since then code changed: resflow/numerals.py" in verdict_of(done), done.stdout
    assert re.search(r"third +0.3333  differs, .* units, now 0.33333\n", done.stdout)


def test_changed_bit_of_the_stored_point_is_the_reason(project, run_id):
    file = artifacts(project, run_id) / "points" / "final.npz"
    content = file.read_bytes()
    changed = bytearray(content)
    changed[content.index(b"NUMPY") + 200] ^= 1
    file.write_bytes(changed)
    done = rerun(project, run_id)
    file.write_bytes(content)
    assert done.returncode == 1
    assert "now changed since it was stored, to SHA-256 " in done.stdout
    assert verdict_of(done).startswith("verified  5 with the same bits, 1 DIFFER: points/final.npz")


def test_run_that_is_left_to_chance_differs_without_a_reason(project, run_id, unchanged):
    (project / "chance").touch()
    done = rerun(project, made(project))
    assert done.returncode == 1
    assert verdict_of(done).endswith("1 DIFFER: third, since then nothing that is known has changed")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda node: node.cells[1].update(source="rate = 0.125"), "has rate=0.125, and 0.25 was recorded"),
        (lambda node: node.cells[-1].update(source="1"), "study.ipynb is not the one that the run executed"),
    ],
)
def test_notebook_that_was_changed_in_the_store_is_not_executed(project, run_id, spoil, said):
    file = artifacts(project, run_id) / "study.ipynb"
    content = file.read_text()
    node = nbformat.reads(content, as_version=4)
    spoil(node)
    nbformat.write(node, file)
    done = rerun(project, run_id)
    file.write_text(content)
    assert done.returncode == 1
    assert said in verdict_of(done)


def test_notebook_that_no_longer_runs_through_says_where_and_why(project, run_id, unchanged):
    (project / "table.csv").unlink()
    done = rerun(project, run_id)
    assert done.returncode == 1
    assert "could not be checked: executed again, cell 5 raised FileNotFoundError: [Errno 2] No such file" in (
        verdict_of(done)
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--points", "--tolerance", "0.1"], "--tolerance=0.1 is for --rerun"),
        (["--rerun", "--tolerance", "2"], "--tolerance=2 must be at least 0 and below 1"),
        (["--rerun", "--tolerance", "nan"], "--tolerance=nan must be at least 0 and below 1"),
    ],
)
def test_tolerance_that_makes_no_sense_is_refused(project, run_id, options, said):
    done = resflow_here(project, "verify", run_id, *options)
    assert done.returncode == 2
    assert said in done.stderr


CROWD = """import time
from resflow.workflow import names
from resflow.workflow.provenance import owner_tag
from resflow.workflow.records import record_run
run.set_tags({names.ROLE: names.Role.POPULATION})
for seed in range(3):
    tags = {names.PARENT: run.id, names.ROLE: names.Role.MEMBER, names.OWNER: owner_tag()}
    record_run(run.client, run.experiment_id, name=f"seed {seed}", parameters={"seed": seed}, tags=tags,
               history={0: {"objective": 1.0}, 5: {"objective": seed / 8}}, metrics={}, inputs=[],
               since=int(time.time() * 1000))
run.finish()"""


def test_members_are_compared_with_those_of_their_population_executed_again(project, unchanged):
    write_notebook(project / "crowd.ipynb", CELLS[0].replace("study", "crowd"), CROWD, parameters="rate: float = 1.0")
    population = made(project, "crowd.ipynb")
    members = [run for run in runs(project).values() if run.data.tags.get(names.PARENT) == population]
    Run(open_client(), members[0].info.run_id).log_metrics({"objective": 0.3}, step=5)
    done = rerun(project, members[1].info.run_id)
    assert done.returncode == 1
    assert done.stdout.count(": 1 with the same bits\n") == 2
    assert f"{members[0].info.run_id}  {members[0].info.run_name}: 0 with the same bits, 1 DIFFER: obj" in done.stdout
    assert verdict_of(done).startswith("verified  could not be checked: it recorded nothing that can be compared")
    assert "verified  2 of 4 runs have all values again" in done.stdout
    assert names.EXECUTED in runs(project)[members[1].info.run_id].data.tags


def test_run_that_compared_others_cannot_be_executed_again_and_says_so(project, run_id, unchanged):
    compare = "from resflow.notebook.comparison import load_runs\nlen(load_runs(source)[1].points)"
    write_notebook(project / "compare.ipynb", compare, parameters="source: str = 'study'")
    done = rerun(project, made(project, "compare.ipynb"))
    assert done.returncode == 1
    assert verdict_of(done).startswith(
        "verified  could not be checked: it compares other runs, of the experiment study, "
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_while_it_executes_leaves_nothing(project, run_id, unchanged, tmp_path, monkeypatch, number):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PATH", "")  # a kernel as it is for users, which ends with its client
    (project / "slow").touch()
    command = start(project, "resflow", "verify", "--rerun", run_id)
    assert wait_for(project / "begun", command) == "checkpoints: "
    command.send_signal(number)
    _, said = command.communicate()
    assert command.returncode in (-number, 128 + number)
    if number == signal.SIGTERM:
        assert "SIGTERM: nothing of what was executed is kept" in said
    else:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        deadline = time.monotonic() + 10
        while list(tmp_path.glob("resflow-????????")) and time.monotonic() < deadline:  # the kernel may be ending still
            resflow_here(project, "verify", run_id, "--points")
    assert list(tmp_path.glob("resflow-????????")) == []
    assert {run.info.status for run in runs(project).values()} == {"FINISHED"}


def packed(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def packed_object():
    return packed(x=np.array([None]))


def npy():
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("recorded", "again", "said"),
    [
        ("x,k\n1.0,a\n2.0,b\n", "x,k\n1.0,a\n2.0,b\n", {"x": "same bits", "k": "same bits"}),
        ("x,k\n1.0,a\n2.0,b\n", "x,k\n1.0,a\n2.0000000000000004,c\n", {"x": "within rounding", "k": "differs"}),
        ("x\n1.0\n2.0\n", "x\n1.0\n", {"x": "differs"}),
        ("x,y\n1.0,\n", "x,z\n1.0,3\n", {"x": "same bits", "y": "differs", "z": "differs"}),
        ("x\nnan\n", 'x\n""\n', {"x": "same bits"}),
        ("x\n1.0\n", "x\ninf\n", {"x": "differs"}),
        ("x\n1.0\n", "x\nfew\n", {"x": "differs"}),
        ("", "", {}),
        ("a,a\n1,2\n", "a,a\n3,2\n", {"a": "differs", "a (2)": "same bits"}),
    ],
)
def test_tables_are_compared_column_by_column(recorded, again, said):
    found = compared_tables("t", recorded, again)
    assert {each.name.removeprefix("t: "): str(each.outcome) for each in found} == said


@pytest.mark.parametrize("text", ["a,b\n1,2,3\n", "# made today\na,b\n1,2\n", 'a\n"' + "9" * 200_000 + '"\n'])
def test_what_is_no_table_is_not_compared_as_one(text):
    with pytest.raises(NoTableError, match="t: "):
        list(compared_tables("t", text, text))
    assert _columns("t", text.encode(), text.encode(), 0.0, 0.0) == []
    assert _columns("t", b"a\n\xff\n", b"a\n\xfe\n", 0.0, 0.0) == []


@pytest.mark.parametrize(
    ("recorded", "again", "outcome"),
    [
        ([1.0, np.inf], [1.0, -np.inf], "differs"),
        ([1.0, np.inf], [1.0, np.nan], "differs"),
        ([1.0, np.nan], [1.0 + 1e-15, np.nan], "within rounding"),
        (np.array([0, 2**32 - 1], "uint32"), np.array([2**32 - 1, 2**32 - 1], "uint32"), "differs"),
        (np.array([0, 2**64 - 1], "uint64"), np.array([2**64 - 1, 2**64 - 1], "uint64"), "differs"),
        (np.array([-(2**63), 0]), np.array([2**63 - 1, 0]), "differs"),
        (["a"], ["b"], "differs"),
    ],
)
def test_arrays_that_differ_are_said_to(recorded, again, outcome):
    (found,) = _arrays("p.npz", packed(x=recorded), packed(x=again), 1e-6)
    assert str(found.outcome) == outcome


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04", packed_object(), npy()])
def test_files_that_hold_no_plain_arrays_are_not_compared_as_such(content):
    assert _arrays("p.npz", content, packed(x=[1.0]), 1e-6) == []
