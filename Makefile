# Everything a person or CI does with a checkout. `make help` lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
CODE := proto/src agent/src rules/src services tests tools
UV := $(shell command -v uv || echo .tools/bin/uv)
PYTEST := $(BIN)/python -m pytest -q

.PHONY: help setup run demo test check format generate bpf kafka kafka-stop dist clean \
	test-unit test-conformance test-integration test-kernel test-e2e bench

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what `make run` needs; quick when there is nothing to do
	@tools/setup run

run: setup ## Run the whole system on this machine; ARGS="--api-listen 127.0.0.1:8443 …" are passed on
	@exec $(BIN)/microedr up $(ARGS)

demo: setup ## Run a harmless attack against a running system and show what becomes of it
	@$(BIN)/microedr demo $(ARGS)

test: check ## Check the code and run every test, real Kafka, PostgreSQL and eBPF included
	@$(MAKE) --no-print-directory test-unit test-conformance test-integration test-kernel test-e2e

check: test-setup ## Lint, types, architecture, protocol and generated code
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy proto/src agent/src rules/src $(wildcard services/*/src) tests tools/bench
	$(BIN)/lint-imports
	@tools/check-dependencies
	$(BIN)/buf lint proto
	@tools/check-breaking
	@proto/generate.sh --check

.PHONY: test-setup
test-setup:
	@tools/setup test

test-unit: test-setup ## Unit and contract tests
	$(PYTEST) -n 2 tests/unit tests/contract

test-conformance: test-setup ## One suite for every bus backend, a real Kafka included
	$(PYTEST) tests/conformance

test-integration: test-setup ## Parts together on real TLS, PostgreSQL and Kafka
	$(PYTEST) tests/integration

test-kernel: test-setup ## eBPF, privileges and kills on the running kernel (root)
	$(PYTEST) tests/kernel

test-e2e: test-setup ## The whole system: kernel to API and back, kill -9, restarts (root)
	$(PYTEST) tests/e2e

format: ## Rewrite the code in the house's format
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

generate: setup ## Regenerate code from proto/ and docs from the code
	proto/generate.sh
	$(BIN)/python -m microedr_chassis.catalogue docs/metrics.md

bpf: ## Build the BPF objects
	$(MAKE) -C agent/bpf

kafka: test-setup ## Start a real Kafka on this machine for trying things out
	tools/kafka start

kafka-stop: ## Stop it
	tools/kafka stop

dist: setup ## Build a wheel of every member into dist/, the agent's with its BPF objects
	@for member in proto rules agent services/*; do $(UV) build --quiet --wheel --out-dir dist $$member || exit 1; done
	@ls -1 dist

bench: test-setup ## Run every benchmark; results in build/bench/*.json and a table
	$(BIN)/python -m tools.bench.run

bench-%: test-setup ## Run one benchmark, for example bench-detector
	$(BIN)/python -m tools.bench.run $*

clean: ## Remove what was built, but not .venv
	rm -rf build dist agent/src/microedr_agent/bpf/*.o
