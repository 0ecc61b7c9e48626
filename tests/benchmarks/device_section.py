"""The section on other devices in docs/benchmarks.md: a table a device, from the numbers that `on_device` left."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

from tests.benchmarks.measure import RESULTS
from tests.benchmarks.page import put_section

__all__ = ["keep_measured", "write_section"]

HEAD = """# Speed on accelerators

Written by `make bench-device`, a table for each device it was run on. λ_min and its first call, compilation included,
in float64; populations of (d, k) = (20, 32), n = 1,000, logistic loss, Adam, float32, in runs of 2,000 steps a second,
with the ratio to `jax.vmap` of a scan; linear fits with ridge 1e-4 of float32 samples, and what is proven of how far
their objective is above the least.
"""


def keep_measured(found: dict[str, Any], *, small: bool) -> None:
    """Leave what there is so far, a file a device."""
    device = found["device"].get("device", "unknown")
    name = re.sub(r"\W+", " ", f"{device}{' small' if small else ''}").strip()
    (RESULTS / "device").mkdir(parents=True, exist_ok=True)
    numbers = {"date": datetime.date.today().isoformat(), "small": small, "found": found}
    (RESULTS / "device" / f"{name}.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False))


def write_section() -> None:
    """Render what numbers there are, of sizes that count."""
    kept = [json.loads(path.read_text()) for path in sorted((RESULTS / "device").glob("*.json"))]
    put_section("\n".join([HEAD, *(_table(each) for each in kept if not each["small"])]))


def _table(numbers: dict[str, Any]) -> str:
    found = dict(numbers["found"])
    lines = [f"## {found.pop('device').get('device', 'unknown')}, {numbers['date']}", ""]
    lines += [
        "| What | Time | First call | Runs a second | Ratio | Evidence |",
        "| --- | --: | --: | --: | --: | --- |",
    ]
    for name, one in found.items():
        if "missing" in one:
            lines.append(f"| {name} | not measured: {one['missing']} | | | | |")
            continue
        rate, peer = one.get("runs a second"), found.get(name.replace("population:", "vmap:"), {})
        ratio = f"{rate / peer['runs a second']:.2f}" if rate and "runs a second" in peer else ""
        first = f"{one['first']:.2f} s" if "first" in one else ""
        shown = f"{float(f'{rate:.3g}'):,g}" if rate else ""
        lines.append(f"| {name} | {_time(one['seconds'])} | {first} | {shown} | {ratio} | {_evidence(one)} |")
    if numbers.get("note"):
        lines += ["", numbers["note"]]
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _evidence(one: dict[str, Any]) -> str:
    if "lambda_min" in one:
        text = f"{one['lambda_min_lower']:.12g} ≤ λ_min ≤ {one['lambda_min_upper']:.12g}"
    elif "grad_norm" in one:
        text = f"gradient {one['grad_norm']:.0e}"
        if "proven F − F*" in one:
            text += f", F − F* ≤ {one['proven F − F*']:.0e}"
    else:
        text = f"mean objective {one['objective']:.6g}"
    return text if one.get("converged", True) else f"{text}, did not converge"
