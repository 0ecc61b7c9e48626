"""The residual stream of a network: how low linear probes come at every depth, beside the network's own level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from resflow.plots._style import LINEAR, PALETTE, one_axes, several_axes, wrapped
from resflow.plots.ticks import log_scale

__all__ = ["plot_block_gains", "plot_probe_path", "plot_probes"]

_DECADES = 30.0
"""Levels further apart than by this factor are drawn on a logarithmic scale."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot_probes(table: pd.DataFrame, *, objective: float, held_out_objective: float = math.nan, title: str) -> Figure:
    """The mean loss of the linear probe after every block, on training and held-out samples, a panel each.

    Args:
        table: One row a representation, indexed by block, 0 for the network's input; columns objective and, for a
            second panel, held_out_objective and held_out_gap_error, the standard error of the difference to the
            network. That of `ProbeReport.table`.
        objective: The network's mean training loss.
        held_out_objective: Its mean loss on held-out samples; NaN for no second panel.
        title: What the figure shows.
    """
    panels = [("training samples", table["objective"], None, objective)]
    if not math.isnan(held_out_objective):
        errors = table["held_out_gap_error"]
        panels.append(("held-out samples", table["held_out_objective"], errors, held_out_objective))
    width = 5.4 * len(panels)
    figure, grid = several_axes(len(panels), title=wrapped(title, width), width=width, height=4.2)
    for axes, (samples, levels, errors, network) in zip(grid, panels, strict=True):
        _draw(axes, levels, errors, network)
        axes.set_title(samples, loc="left", fontsize=10)
    grid[0].set_ylabel("mean loss per sample")
    if len(panels) == 2:
        grid[1].set_ylabel("mean loss per sample\n(bars: one standard error of\nthe difference to the network)")
    handles, labels = grid[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_block_gains(table: pd.DataFrame, *, title: str) -> Figure:
    """What each block adds for a linear probe: how much lower the mean loss is behind it, on both kinds of samples.

    Args:
        table: One row a representation, indexed by block, 0 for the network's input; columns gain and, where samples
            were held out, held_out_gain and held_out_gain_error. That of `ProbeReport.table`.
        title: What the figure shows.
    """
    figure, axes = one_axes(wrapped(title, 6.8))
    rows = table.iloc[1:]
    kinds: list[tuple[str, str, str | None]] = [("training samples", "gain", None)]
    if rows["held_out_gain"].notna().any():
        kinds.append(("held-out samples (one standard error)", "held_out_gain", "held_out_gain_error"))
    width = 0.8 / len(kinds)
    for place, (label, column, error) in enumerate(kinds):
        at = rows.index + (place - (len(kinds) - 1) / 2) * width
        errors = None if error is None else rows[error]
        hatch = "" if place else "//"
        axes.bar(at, rows[column], width, yerr=errors, label=label, color=PALETTE[place], hatch=hatch, capsize=3)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("block")
    axes.set_ylabel("probe's loss before minus behind the block\n(mean loss per sample)")
    axes.legend(frameon=False)
    return figure


def plot_probe_path(
    table: pd.DataFrame, *, objective: float, held_out_objective: float = math.nan, title: str
) -> Figure:
    """The mean loss of the best linear predictor of every representation over the bound on its norm.

    Args:
        table: One row a representation and bound; columns block, norm, objective and held_out_objective, which may be
            NaN throughout. That of `ProbeReport.path_table`.
        objective: The network's mean training loss.
        held_out_objective: Its mean loss on held-out samples; NaN for no second panel.
        title: What the figure shows.
    """
    panels = [("training samples", "objective", objective)]
    if not math.isnan(held_out_objective):
        panels.append(("held-out samples", "held_out_objective", held_out_objective))
    width = 5.4 * len(panels)
    figure, grid = several_axes(len(panels), title=wrapped(title, width), width=width, height=4.2)
    blocks, others = sorted(set(table["block"])), [PALETTE[0], *PALETTE[2:]]  # the network has the one between
    everything = [np.array([*table[column], network]) for _, column, network in panels]
    logarithmic = all(levels.min() > 0 for levels in everything) and any(
        levels.max() > _DECADES * levels.min() for levels in everything
    )
    for axes, (samples, column, network) in zip(grid, panels, strict=True):
        for place, block in enumerate(blocks):
            rows = table[table["block"] == block].sort_values("norm")
            marker, line = _MARKERS[place % len(_MARKERS)], "--" if block == 0 else "-"
            color = "black" if block == 0 else others[(place - 1) % len(others)]
            style: dict[str, Any] = {"marker": marker, "linestyle": line, "color": color}
            axes.plot(rows["norm"], rows[column], label=f"probe on h_{block}", **style)
        axes.axhline(network, color=PALETTE[1], linewidth=2.0, linestyle=":", label="network")
        log_scale(axes, "x")
        if logarithmic:
            log_scale(axes, "y")
        for axis in (axes.xaxis, *([axes.yaxis] if logarithmic else [])):
            axis.set_major_formatter(_Plain())
            axis.set_minor_formatter(_Plain())
        axes.set_title(samples, loc="left", fontsize=10)
        axes.set_xlabel("norm of the probe's weights\n(in units of 1 over the representation's root mean square)")
    grid[0].set_ylabel("mean loss per sample")
    handles, labels = grid[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
    return figure


class _Plain(LogFormatter):
    """Labels where a logarithmic axis has them, but 0.02 and not 2 × 10⁻²."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _draw(axes: Axes, levels: pd.Series, errors: pd.Series | None, network: float) -> None:
    style: dict[str, Any] = {"color": PALETTE[0], "marker": "o", "linewidth": 2.0, "capsize": 4}
    axes.errorbar(levels.index, levels, yerr=errors, label="linear probe after the block", **style)
    axes.axhline(levels.iloc[0], label="linear probe on the input", **LINEAR)
    axes.axhline(network, color=PALETTE[1], linewidth=2.0, linestyle=":", label="network")
    shown = np.array([*levels, network])
    shown = shown[np.isfinite(shown)]
    if shown.size and shown.min() > 0 and shown.max() > _DECADES * shown.min():
        log_scale(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("block (0: the network's input)")
