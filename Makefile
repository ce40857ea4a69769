# Everything works on a fresh machine: the first target that needs the environment makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-configs test-programs chaos hosts check format ui benchmarks clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/ready  ## run the demo study and make its report (no data, no server needed)
	$(BIN)/transfusion run configs/demo.yaml
	$(BIN)/transfusion analyze demo

test: $(VENV)/ready  ## the default tests, 12 minutes on two cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-configs: $(VENV)/ready  ## every configuration end to end, on miniatures of its data
	$(BIN)/python -m pytest -m configs

test-programs: $(VENV)/ready  ## signals to whole studies, two drivers, secrets in any file
	$(BIN)/python -m pytest -m programs

chaos: $(VENV)/ready  ## hundreds of faults against a real cluster, server and database, 45 minutes
	$(BIN)/python -m pytest -m chaos

hosts: $(VENV)/ready  ## `ray up` over three hosts made of network namespaces (root on Linux)
	$(BIN)/python -m pytest -m hosts -s

check: $(VENV)/ready  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready  ## bring the code into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(VENV)/ready  ## browse the records
	$(BIN)/transfusion ui

benchmarks: $(VENV)/ready  ## every benchmark, against what one would use otherwise
	$(BIN)/python benchmarks/orchestration.py
	$(BIN)/python benchmarks/metric_logging.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/similarity.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/makespan.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/packing.py
	$(BIN)/python benchmarks/memory.py

clean:  ## remove the environment and what the demo made
	rm -rf $(VENV) mlruns mlflow.db reports
