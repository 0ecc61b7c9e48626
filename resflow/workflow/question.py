"""What a notebook asks: its title and the words below it, which MLflow shows above its runs."""

from __future__ import annotations

import re
from typing import Any

from resflow.workflow.addresses import without_secrets
from resflow.workflow.limits import shortened

__all__ = ["question_of"]

LONGEST = 1000
"""Characters: more would push the runs off the screen."""

_HEADING = re.compile(r"\s*#{1,6}\s+(?P<title>[^\n]+?)[\s#]*(?:\n|$)")
_BETWEEN_SENTENCES = re.compile(r"(?<=[^\sA-Z][.!?])\s+")  # not behind an initial
_WHOLE = re.compile(r"[.!?][\])}*_\"'`]*$")


def question_of(notebook: Any) -> str:
    """The title of a notebook's first Markdown cell and the first sentences below it, in Markdown; "" without any.

    MLflow sets no mathematics: the sentences end where it begins.

    Args:
        notebook: A node of nbformat.
    """
    text = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown" and cell.source.strip()), "")
    heading = _HEADING.match(text)
    title = f"### {heading['title']}" if heading else ""
    paragraph = text[heading.end() if heading else 0 :].strip().split("\n\n")[0]
    return shortened(without_secrets("\n\n".join(filter(None, [title, _prose(paragraph)]))), LONGEST)


def _prose(paragraph: str) -> str:
    """The whole sentences at the beginning of a paragraph, up to the first that has mathematics in it."""
    if re.match(r"#{1,6}\s|```|\$\$|<|\|", paragraph):
        return ""
    sentences = _BETWEEN_SENTENCES.split(" ".join(paragraph.split()))
    kept = 0
    while kept < len(sentences) and "$" not in sentences[kept]:
        kept += 1
    if kept == len(sentences) and kept > 1 and not _WHOLE.search(sentences[-1]):
        kept -= 1  # it goes on behind a formula
    elif kept == len(sentences) == 1 and sentences[0].endswith((":", ",")):
        kept = 0
    return " ".join(sentences[:kept])
