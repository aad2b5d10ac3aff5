# This is not the build system, just a helper: pyproject.toml says what there is.

VENV := .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
# Everything stays inside the clone
export HAMKAAS_CACHE_DIR := $(CURDIR)/.cache/hamkaas

MODEL ?=
PROMPT ?= Once upon a time

.PHONY: help run test check lint types gpu clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "%-8s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable '.[dev]'
	touch $@

run: $(VENV)/installed ## run a llama2 checkpoint on the CPU (MODEL=file TOKENIZER=file PROMPT=text)
	$(RUN) examples/run.py $(MODEL) --prompt "$(PROMPT)"

test: $(VENV)/installed-dev ## run all tests that need no GPU
	$(RUN) -m pytest -n 2 -q

gpu: $(VENV)/installed-dev ## run the tests that need a GPU
	$(RUN) -m pytest -m gpu -q

lint: $(VENV)/installed-dev ## check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/installed-dev ## check types, strictly
	$(RUN) -m pyright --pythonpath $(RUN)

check: lint types test ## everything that must hold before a commit

clean: ## delete what the other targets made
	rm -rf $(VENV) .cache build
