# Every target makes the virtual environment first where it is missing or older than the two files that describe it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# One worker a core, and one thread a worker (see tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8

.DEFAULT_GOAL := help
.PHONY: help venv demo test slow check bench docs

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

venv: $(STAMP)  ## make .venv with everything that the other targets need

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mezzotint needs Python 3.11 or newer; give one with make PYTHON=/path/to/python" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)  ## train, guide and sample on the digits; the result is in demo/
	$(BIN)/mezzotint demo --out demo

test: $(STAMP)  ## the quick tests
	$(PYTEST)

slow: $(STAMP)  ## the tests that take minutes
	$(PYTEST) -m slow

check: $(STAMP)  ## format, lint, types, import layers, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP)  ## the speed figures of the documentation
	$(BIN)/python bench/run.py

docs: $(STAMP)  ## serve the documentation on this machine
	$(BIN)/mkdocs serve
