"""The structure of the package: what may import what, and what must agree with what."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "resflow").glob("*.py"))
WORKFLOW = sorted((ROOT / "resflow" / "workflow").glob("*.py"))

# From the ground up: a module imports only from rows above its own, or from its own row.
FLOORS = [
    ["errors"],
    ["losses", "vector_losses"],
    ["arrays", "parallel"],
    ["data", "files", "datasets", "feature_maps"],
    ["model"],
    ["vector_unit", "deep_network"],
    ["architectures"],
    ["linear", "multinomial_separation", "vector_linear", "train", "population", "partial_hessian"],
    ["certificate", "spectrum", "smallest_eigenvalue", "lanczos", "theorems", "objectives", "regularization"],
    ["saddles"],
    ["vector_certificate", "vector_spectrum", "deep_certificate"],
    ["stationarity", "model_stationarity", "escape", "newton", "search", "measures", "atlas"],
    ["scalar_example", "ridge_minima", "projected_sgd"],
    ["ensemble", "population_problem"],
    ["plots", "plots_atlas", "plots_bounds", "plots_population", "plots_comparison", "findings", "ridge_plots"],
]


def imports(path):
    """Every module that a file imports, anywhere in it, by its full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def within(name, package):
    return name == package or name.startswith(package + ".")


def private_owner(stem):
    """The module a private helper module belongs to: _linear_newton belongs to linear."""
    return stem.lstrip("_").split("_")[0] if stem.startswith("_") else stem


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_library_knows_no_workflow_no_mlflow_and_no_notebooks(path):
    forbidden = ("resflow.workflow", "mlflow", "papermill", "nbclient", "nbconvert", "nbformat", "IPython", "click")
    assert [name for name in imports(path) for package in forbidden if within(name, package)] == []


def test_library_imports_run_one_way():
    floor = {module: level for level, modules in enumerate(FLOORS) for module in modules}
    for path in LIBRARY:
        if path.stem == "__init__":
            continue
        own = private_owner(path.stem)
        assert own in floor, f"{path.name} has no floor in the house: say where it belongs"
        for name in imports(path):
            if within(name, "resflow") and name != "resflow":
                other = private_owner(name.split(".")[1])
                assert floor[other] <= floor[own], f"{path.name} imports {name}, which stands above it"


def test_modules_import_each_other_in_no_circle():
    graph = {
        path.stem: {name.split(".")[1] for name in imports(path) if name.startswith("resflow.")}
        for path in LIBRARY
        if path.stem != "__init__"
    }
    done = set()
    while len(done) < len(graph):
        ready = [stem for stem, needs in graph.items() if stem not in done and needs <= done]
        assert ready, f"a circle among {sorted(set(graph) - done)}"
        done.update(ready)


@pytest.mark.parametrize("path", [*LIBRARY, *WORKFLOW], ids=lambda path: path.stem)
def test_every_module_says_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "?"))


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


def test_notebooks_are_committed_without_outputs():
    import nbformat

    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
        code = sum(len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code")
        assert code < 200, f"{path.name} has {code} lines of code: a loop or a helper wants to move to the library"
