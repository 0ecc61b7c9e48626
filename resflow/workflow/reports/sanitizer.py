"""Foreign HTML as a fragment that is balanced, runs nothing, loads nothing, and cannot touch what stands around it."""

from __future__ import annotations

import hashlib
import re
from html import unescape

import nh3
from markupsafe import Markup, escape

from resflow.workflow.reports.css import safe_declarations, safe_stylesheet, safe_value

__all__ = ["DRAWING_PROPERTIES", "had_program", "sanitized"]

_DEEPEST = 200
"""Elements within one another; browsers flatten documents from about 500 on, and read them otherwise than written."""

_MOST_OPEN = 5000
"""Elements left open: the time to parse them grows as their square."""

_ROUNDS = 6


def sanitized(html: str) -> Markup:
    """The fragment `html` as one that a browser reads as it is written here, whatever stands before or after it.

    Elements, attributes and addresses are kept by name: those that show something. HTML is parsed as browsers do,
    and the result is a fixed point: parsed and cleaned again it is the same text. Its styles apply to itself only.
    Tables get a box in which they scroll. What is left out is said in its place.

    Args:
        html: HTML as a notebook's output or text has it, well formed or not.

    Returns:
        Safe markup; the same for the same `html`.
    """
    text = str(html).replace("\x00", "").encode(errors="replace").decode()  # half a character has no UTF-8
    text = _WITHOUT_END.sub(r"<\1pre", text)
    if _left_open(text) > _MOST_OPEN:
        return Markup('<p class="note">Too many elements without an end to be shown: this is their text.</p>') + (
            Markup("<p>{}</p>").format(unescape(re.sub(r"<[^>]*>", "", text)))
        )
    decorated = _Decorated(_clean(text))
    if decorated.depth > _DEEPEST:
        return _as_text(text, "Elements nested too deeply to be shown")
    body = decorated.html
    scope = f"output-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if css := safe_stylesheet("\n".join(decorated.styles), f".{scope}"):
        body = f"<style>{css}</style>{body}"
    if decorated.is_styled:
        # The outer box holds in what is in it. Rules for the whole page apply to the inner one, and can't undo that.
        body = f'<div class="styled"><div class="{scope}">{body}</div></div>'
    if had_program(text):
        body += '<p class="note">An interactive part of this output was left out: this report runs no scripts.</p>'
    for _ in range(_ROUNDS):
        former, body = body, _clean(body)
        if body == former:
            return Markup(body)
    return _as_text(text, "Elements nested as no document can be")


def _left_open(html: str) -> int:
    """About how many elements have no end tag, beside those that need none."""
    starts = re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)", html)
    return sum(name.lower() not in _ENDLESS for name in starts) - html.count("</") - html.count("/>")


def _as_text(html: str, reason: str) -> Markup:
    """What a fragment says, without any of its elements."""
    text = nh3.clean(html, tags=set(), clean_content_tags=_DROPPED)
    return Markup(f'<p class="note">{escape(reason)}: this is their text.</p><p>{text}</p>')


def _clean(html: str) -> str:
    return nh3.clean(
        html,
        tags=_TAGS,
        clean_content_tags=_DROPPED,
        attributes={"*": _ATTRIBUTES, **_OWN_ATTRIBUTES},
        attribute_filter=_attribute,
        generic_attribute_prefixes={"aria-", "data-"},
        tag_attribute_values={"input": {"type": {"checkbox", "radio"}}},
        url_schemes={"http", "https", "mailto", "data"},
    )


def had_program(html: str) -> bool:
    """Whether a browser would find a program or a frame in `html`; text that only looks like one is none."""
    found = nh3.clean(html, tags=_PROGRAMS, attributes={}, clean_content_tags=set())
    return re.search(rf"<(?:{'|'.join(_PROGRAMS)})>", found) is not None


def _attribute(tag: str, name: str, value: str) -> str | None:
    """What an attribute may say; None if it may not stand there."""
    if name == "style":
        return safe_declarations(value) or None
    if name in ("href", "src"):
        target = re.sub(r"[\x00-\x20]", "", value).lower()
        allowed: tuple[str, ...] = ("#",)
        if tag in ("img", "image"):
            allowed = ("data:image/",)
        elif tag == "a":
            allowed = ("#", "http://", "https://", "mailto:")
        return value if target.startswith(allowed) else None
    if name == "id" and value.startswith("cell-"):
        return None  # the report's own: its links to cells would lead here
    if "(" in value and name in DRAWING_PROPERTIES:
        return safe_value(value)
    return value


class _Decorated:
    """Cleaned HTML with boxes about its tables, whose heads say of what, and words for its images, without sheets.

    Attributes:
        html: The HTML.
        styles: The style sheets.
        is_styled: Whether there was one, or an element with a style of its own.
        depth: The most elements that stand within one another.
    """

    def __init__(self, html: str) -> None:
        parts: list[str] = []
        self.styles: list[str] = []
        self.is_styled = False
        self.depth = 0
        tables: list[int] = []  # those open, by their place in `parts`
        columns = most_columns = depth = 0
        in_svg = in_head = 0
        for token in _TOKENS.finditer(html):
            sheet, end, name, attributes = token.groups()
            if sheet is not None:
                self.is_styled = True
                self.styles.append(unescape(sheet) if in_svg else sheet)
                continue
            if name and not end:
                depth += name not in _VOID
                self.depth = max(self.depth, depth)
                in_svg += name == "svg"
                self.is_styled |= ' style="' in attributes
                if len(tables) == 1:
                    columns = 0 if name == "tr" else columns + (name in ("td", "th"))
                    most_columns = max(most_columns, columns)
                if name == "table":
                    if not tables:
                        most_columns = columns = 0
                    tables.append(len(parts))
                    parts.append("")  # the box of an outer one, once the number of columns is known
            if name == "img" and ' src="data:' not in attributes:
                described = re.search(r' alt="([^"]+)"', attributes)
                parts.append(
                    f'<span class="note">[image not included: {described[1] if described else _NAMELESS}]</span>'
                )
                continue
            if name == "th" and not end and " scope=" not in attributes:
                parts.append(f'<th scope="{"col" if in_head else "row"}"{attributes}>')
            elif name == "img" and " alt=" not in attributes:
                parts.append(f'<img alt="{_NAMELESS}"{attributes}>')
            else:
                parts.append(token[0])
            in_head += (-1 if end else 1) if name == "thead" else 0
            if name and end:
                depth -= 1
                in_svg -= name == "svg"
                if name == "table" and tables:
                    place = tables.pop()
                    if not tables:
                        parts[place] = f'<div class="scroll{" wide" if most_columns > 9 else ""}" tabindex="0">'
                        parts.append("</div>")
        self.html = "".join(parts)


_TOKENS = re.compile(
    r"""<style(?:\ [^"<>]*="[^"]*")*>(?P<sheet>.*?)</style> | [^<]+ |
        <(/?)([a-zA-Z][^\s/>]*)((?:\ [^"<>]*="[^"]*")*)>""",
    re.VERBOSE | re.DOTALL,
)
"""What cleaned HTML is made of: attributes' values are quoted, and any other `<` is escaped, but in style sheets."""

_WITHOUT_END = re.compile(r"<(/?)(?:plaintext|xmp|listing)(?![^\s/>])", re.IGNORECASE)
"""Old names of `pre`, one of which takes all that follows as text, its own end tag too."""

_NAMELESS = "no description"

_PROGRAMS = {"script", "iframe", "object", "embed", "applet"}

_DROPPED = {
    *_PROGRAMS, "annotation", "annotation-xml", "audio", "canvas", "frameset", "head", "noembed", "noframes",
    "noscript", "template", "video",
}  # fmt: skip
"""What is left out with all that is in it; of other elements that are not kept, the content is."""

_VOID = frozenset(["br", "col", "hr", "img", "input", "wbr"])

_ENDLESS = frozenset(["area", "dd", "dt", "li", "option", "p", "path", "rect", "td", "th", "tr", *_VOID])

_HTML = """
a abbr address article aside b bdi bdo big blockquote br button caption center cite code col colgroup data dd del
details dfn div dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hgroup hr i img input ins kbd label li
mark meter nav ol p pre progress q rp rt ruby s samp section small span strike strong style sub summary sup table tbody
td tfoot th thead time tr tt u ul var wbr
"""
_MATHML = """
math menclose merror mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow ms mspace msqrt mstyle
msub msubsup msup mtable mtd mtext mtr munder munderover none semantics
"""
_SVG = """
circle clipPath defs ellipse feBlend feColorMatrix feComposite feDropShadow feFlood feGaussianBlur feMerge feMergeNode
feOffset filter g image line linearGradient marker mask path pattern polygon polyline radialGradient rect stop svg
symbol text tspan use
"""
_TAGS = set((_HTML + _MATHML + _SVG).split())

_PROPERTIES = """
clip-path clip-rule color color-interpolation-filters cursor display dominant-baseline fill fill-opacity fill-rule
filter flood-color flood-opacity font-family font-size font-style font-weight letter-spacing marker-end marker-mid
marker-start mask opacity overflow paint-order pointer-events shape-rendering stop-color stop-opacity stroke
stroke-dasharray stroke-dashoffset stroke-linecap stroke-linejoin stroke-miterlimit stroke-opacity stroke-width
text-anchor text-rendering transform vector-effect visibility word-spacing
"""
DRAWING_PROPERTIES = frozenset(_PROPERTIES.split())
"""SVG's attributes that are properties of CSS, and may as such name a file."""

_NAMES = """
abbr align alt bgcolor border cellpadding cellspacing char class colspan compact datetime dir face frame headers
height hidden high id label lang low max min noshade nowrap open optimum role rowspan rules scope size span start
style summary tabindex title valign value width
accent accentunder alttext columnalign columnlines columnspacing columnspan depth display displaystyle fence form
framespacing largeop linethickness lspace mathbackground mathcolor mathsize mathvariant maxsize minsize
movablelimits notation rowalign rowlines rowspacing rspace scriptlevel separator stretchy symmetric voffset
amplitude baseProfile clipPathUnits cx cy d dx dy exponent filterUnits fr fx fy gradientTransform gradientUnits in
in2 intercept k1 k2 k3 k4 lengthAdjust markerHeight markerUnits markerWidth maskContentUnits maskUnits mode offset
operator orient pathLength patternContentUnits patternTransform patternUnits points preserveAspectRatio
primitiveUnits r refX refY result rotate rx ry slope spreadMethod stdDeviation tableValues textLength values
version viewBox x x1 x2 xmlns y y1 y2
"""
_ATTRIBUTES = {*DRAWING_PROPERTIES, *_NAMES.split()}
_OWN_ATTRIBUTES = {
    "a": {"href", "name"},
    "feColorMatrix": {"type"},
    "image": {"href"},
    "img": {"src"},
    "input": {"checked", "disabled"},
    "label": {"for"},
    "li": {"type"},
    "ol": {"type"},
    "ul": {"type"},
    "use": {"href"},
}
