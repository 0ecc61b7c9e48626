"""The data that figures show, as it is read off them."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from resflow.plots.drawn import drawn_data
from resflow.plots.grid import plot_grid


@pytest.fixture
def panels():
    figure, grid = plt.subplots(1, 2)
    plt.close(figure)
    return figure, grid


def test_lines_points_and_segments_come_with_the_names_of_their_axes_and_legend(panels):
    figure, (axes, other) = panels
    other.remove()
    axes.plot([0, 1], [0.1 + 0.2, np.nan], label="gap")
    axes.scatter([2.0], [3.0], label="end")
    axes.add_collection(LineCollection([[(0, 1), (1, 2)]], colors=["red"]))
    axes.axhline(0.0, label="level")
    axes.legend(handles=[Line2D([], [], color="red", label="seed 3")])
    axes.set(xlabel="optimiser\nstep", ylabel="gap")
    table = drawn_data(figure)
    assert list(table.columns) == ["series", "optimiser step", "gap"]
    assert list(table["series"]) == ["gap", "gap", "end", "seed 3", "seed 3"]
    again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    np.testing.assert_array_equal(again["gap"], [0.1 + 0.2, np.nan, 3.0, 1.0, 2.0])


def test_panels_of_several_axes_are_told_apart_and_names_on_an_axis_are_kept(panels):
    figure, (left, right) = panels
    left.bar(["a", "b"], [1.0, 2.0], label="bars")
    right.errorbar([0, 1], [5, 6], yerr=[1, 2], fmt="o", capsize=3, label="mean")
    right.set_xticks([0, 1], ["tanh", "relu"])
    left.set(title="first", xlabel="letter")
    right.set(xlabel="activation")
    table = drawn_data(figure)
    assert list(table.columns) == ["panel", "series", "x", "y"]
    bars, means, ends = (table[table["series"] == name] for name in ("bars", "mean", "mean, ends of its bars"))
    assert bars[["panel", "x", "y"]].to_numpy().tolist() == [["first", "a", 1.0], ["first", "b", 2.0]]
    assert means[["panel", "x", "y"]].to_numpy().tolist() == [["2", "tanh", 5.0], ["2", "relu", 6.0]]
    assert list(ends["y"]) == [4.0, 6.0, 4.0, 8.0]
    assert len(table) == 8


def test_figure_without_data_has_an_empty_table(panels):
    assert drawn_data(panels[0]).empty


def test_map_comes_as_a_row_a_cell_with_the_value_under_the_name_of_its_color_bar(panels):
    figure, (axes, other) = panels
    other.remove()
    medians = pd.DataFrame([[-0.1, 0.1 + 0.2], [np.nan, np.inf]], pd.Index(["a", "b"], name="kind"), [2, 4])
    drawn = plot_grid(medians.rename_axis(columns="width"), (0, 0), [], "linear_predictor_gap", title="A map")
    table = drawn_data(drawn)
    assert list(table.columns) == ["series", "width", "kind", "median gap"]
    assert table[["width", "kind"]].to_numpy().tolist() == [["2", "a"], ["4", "a"], ["2", "b"], ["4", "b"]]
    np.testing.assert_array_equal(table["median gap"], [-0.1, 0.1 + 0.2, np.nan, np.inf])
    mesh = axes.pcolormesh([0.0, 1.0, 3.0], [0.0, 2.0], [[5.0, 7.0]])
    figure.colorbar(mesh)
    assert drawn_data(figure)[["x", "y", "value"]].to_numpy().tolist() == [[0.5, 1.0, 5.0], [2.0, 1.0, 7.0]]
