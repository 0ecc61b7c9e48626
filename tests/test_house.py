"""The structure of the package: what may import what, and what must agree with what."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.library_files import is_of_library

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "resflow"
MODULES = sorted(PACKAGE.rglob("*.py"))
WORKFLOW = [path for path in MODULES if PACKAGE / "workflow" in path.parents]
NOTEBOOK = [path for path in MODULES if PACKAGE / "notebook" in path.parents]
PLOTS = [path for path in MODULES if PACKAGE / "plots" in path.parents]
LIBRARY = [path for path in MODULES if path not in (*WORKFLOW, *NOTEBOOK, *PLOTS)]

# From the ground up: a module or folder of the library imports only from rows above its own, or from its own row.
FLOORS = [
    ["compiling", "errors", "floating", "known", "numerals", "origins", "parallel", "progress", "status", "tensors"],
    ["arrays"],
    ["exported"],
    ["keys", "losses"],
    ["data", "labels", "models", "objectives"],
    ["point"],
    ["linear"],
    ["certificates"],
    ["hessian"],
    ["probing"],
    ["stationarity"],
    ["training"],
    ["networks", "studies"],
]
SHARED = {"resflow.errors", "resflow.numerals"}  # how faults of the input and numbers are worded


def imports(path):
    """Every module that a file imports, anywhere in it, by its full name."""
    return imports_of(ast.parse(path.read_text()))


def imports_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, package):
    return name == package or name.startswith(package + ".")


def full_name(path):
    """The name under which a file of the package is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def label(path):
    return full_name(path).removeprefix("resflow.")


def own(path):
    """What a file imports of this package."""
    return {name for name in imports(path) if within(name, "resflow")}


@pytest.mark.parametrize("path", LIBRARY, ids=label)
def test_library_knows_no_workflow_no_mlflow_and_no_notebooks(path):
    forbidden = ("resflow.workflow", "resflow.notebook", "resflow.plots", "mlflow", "papermill")
    forbidden += ("nbclient", "nbconvert", "nbformat", "IPython", "click")
    assert [name for name in imports(path) for package in forbidden if within(name, package)] == []


@pytest.mark.parametrize("path", WORKFLOW, ids=label)
def test_workflow_knows_no_mathematics(path):
    known = ("resflow.workflow", "resflow.plots", *SHARED)
    assert [name for name in own(path) if name != "resflow" and not any(within(name, each) for each in known)] == []
    assert not {"jax", "equinox", "optax"}.intersection(name.split(".")[0] for name in imports(path))


@pytest.mark.parametrize("path", PLOTS, ids=label)
def test_plots_draw_frames_and_know_nothing_else(path):
    known = ("resflow.plots", *SHARED)
    assert [name for name in own(path) if name != "resflow" and not any(within(name, each) for each in known)] == []


def test_library_imports_run_one_way():
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    for path in LIBRARY:
        if path == PACKAGE / "__init__.py":
            continue
        room = full_name(path).split(".")[1]
        assert room in floor, f"{label(path)} has no floor in the house: say where it belongs"
        for name in imports(path):
            if within(name, "resflow") and name != "resflow":
                assert floor[name.split(".")[1]] <= floor[room], f"{label(path)} imports {name}, which stands above it"


def test_rooms_and_modules_import_each_other_in_no_circle():
    names = {full_name(path) for path in MODULES}
    modules = {}
    for path in MODULES:
        if path.name != "__init__.py":
            modules[full_name(path)] = {name for name in imports(path) if name in names} - {"resflow"}
    rooms = {}
    for name, needs in modules.items():
        if not within(name, "resflow.workflow"):
            room = name.split(".")[1]
            others = {need.split(".")[1] for need in needs} - {room, "workflow"}
            rooms.setdefault(room, set()).update(others)
    for graph in (modules, rooms):
        done = {name for name in names if name not in graph}
        while not graph.keys() <= done:
            ready = {name for name, needs in graph.items() if name not in done and needs <= done}
            assert ready, f"a circle among {sorted(graph.keys() - done)}"
            done |= ready


def imported_with(path):
    """What a file imports as it is imported itself, not later in its functions, nor for type checkers alone."""
    waiting = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports_of(node)
        elif not isinstance(node, ast.FunctionDef) and not (
            isinstance(node, ast.If) and "TYPE_" in ast.dump(node.test)
        ):
            waiting += ast.iter_child_nodes(node)


def imported_by(*modules):
    """All that is imported with these modules of the package."""
    paths = {full_name(path): path for path in MODULES}
    needed, waiting = set(modules), list(modules)
    while waiting:
        new = set(imported_with(paths[waiting.pop()])) - needed
        needed |= new
        waiting += new & paths.keys()
    return needed


def test_parameters_are_checked_without_importing_what_takes_long():
    needed = imported_by("resflow.notebook.checks", "resflow.workflow.parameters")
    assert {"resflow.known", "resflow.errors", "ast"} <= needed
    assert {"jax", "numpy", "scipy", "equinox", "mlflow", "pandas"} & needed == set()


def test_kernels_import_nothing_of_what_executes_and_checks_notebooks():
    needed = imported_by("resflow.workflow.session", *map(full_name, NOTEBOOK))
    assert {"resflow.workflow.records", "jax", "pandas"} <= needed
    assert {"nbformat", "jsonschema", "papermill", "nbclient", "nbconvert", "jupyter_client"} & needed == set()


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_private_modules_stay_in_their_folder(path):
    private = {full_name(path) for path in MODULES if path.name.startswith("_") and path.name != "__init__.py"}
    for name in private.intersection(imports(path)):
        assert within(full_name(path), name.rpartition(".")[0]), f"{label(path)} imports the private {name}"


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_every_module_says_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "?"))


def test_the_librarys_tests_need_no_package_of_the_workflows():
    """`make test-device` runs them where there are none."""
    of_library = {path.stem for path in (ROOT / "tests").rglob("test_*.py") if is_of_library(path)}
    assert {"test_population", "test_spectrum", "test_certificate", "test_linear", "test_point"} <= of_library
    assert not {"test_engine", "test_sweep", "test_report", "test_plots", "test_chaos", "test_house"} & of_library
    fixtures = ROOT / "tests" / "conftest.py"
    assert [name for name in imports(fixtures) if name.split(".")[0] in ("mlflow", "papermill", "resflow")] == []


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_environment_agrees_with_the_package_metadata():
    extras = project()["optional-dependencies"]
    wanted = {*project()["dependencies"]}
    for extra in ("parquet", "plots", "workflow", "lab", "dev"):
        wanted |= {requirement for requirement in extras[extra] if not requirement.startswith("resflow[")}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert set(pip) - {"--editable ."} == wanted
    assert f"python{project()['requires-python']}" in environment["dependencies"]


def test_lock_covers_every_requirement_with_hashes_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    locked = {name.lower() for name in re.findall(r"^([A-Za-z0-9_.-]+)==", lock, flags=re.MULTILINE)}
    extras = project()["optional-dependencies"]
    for requirement in [*project()["dependencies"], *extras["workflow"], *extras["lab"], *extras["dev"]]:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement).group().lower()
        assert name == "resflow" or name in locked
    assert "://" not in lock
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.strip())
    assert all("--hash=sha256:" in entry for entry in entries)


def test_version_is_the_same_everywhere():
    version = project()["version"]
    assert f'__version__ = "{version}"' in (ROOT / "resflow" / "__init__.py").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def notebooks(*folders):
    import nbformat

    paths = [path for folder in folders or ("notebooks",) for path in sorted((ROOT / folder).glob("*.ipynb"))]
    return {path: nbformat.read(path, as_version=4) for path in paths}


def code_lines(notebook):
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return sum(bool(line.strip()) for source in sources for line in source.splitlines())


def test_notebooks_are_committed_without_outputs_and_are_short():
    for path, notebook in notebooks("notebooks", "resflow/skeletons").items():
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
        lines = code_lines(notebook)
        assert lines < 120, f"{path.name} has {lines} lines of code: a helper wants to move to resflow.notebook"
    assert sum(map(code_lines, notebooks().values())) <= 1350


def test_notebooks_import_the_face_and_their_own_room():
    allowed = ("resflow.notebook", "resflow.studies", "resflow.plots", "resflow.networks")
    allowed += ("resflow.models.pre_activation",)  # as a reader's own network would be imported
    for path, notebook in notebooks("notebooks", "resflow/skeletons").items():
        code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        used = [name for name in imports_of(ast.parse(code)) if within(name, "resflow") and name != "resflow"]
        assert [name for name in used if not any(within(name, each) for each in allowed)] == [], path.name


def test_the_face_is_small_and_every_name_on_it_is_shown_to_users():
    import resflow

    assert len(resflow.__all__) <= 32
    assert sorted(resflow.__all__) == resflow.__all__
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    shown = "\n".join(page.read_text() for page in pages)
    assert [name for name in resflow.__all__ if not re.search(rf"\b{name}\b", shown)] == []


def test_notebooks_know_the_workflow_by_their_own_room_only():
    import nbformat

    for path in (ROOT / "notebooks").glob("*.ipynb"):
        code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        known = [line for line in code.splitlines() if re.match(r"(from|import) resflow\.workflow\b", line)]
        assert path.stem == "compare_runs" or known == [], f"{path.name} says {known}: import resflow.notebook"


def test_papermill_reads_every_notebooks_parameters_without_complaint(caplog):
    import papermill

    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert papermill.inspect_notebook(str(path))
        assert not caplog.records, f"{path.name}: {caplog.text}"
