"""Figures as SVG."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np

from resflow.plots.svg import figure_svg, finding_of


def drawn(points, title=r"Gap $\lambda$ < 0"):
    figure, axes = plt.subplots()
    axes.plot(np.linspace(0.0, 1.0, points), np.random.default_rng(0).uniform(size=points))
    axes.scatter(np.zeros(points), np.zeros(points))
    axes.set_title(title, loc="left")
    plt.close(figure)
    return figure


def test_texts_are_texts_and_the_title_is_the_finding():
    text = figure_svg(drawn(10, "The gap\nis < 0"))
    assert "<dc:title>The gap is &lt; 0</dc:title>" in text
    assert re.search(r"<text[^>]*>The gap", text)
    assert "<image" not in text


def test_same_figure_is_the_same_text():
    assert figure_svg(drawn(10)) == figure_svg(drawn(10))
    assert "<dc:date>" not in figure_svg(drawn(10))


def test_panels_of_endless_points_stay_small():
    text = figure_svg(drawn(20_000))
    assert len(text) < 500_000
    assert "<image" in text
    assert re.search(r"<text[^>]*>0\.0</text>", text)


def test_finding_is_that_of_the_whole_figure_first():
    figure = drawn(3, "a panel")
    assert finding_of(figure) == "a panel"
    figure.suptitle("the whole")
    assert finding_of(figure) == "the whole"
    assert finding_of(drawn(3, "")) == ""
