# make demo     from nothing to a model that answers, in every form that people load: 11 minutes, offline; QUICK=1: three
# make test     everything that CI runs            make check          ruff (lint, format) and mypy
# make format   let ruff rewrite the files         make test-upstream  transformers' own model tests, on our model
# make bench    benchmarks/gpu.sh: three hours of one GPU, or without one a small run of eight CPU minutes
# make clients  every export in every client, from PyPI (llama.cpp is compiled), npm and Debian, all in build/clients;
#               MODELS="runs/demo/final ..." takes those in place of two that it trains
# All of them need nothing but Python 3.11 or newer: .venv is made on first use.
PYTHON ?= python3
BIN := .venv/bin
# Two spinning OpenMP threads on two busy cores are slower than one
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-upstream check format bench clients

# env, not a shell: what stops make reaches the demo, which saves
demo: .venv/.ready
	env HF_HUB_OFFLINE=1 $(BIN)/yxanul demo $(if $(QUICK),--quick)

test: .venv/.ready
	$(BIN)/python -m pytest

test-upstream: .venv/.ready
	$(BIN)/python tests/upstream/run.py

bench: .venv/.ready
	PYTHON=$(BIN)/python benchmarks/gpu.sh $(shell nvidia-smi -L > /dev/null 2>&1 || echo --small)

clients: build/clients/venv/.ready
	build/clients/venv/bin/python tests/clients/programs.py
	build/clients/venv/bin/python tests/clients/run.py $(MODELS)

check: .venv/.ready build/typing/yxanul
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=build/typing $(BIN)/mypy -p yxanul

format: .venv/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# pip, not uv: pip finds the CPU build of torch where a machine offers one
.venv/.ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e ".[test]" > .venv/install.log 2>&1 || { cat .venv/install.log; exit 1; }
	touch $@

build/clients/venv/.ready: setup.cfg constraints.txt
	$(PYTHON) -m venv build/clients/venv
	build/clients/venv/bin/pip install -q -c constraints.txt -e ".[export,qlora,int8,test]"
	build/clients/venv/bin/pip install -q llama-cpp-python || echo "not run: llama.cpp, which could not be compiled"
	touch $@

# mypy does not see an editable install whose package is the checkout itself
build/typing/yxanul:
	mkdir -p build/typing
	ln -sfn ../.. $@
