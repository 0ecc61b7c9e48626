"""What docs/metrics.md says of metrics and tags, read back."""

import re
from pathlib import Path

from resflow.workflow import names

PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
TAGS = {value for key, value in vars(names).items() if key.isupper() and str(value).startswith("resflow.")}
"""Those for machines, by the vocabulary of the store."""


def described_metrics() -> dict[str, set[str]]:
    """Each metric of the tables with the notebooks that are said to log it; a name in capitals stands for any."""
    rows = re.findall(r"^\| `([^`]+)` \|[^|\n]+\|[^|\n]+\| ([\w, ]+) \|[^|\n]*\|$", PAGE, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {name: set(notebooks.split(", ")) for name, notebooks in rows}


def described_tags() -> set[str]:
    """The tags of the tables; of those that a name follows, what stands before it."""
    return set(re.findall(r"^\| `([\w.]+)` \|[^|\n]+\|$", PAGE, re.MULTILINE))


def matches(shown: str, name: str) -> bool:
    """Whether a metric is the one that the page shows."""
    section, slash, last = shown.rpartition("/")
    return name.startswith(section + slash) if last.isupper() else name == shown
