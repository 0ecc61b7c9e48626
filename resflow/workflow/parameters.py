"""A notebook's typed parameters: read from its cell, overridden by text, checked before a kernel starts."""

from __future__ import annotations

import ast
import io
import math
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resflow.errors import InvalidInputError, nearest
from resflow.workflow.declared_types import SourceText, as_declared, literal, parse_declared

__all__ = [
    "Parameter",
    "brief",
    "check_values",
    "declared_in_cell",
    "declared_in_notebook",
    "effective_values",
    "is_parameters_cell",
    "parse_overrides",
    "read_notebook",
]


@dataclass(frozen=True)
class Parameter:
    """One parameter as the notebook declares it.

    Attributes:
        name: Its name in the notebook.
        annotation: Its declared type as written, or the type of its default if none is written; "" if neither is known.
        default: Its default value, or the source text of an expression that only the kernel can evaluate.
        help: The comment behind it.
    """

    name: str
    annotation: str
    default: Any
    help: str = ""


def brief(value: Any) -> str:
    """A value as text; of a long list, how long it is.

    >>> brief([1, 2]), brief(list(range(1000)))
    ('[1, 2]', '[1000 items]')
    """
    text = str(value)
    return f"[{len(value)} items]" if isinstance(value, list) and len(text) > 200 else text


def declared_in_cell(source: str) -> list[Parameter]:
    """The parameters that a cell declares, in its order: `width: int = 32  # units of the hidden layer`.

    Args:
        source: The cell's Python source.

    Raises:
        InvalidInputError: If the cell is not Python.
    """
    try:
        statements = ast.parse(source).body
        comments = {
            token.end[0]: token.string.lstrip("#").strip()
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
    except (SyntaxError, tokenize.TokenError) as error:
        raise InvalidInputError(f"the parameters cell is not Python: {error}") from None
    found: dict[str, Parameter] = {}
    for statement in statements:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                written = _text(annotation)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                written = ""
            case _:
                continue
        default = literal(value)
        if not written and isinstance(default, bool | int | float | str) and not isinstance(default, SourceText):
            written = type(default).__name__
        found[name] = Parameter(name, written, default, comments.get(statement.end_lineno or 0, ""))
    return list(found.values())


def is_parameters_cell(source: str) -> bool:
    """True if a cell holds typed declarations and nothing else, but for imports and text.

    >>> is_parameters_cell("width: int = 32"), is_parameters_cell("width: int = 32; print(width)")
    (True, False)
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return False
    beside = (ast.Import, ast.ImportFrom)
    typed = [statement for statement in statements if isinstance(statement, ast.AnnAssign) and statement.value]
    rest = [statement for statement in statements if statement not in typed and not isinstance(statement, beside)]
    return bool(typed) and all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in rest)


def read_notebook(path: Path) -> Any:
    """The notebook in a file, as a node of nbformat.

    Raises:
        InvalidInputError: If there is none.
    """
    import nbformat

    if not path.is_file():
        raise InvalidInputError(f"{path}: there is no such notebook (looked for {path.absolute()})")
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError, AttributeError):
        raise InvalidInputError(f"{path}: not a Jupyter notebook") from None


def declared_in_notebook(notebook: Any) -> list[Parameter]:
    """The parameters of a notebook's cell tagged `parameters`; none if no cell is.

    Args:
        notebook: A notebook node of nbformat.
    """
    return _declared_in_tagged(notebook, "parameters")


def effective_values(notebook: Any) -> dict[str, Any]:
    """The declared parameters with the values a run of the notebook uses: defaults, overridden by the injected cell.

    Args:
        notebook: A notebook node, as papermill hands it to its engine.
    """
    injected = {parameter.name: parameter.default for parameter in _declared_in_tagged(notebook, "injected-parameters")}
    declared = {parameter.name: parameter for parameter in declared_in_notebook(notebook)}
    values = {name: parameter.default for name, parameter in declared.items()} | injected
    return {
        name: as_declared(value, declared[name].annotation if name in declared else "")
        for name, value in values.items()
        if not name.startswith("PAPERMILL_")  # where papermill notes its own paths
    }


def parse_overrides(parameters: Sequence[Parameter], pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The values that texts stand for, by the declared types: `false` is False for a bool, `007` stays text for a str.

    Args:
        parameters: What the notebook declares.
        pairs: Names and texts, as on a command line; the last one counts where a name comes twice.

    Raises:
        InvalidInputError: If a name is not declared, or a text is not of the declared type.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    values = {}
    for name, text in pairs:
        if name not in declared:
            if not declared:
                raise InvalidInputError(
                    f"{name}={text}: the notebook declares no parameters, in a cell tagged `parameters`"
                )
            raise InvalidInputError(
                f"{name} is not a parameter of the notebook: nearest is {nearest(name, declared, 1)[0]}; "
                f"it declares {', '.join(declared)}"
            )
        values[name] = parse_declared(text, name, declared[name].annotation)
    return values


def check_values(values: Mapping[str, Any]) -> None:
    """Check values by what their names mean in this project's notebooks, before anything is spent on them.

    Raises:
        InvalidInputError: If a value cannot be used, whatever else is chosen.
    """
    for name, value in values.items():
        if name in CHECKS and not isinstance(value, SourceText):
            CHECKS[name](name, value)


def _at_least(least: int) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value is not None and value < least:
            raise InvalidInputError(f"{name}={value} must be at least {least}")

    return check


def _positive(name: str, value: Any) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise InvalidInputError(f"{name}={value} must be a positive finite number")


def _not_negative(name: str, value: Any) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise InvalidInputError(f"{name}={value} must be zero or a positive finite number")


def _fraction(name: str, value: Any) -> None:
    if not 0 < value < 1:
        raise InvalidInputError(f"{name}={value} must lie between 0 and 1, both excluded")


def _loss(name: str, value: Any) -> None:
    from resflow.losses.scalar import as_loss
    from resflow.losses.vector import VECTOR_LOSSES

    if value not in VECTOR_LOSSES:
        as_loss(value)


def _library(check: Callable[[], Callable[[str], None]]) -> Callable[[str, Any], None]:
    """A check of the library's own, imported when it is needed."""

    def run(name: str, value: Any) -> None:
        check()(value)

    return run


def _dataset_check() -> Callable[[str], None]:
    from resflow.data.catalog import check_dataset_name

    return check_dataset_name


def _activation_check() -> Callable[[str], None]:
    from resflow.models.feature_maps import check_activation

    return check_activation


def _architecture_check() -> Callable[[str], None]:
    from resflow.models.architectures import check_architecture

    return check_architecture


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "width": _at_least(1),
    "depth": _at_least(1),
    "blocks": _at_least(1),
    "inner": _at_least(1),
    "steps": _at_least(0),
    "batch_size": _at_least(1),
    "log_every": _at_least(1),
    "seed": _at_least(0),
    "seeds": _at_least(1),
    "epochs": _at_least(1),
    "parts": _at_least(1),
    "counts": _at_least(1),
    "shortest": _at_least(1),
    "longest": _at_least(1),
    "radius": _positive,
    "learning_rate": _positive,
    "max_norm": _positive,
    "ridge": _not_negative,
    "test_fraction": _fraction,
    "delta": _fraction,
    "loss": _loss,
    "dataset": _library(_dataset_check),
    "activation": _library(_activation_check),
    "architecture": _library(_architecture_check),
}
"""What a parameter of that name must satisfy in every notebook; None passes, where the declared type allows it."""


def _declared_in_tagged(notebook: Any, tag: str) -> list[Parameter]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])]
    return declared_in_cell(cells[0].source) if cells else []


def _text(node: ast.expr) -> str:
    """A type as written, without the quotes of a type written as a string."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)
