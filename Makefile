# The project's commands; `make help` lists them. ARGS goes to the command: make test ARGS='-k packed'
.DEFAULT_GOAL := help
.PHONY: help install search test quick check check-cluster check-gpu newest clean

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# To use an environment that exists: make test PY=/path/to/python (nothing is then installed).
PY ?= $(VENV)/bin/python
READY := $(if $(filter $(VENV)/bin/python,$(PY)),$(STAMP))

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## make .venv and install the project there, with the tested versions

search: $(READY)  ## run a search on this machine: make search ARGS='--help'
	$(PY) tune/search.py $(ARGS)

test: $(READY)  ## run every test that this machine can run, and list those it skips
	@PY=$(PY) scripts/test $(ARGS)

quick: $(READY)  ## run the tests that are fast and do not start Ray
	$(PY) -m pytest -m 'not slow and not ray' $(ARGS)

check: $(READY)  ## run all of CI: format, lint, types, import contracts, tests
	@PY=$(PY) scripts/check

check-cluster: $(READY)  ## install what the tests on several hosts need, and run them (needs root and Linux)
	@PY=$(PY) scripts/check-cluster $(ARGS)

check-gpu: $(READY)  ## run the tests that need a CUDA device
	@PY=$(PY) scripts/check-gpu $(ARGS)

newest: $(READY)  ## run the tests with the newest libraries that pyproject.toml allows, and print what differs
	@$(PY) scripts/newest $(ARGS)

clean:  ## remove .venv, build outputs and tool caches, but not runs/
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find trbert envs tune tests -name __pycache__ -type d -prune -exec rm -rf {} +

# This runs again when the dependencies change. The stamp is written last, so an interrupted install also runs again.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "trbert: no '$(PYTHON)' here. Name a Python >= 3.11: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "trbert: needs Python >= 3.11, and '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1). Name another: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "trbert: '$(PYTHON)' cannot make a virtual environment (no ensurepip). On Debian and Ubuntu: apt install python3-venv; or name another Python: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[search,test,dev]'
	@touch $@
