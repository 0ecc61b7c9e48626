"""What an axis did is said where it exceeds the spread of seeds, and nowhere else."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from fabricated_runs import fabricate_grid
from scipy.stats import ttest_rel

from resflow.notebook import last_gaps_title
from resflow.plots.population import plot_final_gaps
from resflow.workflow.goal import Goal
from resflow.workflow.reports import overview
from resflow.workflow.reports.comparison import load_comparison
from resflow.workflow.reports.effects import (
    about_effects,
    axis_effects,
    cells_of,
    difference,
    largest_difference,
    seeds_table,
)
from resflow.workflow.reports.grid import grid_title, strongest_grid
from resflow.workflow.reports.metrics import GAP

AXES = {"learning_rate": (0.01, 0.1), "width": (4, 16, 64), "seed": range(6)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Learning rate 0.1 gains 0.05, width nothing, and a seed moves a run by 0.03; one run of width 4 diverges."""
    noise = np.random.default_rng(0)

    def end(learning_rate, width, seed):
        shared = 0.2 * math.sin(seed)  # of all runs of a seed: pairing takes it out
        if (learning_rate, width, seed) == (0.1, 4, 5):
            return math.inf
        return shared - (0.05 if learning_rate == 0.1 else 0.0) + 0.02 * noise.standard_normal()

    return load_comparison(fabricate_grid(tmp_path_factory.mktemp("planted"), AXES, end), "grid")


def noise(seed, axes=AXES):
    """Runs of which no axis does anything, as a frame."""
    points = pd.MultiIndex.from_product(list(axes.values()), names=list(axes)).to_frame(index=False)
    generator = np.random.default_rng(seed)
    of_seeds = generator.standard_normal(len(axes["seed"]))
    return points.assign(**{GAP: of_seeds[points["seed"]] + generator.standard_normal(len(points))})


def test_planted_effect_is_said_with_its_error_and_noise_is_not(planted):
    rate, width = about_effects(planted, overview.shown_axes(planted)).splitlines()
    assert rate.startswith("- **learning rate**: linear predictor gap lower by 0.0")
    assert "with 0.1 than with 0.01 (mean and standard error over 6 seeds; 17 pairs of runs" in rate
    assert "differ in nothing else, 1 left out as missing or not finite)" in rate
    assert width.startswith("- **width**: no difference that can be told from the spread of seeds; the largest is 0.0")
    titles = {axis: figure.axes[0].get_title(loc="left") for axis, figure in overview.spread_figures(planted).items()}
    assert titles["learning_rate"].startswith("Gap lower by 0.0")
    assert titles["width"].startswith("Width: no difference that can be told from the spread of seeds")


def test_error_is_that_of_the_paired_t_test_over_seeds(planted):
    points = planted.points[planted.points["seed"] != 5]
    found = largest_difference(points, "learning_rate", planted.axes, GAP)
    of_seeds = points.pivot_table(index="seed", columns="learning_rate", values=GAP)
    reference = ttest_rel(of_seeds[0.01], of_seeds[0.1])
    np.testing.assert_allclose(found.mean / found.error, reference.statistic, rtol=1e-12)
    assert (found.better, found.worse, found.seeds, found.pairs, found.left_out) == (0.1, 0.01, 5, 15, 0)
    assert found.is_told
    turned = difference(cells_of(points, "learning_rate", planted.axes, GAP), 0.01, 0.1, maximize=True)
    assert (turned.better, turned.worse, turned.mean) == (0.01, 0.1, found.mean)


def test_of_pure_noise_an_axis_is_seldom_said_to_do_something():
    tried = [(noise(seed), axis) for seed in range(200) for axis in ("learning_rate", "width")]
    found = [largest_difference(points, axis, tuple(AXES), GAP) for points, axis in tried]
    told = sum(each.is_told for each in found)
    assert 0 < told <= 32  # 5 % of 400 are 20, and Bonferroni's rule errs on the side of less


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_without_several_seeds_nothing_is_told(rate):
    points = noise(0, AXES | {"seed": range(1)})
    points[GAP] -= 100 * points["learning_rate"] * rate
    found = largest_difference(points, "learning_rate", tuple(AXES), GAP)
    assert found.seeds == 1
    assert math.isnan(found.error)
    assert not found.is_told


def test_where_no_two_runs_differ_in_one_axis_alone_there_is_nothing_to_compare():
    points = noise(0)
    linked = points[(points["width"] == 4) == (points["learning_rate"] == 0.01)]
    linked = linked[linked["width"] != 64]
    assert largest_difference(linked, "learning_rate", tuple(AXES), GAP) is None
    sampled = noise(0, AXES | {"width": range(1, 40)})
    assert largest_difference(sampled, "width", tuple(AXES), GAP) is None


def test_table_counts_runs_and_claims_no_deviation_of_one(planted):
    table = axis_effects(planted, ["learning_rate", "width"])
    assert table.index.tolist() == ["learning rate"] * 2 + ["width"] * 3
    assert table["value"].tolist() == ["0.01", "0.1", "4", "16", "64"]
    assert table["runs"].tolist() == [18, 18, 12, 12, 12]
    assert table["not finite"].tolist() == [0, 1, 1, 0, 0]
    finite = planted.points[(planted.points["width"] == 16)][GAP]
    mean, deviation = (float(text.replace("−", "-")) for text in table["mean ± deviation"].iloc[3].split(" ± "))
    np.testing.assert_allclose([mean, deviation], [finite.mean(), finite.std()], atol=6e-3)
    above = int((finite > 0).sum())
    assert table["above linear"].iloc[3] == f"{above} of 12 ({100 * above / 12:.0f} %)"
    one = planted.runs.index[planted.runs["seed"] == 0]
    alone = dataclasses.replace(planted, runs=planted.runs.loc[one], metrics=planted.metrics.loc[one])
    narrow = axis_effects(dataclasses.replace(alone, axes=("width",)), ["width"])
    assert all("±" in text for text in narrow["mean ± deviation"])
    assert seeds_table(alone) is None
    single = one[alone.runs["learning_rate"] == 0.1]
    single = dataclasses.replace(alone, runs=planted.runs.loc[single], metrics=planted.metrics.loc[single])
    assert not any("±" in text for text in axis_effects(single, ["width"])["mean ± deviation"])


def test_best_settings_come_first_with_their_spread_over_seeds(planted):
    table = seeds_table(planted, count=4)
    assert table.columns[:2].tolist() == ["width", "runs"]
    assert table["runs"].tolist() == [6] * 4
    medians = planted.points.groupby(["learning_rate", "width"])[GAP].median()
    assert table.index[0] == f"{medians.idxmin()[0]:g}"
    assert table["width"].iloc[0] == f"{medians.idxmin()[1]:g}"


def test_where_more_is_better_the_other_value_is(planted):
    turned = dataclasses.replace(planted, goal=Goal(GAP, maximize=True))
    assert "higher by 0.0" in about_effects(turned, ["learning_rate"])
    assert "with 0.01 than with 0.1" in about_effects(turned, ["learning_rate"])
    assert about_effects(dataclasses.replace(planted, goal=None), ["learning_rate"]) == ""


def test_best_cell_is_marked_and_those_that_seeds_do_not_tell_from_it_are_named(planted):
    points = noise(0)
    effect = points["learning_rate"].eq(0.1) * 20.0 + points["width"].eq(64) * 40.0
    grid = strongest_grid(points.assign(**{GAP: points[GAP] - effect}), ("width", "learning_rate"), tuple(AXES), GAP)
    assert (grid.medians.index.name, grid.medians.columns.name) == ("learning_rate", "width")
    assert grid.best == (1, 2)
    assert not grid.alike
    assert grid_title(grid, GAP).startswith("median gap lowest at learning rate 0.1, width 64 (")
    assert grid_title(grid, GAP).endswith("told from all 5 others by the spread of seeds")
    rate = strongest_grid(
        points.assign(**{GAP: points[GAP] - 20.0 * points["learning_rate"].eq(0.1)}), list(AXES)[:2], tuple(AXES), GAP
    )
    assert rate.alike == {(1, column) for column in range(3)} - {rate.best}
    assert grid_title(rate, GAP).endswith("not told from 2 of 5 others by the spread of seeds")
    one_seed = strongest_grid(points[points["seed"] == 0], list(AXES)[:2], tuple(AXES), GAP)
    assert len(one_seed.alike) == 5
    figure = overview.grid_figure(planted)
    figure.canvas.draw()
    assert len(figure.axes[0].texts) == 6


def test_last_gaps_are_drawn_on_a_scale_that_fits_and_their_title_rests_on_no_noise():
    final = noise(3).drop(columns="width").drop_duplicates(["learning_rate", "seed"]).assign(diverged=False)
    near = final.assign(**{GAP: -0.126 + 1e-4 * final[GAP]})
    assert last_gaps_title(near, "learning_rate", ("learning_rate", "seed")) == (
        "Learning rate: no difference that can be told from the spread of seeds; none diverged"
    )
    same = near.assign(**{GAP: 0.01 * near["seed"] + 1e-5 * near["learning_rate"]})
    assert last_gaps_title(same, "learning_rate", ("learning_rate", "seed")) == (
        "Learning rate moves the gap by 9e−7, seeds by 0.019; none diverged"
    )
    (axes,) = plot_final_gaps(near, by="learning_rate", title="").axes
    low, high = axes.get_ylim()
    assert high - low < 2 * np.ptp(near[GAP])
    assert any("best linear predictor: 0.12" in text.get_text() for text in axes.get_legend().get_texts())
    assert not axes.texts  # which could cover a member
    moved = near.assign(**{GAP: near[GAP] - 0.01 * (near["learning_rate"] == 0.1)})
    moved.loc[moved.index[0], "diverged"] = True
    assert last_gaps_title(moved, "learning_rate", ("learning_rate", "seed")).startswith("Gap lower by 0.0")
    assert last_gaps_title(moved, "learning_rate", ("learning_rate", "seed")).endswith("; 1 diverged")
    (axes,) = plot_final_gaps(final, by="learning_rate", title="").axes
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "best linear predictor"] == [0.0]
