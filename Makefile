# Every target sets up what it needs in .venv; nothing is installed outside this folder.
.DEFAULT_GOAL := help
.PHONY: help install lock demo test test-all test-servers lint bench clean

PYTHON ?= python3
BIN := .venv/bin

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: .venv/.installed ## Set up .venv with all dependencies and a private Redis

# Bytecode is compiled here: otherwise the first start, or with PYTHONDONTWRITEBYTECODE every start, takes seconds more.
.venv/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "langgraph-rq needs Python >= 3.11, but $(PYTHON) is $$($(PYTHON) --version 2>&1): run 'make $(MAKECMDGOALS) PYTHON=/path/to/python3.11'"; exit 2; }
	@echo "Setting up .venv (about a minute, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@$(BIN)/langgraph-producer dev redis --install
	@touch $@

lock: ## Write requirements.lock, with hashes, from pyproject.toml; UPGRADE=1 renews the versions in it
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --generate-hashes $(if $(UPGRADE),--upgrade) --output-file requirements.lock pyproject.toml

demo: install ## Answer 20 questions end to end on a private Redis, offline unless OPENAI_API_KEY is set
	@$(BIN)/python -m examples.demo

# Bytecode of tests and of our packages is kept, whatever PYTHONDONTWRITEBYTECODE says: tests start many processes.
TEST_PROCESSES ?= 4
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Servers that only tests need.
.venv/.servers: .venv/.installed tests/servers.py
	@$(BIN)/python -m tests.servers install
	@touch $@

test: .venv/.servers ## Run the tests but those marked slow, in four processes (under 5 minutes; TEST_PROCESSES=n)
	@$(PYTEST) -m "not slow"

test-all: .venv/.servers ## Run all tests, in four processes (about a quarter of an hour)
	@$(PYTEST)

test-servers: .venv/.servers ## Test queue, guards, state and three faults on each Redis and Valkey here (SERVERS=--brief: in three minutes)
	@$(BIN)/python -m tests.servers run $(SERVERS)

lint: install ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: .venv/.servers ## Measure speed and memory against the bare graph, stock RQ and arq, on Redis 8 (about 13 minutes)
	@REDIS_SERVER="$${REDIS_SERVER:-$$($(BIN)/python -m tests.servers newest)}" $(BIN)/python -m benchmarks.run

clean: ## Remove .venv, caches and built files
	@rm -rf .venv .data build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache benchmarks/results
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The system in containers. WORKERS=n scales, PROFILES="demo dashboards tracing" adds services, DEMO=1 is PROFILES=demo.
.PHONY: secrets up down logs dashboard compose-test config-docs api-docs
WORKERS ?= 1
PROFILES ?= $(if $(DEMO),demo)
COMPOSE = $(if $(shell docker compose version 2>/dev/null),docker compose,docker-compose) -f compose.yaml
ALL_PROFILES = --profile demo --profile dashboards --profile tracing
ifneq ($(findstring demo,$(PROFILES)),)
up: export OPENAI_BASE_URL ?= http://model:8000/v1
endif

secrets: ## Create passwords, Redis users, API key and certificates in secrets/
	@deploy/make-secrets.sh secrets

up: secrets ## Start the system in containers (WORKERS=5, DEMO=1 for the offline model)
	@$(COMPOSE) $(PROFILES:%=--profile %) up --build --detach --scale worker=$(WORKERS)
	@echo "gateway    https://localhost:8080   (curl --cacert secrets/ca.crt -H \"Authorization: Bearer \$$(cat secrets/gateway_api_key)\")"
	@echo "dashboard  http://localhost:9181    (admin, secrets/dashboard_password)"
	@echo "metrics    http://localhost:9090"

down: ## Stop the containers and keep their data (delete it with: docker volume rm)
	@$(COMPOSE) $(ALL_PROFILES) down --remove-orphans

logs: ## Follow the logs of the containers
	@$(COMPOSE) $(ALL_PROFILES) logs --follow --tail 100

dashboard: install ## Show queues, jobs and workers on http://127.0.0.1:9181
	@$(BIN)/langgraph-producer dashboard

compose-test: ## Run the system in containers, kill a worker, stop Redis: no task may be lost (needs Docker)
	@$(PYTHON) -m tests.compose_test

config-docs: install ## Write docs/configuration.md from the settings classes
	@$(BIN)/python -m langgraph_rq.shared.dev.settings_page > docs/configuration.md

api-docs: install ## Write docs/reference/langgraph-api-routes.md from what the gateway answers
	@$(BIN)/python -m tests.langgraph_api.surface > docs/reference/langgraph-api-routes.md

.PHONY: chaos soak
chaos: install ## Inject faults into an installation and check every promise (CHAOS="--only C1 C3 --scale 0.1 --brief")
	@$(BIN)/python -m tests.chaos $(CHAOS)

soak: install ## Load for half an hour with kills and outages: memory and keys must not grow (SOAK="--minutes 5")
	@$(BIN)/python -m tests.chaos.soak $(SOAK)
