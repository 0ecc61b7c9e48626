import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from resflow.plots.bounds import plot_gap
from resflow.plots.curves import plot_held_out, plot_objective
from resflow.plots.depth import plot_block_gains, plot_probes
from resflow.plots.sgd import plot_excess, plot_orders, plot_slopes
from resflow.plots.ticks import log_scale


@pytest.fixture
def history():
    steps = np.arange(0, 101, 10)
    gap = 1.0 - steps / 60
    bounds = {"gap_certificate": gap + 0.5, "theorem1_bound": gap + 3}
    return pd.DataFrame({"step": steps, "objective": gap + 2, "linear_predictor_gap": gap} | bounds)


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_objective_is_drawn_with_the_linear_predictors_level(history):
    (axes,) = plot_objective(history, 2.0, title="It passes the linear predictor").axes
    curve, level = axes.lines
    np.testing.assert_allclose(curve.get_ydata(), history["objective"])
    assert set(level.get_ydata()) == {2.0}
    assert axes.get_title(loc="left") == "It passes the linear predictor"
    assert texts(axes) == ["residual unit", "best linear predictor: 2"]
    assert axes.get_yscale() == "log"


def test_objective_of_zero_is_drawn_on_a_linear_scale(history):
    (axes,) = plot_objective(history.assign(objective=0.0), 2.0, title="").axes
    assert axes.get_yscale() == "linear"


def test_gap_is_drawn_below_its_bounds_with_zero_marked(history):
    (axes,) = plot_gap(history, ("gap_certificate", "theorem1_bound"), title="").axes
    assert texts(axes) == ["gap", "certificate", "bound of Theorem 1", "best linear predictor"]
    gap, certificate, theorem1, zero = axes.lines
    for line, column in ((gap, "linear_predictor_gap"), (certificate, "gap_certificate"), (theorem1, "theorem1_bound")):
        np.testing.assert_allclose(line.get_ydata(), history[column])
    assert set(zero.get_ydata()) == {0.0}
    assert len({line.get_linestyle() for line in (gap, certificate, theorem1)}) == 3


def test_missing_and_infinite_values_do_not_break_a_figure(history):
    broken = history.assign(theorem1_bound=np.inf, gap_certificate=np.nan)
    plot_gap(broken, ("gap_certificate", "theorem1_bound"), title="").canvas.draw()


def test_held_out_sets_show_both_predictors_with_their_errors():
    rows = [("training", "linear predictor", 0.3, 0.01), ("training", "residual unit", 0.1, 0.02)]
    rows += [("test", "linear predictor", 0.4, 0.03), ("test", "residual unit", 0.5, 0.04)]
    frame = pd.DataFrame(rows, columns=["set", "predictor", "objective", "standard_error"])
    (axes,) = plot_held_out(frame, title="").axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["training", "test"]
    assert texts(axes) == ["linear predictor", "residual unit"]
    np.testing.assert_allclose([list(bars.lines[0].get_ydata()) for bars in axes.containers], [[0.3, 0.4], [0.1, 0.5]])


def test_excess_is_drawn_beneath_its_bound_and_missing_slopes_leave_a_gap():
    rows = [("a", way, T, 1 / T, 0.5 / T, 2 / T, 9 / T) for way in ("alone", "hurt") for T in (10, 100)]
    columns = ["source", "theta", "steps", "mean", "lowest", "highest", "bound"]
    (axes,) = plot_excess(pd.DataFrame(rows, columns=columns), title="").axes
    assert texts(axes) == ["bound of Theorem 4", "θ alone", "θ hurt", "slope −1/2"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.9, 0.09])
    rows = [("a", "alone", "all T", -0.4, -0.5, -0.3), ("a", "hurt", "all T", np.nan, np.nan, np.nan)]
    (axes,) = plot_slopes(pd.DataFrame(rows, columns=["source", "theta", "fit", "slope", "low", "high"]), title="").axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["θ alone", "θ hurt"]
    (lines,) = axes.containers[0].lines[2]
    np.testing.assert_allclose(lines.get_segments()[0][:, 0], [-0.5, -0.3])


def test_orders_are_drawn_in_a_panel_a_learning_rate():
    rows = [(rate, order, epoch, 1.0, 0.5, 2.0) for rate in (0.1, 0.2) for order in ("a", "grab") for epoch in (1, 2)]
    frame = pd.DataFrame(rows, columns=["learning_rate", "order", "epoch", "mean", "low", "high"])
    figure = plot_orders(frame, title="", ylabel="gap", level="best linear predictor", band="all seeds")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["learning rate 0.1", "learning rate 0.2"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "GraB", "best linear predictor"]


def test_probes_are_drawn_over_depth_with_the_networks_level_on_training_and_held_out_samples():
    levels = {"objective": [0.5, 0.1, 0.01], "held_out_objective": [0.6, 0.4, 0.3], "held_out_gap_error": [0.1] * 3}
    table = pd.DataFrame(levels).rename_axis("block")
    figure = plot_probes(table, objective=0.02, held_out_objective=0.35, title="Every block adds")
    training, held_out = figure.axes
    for axes, name, network in ((training, "objective", 0.02), (held_out, "held_out_objective", 0.35)):
        probes, (first, own) = axes.containers[0].lines[0], axes.lines[-2:]
        np.testing.assert_allclose(np.asarray(probes.get_ydata(), dtype=float), table[name])
        assert set(first.get_ydata()) == {table[name][0]}
        assert set(own.get_ydata()) == {network}
    assert (training.get_yscale(), held_out.get_yscale()) == ("log", "linear")
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        "linear probe after the block", "linear probe on the input", "network"
    }  # fmt: skip
    (axes,) = plot_probes(table[["objective"]], objective=0.02, title="").axes
    assert axes.get_xlabel() == "block (0: the network's input)"


def test_what_blocks_add_is_drawn_a_bar_each_with_errors_of_held_out_samples():
    columns = {"gain": [np.nan, 0.2, -0.1], "held_out_gain": [np.nan, 0.1, 0.0]}
    columns |= {"held_out_gain_error": [np.nan, 0.05, 0.1]}
    table = pd.DataFrame(columns).rename_axis("block")
    (axes,) = plot_block_gains(table, title="Of the blocks 1 adds").axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
    assert heights == [[0.2, -0.1], [0.1, 0.0]]
    (axes,) = plot_block_gains(table.assign(held_out_gain=np.nan), title="").axes
    assert len([bars for bars in axes.containers if hasattr(bars, "patches")]) == 1


def test_ticks_of_logarithmic_axes_are_text_that_needs_no_formula():
    axes = Figure().subplots()
    log_scale(axes, "x")
    log_scale(axes, "y", linear_within=0.01)
    axes.set(xlim=(0.002, 0.03), ylim=(-1.0, 10.0))
    axes.figure.draw_without_rendering()
    shown = {
        name: [tick.get_text() for minor in (False, True) for tick in axis.get_ticklabels(minor=minor)]
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis))
    }
    assert {"10⁻²", "2×10⁻³", "2×10⁻²"} <= set(shown["x"])
    assert {"−10⁰", "−10⁻²", "0", "10⁻¹", "10¹"} <= set(shown["y"])
    assert not any("$" in text for texts in shown.values() for text in texts)
