# Each target does all of its own set-up: a virtual environment, the install with pip, then the work.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR ?= $(HOME)/.rayplat

.PHONY: demo test check bench bench-demo bench-test bench-data bench-registry bench-serve chaos clean install install-dev

demo: install
	$(BIN)/rayplat demo --home "$(HOME_DIR)"

test: install-dev
	$(BIN)/python -m pytest -m "not ray and not e2e and not chaos" -n 2 --dist loadfile --durations=10
	$(BIN)/python -m pytest -m "(ray or e2e) and not chaos" --durations=10

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: bench-demo bench-test bench-data bench-registry bench-serve

bench-demo: install-dev
	$(BIN)/python benchmarks/demo.py

bench-test: install-dev
	$(BIN)/python benchmarks/suite.py

bench-data: install-dev
	$(BIN)/python -m benchmarks.data

bench-registry: install-dev
	$(BIN)/python -m benchmarks.registry

bench-serve: install-dev
	.ci/services wrk
	$(BIN)/python -m benchmarks.serve

# Faults in series, longer than a test may be.
chaos: install-dev
	$(BIN)/python -m pytest -m chaos -n 0

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV) || (rm -rf $(VENV); false)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo]"
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/installed
