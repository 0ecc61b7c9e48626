"""Which blocks earn their place, over the runs of a comparison that recorded what each block adds."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from resflow.numerals import number_text
from resflow.plots.labels import point_name
from resflow.workflow.reports import overview
from resflow.workflow.reports.comparison import Comparison

__all__ = ["ALL", "about_block_gains", "block_gains"]

_GAIN = re.compile(r"held_out_block_gain/(\d+)")
_LEVEL = 0.05
ALL = "all"
"""What stands for all blocks of a setting together, in the place of one."""


def block_gains(comparison: Comparison) -> pd.DataFrame | None:
    """What each block adds for a linear probe on held-out samples, over the runs of each setting; None without any.

    One row a setting and block, and one for all blocks of a setting together: the columns setting, block, runs, mean,
    standard_error over runs, and verdict: "adds" or "loses" where the mean exceeds its error by Student's t at 5 %
    divided by the number of rows, else "not told from 0". Runs without a finite value are left out; of a single one
    there is no error, and no verdict.
    """
    points = comparison.points
    columns = {int(found[1]): name for name in points if (found := _GAIN.fullmatch(str(name)))}
    axes = overview.shown_axes(comparison)
    rows: list[dict[str, Any]] = []
    for setting, runs in points.groupby(axes, dropna=False) if axes else [((), points)]:
        named = point_name(dict(zip(axes, setting, strict=True))) or "all runs"
        gains: dict[Any, pd.Series] = {block: runs[columns[block]] for block in sorted(columns)}
        gains = {block: values[np.isfinite(values)] for block, values in gains.items()}
        gains = {block: values for block, values in gains.items() if len(values)}
        if len(gains) > 1:
            gains[ALL] = sum(gains.values())  # of runs that have all of them
        for block, values in gains.items():
            error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            row = {"setting": named, "block": block, "runs": len(values), "mean": float(values.mean())}
            rows.append(row | {"standard_error": error})
    if not rows:
        return None
    table = pd.DataFrame(rows)
    return table.assign(verdict=[_verdict(row, len(table)) for row in table.itertuples()])


def about_block_gains(table: pd.DataFrame) -> str:
    """Which blocks of each setting add something, and what that rests on, in Markdown."""
    lines = []
    for setting, rows in table.groupby("setting", sort=False):
        single = rows[rows["block"] != ALL]
        told = {name: list(part["block"]) for name, part in single.groupby("verdict", sort=False)}
        said = "; ".join(f"{_blocks(blocks)} {name}" for name, blocks in told.items())
        whole = rows.iloc[-1]
        lines.append(
            f"- **{setting}**: {said}; in all {number_text(whole['mean'], 3)} ± "
            f"{number_text(whole['standard_error'], 2)}, {whole['verdict']}"
        )
    return _ABOUT.format(lines="\n".join(lines))


def _verdict(row: Any, rows: int) -> str:
    if row.runs < 2:
        return "not judged"
    quantile = float(student.ppf(1.0 - _LEVEL / (2.0 * rows), row.runs - 1))
    if not abs(row.mean) > quantile * row.standard_error:
        return "not told from 0"
    return "adds" if row.mean > 0 else "loses"


def _blocks(blocks: list[int]) -> str:
    return f"block{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"


_ABOUT = """
**Which blocks earn their place?** How much lower the loss of a linear probe is behind a block than before it, on
held-out samples:

{lines}

A block's mean over the runs of its setting is told from 0 where it exceeds its standard error by Student's t at 5 %,
divided by the number of rows below; that is how far other seeds would have moved it, on samples of the same data. With
few seeds only large gains are told. A block that adds nothing for a linear probe may still prepare what a later one
adds.
"""
