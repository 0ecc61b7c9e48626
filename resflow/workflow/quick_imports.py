"""What commands leave out of what libraries import, as it takes long and they have no use for it."""

from __future__ import annotations

import sys

__all__ = ["leave_out_grammars"]


def leave_out_grammars() -> None:
    """Have jsonschema, which nbformat imports, go without the grammar of internationalised addresses.

    Parsing that takes a second, and no notebook's schema speaks of them. For processes of our own alone: in one that
    is somebody else's, as a kernel, they may be validated.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
