.DEFAULT_GOAL := help
.PHONY: help setup quickstart test slow check format clean

BIN := .venv/bin

help: ## Print these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Create or update .venv (returns at once when nothing changed)
	@./setup.sh

quickstart: setup ## Run the small ensemble on the sample questions, on this machine
	$(BIN)/blender-med experts prepare smollm2-135m gemma3-270m
	$(BIN)/blender-med run pipelines/quickstart.yaml

# One thread per process: side by side, the tests' small models are faster so.
test: setup ## Run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 -m "not slow and not gpu and not network"

slow: setup ## Run the slow tests: real models, training, vLLM engines
	$(BIN)/pytest -m "slow and not gpu and not network"

check: setup ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy blender_med

format: setup ## Format the code and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove builds and caches (not .venv, not runs)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
