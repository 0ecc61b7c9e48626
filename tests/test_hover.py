"""What points of figures say where a reader points at them."""

from __future__ import annotations

import re
from html import unescape

import matplotlib.pyplot as plt
import numpy as np
import pytest

from resflow.plots.drawn import drawn_data, tell
from resflow.plots.hover import MOST_TOLD
from resflow.plots.svg import figure_svg


@pytest.fixture
def panel():
    figure, axes = plt.subplots(layout="constrained")
    plt.close(figure)
    axes.set(xlabel="width", ylabel="gap")
    return figure, axes


def titles(figure):
    """The titles of points in the order of the points, each with where its mark stands."""
    marks = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*><title>([^<]*)</title></use>', figure_svg(figure))
    return [(float(x), float(y), unescape(text)) for x, y, text in marks]


def test_points_say_their_series_and_their_values_as_texts_do(panel):
    figure, axes = panel
    axes.scatter([1, 2, 3], [-0.123456, np.nan, 1e-16], label="a < b")
    axes.plot([1, 2], [0.5, 0.25], "s-", label="line")
    axes.plot([1, 2], [0.5, 0.25])  # without marks
    assert [text for *_, text in titles(figure)] == [
        "a < b\nwidth: 1\ngap: −0.1235", "a < b\nwidth: 3\ngap: 1e−16",
        "line\nwidth: 1\ngap: 0.5", "line\nwidth: 2\ngap: 0.25",
    ]  # fmt: skip


@pytest.mark.parametrize("scale", ["linear", "symlog", "log"])
def test_every_title_stands_at_its_own_point(panel, scale):
    figure, axes = panel
    x, y = np.random.default_rng(0).uniform(0.1, 100.0, (2, 50))
    axes.scatter(x, y)
    axes.set(xscale=scale, yscale=scale)
    found = titles(figure)
    assert len(found) == 50
    for place, (_, _, text) in enumerate(found):
        assert text == f"width: {x[place]:.4g}\ngap: {y[place]:.4g}"
    order = np.argsort([across for across, _, _ in found])
    np.testing.assert_array_equal(order, np.argsort(x))
    np.testing.assert_array_equal(np.argsort([-down for _, down, _ in found]), np.argsort(y))


def test_points_are_called_what_was_told_of_them_and_where_they_belong(panel):
    figure, axes = panel
    dots = axes.scatter([1.01, 1.99], [0.5, 0.25])
    tell(dots, ["seed 0", "seed 1"], x=[1, 2])
    assert [text for *_, text in titles(figure)] == ["seed 0\nwidth: 1\ngap: 0.5", "seed 1\nwidth: 2\ngap: 0.25"]
    table = drawn_data(figure)
    assert list(table.columns) == ["series", "point", "width", "gap"]
    assert table["point"].tolist() == ["seed 0", "seed 1"]
    assert table["width"].tolist() == [1, 2]


def test_places_with_names_are_called_by_them(panel):
    figure, axes = panel
    axes.scatter([0.1, 0.9], [1, 2])
    axes.set_xticks([0, 1], ["tanh", "relu"])
    assert [text for *_, text in titles(figure)] == ["width: tanh\ngap: 1", "width: relu\ngap: 2"]


def test_of_many_points_none_says_anything_and_the_figure_grows_by_nothing(panel):
    figure, axes = panel
    axes.scatter(range(MOST_TOLD), range(MOST_TOLD))
    assert len(titles(figure)) == MOST_TOLD
    axes.scatter([0], [0])
    assert not titles(figure)


def test_points_outside_the_axes_put_no_title_at_a_wrong_place(panel):
    figure, axes = panel
    axes.plot([0, 1, 2, 3], [0, 1e9, 1, 2], "o")
    axes.set_ylim(0, 3)
    for across, _, text in titles(figure):
        assert across == pytest.approx({"0": 0, "1": 1}.get(text[7], across))
