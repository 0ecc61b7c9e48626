"""A notebook's text, Markdown or LaTeX, as safe HTML with its mathematics as MathML."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape
from nbconvert.filters.markdown_mistune import InvalidNotebook, IPythonRenderer, MarkdownWithMath

from resflow.workflow.reports.mathml import UnsupportedLatexError, latex_to_mathml
from resflow.workflow.reports.sanitizer import sanitized

__all__ = ["markdown"]


def markdown(source: str, attachments: dict[str, Any] | None = None, *, place: str | int = "") -> Markup:
    """Markdown as HTML; `place` is where below the title it stands, which the ids of its headings begin with."""
    renderer = _Renderer(escape=False, attachments=attachments or {}, exclude_anchor_links=True)
    renderer.place = str(place)
    return sanitized(MarkdownWithMath(renderer=renderer).render(source))


class _Renderer(IPythonRenderer):
    """Markdown with its mathematics as MathML, or as code where that cannot be."""

    place = ""

    def heading(self, text: str, level: int, **attributes: Any) -> str:
        level = max(level, 2) if self.place else level  # the page's own title is its only one
        words = re.findall(r"\w+", Markup(text).striptags().lower())
        return f'<h{level} id="{"-".join(["section", self.place, *words])}">{text}</h{level}>'

    def inline_math(self, body: str) -> str:
        return self._math(body, display=False)

    def block_math(self, body: str) -> str:
        return self._math(body, display=True)

    def latex_environment(self, name: str, body: str) -> str:
        return self._math(rf"\begin{{{name}}}{body}\end{{{name}}}", display=True)

    def block_mermaidjs(self, code: str) -> str:
        return f"<pre>{escape(code.strip())}</pre>"

    def _embed_image_or_attachment(self, src: str) -> str:
        try:
            return super()._embed_image_or_attachment(src)
        except InvalidNotebook:  # a missing attachment: the page says so in the image's place
            return src

    def _math(self, body: str, *, display: bool) -> str:
        try:
            math = latex_to_mathml(body, display=display)
        except UnsupportedLatexError as error:
            math = f'<code class="latex" title="{escape(error)}">{escape(body.strip())}</code>'
        return f'<span class="display" tabindex="0">{math}</span>' if display else math
