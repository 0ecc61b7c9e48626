"""LaTeX to MathML that today's browsers draw without help: latex2mathml, with its gaps mended or refused."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import convert_to_element

__all__ = ["UnsupportedLatexError", "latex_to_mathml"]


class UnsupportedLatexError(Exception):
    """LaTeX that has no faithful MathML here; the message says what stood in the way."""


def latex_to_mathml(latex: str, *, display: bool = False) -> str:
    r"""The formula `latex`, given without its dollar signs, as one escaped `<math>` element.

    Args:
        latex: A formula in LaTeX's mathematical mode, or a whole environment such as `align`.
        display: Whether it stands in a line of its own.

    Returns:
        MathML with the source in `alttext`. No attribute of it links, styles or runs anything.

    Raises:
        UnsupportedLatexError: If the formula is malformed, or something in it would be drawn as raw LaTeX.

    >>> latex_to_mathml(r"w^\top x").count("<mi>")
    2
    """
    source = latex.strip()
    prepared = _prepare(source)
    mode = "block" if display else "inline"
    try:
        math = convert_to_element(prepared, display=mode)
        if any(element.get("linebreak") for element in math.iter("mspace")):  # \\ outside an environment
            math = convert_to_element(rf"\begin{{align*}}{prepared}\end{{align*}}", display=mode)
    except Exception as error:  # latex2mathml has no common base for its errors, and IndexErrors besides
        raise UnsupportedLatexError(f"{type(error).__name__}: {error}") from error
    _mend(math)
    _space_operators(math)
    _refuse_leftovers(math)
    math.set("alttext", " ".join(source.split()))
    return tostring(math, encoding="unicode", short_empty_elements=False)


# --- before the conversion -------------------------------------------------------------------------------------------

_KNOWN = frozenset([
    "align*", "array", "bmatrix", "Bmatrix", "cases", "matrix", "pmatrix", "smallmatrix", "split", "vmatrix",
    "Vmatrix",
])  # fmt: skip
_ALIGNED = frozenset(
    ["align", "aligned", "alignedat", "eqnarray", "eqnarray*", "flalign", "flalign*", "gather", "gather*", "gathered"]
)
_TRANSPARENT = frozenset(["displaymath", "equation", "equation*", "math"])


def _prepare(latex: str) -> str:
    """Rewrite what latex2mathml would take apart or drop without a word."""

    def environment(match: re.Match[str]) -> str:
        command, name = match[1], match[2]
        if name in _TRANSPARENT:
            return " "
        if name in _ALIGNED:  # unnumbered: the numbers would restart at (1) in every formula
            return rf"\{command}{{align*}}"
        if name not in _KNOWN:
            raise UnsupportedLatexError(f"the environment {name} is not supported")
        return match[0]

    def operator(match: re.Match[str]) -> str:
        return match[1] + "{" + re.sub(r"\\[,;: ]|~|\s+", "\u2009", match[2].strip()) + "}"

    latex = re.sub(r"\\(begin|end)\s*\{([^{}]*)\}(?:(?<=alignedat\})\{\d+\})?", environment, latex)
    latex = re.sub(r"\\label\s*\{[^{}]*\}|\\(?:nonumber|notag)(?![a-zA-Z])", "", latex)
    latex = re.sub(r"\\mathop\s*\{\s*\\(?:mathrm|operatorname|text)\s*\{([^{}]*)\}\s*\}", r"\\operatorname*{\1}", latex)
    latex = re.sub(r"(\\operatorname\*?)\s*\{([^{}]*)\}", operator, latex)
    latex = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", latex)
    latex = latex.replace(":=", r"\coloneqq ")
    latex = re.sub(r"\\not\s*=", r"\\ne ", latex)
    return re.sub(r"\\sim(?![a-zA-Z])", r"\\thicksim", latex)  # \sim itself would become an ASCII tilde


# --- after it --------------------------------------------------------------------------------------------------------

_ATTRIBUTES = frozenset([
    "accent", "columnalign", "columnlines", "columnspacing", "depth", "display", "displaystyle", "fence", "form",
    "height", "largeop", "linethickness", "lspace", "mathbackground", "mathcolor", "mathsize", "mathvariant",
    "maxsize", "minsize", "movablelimits", "notation", "rowlines", "rowspacing", "rspace", "scriptlevel", "stretchy",
    "voffset", "width", "xmlns",
])  # fmt: skip
_DELIMITERS = {
    r"\langle": "⟨", r"\rangle": "⟩", r"\lvert": "|", r"\rvert": "|", r"\lVert": "‖", r"\rVert": "‖", r"\|": "‖",
    r"\vert": "|", r"\Vert": "‖", r"\{": "{", r"\}": "}", r"\lfloor": "⌊", r"\rfloor": "⌋", r"\lceil": "⌈",
    r"\rceil": "⌉",
}  # fmt: skip
_OPENING, _CLOSING, _BARS = frozenset("([{⟨⌊⌈"), frozenset(")]}⟩⌋⌉"), frozenset("|‖")
_LIMITS = frozenset(["min", "max", "inf", "sup", "lim", "gcd", "det", "Pr"])
_SIGNS = frozenset("+-−±∓")
_SCRIPTS = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
_WITH_SCRIPTS = frozenset([*_SCRIPTS, *_SCRIPTS.values()])
_VARIANTS = {
    "bold": "MATHEMATICAL BOLD",
    "bold-italic": "MATHEMATICAL BOLD ITALIC",
    "double-struck": "MATHEMATICAL DOUBLE-STRUCK",
    "sans-serif": "MATHEMATICAL SANS-SERIF",
    "monospace": "MATHEMATICAL MONOSPACE",
}


def _mend(element: Element) -> None:
    """Bring one element and all below it into the part of MathML that every current browser draws (MathML Core)."""
    for child in element:
        _mend(child)
    for name in set(element.attrib) - _ATTRIBUTES:
        del element.attrib[name]
    raw = element.text or ""
    element.text = re.sub(r"&#x([0-9A-Fa-f]+);", lambda match: chr(int(match[1], 16)), raw) or None
    if element.tag in ("mi", "mo", "mn"):
        _mend_token(element, raw)
    elif element.tag == "mspace" and element.get("width") == "negativethinmathspace":
        element.set("width", "-0.167em")
    elif element.tag in _SCRIPTS and element[0].tag == "mo":
        base = element[0]
        if base.text in _LIMITS or base.get("movablelimits") == "true":
            element.tag = _SCRIPTS[element.tag]
            base.set("movablelimits", "true")
    letters = list(element)
    if element.tag == "mrow" and len(letters) > 1 and all(_is_upright_letter(letter) for letter in letters):
        letters[0].text = "".join(letter.text or "" for letter in letters)  # \mathrm{poly} is one word
        del letters[0].attrib["mathvariant"]
        for letter in letters[1:]:
            element.remove(letter)


def _mend_token(token: Element, raw: str) -> None:
    """Letters in their alphabet, operators as operators, bars and brackets that neither stretch nor stand apart."""
    if raw == "&":
        raise UnsupportedLatexError("a column mark & outside an environment with columns")
    text = token.text = _DELIMITERS.get(token.text or "", token.text) or ""
    variant = token.get("mathvariant")
    if variant in _VARIANTS:
        token.text = text = "".join(_styled(letter, _VARIANTS[variant]) for letter in text)
        del token.attrib["mathvariant"]
    elif token.tag == "mi" and text.isascii() and text.isalpha() and raw.startswith("&#x"):
        token.set("mathvariant", "normal")  # \mathrm{d} came as a bare letter, which would be slanted
    if text and not text.strip("′″‴⁗"):
        token.tag = "mo"
    if len(text) != 1:
        return
    if text in "∞∅":
        token.tag = "mi"
    elif token.tag == "mi" and (unicodedata.category(text) in ("Sm", "Ps", "Pe") or text in ";:"):
        token.tag = "mo"
    if token.tag == "mo" and token.get("fence") != "true" and not token.get("minsize"):
        if text in _BARS:
            token.attrib.update(stretchy="false", lspace="0", rspace="0")
        elif text in _OPENING | _CLOSING and token.get("stretchy") is None and text not in "()[]{}":
            token.attrib.update(stretchy="false", form="prefix" if text in _OPENING else "postfix")


def _styled(letter: str, style: str) -> str:
    """`letter` in one of Unicode's mathematical alphabets, or as it is where that alphabet lacks it."""
    name = unicodedata.name(letter, "")
    kind, _, rest = name.removeprefix("LATIN ").removeprefix("GREEK ").partition(" LETTER ")
    kind, rest = (kind, rest) if rest else name.partition(" ")[::2]
    try:
        return unicodedata.lookup(f"{style} {kind} {rest}")
    except KeyError:
        return letter


def _is_upright_letter(element: Element) -> bool:
    return element.tag == "mi" and element.get("mathvariant") == "normal" and len(element.text or "") == 1


def _space_operators(element: Element) -> None:
    """TeX's spaces: thin ones around named operators, as in a log b, none around a sign or within scripts."""
    for child in element:
        _space_operators(child)
    if element.tag in _WITH_SCRIPTS:
        for script in element[1:]:
            for operator in script.iter("mo"):
                if not operator.get("fence"):
                    operator.attrib.update(lspace="0", rspace="0")
    if element.tag not in ("math", "mrow", "mtd", "mstyle", "msqrt"):
        return
    children = list(element)
    for index in reversed(range(len(children))):
        core = children[index]
        while core.tag in _WITH_SCRIPTS and len(core):
            core = core[0]
        if not _is_named_operator(core):
            continue
        if core.tag == "mo":
            core.attrib.update(lspace="0", rspace="0")
        if index + 1 < len(children) and not _is_spaced(children[index + 1], _OPENING | _CLOSING):
            element.insert(index + 1, Element("mspace", width="0.167em"))
        if index > 0 and not _is_spaced(children[index - 1], _OPENING):
            element.insert(index, Element("mspace", width="0.167em"))
    for before, operator in pairwise(children):
        if before.tag == operator.tag == "mo" and operator.text in _SIGNS and before.text not in _CLOSING | _BARS:
            operator.set("form", "prefix")  # a sign, as in a ≥ −b: browsers look only for the start of the row


def _is_named_operator(element: Element) -> bool:
    text = (element.text or "").replace("\u2009", "").replace("\u2006", "")
    return element.tag in ("mi", "mo") and len(text) > 1 and text.isascii() and text.isalpha() and not len(element)


def _is_spaced(neighbour: Element, brackets: frozenset[str]) -> bool:
    """Whether `neighbour` needs no thin space beside it: a bracket, a space, or an operator with its own."""
    text = neighbour.text or ""
    if neighbour.tag == "mspace" or (neighbour.tag == "mi" and not text) or _is_named_operator(neighbour):
        return True
    return neighbour.tag == "mo" and (text in brackets or (text not in "∇∂∑∏∫|‖" and text not in _CLOSING))


def _refuse_leftovers(math: Element) -> None:
    for element in math.iter():
        text = element.text or ""
        if element.tag != "mtext" and re.match(r"\\[a-zA-Z]", text):
            raise UnsupportedLatexError(f"{text} is not supported")
        if element.tag == "mo" and (len(element) or (not text and element.get("fence") != "true")):
            raise UnsupportedLatexError("an operator's name has more than letters in it")
