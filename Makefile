# On a bare machine this needs python3 (3.11 or later, with its venv module) and make; everything else goes into .venv.
#
#   make demo                     TIME=30s make demo      a shorter one
#   make test                     MODELWRIGHT_DATA=DIR make test      with the tests on real data
#   make test ARGS='-k plan'      arguments for pytest

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
TIME ?= 2min
ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
MADE_OF := pyproject.toml constraints.txt

.PHONY: help demo test smoke check bench docs clean

help:
	@echo 'make demo    install, train a tokenizer and a small model, let it speak: under 4 minutes after the install'
	@echo 'make test    the whole test suite'
	@echo 'make smoke   the quick part of it'
	@echo 'make check   ruff and mypy'
	@echo 'make bench   the measurements of speed, beside the libraries they are compared with'
	@echo 'make docs    hold README and docs to the code'
	@echo 'make clean   remove what was made, the environment included'

# -- the environment: made once, and again when what it is made of changes

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'There is no $(PYTHON) here: install Python 3.11 or later, or name one: make PYTHON=/path/to/python3.'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo '$(PYTHON) is too old: modelwright needs Python 3.11 or later; name one: make PYTHON=/path/to/python3.11.'; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make environments: on Debian and Ubuntu, apt install python3-venv.'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[dev,oracle,sentencepiece]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[dev,bench]'
	@touch $@ $(VENV)/.installed

# -- what there is to do

demo: $(VENV)/.installed
	@rm -rf $(DEMO)/tokenizer $(DEMO)/run
	$(BIN)/modelwright tokenizer desk --output $(DEMO)/tokenizer
	$(BIN)/modelwright pretrain desk --tokenizer $(DEMO)/tokenizer --time $(TIME) --output $(DEMO)/run
	$(BIN)/modelwright generate $(DEMO)/run/model 'Customer: Hello, my' --max-new 120 --temperature 0.8 --seed 1
	@echo
	@echo 'Next, with $(BIN) on the PATH:'
	@echo '  modelwright generate $(DEMO)/run/model "Agent: Good morning" --temperature 0.7 --n 3'
	@echo '  modelwright pretrain YOUR_TEXT --time 10min --output runs/first    # text, JSONL, Parquet, folders'
	@echo '  modelwright pretrain desk --objective masked --time 2min --output runs/encoder    # span: encoder-decoder'
	@echo '  modelwright --help'

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

smoke: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/test_readme.py tests/test_architecture.py tests/test_names.py

clean:
	rm -rf .venv demo runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
