"""docs/benchmarks.md: one section a subject, each replaced as a whole by the benchmarks that measured it."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["PAGE", "put_section"]

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def put_section(text: str) -> None:
    """Put a section into the page in place of the one with its title, its first line, or else at the end."""
    title = text.splitlines()[0]
    assert title.startswith("# "), title
    old = PAGE.read_text() if PAGE.exists() else ""
    sections = [part.strip() for part in re.split(r"^(?=# )", old, flags=re.MULTILINE) if part.strip()]
    titles = [part.splitlines()[0] for part in sections]
    if title in titles:
        sections[titles.index(title)] = text.strip()
    else:
        sections.append(text.strip())
    PAGE.write_text("\n\n".join(sections) + "\n")
