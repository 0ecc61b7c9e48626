"""A notebook's typed parameters: read from its cell, overridden by text, checked before a kernel starts."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from resflow.errors import InvalidInputError, nearest, shown
from resflow.workflow.declared_types import UNREADABLE, SourceText, as_declared, literal, parse_declared, source_text
from resflow.workflow.notebook_file import metadata_of

__all__ = [
    "Parameter",
    "brief",
    "declared_in_cell",
    "declared_in_notebook",
    "effective_values",
    "is_parameters_cell",
    "parse_overrides",
    "undeclared_names",
    "written_values",
]


@dataclass(frozen=True)
class Parameter:
    """One parameter as the notebook declares it.

    Attributes:
        name: Its name in the notebook.
        annotation: Its declared type as written, or the type of its default if none is written; "" if neither is known.
        default: Its default value, or the source text of an expression that only the kernel can evaluate.
        help: The comment behind it.
        checks: The module that knows what the name means; "" if the notebook names none. The notebook's metadata name
            it as `"resflow": {"checks": "resflow.notebook.checks"}`, and it has a function `check_values(values)`,
            which raises `InvalidInputError` for a value that no run could use.
    """

    name: str
    annotation: str
    default: Any
    help: str = ""
    checks: str = ""

    def check(self, value: Any) -> None:
        """Check a value by what the parameter's name means, if the notebook says who knows.

        Raises:
            InvalidInputError: If the value cannot be used, whatever else is chosen; or if there is no such module.
        """
        if not self.checks or isinstance(value, SourceText):
            return
        try:
            check_values = importlib.import_module(self.checks).check_values
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"the notebook's metadata says resflow.checks={shown(self.checks)}, which must be a module that can be "
                f"imported here and has a function check_values: {error}"
            ) from None
        check_values({self.name: value})


def brief(value: Any) -> str:
    """A value as text; of a long list, how long it is.

    >>> brief([1, 2]), brief(list(range(1000)))
    ('[1, 2]', '[1000 items]')
    """
    try:
        text = str(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = shown(value)
    return f"[{len(value)} items]" if isinstance(value, list) and len(text) > 200 else text


_LONGEST_WITH_MAGICS = 20_000
"""Characters of a cell in which magics are looked for: the time for that grows with the square of the length."""


class _Code(NamedTuple):
    """A cell's statements, the comments at the ends of its lines, and whether Python alone can read it."""

    statements: list[ast.stmt]
    comments: dict[int, str]
    plain: bool


def _read_code(source: str) -> _Code:
    """A cell as Python, IPython's magics and shell lines as the calls they stand for; nothing if it is neither."""
    with contextlib.suppress(*UNREADABLE):
        return _Code(*_read_python(source), plain=True)
    if len(source) <= _LONGEST_WITH_MAGICS:
        from IPython.core.inputtransformer2 import TransformerManager

        with contextlib.suppress(*UNREADABLE, RuntimeError):  # the last where a cell has hundreds of magics
            return _Code(*_read_python(TransformerManager().transform_cell(source)), plain=False)
    return _Code([], {}, plain=False)


def _read_python(source: str) -> tuple[list[ast.stmt], dict[int, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Python says of a cell is for whoever runs it
        statements = ast.parse(source).body
    comments = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                comments[token.end[0]] = token.string.lstrip("#").strip()
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from None
    return statements, comments


def declared_in_cell(source: str) -> list[Parameter]:
    """The parameters that a cell declares, in its order: `width: int = 32  # units of the hidden layer`.

    IPython's magics and shell lines are passed over. A cell that is no Python declares nothing that could be read. What
    a later statement changes, as `width *= 2` does, has that statement's source text as its default.
    """
    code = _read_code(source)
    found: dict[str, Parameter] = {}
    for statement in code.statements:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                written = _text(annotation)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                written = ""
            case _:
                names = _names_set([statement])
                for name in found if "*" in names else found.keys() & names:  # what becomes of it, the kernel can tell
                    found[name] = replace(found[name], default=source_text(statement))
                continue
        default = literal(value)
        if not written and isinstance(default, bool | int | float | str | list | dict):
            written = "" if isinstance(default, SourceText) else type(default).__name__
        found[name] = Parameter(name, written, default, code.comments.get(statement.end_lineno or 0, ""))
    return list(found.values())


def is_parameters_cell(source: str) -> bool:
    """True if a cell holds typed declarations and nothing else, but for imports and text.

    >>> is_parameters_cell("width: int = 32"), is_parameters_cell("width: int = 32; print(width)")
    (True, False)
    """
    try:
        statements, _ = _read_python(source)
    except UNREADABLE:
        return False
    beside = (ast.Import, ast.ImportFrom)
    typed = [statement for statement in statements if isinstance(statement, ast.AnnAssign) and statement.value]
    rest = [statement for statement in statements if statement not in typed and not isinstance(statement, beside)]
    return bool(typed) and all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in rest)


def declared_in_notebook(notebook: Any) -> list[Parameter]:
    """The parameters of a notebook's cell tagged `parameters`, as far as they can be read; none if no cell is."""
    checks = metadata_of(notebook, "resflow").get("checks")
    checks = "" if checks is None else str(checks)
    return [replace(parameter, checks=checks) for parameter in _declared_in_tagged(notebook, "parameters")]


def undeclared_names(notebook: Any) -> Callable[[str], bool]:
    """Which names may be set beside those of `declared_in_notebook`, their types unknown.

    Those are the names that the parameters cell sets in another way than by a declaration, as `a, b = 1, 2` does. In a
    cell with magics or shell lines, or of another language, only the kernel can tell them: any name may be one.
    """
    cell = _tagged(notebook, "parameters")
    if cell is None:
        return lambda name: False
    if not _is_python(notebook):
        return lambda name: bool(re.fullmatch(r"[^\W\d][\w.]*", name))
    code = _read_code(cell.source)
    set_in_cell = _names_set(code.statements)
    if not code.plain or "*" in set_in_cell:
        return lambda name: name.isidentifier() and not keyword.iskeyword(name)
    return set_in_cell.__contains__


def effective_values(notebook: Any) -> dict[str, Any]:
    """The declared parameters with the values a run of the notebook uses: defaults, overridden by the injected cell."""
    annotations = {parameter.name: parameter.annotation for parameter in declared_in_notebook(notebook)}
    return {name: as_declared(value, annotations.get(name, "")) for name, value in written_values(notebook).items()}


def written_values(notebook: Any) -> dict[str, Any]:
    """The declared parameters and those that were injected, with their values as they stand in the cells."""
    values = {parameter.name: parameter.default for parameter in declared_in_notebook(notebook)}
    if _is_python(notebook):
        values |= {each.name: each.default for each in _declared_in_tagged(notebook, "injected-parameters")}
    else:
        values |= metadata_of(notebook, "papermill").get("parameters") or {}
    # under PAPERMILL_ papermill notes its own paths
    return {name: value for name, value in values.items() if not name.startswith("PAPERMILL_")}


def parse_overrides(
    parameters: Sequence[Parameter],
    pairs: Iterable[tuple[str, str]],
    undeclared: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """The values that texts stand for, by the declared types: `false` is False for a bool, `007` stays text for a str.

    Of the pairs of names and texts, as on a command line, the last one counts where a name comes twice. `undeclared`
    tells of names that are parameters as well, though their types are unknown.

    Raises:
        InvalidInputError: If a name is not declared, or a text is not of the declared type.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    values = {}
    for name, text in pairs:
        if name not in declared and not undeclared(name):
            if not declared:
                raise InvalidInputError(
                    f"{shown(name)}: the notebook declares no parameters in a cell tagged `parameters`: leave it out, "
                    "or declare it there"
                )
            known = ", ".join(list(declared)[:40]) + ", ..." * (len(declared) > 40)
            raise InvalidInputError(
                f"{name if name.isidentifier() and len(name) < 80 else shown(name)} is not a parameter of the "
                f"notebook: nearest is {nearest(name, declared, 1)[0]}; it declares {known}"
            )
        values[name] = parse_declared(text, name, declared[name].annotation if name in declared else "")
    return values


def _tagged(notebook: Any, tag: str) -> Any:
    """The first code cell with a tag, or None."""
    return next(
        (cell for cell in notebook.cells if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])), None
    )


def _is_python(notebook: Any) -> bool:
    from resflow.workflow.kernels import kernel_language

    return kernel_language(notebook).lower() in ("python", "ipython", "python3")


def _names_set(statements: list[ast.stmt]) -> set[str]:
    """The names that statements set in their own namespace; "*" among them if some cannot be told."""
    names, nodes = set(), list(ast.iter_child_nodes(ast.Module(statements, [])))
    while nodes:
        node = nodes.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
                continue
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                continue
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name.split(".")[0])
        nodes.extend(ast.iter_child_nodes(node))
    return names


def _declared_in_tagged(notebook: Any, tag: str) -> list[Parameter]:
    cell = _tagged(notebook, tag)
    return declared_in_cell(cell.source) if cell is not None and _is_python(notebook) else []


def _text(node: ast.expr) -> str:
    """A type as written, without the quotes of a type written as a string."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)
