# Needs Python 3.11 or newer, git and make. Takes uv from the PATH, else fetches it into .uv/.
# For what calls uv in its turn: the service's Makefile, the tests, the benchmark.
export PATH := $(PATH):$(CURDIR)/.uv/bin
UV := uv
FETCHED_UV := $(if $(shell command -v uv),,.uv/bin/uv)

# What is Python before it is rendered.
CODE := tests benchmarks docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast canary peers lint format screenshots
.PHONY: benchmark benchmark-seeding benchmark-faults benchmark-beat benchmark-history benchmark-ledger

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: $(FETCHED_UV) ## Generate a service with the defaults into build/ and run it
	$(UV) tool run cookiecutter@2.7.1 --no-input --overwrite-if-exists --output-dir build .
	$(MAKE) -C build/architecture_portal dev

test: $(FETCHED_UV) ## Bake services, test them from inside, run them and break them
	$(UV) run pytest

test-fast: $(FETCHED_UV) ## Only what generating does: under a minute, no service is installed
	$(UV) run pytest tests/generate

# The newest Django that django-celery-beat allows; tests/live/inside/test_upstream.py tells when it
# allows a newer one.
canary: export UV_PYTHON := $(or $(UV_PYTHON),3.13)
canary: SERVICE := build/canary/architecture_portal
canary: $(FETCHED_UV) ## Test a service with Django 6.0 and Python 3.13
	$(UV) tool run cookiecutter@2.7.1 --no-input --overwrite-if-exists --output-dir build/canary .
	cd $(SERVICE) && sed -i.stable -e 's/"django~=5.2.0"/"django~=6.0.0"/' \
		-e 's/^requires-python = .*/requires-python = ">=3.12"/' pyproject.toml
	$(MAKE) -C $(SERVICE) test test-engine lint-engine
	cd $(SERVICE) && .venv/bin/python -m mypy . && .venv/bin/python manage.py makemigrations --check
	$(SERVICE)/.venv/bin/python -c "import django; assert django.VERSION[:2] == (6, 0), django.VERSION"

peers: $(FETCHED_UV) ## Run what django-celery-beat and Celery test, on the engine's scheduler and settings
	$(UV) run python -m tests.peers

lint: $(FETCHED_UV) ## Check the template's own code; a bake's is checked by the tests
	$(UV) run ruff format --check $(CODE)
	$(UV) run ruff check $(CODE)
	$(UV) run mypy

format: $(FETCHED_UV) ## Format the template's own code
	$(UV) run ruff format $(CODE)
	$(UV) run ruff check --fix $(CODE)

screenshots: $(FETCHED_UV) ## Take the README's pictures of the operator's view
	$(UV) run python -m docs.screenshots

benchmark: $(FETCHED_UV) ## Measure generation, and the time to the first scheduled task
	$(UV) run python -m benchmarks.first_run

benchmark-seeding: $(FETCHED_UV) ## Measure seeding next to loops, on SQLite and Postgres
	$(UV) run python -m benchmarks.seeding

benchmark-faults: $(FETCHED_UV) ## Kill beat and cut it off, next to stock beat
	$(UV) run python -m benchmarks.faults

benchmark-beat: $(FETCHED_UV) ## Measure beat at 10,000 to 1,000,000 schedules, next to stock beat
	$(UV) run python -m benchmarks.beat
	$(UV) run python -m benchmarks.million

benchmark-history: $(FETCHED_UV) ## Measure what the run history costs a worker, and its queries
	$(UV) run python -m benchmarks.history

benchmark-ledger: $(FETCHED_UV) ## Measure pages and monitors with 5,000,000 runs stored
	$(UV) run python -m benchmarks.ledger

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv
