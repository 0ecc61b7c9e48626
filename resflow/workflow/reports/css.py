"""Style sheets and style attributes of foreign HTML: what asks for nothing is kept, and kept to its own place."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import tinycss2

__all__ = ["safe_declarations", "safe_stylesheet", "safe_value"]

_LOADING = frozenset([
    "-moz-element", "-webkit-cross-fade", "-webkit-image-set", "cross-fade", "element", "expression", "image",
    "image-set", "paint", "src", "url",
])  # fmt: skip
"""Functions that name a file or run something."""

_LOADING_PROPERTIES = frozenset(["-moz-binding", "behavior", "-ms-behavior"])

_GROUPS = frozenset(["media", "supports", "keyframes", "-webkit-keyframes"])
"""At-rules that only group other rules; others import files, or name fonts, or reach beyond a selector."""

_PAGE = frozenset(["html", "body", ":root", ":host", ":scope"])


def safe_stylesheet(css: str, scope: str) -> str:
    """A style sheet that asks for nothing and applies only to what is within an element.

    Args:
        css: The style sheet.
        scope: A selector of the element. Rules for the whole page become rules for it.

    Returns:
        The rules that could be kept, without any `<`.
    """
    rules = tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True)
    return "\n".join(filter(None, (_rule(rule, scope) for rule in rules)))


@lru_cache(maxsize=4096)
def safe_declarations(css: str) -> str:
    """The declarations of a style attribute or a rule that ask for nothing."""
    if "(" not in css and "\\" not in css and "<" not in css:
        return css.strip()  # without functions there is nothing to load
    return _declarations(tinycss2.parse_blocks_contents(css, skip_comments=True, skip_whitespace=True))


def safe_value(css: str) -> str | None:
    """The value of one property, or None if it would load something."""
    return None if _loads(tinycss2.parse_component_value_list(css)) else css


def _rule(rule: Any, scope: str) -> str:
    if rule.type == "error" or _is_broken(rule.prelude):
        return ""
    if rule.type == "qualified-rule":
        content = tinycss2.parse_blocks_contents(rule.content, skip_comments=True, skip_whitespace=True)
        selector, declarations = _selector(rule.prelude, scope), _declarations(content)
        return f"{selector} {{{declarations}}}" if selector and declarations else ""
    if rule.type != "at-rule" or rule.lower_at_keyword not in _GROUPS or rule.content is None:
        return ""
    inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
    scope = "" if "keyframes" in rule.lower_at_keyword else scope
    rules = " ".join(filter(None, (_rule(each, scope) for each in inner)))
    prelude = tinycss2.serialize(rule.prelude)
    return f"@{rule.lower_at_keyword} {prelude.strip()} {{{rules}}}" if rules and "<" not in prelude else ""


def _selector(prelude: list[Any], scope: str) -> str:
    """The selectors of a rule, each put behind the scope; "" if none may stay.

    `:where` adds no weight, so that rules overrule each other, and the report's, as they would without it.
    """
    selectors: list[list[Any]] = [[]]
    for token in prelude:
        if token == ",":
            selectors.append([])
        elif token.type != "comment":
            selectors[-1].append(token)
    kept = []
    for selector in selectors:
        text = tinycss2.serialize(selector).strip()
        if not text or "<" in text or text[0] in "+>~|&":  # beside the scope, not within it
            continue
        if not scope:  # of key frames: percentages
            kept.append(text)
            continue
        first, _, rest = text.partition(" ")
        if first.lower() in _PAGE:
            if rest.lstrip()[:1] not in ("+", "~", "|"):
                kept.append(f":where({scope}) {rest}".strip())
        else:
            kept.append(f":where({scope}) {text}")
    return ", ".join(kept)


def _declarations(content: list[Any]) -> str:
    kept = []
    for entry in content:
        if entry.type != "declaration" or entry.lower_name in _LOADING_PROPERTIES or _loads(entry.value):
            continue
        value = tinycss2.serialize(entry.value).strip() + (" !important" if entry.important else "")
        if "<" not in entry.name + value:
            kept.append(f"{entry.name}: {value}")
    return "; ".join(kept)


def _loads(values: list[Any]) -> bool:
    """Whether something in a value names a file other than one that it brings along."""
    for value in values:
        if value.type == "error":
            return True
        if value.type == "url" and not _is_within(value.value):
            return True
        if value.type == "function":
            texts = [each.value for each in value.arguments if each.type == "string"]
            brought = value.lower_name == "url" and len(texts) == 1 and _is_within(texts[0])
            if (value.lower_name in _LOADING and not brought) or _loads(value.arguments):
                return True
        elif value.type in ("() block", "[] block", "{} block") and _loads(value.content):
            return True
    return False


def _is_broken(tokens: list[Any]) -> bool:
    """Whether some text in a selector or condition could not be read, a string that does not end among it."""
    inner = ("function", "() block", "[] block", "{} block")
    return any(
        token.type == "error"
        or (token.type in inner and _is_broken(token.arguments if token.type == "function" else token.content))
        for token in tokens
    )


def _is_within(address: str) -> bool:
    return address.strip().lower().startswith(("#", "data:image/"))
