# make demo      five machines as namespaces, joined into one mesh, before your eyes (needs root)
# make test      everything: static checks, pure tests, scenes in namespaces (needs root)
# make check     the fast part: ruff, mypy, import layers, house rules
# make help      all targets

SHELL := /bin/sh
PYTHON_VENV := .venv/bin/python
HOST ?= cloud-a1
ARGS ?=
BENCH ?=
SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-enter demo-down test check bench fuzz clean system-programs engines

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# Programs can be removed behind our back, so that is looked at every time; it takes 0.1 s.
system-programs:
	@./.ci/setup system

engines: system-programs
	@./.ci/setup engines

.make/python: pyproject.toml .ci/setup | system-programs
	@./.ci/setup python
	@touch $@

setup: system-programs .make/python ## install what is missing: programs by apt-get, packages in .venv
	@$(PYTHON_VENV) -I -c 'import meshnet, pytest' 2>/dev/null || ./.ci/setup python

demo: setup ## the mesh at work in under a minute; KEEP=1 leaves it running
	@$(PYTHON_VENV) -m tests.demo $(if $(KEEP),--keep)

demo-enter: setup ## a shell on a host of the demo that was kept: HOST=cloud-a1
	@$(PYTHON_VENV) -m tests.demo --enter $(HOST)

demo-down: setup ## end the demo that was kept
	@$(PYTHON_VENV) -m tests.demo --down

test: setup engines ## all tests; ARGS='-k name' chooses
	@$(PYTHON_VENV) -m pytest $(ARGS)

check: setup ## the static tests only
	@$(PYTHON_VENV) -m pytest tests/static $(ARGS)

bench: setup ## a benchmark: BENCH=NAME ARGS='…'; without a name, which there are
	@$(if $(BENCH),$(PYTHON_VENV) -m tests.bench.$(BENCH) $(ARGS),ls tests/bench | sed -n 's/^\([a-z].*\)\.py$$/\1/p')

fuzz: setup ## the fuzzers, SECONDS=60 each
	@$(PYTHON_VENV) -I -c 'import atheris' 2>/dev/null || .venv/bin/pip install -q -e '.[dev,fuzz]'
	@for file in tests/fuzz/fuzz_*.py; do \
	    $(PYTHON_VENV) -m tests.fuzz.$$(basename $$file .py) -max_total_time=$(SECONDS) || exit 1; \
	done

clean: ## remove what make made here: the virtual environment, stamps, caches
	@rm -rf .make .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
