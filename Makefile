# make quickstart: environment, installation, and the main job on the embedded default
# make test:       environment, installation, style, types, site and tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
SOURCES := $(shell find lampq_onnx models -type f -not -name '*.pyc')

.PHONY: quickstart test lint style types site clean

quickstart: $(VENV)/installed
	$(BIN)/lampq-onnx quantize digits --bits 2 --candidates 1-8 --rounding nearest --baseline uniform --baseline lampq --output out

test: $(VENV)/installed-dev
	$(MAKE) --no-print-directory --jobs 2 --keep-going lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: style types site

style: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

site: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml $(SOURCES) | $(BIN)/python
	@echo "installing into $(VENV): PyTorch alone is gigabytes, so this takes minutes, without a word from pip"
	$(PIP) .
	rm -f $(VENV)/installed-dev
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) with tools for tests: this takes minutes, without a word from pip"
	$(PIP) --editable '.[dev]'
	rm -f $(VENV)/installed
	touch $@

clean:
	rm -rf $(VENV) out build dist
