# `make` alone prints what there is.
SHELL := /bin/bash
BIN := .venv/bin
export PYTHON
CHECKED := docs/pictures conftest.py sdpo_megatron serving recipes tests benchmarks scripts
# Tests at a time; each may start several processes. More on a larger machine: make test TEST_WORKERS=4
TEST_WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TEST_WORKERS)
# pytest's exit code 5 says that a selection was empty, which is no failure of a suite.
ALLOW_EMPTY := || [ $$? -eq 5 ]

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev quickstart doctor test test-unit test-slow test-exhaustive test-triton test-te test-mutants test-chaos golden check format bench docs manifests cluster-test monitoring monitoring-test slurm-test clean

help:  ## this list
	@echo "sdpo_megatron: reinforcement learning by self-distillation, on Megatron-core and SGLang"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make .venv and install what a run needs (pinned; seconds when it is already there)
	@requirements/install.sh cpu

setup-dev:  ## the same, with what tests, checks and recipes need
	@requirements/install.sh dev

quickstart: setup  ## train a real 135M model with SDPO on this machine; no GPU needed
	@$(BIN)/sdpo train experiment=quickstart $(ARGS)

doctor: setup  ## say what is installed, which device and isolation there is, and what is missing
	@$(BIN)/sdpo doctor

test: setup-dev test-unit test-slow  ## the tests: the fast ones first, then the multi-process ones

test-unit: setup-dev  ## the fast tests alone
	@$(PYTEST) -m "not slow and not gpu" tests $(ALLOW_EMPTY)

test-slow: setup-dev test-unit
	@$(PYTEST) -m "slow and not exhaustive and not gpu" tests $(ALLOW_EMPTY)

test-exhaustive: setup-dev  ## property tests with 10,000 draws each, where make test draws fewer
	@$(PYTEST) -m exhaustive tests

test-mutants: setup-dev  ## wrong versions of the source, one by one: the tests must notice each (5 minutes)
	@PYTHONPATH=. $(BIN)/python -m tests.mutants.run $(ARGS)

# Kills of the engine, the worker, the trainer and whole runs; some ten seconds each.
KILLS ?= 200
SEED ?= 0
test-chaos: setup-dev  ## a run under random kills, then its books are audited: KILLS=200 SEED=0 (an hour)
	@KILLS=$(KILLS) SEED=$(SEED) $(BIN)/python -m pytest -m slow -s tests/loops/test_asynchrony.py -k random_kills

slurm-test: setup-dev  ## recipes on Slurm's own daemons, on loopback (needs root and Debian's slurmctld, slurmd, munge)
	@$(BIN)/python -m pytest -m slow -rs tests/recipes/test_slurm_cluster.py

golden: setup-dev  ## write the losses of tests/golden anew, after a change of numerics that is meant
	@PYTHONPATH=. $(BIN)/python -m tests.golden.replay $(ARGS)

.triton/installed: requirements/triton.txt
	@echo "fetching Triton (240 MB)"
	@rm -rf .triton
	@$(BIN)/python -m pip install --quiet --no-deps --no-compile --disable-pip-version-check --target .triton -r $<
	@touch $@

test-triton: setup-dev .triton/installed  ## the loss's CUDA kernels in Triton's interpreter; no GPU needed
	@PYTHONPATH=.triton TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/objectives/fused/kernels

test-te: setup-dev  ## models of Transformer Engine's layers, no GPU needed (g++; 6 GB, minutes to compile the first time)
	@requirements/install_te.sh
	@.te/bin/python -m pytest tests/actor/model/test_transformer_engine.py

cluster-test: setup-dev  ## the whole loop on a real Kubernetes, pods deleted on the way: SDPO_CLUSTER=COMMAND (tests/cluster)
	@$(BIN)/python -m pytest tests/cluster

check: setup-dev  ## formatting, lint, types
	@$(BIN)/ruff format --check --quiet $(CHECKED) || { $(BIN)/ruff format --check $(CHECKED); exit 1; }
	@$(BIN)/ruff check --quiet $(CHECKED)
	@$(BIN)/mypy
	@echo "check: formatting, lint and types are fine"

format: setup-dev  ## format, and mend what ruff can mend
	@$(BIN)/ruff format $(CHECKED)
	@$(BIN)/ruff check --fix $(CHECKED)

bench: setup  ## seconds by phase and tokens/s of a training step on this machine
	@$(BIN)/python benchmarks/step.py $(ARGS)

docs: setup  ## write the generated pages of docs anew
	@$(BIN)/python -m sdpo_megatron.monitoring.metrics_page > docs/metrics.md
	@$(BIN)/python -m sdpo_megatron.config.page > docs/settings.md
	@$(BIN)/python -W ignore -m recipes.paper_page > docs/recipes-and-the-paper.md
	@$(BIN)/python -m recipes.layouts_page

manifests: setup  ## write the renderings in k8s/ anew
	@$(BIN)/python -m sdpo_megatron.rendering.committed
RUNBOOKS ?= docs/runbooks
monitoring: setup-dev  ## write k8s/monitoring anew from the declarations; links with RUNBOOKS=https://...
	@$(BIN)/python -m sdpo_megatron.monitoring.files --runbooks $(RUNBOOKS) k8s/monitoring

monitoring-test: setup-dev  ## a real Prometheus scrapes a real quickstart of 3 steps; every query is asked
	@$(BIN)/python -m tests.monitoring.real_prometheus $(ARGS)

clean:  ## remove caches and .venv; runs/ and models/ stay
	rm -rf .venv .triton .te build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
