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
