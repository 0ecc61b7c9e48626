"""What commands leave out of what libraries import, as it takes long and they have no use for it."""

from __future__ import annotations

import sys

__all__ = ["leave_out_formats"]

FORMATS = ("isoduration", "rfc3986_validator", "rfc3987_syntax")
"""Packages that read durations and addresses; the grammar of the last takes a second to be parsed."""


def leave_out_formats() -> None:
    """Have jsonschema, which nbformat imports, go without formats that no notebook's schema speaks of.

    For processes of our own alone: in one that is somebody else's, as a kernel, they may be validated.
    """
    for name in FORMATS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
