"""The folder of what may be thrown away at any time: `.resflow_cache` in the project's."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CACHE", "cache_folder"]

CACHE = ".resflow_cache"
"""The folder's name; nothing in it is needed, and git ignores it."""


def cache_folder(root: Path, name: str) -> Path | None:
    """A folder in it, made if it is not there; None where it cannot be made."""
    cache = root / CACHE
    try:
        (cache / name).mkdir(parents=True, exist_ok=True)
        for file, text in ((".gitignore", "*\n"), ("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n")):
            if not (cache / file).exists():
                (cache / file).write_text(text)
    except OSError:
        return None
    return cache / name
