"""Bundles: runs as one file that others can read, which comes back the same from any store, once, or is refused."""

import hashlib
import json
import math
import re
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import mlflow
import nbformat
import pytest
from fabricated_runs import fabricate
from mlflow.entities import Metric
from rocrate.rocrate import ROCrate
from small_notebooks import in_project, make_project, mlflow_at, resflow_here

from resflow.workflow import names
from resflow.workflow.bundles import exporting, importing
from resflow.workflow.bundles.layout import PACKED_LIMIT, fault_of
from resflow.workflow.bundles.reader import opened
from resflow.workflow.bundles.writer import new_bundle
from resflow.workflow.last_word import is_finished
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.records import Run, copies_of, create_run, open_client, restoring

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose store has the sweep `skip`, of populations, and single runs."""
    root = tmp_path_factory.mktemp("bundles") / "project"
    fabricate(root)
    return root


@pytest.fixture(scope="module")
def run_id(project):
    """A run with all that a run can have: odd numbers and names, data, a notebook, files in folders."""
    with in_project(project):
        tags = provenance_tags("work.ipynb") | {"who": "we, \"they\"\nand 'you'"}
        given = {"width": 32, "note": "ü" * 3000}
        run = create_run(open_client(), notebook="work", name="all there is", parameters=given, tags=tags)
        run.log_history({step: {"objective": 1 / (1 + step), "gap": math.nan if step else 0.1} for step in range(1100)})
        run.log_metrics({"norms/end": math.inf})
        run.client.log_batch(run.id, [Metric("again", value, when, 0) for when, value in ((5, 1.0), (3, 2.0))])
        run.log_dataset("table", [[0.1], [0.2]], [1, 0], digest="d" * 64)
        run.log_text("points", "points/of all, öäü.txt")
        run.log_text("", "empty.txt")
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [
            nbformat.v4.new_markdown_cell("# Work\n\nDoes it?"),
            nbformat.v4.new_code_cell("width: int = 16  # units", metadata={"tags": ["parameters"]}, execution_count=1),
            nbformat.v4.new_code_cell("width = 32", metadata={"tags": ["injected-parameters"]}),
        ]
        notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="said")]
        run.log_text(nbformat.writes(notebook), "work.ipynb")
        run.end("FINISHED")
        return run.id


@pytest.fixture
def other(tmp_path):
    """A project with a store of its own, in which nothing is."""
    return make_project(tmp_path / "other")


def exported(project, name, file):
    done = resflow_here(project, "export", name, str(file))
    assert (done.returncode, done.stderr) == (0, ""), done
    return file


def imported(project, file, *options):
    done = resflow_here(project, "import", str(file), *options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def history(run, metric):
    return sorted(
        repr((each.timestamp, each.step, each.value)) for each in run.client.get_metric_history(run.id, metric)
    )


def content(root):
    """All rows of a store, and all of its files."""
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db")) as connection:
        tables = ("runs", "tags", "params", "metrics", "latest_metrics", "experiments", "inputs", "datasets")
        rows = {table: sorted(map(repr, connection.execute(f"SELECT * FROM {table}"))) for table in tables}
    return rows, sorted(str(path) for path in (root / "mlruns" / "artifacts").rglob("*"))


@pytest.mark.parametrize("whole_sweep", [False, True], ids=["run", "sweep"])
def test_what_comes_back_from_another_store_is_the_same_byte_by_byte(project, run_id, other, tmp_path, whole_sweep):
    first = exported(project, "skip" if whole_sweep else run_id, tmp_path / "first.zip")
    imported(other, first)
    with in_project(other):
        name = "skip" if whole_sweep else copies_of(open_client(), [run_id])[run_id].run_id
    again = exported(other, name, tmp_path / "again.zip")
    assert again.read_bytes() == first.read_bytes()


def test_copy_has_what_the_run_had_and_names_it(project, run_id, other, tmp_path):
    imported(other, exported(project, run_id, tmp_path / "bundle.zip"))
    with in_project(project):
        one = Run(open_client(), run_id)
    with in_project(other):
        client = open_client()
        copy = Run(client, copies_of(client, [run_id])[run_id].run_id)
    stored, given = copy.stored, one.stored
    assert copy.id != run_id
    assert copy.experiment_name == one.experiment_name == "work"
    assert stored.data.params == given.data.params
    assert stored.data.tags == given.data.tags | {names.IMPORTED_FROM: run_id, names.OUTCOME: f"FINISHED {copy.id}"}
    for key in ("status", "run_name", "start_time", "end_time"):
        assert getattr(stored.info, key) == getattr(given.info, key)
    for metric in given.data.metrics:
        assert history(one, metric) == history(copy, metric)
        assert repr(stored.data.metrics[metric]) == repr(given.data.metrics[metric])
    assert len(one.client.get_metric_history(run_id, "objective")) == 1100
    assert stored.inputs.dataset_inputs[0].dataset.name == "table"
    for path in (*one.files(), *one.files("points"), *one.files("environment")):
        assert copy.read_bytes(path) == one.read_bytes(path)


def test_sweep_keeps_who_is_nested_in_whom_and_is_there_once(project, other, tmp_path):
    bundle = exported(project, "skip", tmp_path / "skip.zip")
    assert "imported  39 runs into train_population\n" in imported(other, bundle)
    before = content(other)
    assert "imported  0 runs; 39 were there already\n" in imported(other, bundle)
    assert "imported  0 runs; 39 were there already\n" in imported(project, bundle)  # where they came from
    assert content(other) == before
    with in_project(other):
        runs = {run.info.run_id: run for run in open_client().search_runs(["1"], max_results=1000)}
    above = [runs[run.data.tags[names.PARENT]] for run in runs.values() if names.PARENT in run.data.tags]
    assert len(above) == 38
    assert {run.data.tags[names.ROLE] for run in above} == {"sweep", "population"}


def test_bundle_that_others_packed_anew_is_taken(project, run_id, other, tmp_path):
    shutil.unpack_archive(exported(project, run_id, tmp_path / "bundle.zip"), tmp_path / "files")
    packed = shutil.make_archive(str(tmp_path / "again"), "zip", tmp_path / "files")  # with folders, and no seal
    assert "imported  1 runs into work\n" in imported(other, packed)


@pytest.mark.parametrize("where", ["tags", "params", "experiment", "name"])
def test_text_that_no_store_can_hold_is_refused_before_anything_is_written(project, run_id, other, tmp_path, where):
    files = tmp_path / "files"
    shutil.unpack_archive(exported(project, run_id, tmp_path / "bundle.zip"), files)
    (place,) = files.glob("runs/*/run.json")
    former, run = place.read_bytes(), json.loads(place.read_text())
    run |= {where: "\ud800"} if isinstance(run[where], str) else {where: run[where] | {"who": "\ud800"}}
    place.write_text(json.dumps(run))
    old, new = (hashlib.sha256(each).hexdigest() for each in (former, place.read_bytes()))
    manifest = files / "manifest-sha256.txt"
    manifest.write_text(manifest.read_text().replace(old, new))
    packed = shutil.make_archive(str(tmp_path / "again"), "zip", files)
    done = resflow_here(other, "import", packed)
    assert (done.returncode, "has a text that is no UTF-8" in done.stderr) == (2, True), done.stderr
    with in_project(other):
        assert copies_of(open_client(), [run["id"]]) == {}


@pytest.mark.parametrize("name", ["a" * 256, "/".join(["b" * 200] * 11)])
def test_names_that_no_folder_can_have_are_none_of_a_bundle(name):
    assert fault_of(f"runs/{'0' * 32}/artifacts/{name}") == "is too long"
    assert fault_of(f"runs/{'0' * 32}/artifacts/{name[:200]}") == ""


def test_experiment_that_no_run_can_go_to_is_refused_and_where_to_name_another_is_said(
    project, run_id, other, tmp_path
):
    bundle = exported(project, run_id, tmp_path / "bundle.zip")
    with in_project(other):
        client = open_client()
        client.delete_experiment(client.create_experiment("work"))
    for options in ((), ("--experiment", "x" * 300)):
        done = resflow_here(other, "import", str(bundle), *options)
        assert (done.returncode, "--experiment" in done.stderr) == (2, True), done.stderr
    assert "imported  1 runs into theirs\n" in imported(other, bundle, "--experiment", "theirs")
    again = imported(other, bundle, "--experiment", "elsewhere")
    assert again.startswith("imported  0 runs; 1 were there already\nleft      where they are")


def test_two_processes_do_not_import_at_once(project, run_id, other, tmp_path):
    bundle = exported(project, run_id, tmp_path / "bundle.zip")
    with in_project(other):
        client = open_client()
        with importing._alone(client):
            done = resflow_here(other, "import", str(bundle))
            assert (done.returncode, client.search_runs(["1"])) == (2, [])
    assert "another process imports into this store" in done.stderr
    assert "imported  1 runs" in imported(other, bundle)


def twice(model_input: list[float]) -> list[float]:
    return [2.0 * each for each in model_input]


def log_a_model(run):
    """A model of a run by MLflow's own call, with all that one can have; what it predicts for 3."""
    with mlflow_at(run.client.tracking_uri), mlflow.start_run(run.id):
        info = mlflow.pyfunc.log_model(
            name="twice", python_model=twice, pip_requirements=[], params={"alpha": 1}, tags={"who": "we"}, step=7,
        )  # fmt: skip
    run.client.log_batch(run.id, metrics=[Metric("loss", math.nan, 5, 0, info.model_id, "table", "d" * 8)])
    return info.model_id


def stop():
    raise Stopped


def said_of(client, model_id):
    model = client.get_logged_model(model_id)
    metrics = [(each.key, repr(each.value), each.timestamp, each.step, each.dataset_name) for each in model.metrics]
    return model.name, model.status, model.params, model.tags.get("who"), metrics


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_models_that_mlflow_keeps_apart_go_along_once(project, other, tmp_path, monkeypatch):
    with in_project(project):
        run = create_run(open_client(), notebook="models", name="models", parameters={}, tags={})
        model_id = log_a_model(run)
        run.end("FINISHED")
        given = said_of(run.client, model_id)
    first = exported(project, run.id, tmp_path / "models.zip")
    with in_project(other), monkeypatch.context() as patch:
        patch.setattr(restoring, "without_links", stop)  # once the models are there, and the run is not whole
        with pytest.raises(Stopped):
            importing.import_bundle(open_client(), first)
    for _ in range(2):
        imported(other, first)
    with in_project(other):
        client = open_client()
        copy = client.get_run(copies_of(client, [run.id])[run.id].run_id)
        (model,) = client.search_logged_models([copy.info.experiment_id])
        assert [(each.model_id, each.step) for each in copy.outputs.model_outputs] == [(model.model_id, 7)]
        assert model.model_id != model_id
        assert model.source_run_id == copy.info.run_id
        assert said_of(client, model.model_id) == given
    again = exported(other, copy.info.run_id, tmp_path / "again.zip")
    assert again.read_bytes() == first.read_bytes()
    with mlflow_at(client.tracking_uri):
        assert mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict([3.0]) == [6.0]  # which adds a file to it


class Stopped(BaseException):
    pass


def test_import_that_is_stopped_anywhere_goes_on_by_the_same_command(project, run_id, other, tmp_path, monkeypatch):
    bundle = exported(project, run_id, tmp_path / "bundle.zip")
    wrote = restoring.patiently
    for moment in range(1, 40):
        left = moment

        def write(method, *arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                raise Stopped
            return wrote(method, *arguments, **options)

        monkeypatch.setattr(restoring, "patiently", write)
        with in_project(other):
            client = open_client()
            try:
                importing.import_bundle(client, bundle)
                break
            except Stopped:
                assert not any(is_finished(run) for run in client.search_runs(["1"]))
    assert moment > 8
    with in_project(other):
        (run,) = open_client().search_runs(["1"])
    assert exported(other, run.info.run_id, tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_description_names_every_file_and_opens_in_a_plain_reader(project, run_id, tmp_path):
    file = exported(project, run_id, tmp_path / "bundle.zip")
    crate = ROCrate(str(file))
    assert crate.mainEntity["name"] == "work"
    (action,) = crate.get_by_type("CreateAction")
    assert action["instrument"] is crate.mainEntity
    values = {value["name"]: value["value"] for value in action["object"] if value.type == "PropertyValue"}
    assert values["width"] == "32"
    with zipfile.ZipFile(file) as archive:
        graph = {each["@id"]: each for each in json.loads(archive.read("ro-crate-metadata.json"))["@graph"]}
        files = {unquote(key) for key, each in graph.items() if "File" in each["@type"]}
        assert files == {name for name in archive.namelist() if not name.endswith("/")} - {"ro-crate-metadata.json"}
        workflow = nbformat.reads(archive.read(crate.mainEntity.id).decode(), as_version=4)
    assert [cell.source for cell in workflow.cells] == ["# Work\n\nDoes it?", "width: int = 16  # units"]
    assert workflow.cells[1].outputs == []
    mentioned = {each["@id"] for value in graph.values() for part in value.values() for each in _references(part)}
    elsewhere = {each for each in mentioned if each.startswith("http")}
    assert mentioned - elsewhere <= graph.keys()
    (parameter,) = (each for each in graph.values() if each["@type"] == "FormalParameter")
    assert (parameter["additionalType"], parameter["defaultValue"]) == ("Integer", "16")


def _references(part):
    return [each for each in (part if isinstance(part, list) else [part]) if isinstance(each, dict)]


def test_run_under_way_and_member_of_a_population_are_not_exported(project, tmp_path):
    with in_project(project):
        client = open_client()
        member = client.search_runs(["1"], "tags.`resflow.role` = 'member'", max_results=1)[0]
    refused = {member.info.run_id: "export .* instead", "width": "is still running", "skp": "nearest is skip"}
    for name, said in refused.items():
        done = resflow_here(project, "export", name, str(tmp_path / "bundle.zip"))
        assert done.returncode == 2
        assert re.search(said, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_there_is_not_replaced(project, run_id, tmp_path):
    (file := tmp_path / "bundle.zip").write_text("mine")
    done = resflow_here(project, "export", run_id, str(file))
    assert (done.returncode, file.read_text()) == (2, "mine")
    assert "is there already" in done.stderr


def test_export_that_fails_leaves_nothing(project, run_id, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "values_of", fail)
    done = resflow_here(project, "export", run_id, str(tmp_path / "bundle.zip"))
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_another_sweep_of_the_name_is_not_mixed_with(project, other, tmp_path):
    bundle = exported(project, "skip", tmp_path / "skip.zip")
    fabricate(other)
    before = content(other)
    done = resflow_here(other, "import", str(bundle))
    assert done.returncode == 2
    assert "another sweep 'skip' already: name another experiment by --experiment" in done.stderr
    assert content(other) == before
    assert "imported  39 runs into theirs\n" in imported(other, bundle, "--experiment", "theirs")


def test_whatever_is_packed_can_be_unpacked_again(tmp_path):
    """What compresses a thousandfold is not compressed beyond what a reader takes."""
    (zeros := tmp_path / "zeros").write_bytes(bytes(PACKED_LIMIT // 3))
    (big := tmp_path / "big").write_bytes(bytes(PACKED_LIMIT + 1))
    (folder := tmp_path / "bundle").mkdir()
    with new_bundle(folder / "bundle") as bundle:
        for number, file in enumerate([zeros] * 9 + [big]):
            bundle.add(f"workflows/{number}", file)
        bundle.add("ro-crate-metadata.json", Path(__file__))
    with opened(folder / "bundle") as whole:
        assert whole.unpack("workflows/9", tmp_path / "again").read_bytes() == bytes(PACKED_LIMIT + 1)
    shutil.rmtree(folder)
