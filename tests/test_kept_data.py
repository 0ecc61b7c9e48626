"""The user's own data files among a run's artifacts: verified on the copy where they changed, and said so."""

from pathlib import Path

import pytest
from small_notebooks import commit, in_project, make_project, resflow_here, runs_of, write_notebook

import resflow
from resflow.errors import InvalidInputError
from resflow.notebook import Trained, prepare
from resflow.workflow import kept_data, names
from resflow.workflow.kept_data import holder_of_data, keep_data
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.records import Run, copies_of, create_run, open_client
from resflow.workflow.verification import verified

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

TABLE = "a,b,y\n" + "\n".join(f"{x},{x * x % 7},{x % 5 + 0.1 * x}" for x in range(30)) + "\n"
NOTEBOOK = """from resflow.notebook import prepare, start_run
run = start_run(globals(), notebook="work")
data = prepare(run, dataset, target="y", loss="squared")
run.log_metrics({"objective": float((data.y ** 2).mean() + data.X[3, 0])})
run.describe("Done.")
run.finish()"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with in_project(make_project(tmp_path_factory.mktemp("kept") / "project")):
        yield Path.cwd()


@pytest.fixture(autouse=True)
def table(project):
    file = project / "table.csv"
    file.write_text(TABLE)
    return file


def new_run(**tags):
    given = provenance_tags("work.ipynb") | tags
    return create_run(open_client(), notebook="work", name="work", parameters={}, tags=given)


@pytest.fixture
def run(project):
    """A run that kept its point."""
    run = new_run()
    data = prepare(run, "table.csv", target="y", loss="squared")
    fit = resflow.fit_linear_predictor(data.X, data.y, loss="squared")
    keys = resflow.random_keys(0)
    f = resflow.feature_map("mlp", data.X.shape[1], width=2, key=keys.features)
    Trained(resflow.build_model("residual_unit", data.X.shape[1], f, key=keys[0]), fit, ["linear"]).keep(run)
    run.log_metrics({"linear/best_objective": fit.objective})
    run.end("FINISHED")
    return run


def checked(run):
    (found,) = verified(open_client(), [run.stored])
    return found


def verify(project, name, *options):
    done = resflow_here(project, "verify", name, *options)
    assert not done.stderr, done.stderr
    return done


def test_run_is_verified_on_the_kept_copy_where_the_file_is_another(project, run, table):
    assert checked(run).data == ""
    table.write_text(TABLE.replace("29,", "28,", 1))
    done = verify(project, run.id)
    assert done.returncode == 0, done.stdout
    copy = run.stored.data.tags[names.KEPT_DATA]
    assert "data      the data file table.csv changed: it has SHA-256 " in done.stdout
    assert f" was recorded; checked on the kept copy {copy}\n" in done.stdout
    assert "the data file table.csv changed: it has SHA-256 " in run.stored.data.tags[names.VERIFIED]
    table.unlink()
    assert checked(run).data == f"the data file table.csv is gone; checked on the kept copy {copy}"
    assert checked(run).holds
    file = Path(run.artifact_folder) / copy
    assert file.read_text() == TABLE
    file.write_text(TABLE + "\n")
    assert "table.csv is gone, and the kept copy data/" in checked(run).obstacle
    file.unlink()  # then there is none, and whoever reads the file finds out
    assert "there is no such file" in checked(run).obstacle
    table.write_text(TABLE.replace("29,", "28,", 1))
    assert "the data changed: what is read from table.csv now has the digest" in checked(run).obstacle


def test_data_goes_along_in_a_bundle_and_notebooks_are_executed_again_on_it(project, table, tmp_path):
    write_notebook(project / "work.ipynb", NOTEBOOK, parameters='dataset: str = "table.csv"', checked=True)
    assert resflow_here(project, "run", "work.ipynb").returncode == 0
    (first, *_) = runs_of(open_client(), "work")
    table.unlink()
    done = verify(project, first.info.run_id, "--rerun")
    assert done.returncode == 0, done.stdout
    assert "data      the data file table.csv is gone; checked on the kept copy" in done.stdout
    assert resflow_here(project, "export", first.info.run_id, str(tmp_path / "bundle.zip")).returncode == 0
    with in_project(make_project(tmp_path / "elsewhere")) as _:
        assert resflow_here(Path.cwd(), "import", str(tmp_path / "bundle.zip")).returncode == 0
        copy = copies_of(open_client(), [first.info.run_id])[first.info.run_id].run_id
        done = verify(Path.cwd(), copy, "--rerun")
        assert done.returncode == 0, done.stdout
        assert "; checked on the kept copy" in done.stdout


@pytest.mark.parametrize("in_git", [True, False])
def test_at_a_commit_data_is_what_the_run_had(in_git, tmp_path):
    with in_project(make_project(tmp_path / "project")) as _:
        root, table = Path.cwd(), Path("table.csv")
        table.write_text(TABLE)
        write_notebook(root / "work.ipynb", NOTEBOOK, parameters='dataset: str = "table.csv"', checked=True)
        (root / ".gitignore").write_text("mlruns\n.resflow_cache\n" + "table.csv\n" * (not in_git))
        commit(root)
        assert resflow_here(root, "run", "work.ipynb").returncode == 0
        (first, *_) = runs_of(open_client(), "work")
        table.write_text(TABLE.replace("29,", "28,", 1))
        commit(root)
        done = verify(root, first.info.run_id, "--rerun", "--at-commit")
        assert done.returncode == 0, done.stdout
        assert ("data      the data file table.csv changed: it has SHA-256 " in done.stdout) is not in_git
        assert "verified  2 with the same bits" in done.stdout


def test_sweep_keeps_the_data_of_all_its_runs_once(project, tmp_path):
    parent = new_run(**{names.ROLE: names.Role.SWEEP, names.SWEEP: "s"})
    runs = [new_run(**{names.PARENT: parent.id, names.SWEEP: "s"}) for _ in range(2)]
    for run in runs:
        keep_data(run, "table.csv")
        run.end("FINISHED")
        assert holder_of_data(run).id == parent.id
        assert run.files("data") == []
    (path,) = parent.every_file()
    assert path == runs[0].stored.data.tags[names.KEPT_DATA] == runs[1].stored.data.tags[names.KEPT_DATA]
    parent.end("FINISHED")
    assert resflow_here(project, "export", runs[0].id, str(tmp_path / "one.zip")).returncode == 0
    with in_project(make_project(tmp_path / "elsewhere")):
        assert resflow_here(Path.cwd(), "import", str(tmp_path / "one.zip")).returncode == 0
        alone = Run(open_client(), copies_of(open_client(), [runs[0].id])[runs[0].id].run_id)
        assert list(alone.every_file()) == [path]
        assert alone.read_text(path) == TABLE


def test_data_that_is_not_kept_is_said_with_the_reason(project, run, table, monkeypatch):
    monkeypatch.setenv("RESFLOW_KEEP_DATA", "no")
    quiet = new_run()
    keep_data(quiet, "table.csv")
    tags = quiet.stored.data.tags
    assert tags[names.KEPT_DATA] == "none: RESFLOW_KEEP_DATA=no"
    assert tags[names.KEPT_DATA_DIGEST] == run.stored.data.tags[names.KEPT_DATA_DIGEST]
    assert list(quiet.every_file()) == []
    monkeypatch.setenv("RESFLOW_KEEP_DATA", "perhaps")
    with pytest.raises(InvalidInputError, match="RESFLOW_KEEP_DATA='perhaps' must be yes or no"):
        keep_data(quiet, "table.csv")
    monkeypatch.delenv("RESFLOW_KEEP_DATA")
    monkeypatch.setattr(kept_data, "LARGEST", 100)
    keep_data(quiet, "table.csv")
    assert quiet.stored.data.tags[names.KEPT_DATA].startswith("none: it has 0 MiB, and at most")
    bundled = new_run()
    prepare(bundled, "diabetes", target=None, loss="squared")
    assert names.DATA_FILE not in bundled.stored.data.tags
    for each in (quiet, bundled):
        each.end("FINISHED")
