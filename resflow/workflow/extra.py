"""What is said where the workflow's packages, an extra of this one, are not installed."""

from __future__ import annotations

__all__ = ["missing_package"]


def missing_package(error: BaseException) -> str:
    """Which package is missing and how to get it, in one line; "" if the error is of another kind."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name in ("", "resflow"):
        return ""
    return f"the command needs the workflow's packages, and {name} is not installed: pip install 'resflow[workflow]'"
