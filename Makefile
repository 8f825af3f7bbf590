# Everything goes through these targets; `make train` and `make test` work on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
# A wheel index with smaller, CPU-only builds of torch:
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt
# One thread per process: with two busy workers more threads only get in each other's way,
# and float sums (hence the exact-resume tests) depend on the thread count.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
EXTRAS := all

.DEFAULT_GOAL := help
.PHONY: help train setup test test-quick test-slow coverage lint format bench docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

train: $(VENV)/.base ## train PPO on CartPole-v1 and say where the results lie
	$(BIN)/lightning-rl fit --config configs/ppo/cartpole.yaml
	@echo "Results: $$(ls -dt logs/*/*/ | head -n 1)"

setup: $(VENV)/.full ## install the package with all extras that tests and lint use

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
	$(PIP) torch $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(PIP) -e .
	@touch $@

$(VENV)/.full: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV), with everything the tests use; the first time takes minutes."
	$(PIP) torch $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(PIP) -e ".[$(EXTRAS)]"
	@touch $(VENV)/.base $@
