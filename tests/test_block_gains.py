"""Which blocks earn their place over the runs of a sweep: what is planted is found, and no more."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from resflow.notebook.block_gains import ALL, about_block_gains, block_gains
from resflow.notebook.comparison import about_gaps
from resflow.workflow.reports.comparison import Comparison


def comparison(gains, seeds=5, spread=0.01, **metrics):
    """A sweep over depth and seeds; `gains` has what each block adds by depth."""
    rng, runs, recorded = np.random.default_rng(0), [], []
    for depth, planted in gains.items():
        for seed in range(seeds):
            runs.append({"run_name": "a", "experiment_id": "1", "verdict": None, "blocks": depth, "seed": seed,
                         "status": "FINISHED", "superseded": False})  # fmt: skip
            values = np.asarray(planted) + spread * rng.standard_normal(len(planted))
            recorded.append({f"held_out_block_gain/{place}": value for place, value in enumerate(values, 1)} | metrics)
    index = pd.Index([f"{place:032x}" for place in range(len(runs))], name="run_id")
    return Comparison(
        "depth", "sweep", None, "1", ("blocks", "seed"), pd.DataFrame(runs, index), pd.DataFrame(recorded, index)
    )


def test_blocks_that_add_lose_or_do_nothing_are_told():
    table = block_gains(comparison({1: [0.5], 3: [0.3, 0.0, -0.2]}))
    assert list(table["setting"]) == ["blocks 1"] + ["blocks 3"] * 4
    assert list(table["block"]) == [1, 1, 2, 3, ALL]
    assert list(table["verdict"]) == ["adds", "adds", "not told from 0", "loses", "adds"]
    assert (table["runs"] == 5).all()
    np.testing.assert_allclose(table["mean"], [0.5, 0.3, 0.0, -0.2, 0.1], atol=0.02)
    np.testing.assert_allclose(table["standard_error"][:4], 0.01 / np.sqrt(5), rtol=0.9)
    text = about_block_gains(table)
    assert "- **blocks 3**: block 1 adds; block 2 not told from 0; block 3 loses; in all 0.0" in text


def test_noise_alone_tells_of_few_blocks_in_many_sweeps():
    """Of 100 sweeps of 8 blocks that do nothing, 5 may say that one does something; 14 would be one chance in 5,000."""
    told = 0
    for _ in range(100):
        rng = np.random.default_rng(_)
        sweep = comparison({8: [0.0] * 8})
        drawn = pd.DataFrame(rng.standard_normal(sweep.metrics.shape), sweep.metrics.index, sweep.metrics.columns)
        table = block_gains(Comparison(**{**vars(sweep), "metrics": drawn}))
        told += (table["verdict"] != "not told from 0").any()
    assert told < 14


def test_single_run_and_runs_without_values_are_not_judged():
    assert list(block_gains(comparison({1: [0.5]}, seeds=1))["verdict"]) == ["not judged"]
    lost = comparison({2: [np.nan, 0.5]})
    assert list(block_gains(lost)["block"]) == [2]
    assert block_gains(comparison({2: []}, objective=1.0)) is None


@pytest.mark.parametrize(("recorded", "said"), [("probe/input_gap", "linear probe on their own input"), ("a", "min_")])
def test_gap_of_probed_networks_is_not_called_one_to_every_linear_predictor(recorded, said):
    text = about_gaps(comparison({1: [0.5]}, linear_predictor_gap=-0.1, **{recorded: -0.1}))
    assert said in text
    assert ("every linear predictor on the training set, of which" in text) == (recorded == "a")
