# The Python that makes the environment: the first of 3.11 or later; or make PYTHON=/path/to/python3.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
# The CDK's command line and the Node that runs it, both of the environment.
CDK = $(BIN)/python -m heartbeat.cli.cdk
ENVIRONMENT ?= dev
SOURCES := heartbeat stacks local_aws training_code serving lambda benchmarks tests tools app.py

.DEFAULT_GOAL := help
.PHONY: help environment demo demo-stop test test-vllm lint format picture synth bootstrap deploy destroy clean distclean

help: ## This list
	@echo "HeartBeat Engine"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  After make environment: .venv/bin/python -m heartbeat --help"

environment: ## Everything that the other targets need, in .venv and node_modules (done first by all of them)
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later was found. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) tools/environment.py

demo: environment ## The whole pipeline on this machine: no account, no Docker, no GPU (KEEP=1 leaves it running)
	@$(BIN)/python -m heartbeat demo $(if $(KEEP),--keep)

demo-stop: ## End a demo that KEEP=1 left running
	@$(BIN)/python -m heartbeat demo --stop

test: lint ## Linter, types and tests
	$(BIN)/python -m pytest -n 2

test-vllm: .build/vllm/packages.txt ## The endpoint's settings and tool calls against vLLM's own code (downloads 0.3 GB, once)
	HEARTBEAT_TEST_VLLM=1 $(BIN)/python -m pytest -n 0 tests/serving/test_vllm.py

.build/vllm/packages.txt: tests/serving/vllm-packages.txt
	@$(MAKE) --no-print-directory environment
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .build/vllm -r $<
	@cp $< $@

lint: environment ## Linter, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	MYPYPATH=lambda $(BIN)/mypy $(SOURCES)

format: environment ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

picture: environment ## Draw the state machine: docs/state-machine.svg
	$(BIN)/python -m tools.state_machine_picture

synth: environment ## The CloudFormation templates, in cdk.out
	$(CDK) synth --all --quiet -c environment=$(ENVIRONMENT)

bootstrap: environment ## Prepare your AWS account and Region for the CDK, once
	$(CDK) bootstrap

deploy: environment ## Deploy to the AWS account of your credentials (ENVIRONMENT=prod for another environment)
	$(CDK) deploy --all -c environment=$(ENVIRONMENT)

destroy: environment ## End what bills, then remove the stacks (ENVIRONMENT=…; YES=1 does not ask)
	$(BIN)/python -m heartbeat destroy --environment $(ENVIRONMENT) $(if $(YES),--yes)
	$(CDK) destroy --all -c environment=$(ENVIRONMENT) $(if $(YES),--force)

clean: ## Remove what builds and tests leave
	rm -rf .build cdk.out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -not -path './node_modules/*' -prune -exec rm -rf {} +

distclean: clean ## And the environment
	rm -rf .venv node_modules
