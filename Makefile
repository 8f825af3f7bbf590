# Everything goes through these targets; `make train` and `make test` work on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
# A wheel index with smaller, CPU-only builds of torch:
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# true: install exactly the files that locks/ names by their hashes, as CI does
# (Linux on x86_64, macOS).
HASHED ?= $(CI)
UV := uv==0.13.9

BIN := $(VENV)/bin
MORE_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PIP := $(BIN)/python -m pip install --quiet
PINNED := $(PIP) -c constraints.txt
LOCKED := $(PIP) --require-hashes --no-deps
LOCKS := $(wildcard locks/*.txt)
CPU_BUILD = $(shell grep -o '^torch==[^ ]*' locks/cpu.txt)
# One thread per process: with two busy workers more threads only get in each other's way,
# and float sums (hence the exact-resume tests) depend on the thread count.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
EXTRAS := all

.DEFAULT_GOAL := help
.PHONY: help train setup lock test test-quick test-slow coverage lint format bench docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

train: $(VENV)/.base ## train PPO on CartPole-v1 and say where the results lie
	$(BIN)/lightning-rl fit --config configs/ppo/cartpole.yaml
	@echo "Results: $$(ls -dt logs/*/*/ | head -n 1)"

setup: $(VENV)/.full ## install the package with all extras that tests and lint use

lock: | $(BIN)/python ## write the hashes of every pinned distribution into locks/
	$(PIP) $(UV)
	$(BIN)/python locks/write.py $(BIN)/uv $(MORE_INDEX)

test: $(VENV)/.full ## run the tests, without those marked slow
	$(PYTEST) -m "not slow" -n $(WORKERS) --dist worksteal

test-quick: $(VENV)/.full ## run the tests that need no process of their own
	$(PYTEST) -m "not slow and not system" -n $(WORKERS) --dist worksteal

test-slow: $(VENV)/.full ## run the tests marked slow, one at a time
	$(PYTEST) -m slow

coverage: $(VENV)/.full ## run the tests and show which lines they reach; fails below 90 %
	$(PYTEST) -m "not slow" -n $(WORKERS) --dist worksteal \
		--cov=lightning_rl --cov-report=term-missing:skip-covered --cov-fail-under=90

docs: $(VENV)/.full ## build the documentation site into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Documentation: site/index.html"

lint: $(VENV)/.full ## check style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: $(VENV)/.full ## apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.full ## compare speed with other libraries; BENCH="--cases ppo_cartpole" narrows it
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.speed.run $(BENCH)

clean: ## remove caches and build outputs; runs under logs/ and the environment stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf

# Installed again only when the requirements change.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes minutes."
	$(PINNED) torch $(MORE_INDEX)
	$(PINNED) -e .
	@touch $@

$(VENV)/.full: pyproject.toml constraints.txt $(LOCKS) | $(BIN)/python
	@echo "Installing into $(VENV), with everything the tests use; the first time takes minutes."
ifeq ($(HASHED),true)
	@# Torch's build for CPUs where pip finds one; elsewhere wheels.txt names the others.
	if $(PIP) --dry-run --no-deps $(CPU_BUILD) $(MORE_INDEX) 2> /dev/null; then \
		$(LOCKED) -r locks/cpu.txt $(MORE_INDEX); fi
	$(LOCKED) --only-binary :all: -r locks/wheels.txt
	$(LOCKED) --no-build-isolation -r locks/sources.txt
	@# Only builds for GPUs miss something now: their libraries.
	$(BIN)/python -m pip check > /dev/null || $(LOCKED) --only-binary :all: -r locks/cuda.txt
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
else
	$(PINNED) torch $(MORE_INDEX)
	$(PINNED) -e ".[$(EXTRAS)]"
endif
	@touch $(VENV)/.base $@
