# `make demo` and `make test` first create .venv and install everything that they need.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-soak lint types clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(VENV)/.installed  ## create .venv and install every pinned version into it

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("naturaltone needs Python 3.11 or newer; set PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## run every step on this machine in minutes; ARGS="--inputs DIR --natural DIR" uses your photos
	$(BIN)/naturaltone demo --out demo $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: lint  ## check lint and types, run all tests but the long ones; ARGS="-k name" picks some
	@# mypy runs beside the tests without Ray, because these wait for a fifth of their time.
	$(BIN)/mypy & types=$$!; \
	$(BIN)/pytest --ignore tests/soak -m "not ray" --numprocesses 2 --dist loadfile $(ARGS); first=$$?; \
	wait $$types || { echo "mypy failed: see its errors above"; exit 1; }; \
	[ $$first = 0 ] || [ $$first = 5 ] || exit $$first; \
	$(BIN)/pytest --ignore tests/soak -m ray $(ARGS); second=$$?; \
	[ $$second = 5 ] && exit $$first || exit $$second  # 5: ARGS select no test of this half

test-soak: setup  ## run the long tests: they kill processes, wait, or take minutes
	$(BIN)/pytest tests/soak --numprocesses 2 --dist loadfile --durations 12 $(ARGS)

clean:  ## remove .venv and the results of the demo
	rm -rf $(VENV) demo
