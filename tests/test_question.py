"""A notebook's question stands above its runs in MLflow, unless a person wrote something else there."""

import nbformat
import pytest
from mlflow.tracking import MlflowClient
from small_notebooks import make_project, resflow_here, write_notebook

from resflow.workflow.question import LONGEST, question_of
from resflow.workflow.records import experiment_id_of


def notebook(*markdown):
    node = nbformat.v4.new_notebook()
    node.cells = [nbformat.v4.new_code_cell("1"), *map(nbformat.v4.new_markdown_cell, markdown)]
    return node


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("# Is it so? #\n\nWe look.\nAnd we see.\n\nMore.", "### Is it so?\n\nWe look. And we see."),
        ("## Is it so?\nBelow the title.", "### Is it so?\n\nBelow the title."),
        ("No title here, nor a full stop", "No title here, nor a full stop"),
        ("# T\n\nIt is known. By L. Bottou (2010), with $x$ it holds. So.", "### T\n\nIt is known."),
        ("# T\n\nIt is known. Its value is\n\n$$x$$", "### T\n\nIt is known."),
        ("# T\n\nIts value is:\n\n$$x$$", "### T"),
        ("# T\n\n## A section\n\nText.", "### T"),
        ("# T\n\n```\ncode\n```", "### T"),
        ("#No heading", "#No heading"),
        ("# T\n\nSee http://me:secret@host/.", "### T\n\nSee http://host/."),
    ],
)
def test_question_is_the_title_and_the_sentences_below_it_before_any_mathematics(text, question):
    assert question_of(notebook("  \n", text, "# Another")) == question


def test_question_is_short_whatever_the_notebook():
    assert question_of(notebook()) == ""
    assert len(question_of(notebook("# Long\n\n" + "word " * 10_000))) == LONGEST


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "project"))
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def described(client, name):
    return client.get_experiment_by_name(name).tags.get("mlflow.note.content")


@pytest.mark.parametrize("words", ["Mine.", ""])  # who emptied it wants none
def test_experiment_is_described_where_nobody_described_it(client, words):
    experiment_id_of(client, "new", "### Q")
    assert described(client, "new") == "### Q"
    experiment_id_of(client, "old")
    assert described(client, "old") is None
    place = experiment_id_of(client, "old", "### Q")
    assert described(client, "old") == "### Q"
    client.set_experiment_tag(place, "mlflow.note.content", words)
    experiment_id_of(client, "old", "### Q")
    assert described(client, "old") == words


def test_runs_of_any_notebook_and_sweeps_describe_their_experiment(tmp_path):
    root = make_project(tmp_path / "project")
    path = write_notebook(root / "foreign.ipynb", "print(width)")
    node = nbformat.read(path, as_version=4)
    node.cells.insert(0, nbformat.v4.new_markdown_cell("# How wide?\n\nWide."))
    nbformat.write(node, path)
    (root / "sweep.yaml").write_text("notebook: foreign.ipynb\nexperiment: swept\naxes: {width: [1]}\n")
    for arguments in (("run", "foreign.ipynb"), ("sweep", "sweep.yaml", "--workers", "1")):
        done = resflow_here(root, *arguments)
        assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    assert described(client, "foreign") == described(client, "swept") == "### How wide?\n\nWide."
