# `make demo` and `make test` need Python 3.10 or newer and nothing else. They install into .venv.

PYTHON ?= python3
VENV ?= .venv
# What pip installs as torch, before all else: a range would fetch the newest build there is, often
# with gigabytes of CUDA. `make demo TORCH="torch==2.13.0 --index-url ..."` takes it from elsewhere.
TORCH ?= torch==2.13.0
# Worker processes of the tests.
JOBS ?= 2
# More arguments for what is run: ARGS="-k history" with `make test`, ARGS="--out demo" with `make demo`.
ARGS ?=

BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
# -qq: errors only.
INSTALL := $(PIP) install -qq --constraint constraints.txt
SOURCES := $(shell find lightning_diag -type f -not -name '*.pyc') pyproject.toml README.md LICENSE
# One thread a process: the tensors are small, and the tests run side by side.
PYTEST := OMP_NUM_THREADS=1 LIGHTNING_DIAG_TEST_WHEEL=1 $(BIN)/pytest -n $(JOBS) --doctest-modules --pyargs

.DELETE_ON_ERROR:
.PHONY: help demo test test-all check format bench clean

help: ## Say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /  make \1#/p' Makefile | column -t -s '#' 2>/dev/null \
	  || sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' Makefile

demo: $(VENV)/.demo ## Train three small nets on real digits and see what Doctor says of each
	$(BIN)/lightning-diag demo $(ARGS)

test: check $(VENV)/.wheel ## Build the wheel and run all checks and the quick tests on it
	$(PYTEST) -m "not slow" lightning_diag tests $(ARGS)

test-all: check $(VENV)/.wheel ## The same with the slow tests
	$(PYTEST) lightning_diag tests $(ARGS)

check: $(VENV)/.dev ## Lint, formatting and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.wheel ## Measure what watching costs
	$(BIN)/python benchmarks/overhead.py $(ARGS)

clean: ## Remove the environment, the wheel and the tools' caches
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "lightning_diag needs Python 3.10 or newer, and $(PYTHON) is none: name another one," \
	    "such as PYTHON=python3.12, behind make's target." >&2; exit 1; }
	@echo "Setting up $(VENV) (once, a few minutes)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) $(TORCH)
	@$(INSTALL) hatchling
	@touch $@

# The build sees neither the environment nor the internet: hatchling is in .venv already.
dist/.built: $(SOURCES) | $(VENV)/.torch
	@rm -rf dist
	@$(PIP) wheel -qq --no-deps --no-build-isolation --wheel-dir dist .
	@touch $@

$(VENV)/.demo: dist/.built constraints.txt
	@echo "Installing lightning_diag into $(VENV)"
	@$(INSTALL) --force-reinstall --no-deps dist/*.whl
	@$(INSTALL) "$$(echo dist/*.whl)[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | dist/.built
	@echo "Installing the tools for development into $(VENV)"
	@$(INSTALL) "$$(echo dist/*.whl)[dev]"
	@touch $@

$(VENV)/.wheel: dist/.built $(VENV)/.dev
	@$(INSTALL) --force-reinstall --no-deps dist/*.whl
	@touch $@
