# Needs Python 3.11 or newer, git and make. Takes uv from the PATH, else fetches it into .uv/.
UV := $(or $(shell command -v uv),$(CURDIR)/.uv/bin/uv)

# What is Python before it is rendered.
CODE := tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help demo test lint format benchmark

help: ## What can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(filter %/.uv/bin/uv,$(UV)) ## Generate a service with the defaults into build/ and run it
	$(UV) tool run cookiecutter@2.7.1 --no-input --overwrite-if-exists --output-dir build .
	PATH="$(patsubst %/,%,$(dir $(UV))):$$PATH" $(MAKE) -C build/architecture_portal dev

test: $(filter %/.uv/bin/uv,$(UV)) ## Bake services, test them from inside, and run them
	PATH="$(patsubst %/,%,$(dir $(UV))):$$PATH" $(UV) run pytest

lint: $(filter %/.uv/bin/uv,$(UV)) ## Check the template's own code; a bake's is checked by the tests
	$(UV) run ruff format --check $(CODE)
	$(UV) run ruff check $(CODE)
	$(UV) run mypy

format: $(filter %/.uv/bin/uv,$(UV)) ## Format the template's own code
	$(UV) run ruff format $(CODE)
	$(UV) run ruff check --fix $(CODE)

benchmark: $(filter %/.uv/bin/uv,$(UV)) ## Measure generation, and the time to the first scheduled task
	PATH="$(patsubst %/,%,$(dir $(UV))):$$PATH" $(UV) run python benchmarks/first_run.py

$(CURDIR)/.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv
