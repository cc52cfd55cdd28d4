# `make demo` and `make test` set up their own environment in .venv; both are safe to run again.

PYTHON ?= python3
# Another interpreter gets an environment of its own: make test PYTHON=python3.13
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STORAGE ?= runs
MINUTES ?= 10

.PHONY: help demo test test-slow test-gpu fuzz lint install clean

help:
	@echo "make demo       from nothing to a leaderboard: builds data, runs a sweep, confirms, prints the page's path"
	@echo "make test       the tests, about ten minutes on two cores"
	@echo "make test-slow  the long ones"
	@echo "make test-gpu   those that need a CUDA device"
	@echo "make fuzz MINUTES=10    made-up and damaged input on every surface, until something is found or the time is over"
	@echo "make lint       ruff, codespell, mypy, import layers"
	@echo "make clean      remove .venv (results in $(STORAGE)/ stay)"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older. Name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
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

fuzz: $(STAMP)
	$(BIN)/python -m tests.support.fuzz $(MINUTES) -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV)
