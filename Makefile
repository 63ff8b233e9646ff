PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo r50 test
.DEFAULT_GOAL := test

# torch goes first and alone: packages that find it missing would choose a build of their own.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch hatchling editables
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash bench/demo.sh

# make r50 VIDEO=clip.mp4 runs it on your video.
r50: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash bench/r50_speed.sh $(if $(VIDEO),"$(VIDEO)")

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --cov --cov-report=term:skip-covered
