# `make demo` and `make test` set up their own environment in .venv; both are safe to run again.

PYTHON ?= python3
# Another interpreter gets an environment of its own: make test PYTHON=python3.13
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STORAGE ?= runs
SEED ?= 1
MINUTES ?= 15

.PHONY: help demo test test-slow test-gpu chaos lint install clean

help:
	@echo "make demo       from nothing to a leaderboard: builds data, runs a sweep, confirms, prints the page's path"
	@echo "make test       the tests, about ten minutes on two cores"
	@echo "make test-slow  the long ones"
	@echo "make test-gpu   those that need a CUDA device"
	@echo "make chaos      SEED=n MINUTES=15: break everything that sweeps need, at moments drawn from the seed, and audit"
	@echo "make lint       ruff, codespell, mypy, import layers"
	@echo "make clean      remove .venv (results in $(STORAGE)/ stay)"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older. Name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): 2 GB of packages, five minutes and more"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/trm sweep run sweeps/demo.py --storage $(STORAGE)
	$(BIN)/trm leaderboard --storage $(STORAGE)

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart=0

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -q -m gpu -W default

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV)
