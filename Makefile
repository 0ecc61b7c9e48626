# Every target works on a bare machine: Python >= 3.11 with venv, git and make.
PYTHON ?= python3
# A file's tests stay together, as they share programs, kernels and runs. A worker that crashes ends the suite: xdist
# may wait for ever for one that it put in the place of another.
PYTEST_ARGS ?= --numprocesses auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

export UV_PYTHON_DOWNLOADS = never
export UV_LINK_MODE = copy

.PHONY: help install demo notebooks test test-device fuzz chaos disk bench bench-device docs lint wheel format ui lab lock clean
.DEFAULT_GOAL := help

help:            ## say what can be made
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/make \1\t\2/p; s/^\([a-z-]*\):  *## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# The environment: uv, at the version of the lock, installs the lock with its hashes and compiles the bytecode.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), and resflow needs Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

install: $(READY)  ## create .venv and install the locked dependencies

demo: $(READY)  ## run the main job on real data, and say where to look
	$(BIN)/resflow run notebooks/train_residual_unit.ipynb

notebooks: $(READY)  ## run every notebook at its default parameters, the comparison of runs last
	@set -e; for notebook in $$(ls notebooks/*.ipynb | grep -v compare_runs) notebooks/compare_runs.ipynb; do \
		case $$notebook in *torch*) $(BIN)/python -c 'import torch' 2>/dev/null \
			|| { echo "== $$notebook is left out: it needs torch"; continue; };; esac; \
		echo "== $$notebook"; $(BIN)/resflow run $$notebook; done

test: $(READY)  ## run the whole suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# In whatever environment has the library's dependencies, pytest and beartype, and JAX for the device; as compiled by
# default, and memory taken as it is needed.
test-device:     ## run the library's tests alone, by PYTHON with its own packages, on the device that its JAX finds
	XLA_FLAGS= XLA_PYTHON_CLIENT_PREALLOCATE=false $(PYTHON) -m pytest --library -p no:benchmark $(DEVICE_ARGS) tests

fuzz: $(READY)  ## try a thousand seeded mutants of each kind of input
	$(BIN)/python -m pytest $(PYTEST_ARGS) --mutants 1000 tests/fuzz

chaos: $(READY)  ## kill parts of forty runs and sweeps, and see the same command complete each
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --strikes 40 tests/chaos

disk: $(READY)   ## fill the disk at twenty moments of a run and of a sweep (as root)
	$(BIN)/python -m pytest --numprocesses 0 --moments 20 tests/test_full_disk.py

bench: $(READY)  ## time the library against its peers, side by side
	$(BIN)/python -m pytest --numprocesses 0 --benchmark-columns=median,rounds tests/benchmarks/bench_*.py

bench-device:    ## time the library by PYTHON with its own packages on the device that its JAX finds, in ten minutes
	$(PYTHON) -m tests.benchmarks.on_device $(DEVICE_ARGS)

docs: $(READY)   ## build the reference of all functions from their docstrings into build/docs
	$(BIN)/python -W error -m pdoc --docformat google --no-show-source --output-directory build/docs resflow resflow.notebook

wheel: $(READY)  ## build the wheel and the source distribution into dist/
	$(BIN)/python -m hatchling build

lint: $(READY)  ## check style, types and that notebooks carry no outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb resflow/skeletons/*.ipynb

format: $(READY)  ## put code and notebooks into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb resflow/skeletons/*.ipynb

ui: $(READY)  ## open MLflow's UI on the runs so far (Ctrl-C ends it)
	$(BIN)/resflow ui

lab: $(READY)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

lock: $(READY)  ## resolve the newest versions of all dependencies again
	$(BIN)/uv pip compile --quiet --universal --upgrade --generate-hashes --no-emit-index-url --no-header \
		--python-version 3.11 --extra workflow --extra lab --extra dev pyproject.toml --output-file requirements.lock

clean:           ## remove .venv and caches; runs in mlruns/ stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
