# Each target makes its own virtual environment and installs what it needs; nothing else is needed but Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart paper-latency paper-accuracy test lint docs coverage bench clean
.DEFAULT_GOAL := quickstart

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("parm needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

quickstart: $(VENV)/installed
	$(BIN)/parm run experiments/quickstart.yaml --out runs/quickstart

paper-latency: $(VENV)/installed
	$(BIN)/parm run experiments/paper/paper-latency.yaml --out runs/paper-latency

# DATA=DIR names the folder with the data sets; those that are not there are skipped. Full size takes a GPU (DEVICE=cuda).
DATA ?= data
DEVICE ?= auto
STUDIES ?= $(addprefix experiments/paper/,$(addsuffix .yaml,fig5 fig6 fig8 concat localisation fashion_networks two_losses beyond))
paper-accuracy: $(VENV)/installed
	$(BIN)/parm accuracy $(STUDIES) --data $(DATA) --device $(DEVICE) --out runs/paper-accuracy

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint docs $(VENV)/browser
	$(BIN)/pytest -n auto --dist loadgroup

# A browser for the tests of `parm report`, from Debian's packages if they can be installed; else these tests are skipped.
$(VENV)/browser: $(VENV)/installed
	command -v chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } \
	  || echo "no chromium: the tests of 'parm report' in a browser will be skipped"
	touch $@

# The site, in build/docs; a warning is an error.
docs: $(VENV)/installed
	$(BIN)/sphinx-build -W --keep-going --quiet --jobs auto --doctree-dir build/doctrees docs build/docs

# Which lines the tests run, in build/coverage. Processes that tests start are counted too.
coverage: $(VENV)/installed
	$(BIN)/pytest -n auto --dist loadgroup --cov --cov-report=term --cov-report=html:build/coverage/html

bench: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.inference

clean:
	rm -rf $(VENV) runs build *.egg-info
