# `make demo` and `make test` set up their own environment in .venv; both are safe to run again.

PYTHON ?= python3
# Another interpreter gets an environment of its own: make test PYTHON=python3.13
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
# Stamps: what the demo needs, and the development tools too.
DEMO_STAMP := $(VENV)/.installed-demo
STAMP := $(VENV)/.installed
# uv, if installed, takes a fraction of the time.
UV := $(shell command -v uv 2>/dev/null)
PIP := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
TORCH := $(shell grep '^torch==' constraints.txt)
# Which build of torch: cpu; default, which brings CUDA on Linux; auto, cpu for demo and test if there is no NVIDIA GPU.
TORCH_BUILD ?= auto
demo test test-slow lint: CPU_TORCH = $(filter cpu auto,$(TORCH_BUILD))
CPU_TORCH = $(filter cpu,$(TORCH_BUILD))
STORAGE ?= runs
REPORT := build/test-report
SEED ?= 1
MINUTES ?= 15
COUNT ?= 300

.PHONY: help demo test test-slow test-gpu fuzz claims chaos mutation fixes lint install clean

help:
	@echo "make demo       from nothing to a leaderboard: builds data, runs a sweep, confirms, prints the page's path"
	@echo "make test       the tests, about ten minutes on two cores"
	@echo "make test-slow  the long ones"
	@echo "make test-gpu   those that need a CUDA device"
	@echo "make fuzz       MINUTES=10: made-up and damaged input on every surface, until something is found or the time is over"
	@echo "make chaos      SEED=n MINUTES=15: break everything that sweeps need, at moments drawn from the seed, and audit"
	@echo "make claims     what the last 'make test' showed of docs/development/claims.md"
	@echo "make mutation   SEED=1 COUNT=300: whether the tests notice random small changes of the code"
	@echo "make fixes      whether a test fails when the fix of a listed bug is reverted"
	@echo "make lint       ruff, codespell, mypy, import layers"
	@echo "make clean      remove .venv (results in $(STORAGE)/ stay)"

install: $(STAMP)

$(DEMO_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older. Name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "installing 150 packages into $(VENV): 2 GB with a CPU build of torch, 6 GB with CUDA; two to five minutes"
	@$(if $(UV),$(UV) venv --quiet --allow-existing --seed --python $(PYTHON) $(VENV),$(PYTHON) -m venv --upgrade-deps $(VENV))
	@# A login node of a cluster has no GPU either: `make install` takes the default build.
	@if [ -n "$(CPU_TORCH)" ] && [ "$$(uname -s)" = Linux ] && { [ "$(CPU_TORCH)" = cpu ] || ! command -v nvidia-smi >/dev/null; }; then \
	  echo "installing the CPU build of torch (make install TORCH_BUILD=default takes the one with CUDA)"; \
	  UV_HTTP_TIMEOUT=10 PIP_TIMEOUT=10 PIP_RETRIES=0 $(PIP) --no-deps --index-url https://download.pytorch.org/whl/cpu $(TORCH) \
	    || echo "the CPU build could not be installed: installing the default build"; fi
	$(PIP) -c constraints.txt -e .
	@touch $@

$(STAMP): $(DEMO_STAMP)
	@echo "installing 50 more packages, which the tests and checks use"
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(DEMO_STAMP)
	$(BIN)/trm sweep run demo --storage $(STORAGE)
	$(BIN)/trm leaderboard --storage $(STORAGE)

test: $(STAMP)
	TEST_REPORT=$(REPORT).jsonl $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

test-slow: $(STAMP)
	TEST_REPORT=$(REPORT)-slow.jsonl $(BIN)/python -m pytest -q -m slow; \
	  status=$$?; $(BIN)/python -m tests.claims --record $(REPORT)-slow.jsonl && exit $$status

test-gpu: $(STAMP)
	TEST_REPORT=$(REPORT)-gpu.jsonl $(BIN)/python -m pytest -q -m gpu -W default; \
	  status=$$?; $(BIN)/python -m tests.claims --record $(REPORT)-gpu.jsonl && exit $$status

claims: $(STAMP)
	$(BIN)/python -m tests.claims --report $(REPORT).jsonl

mutation: $(STAMP)
	$(BIN)/python -m tests.mutation --seed $(SEED) --count $(COUNT)

fixes: $(STAMP)
	$(BIN)/python -m tests.mutation.fixes

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES)

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
