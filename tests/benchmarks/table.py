"""The section on the smallest eigenvalue in docs/benchmarks.md, from the numbers that the benchmarks left."""

from __future__ import annotations

import json
from typing import Any

from tests.benchmarks.measure import RESULTS
from tests.benchmarks.page import put_section

PEERS = (
    "all eigenvalues of the reduced matrix",
    "eigsh, cached features",
    "eigsh, jvp of grad",
    "eigsh, curvlinops",
    "matfree, 96 steps",
    "dense jax.hessian",
)

HEAD = """# Speed of the smallest eigenvalue

λ_min of the Hessian of a residual unit in (w, V), logistic loss, float64. `smallest_partial_eigenvalue` returns it
between two bounds; the others return a number. Written by `make bench`: all in one process on the same arrays, warm,
medians (peers that take long are run once). Error is relative to the bracketed value, or the width of the bracket
itself; memory is by how much a call raises the process's peak, in GiB, not counting what is already in hand.
Ratios are to `smallest_partial_eigenvalue` in the same run.

{machine}.
"""


def write_table() -> None:
    """Render what numbers there are."""
    kept = {path.stem: json.loads(path.read_text()) for path in sorted((RESULTS / "spectrum").glob("*.json"))}
    machines = sorted({numbers["machine"] for numbers in kept.values()})
    parts = [HEAD.format(machine="; ".join(machines))]
    random = sorted((numbers for name, numbers in kept.items() if name.startswith("random")), key=_size)
    if random:
        parts.append(f"## At random points, n = {random[0]['n']:,}\n\n" + _rows(random))
        parts.append(_floor(random))
    if "near stationarity" in kept:
        numbers = kept["near stationarity"]
        parts.append(
            f"## Near a stationary point, ‖g‖ = {numbers['gamma']:g}, n = {numbers['n']:,}\n\n" + _rows([numbers])
        )
    parts.append("## Otherwise\n\n" + "\n".join(_otherwise(kept)) + "\n")
    put_section("\n".join(parts))


def _size(numbers: dict[str, Any]) -> int:
    return numbers["d"] * numbers["k"]


def _rows(kept: list[dict[str, Any]]) -> str:
    lines = [
        "| (d, k) | Method | Time | Ratio | Error | Products | Memory |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for numbers in kept:
        size, own = f"({numbers['d']}, {numbers['k']})", numbers["ours"]
        lines.append(
            f"| **{size}** | **bracketed** | {_time(own['seconds'])} | 1 | {own['width']:.0e} "
            f"| {own['factorizations']} factorisations | {own['gib']:.2f} |"
        )
        for name in [*PEERS, *sorted(set(numbers["peers"]) - set(PEERS))]:
            if name in numbers["peers"]:
                row = numbers["peers"][name]
                error = "did not converge" if row["error"] != row["error"] else f"{row['error']:.0e}"
                products = "" if row["products"] is None else f"{row['products']:,}"
                ratio = (
                    f"{row['seconds'] / own['seconds']:,.0f}"
                    if row["seconds"] > 9.5 * own["seconds"]
                    else (f"{row['seconds'] / own['seconds']:.1f}")
                )
                gib = max(row["gib"], 0.0)
                lines.append(
                    f"| {size} | {name} | {_time(row['seconds'])} | {ratio} | {error} | {products} | {gib:.2f} |"
                )
    return "\n".join(lines) + "\n"


def _floor(kept: list[dict[str, Any]]) -> str:
    lines = [
        "The floor is what the operations that cannot be spared, n(d+k)² + 2ndk and (d+k)³/3 a factorisation, take at",
        "the rate of a matrix product as measured in the same run:",
        "",
        "| (d, k) | Time | Floor | Fraction | Residual ‖Hv − λv‖ |",
        "| --- | --: | --: | --: | --: |",
    ]
    for numbers in kept:
        own = numbers["ours"]
        fraction = own["floor"] / own["seconds"]
        lines.append(
            f"| ({numbers['d']}, {numbers['k']}) | {_time(own['seconds'])} | {_time(own['floor'])} | {fraction:.0%} "
            f"| {own['residual']:.0e} |"
        )
    return "\n".join(lines) + "\n"


def _otherwise(kept: dict[str, Any]) -> list[str]:
    lines = []
    for name, numbers in kept.items():
        if name.startswith("first call"):
            lines.append(
                f"- First call in a new process, compilation included, at ({numbers['d']}, {numbers['k']}): "
                f"{_time(numbers['seconds'])}, {numbers['gib']:.2f} GiB of added memory."
            )
    if "population" in kept:
        numbers = kept["population"]
        each = ", ".join(f"{_time(seconds)} under {name}" for name, seconds in numbers["seconds"].items())
        lines.append(
            f"- {numbers['size']} units of ({numbers['d']}, {numbers['k']}) with n = {numbers['n']:,}, in one call: "
            f"a point takes {each}."
        )
    if "a million samples" in kept:
        numbers = kept["a million samples"]
        lines.append(
            f"- n = {numbers['n']:,} at ({numbers['d']}, {numbers['k']}): "
            f"{_time(numbers['seconds'])} with compilation, "
            f"{numbers['gib']:.2f} GiB above the data's own {numbers['data_gib']:.2f} GiB."
        )
    return lines


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
