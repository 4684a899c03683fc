# make demo | test | test-slow | test-cluster; see CONTRIBUTING.md
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STORE ?= sqlite:///$(CURDIR)/mlflow.db
DEMO_STORE := sqlite:///$(CURDIR)/demo/mlflow.db
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help install lint types test test-ray test-slow test-cluster bench bench-long demo ui wheel clean

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): torch alone is some 5 GB, a few minutes"
	$(BIN)/python -m pip install --quiet --constraint deploy/constraints.txt -e '.[pipeline,onnx,app,dev]'
	touch $@

install: $(STAMP)   ## .venv with all that the project needs

lint: $(STAMP)      ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)     ## mypy, strict
	$(BIN)/mypy

test: lint types    ## lint, types and all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow and not cluster"

test-ray: $(STAMP)  ## tests that start Ray
	$(BIN)/python -m pytest -m "ray and not cluster"

test-slow: $(STAMP) ## the slow tests
	$(BIN)/python -m pytest -m "slow and not cluster"

bench: $(STAMP)     ## how fast each part is, against a baseline: benchmarks/results/table.md
	$(BIN)/python -m benchmarks

bench-long: $(STAMP) ## the benchmarks that take hours
	$(BIN)/python -m benchmarks --long

test-cluster: $(STAMP)  ## faults of workers, nodes, servers, on clusters of this machine
	$(BIN)/python -m pytest -m "cluster"

demo: $(STAMP)      ## the whole journey on synthetic pictures, under demo/
	$(BIN)/python -m shards sample demo/raw
	$(BIN)/python -m pipelines full --preset demo --data demo/raw --out demo/run --experiment demo --tracking-uri $(DEMO_STORE)
	$(BIN)/emlnet pull demo/champion --tracking-uri $(DEMO_STORE)
	$(BIN)/emlnet predict demo/champion demo/raw/images/val --out demo/maps --overlay --flip

ui: $(STAMP)        ## MLflow over a store: make ui STORE=sqlite:///PATH
	$(BIN)/python -m pipelines ui --tracking-uri $(STORE)

wheel: $(STAMP)     ## dist/emlnet-*.whl: what someone who pulls a model needs
	$(BIN)/python -m build --wheel

clean:              ## caches and the demo
	rm -rf demo build dist .mypy_cache .ruff_cache .pytest_cache
