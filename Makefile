# tagbid: `make demo` and `make test` are all a new machine needs (Python >= 3.11 and a package registry).
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
EXTRAS := .venv/.extras

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(INSTALLED): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tagbid needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

install: $(INSTALLED) ## the virtual environment .venv with everything in it

demo: install ## a seeded world end to end, report in var/demo; DATA=DIR plays real logs instead
	$(BIN)/tagbid loadtest demo $(if $(DATA),--data "$(DATA)")

test: install lint ## everything that must hold, under ten minutes
	$(BIN)/python -m pytest -m "not long and not spark" -n 2

$(EXTRAS): $(INSTALLED) requirements-extras.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-extras.lock
	@touch $@

test-spark: $(EXTRAS) ## the second batch engine against the first; needs Java
	$(BIN)/python -m pytest -m spark tests/dmp/test_spark.py

test-long: install ## what takes longer: fuzzing, long fault runs
	$(BIN)/python -m pytest -m long

lint: install ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install ## the bidder against its yardsticks, table and var/bench/latest.json
	$(BIN)/tagbid loadtest bench --json var/bench/latest.json

lock: ## renew both lock files from pyproject.toml
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install --quiet uv
	.venv/lock/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --extra dev pyproject.toml -o requirements.lock
	.venv/lock/bin/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --extra dev --extra spark --extra dask pyproject.toml -o requirements-extras.lock

clean: ## forget the environment and all state
	rm -rf .venv var

.PHONY: help install demo test test-spark test-long lint bench lock clean
