"""What programs write to a terminal, as HTML: colours and links are kept, all other orders to a terminal left out."""

from __future__ import annotations

import re

from markupsafe import Markup
from nbconvert.filters.ansi import ansi2html, strip_ansi

__all__ = ["printable", "terminal"]

_LINK = re.compile(r"\x1b\]8;[^;\x07\x1b\n]*;([^\x07\x1b\n]*)(?:\x07|\x1b\\)")
"""Begins a link, or ends one where it names no address (OSC 8)."""

_ORDER = re.compile(
    r"""\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?            # to the window: its title, pictures (OSC)
      | \x1b[PX^_](?:[^\x1b]*\x1b\\|[^\x1b\n]*)         # to the device (DCS, SOS, PM, APC)
      | \x1b[\ -/]*[0-OQ-WYZ\\`a-~]                     # character sets, cursor""",
    re.VERBOSE,
)
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")


def terminal(text: str) -> Markup:
    """Terminal output, escaped, its colours as spans, and as links those that lead to a page of the web."""
    address, links, marked = "", [], []
    for number, part in enumerate(_LINK.split(str(text))):
        if number % 2:
            address = part
        elif re.match(r"https?://[^\s/]", address):
            links.append(Markup('<a href="{}" rel="noopener noreferrer">{}</a>').format(address, printable(part)))
            marked += ["\x02", *_COLOURS.findall(part)]  # colours end where they ended, within a link or not
        else:
            marked.append(_CONTROL.sub("", _ORDER.sub("", part)))
    following = iter(links)
    html = ansi2html("".join(marked)).replace("\x1b", "")
    return Markup(re.sub("\x02", lambda _: next(following), html))


def printable(text: str) -> str:
    """`text` without colours, links and other orders to a terminal."""
    return _CONTROL.sub("", strip_ansi(_ORDER.sub("", str(text)))).replace("\x1b", "")
