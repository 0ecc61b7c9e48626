"""The notebooks and sweeps that come with this package: in the wheel, or in the source tree that it runs from."""

from __future__ import annotations

from pathlib import Path

from resflow.workflow.placing import place
from resflow.workflow.project import project_root

__all__ = ["copy_examples", "own_or_shipped"]

_PACKAGE = Path(__file__).parents[1]
_EXAMPLES = ("notebooks/sweeps/*.yaml", "notebooks/*.ipynb")
_MARK = "mlruns/README.md"
"""By this `project_root` knows a project."""


def copy_examples(folder: Path) -> list[Path]:
    """Copy the notebooks and sweeps that come with this package to `folder`/notebooks; `folder` becomes a project.

    Raises:
        InvalidInputError: If there is a `folder`/notebooks already, or nothing can be written there.
    """
    shipped = _shipped()
    paths = [path for pattern in _EXAMPLES for path in sorted(shipped.glob(pattern))]
    mark = [] if (folder / "mlruns").is_dir() else [shipped / _MARK]
    place(folder, {str(path.relative_to(shipped)): path.read_bytes() for path in [*mark, *paths]})
    return [folder / path.relative_to(shipped) for path in paths]


def own_or_shipped(notebook: str) -> Path:
    """The project's own notebook of that name, without .ipynb, or else the one that comes with this package."""
    own, shipped = (root / "notebooks" / f"{notebook}.ipynb" for root in (project_root(), _shipped()))
    return own if own.is_file() else shipped


def _shipped() -> Path:
    """The folder with what comes with this package: of the package, or of the source tree that it runs from."""
    installed = _PACKAGE / "examples"
    return installed if installed.is_dir() else _PACKAGE.parent
