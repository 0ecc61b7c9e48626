"""What a run's numbers depend on beside its notebook, kept with the run."""

import json
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from small_notebooks import artifacts_of, in_project, make_project, new_run, read_artifact

from resflow.workflow import environment


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with in_project(make_project(tmp_path_factory.mktemp("stored") / "project")):
        yield Path.cwd()


@pytest.fixture
def run(project):
    return new_run()


def test_environment_is_kept_with_the_changes_since_the_commit(project, run, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
    environment.attach_environment(run)
    kept = json.loads(read_artifact(run.client, run.stored, "environment/environment.json"))
    assert kept["packages"]["numpy"] == np.__version__
    assert kept["packages"]["jax"] == jax.__version__
    assert kept["flags"]["XLA_FLAGS"] == "--xla_cpu_use_fusion_emitters=false"
    assert kept["devices"] == [f"cpu:{device.id} cpu" for device in jax.devices()]
    assert any(library["internal_api"] == "openblas" for library in kept["blas"])
    assert kept["commit"] == subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert kept["process"] == "kernel"
    environment.attach_environment(run, once=True)  # as the engine does, for notebooks that did not
    assert json.loads(read_artifact(run.client, run.stored, "environment/environment.json"))["process"] == "kernel"
    assert artifacts_of(run.client, run.stored, "environment") == {"environment/environment.json"}
    (project / "pyproject.toml").write_text("[project]\n# changed\n")
    environment.attach_environment(run)
    assert "\n+# changed\n" in read_artifact(run.client, run.stored, "environment/changes.diff")
    monkeypatch.setattr(environment, "LONGEST_DIFF", 30)
    environment.attach_environment(run)
    assert "more characters" in read_artifact(run.client, run.stored, "environment/changes.diff")
    subprocess.run(["git", "checkout", "--quiet", "pyproject.toml"], check=True)
