"""A comparison of many runs stays a page that can be sent and opened."""

import math
import os

import numpy as np
from fabricated_runs import fabricate_grid
from small_notebooks import assert_sound

from resflow.workflow.reports.comparison_report import write_report

MEGABYTE = 2**20


def test_report_of_500_runs_is_under_5_megabytes(tmp_path, monkeypatch):
    noise = np.random.default_rng(0)
    axes = {"architecture": ("residual_unit", "no_skip"), "learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1)}
    axes |= {"width": (4, 16, 32, 64, 256), "seed": range(10)}

    def end(architecture, learning_rate, width, seed):
        return math.inf if noise.random() < 0.02 else -0.1 * (architecture != "no_skip") + 0.1 * noise.standard_normal()

    client = fabricate_grid(tmp_path, axes, end)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")  # the client's store is meant
    comparison, text = write_report(client, "grid", {})
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/another.db"
    assert len(comparison.points) == 500
    assert len(text.encode()) < 5 * MEGABYTE
    assert_sound(text)
