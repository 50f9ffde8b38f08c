# On a bare machine this needs python3 (3.11 or later, with its venv module) and make; everything else goes into .venv.
#
#   make demo                     PROJECT=examples/desk-slip/project.yaml make demo      or another project
#   make demo TIME=20s            a shorter one, whose base learns for 20 seconds and will not do
#   make test                     MODELWRIGHT_DATA=DIR make test      with the tests on real data
#   make test ARGS='-k plan'      arguments for pytest

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PROJECT ?= examples/desk-note/project.yaml
TIME ?= 270s
ARGS ?=

# The tests run on all cores, four at most, each file's on one: what a file makes for its tests is made once.
SPREAD := --numprocesses auto --maxprocesses 4 --dist loadfile

# What is climbed: the project file where it lies, since its paths are relative to it; a copy where another time is said.
CLIMBED := $(PROJECT)
ALIGNED := examples/desk-reply/project.yaml
ifneq ($(TIME),270s)
CLIMBED := $(DEMO)/project.yaml
ALIGNED := $(DEMO)/reply.yaml
endif

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
MADE_OF := pyproject.toml constraints.txt

.PHONY: help demo desk-base desk-gaps test smoke check bench docs clean

help:
	@echo 'make demo    install, and take two tasks from a prompt to a chosen model and a report, one aligned: under 10 minutes after the install'
	@echo 'make desk-base   the base that six of the desk projects in examples/ share: about ten minutes on two cores'
	@echo 'make desk-gaps   the same, trained on with notes that lack facts, for desk-brief: about as long again'
	@echo 'make test    the whole test suite'
	@echo 'make smoke   the quick part of it'
	@echo 'make check   ruff and mypy'
	@echo 'make bench   the measurements, beside the libraries that they are compared with'
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
	$(INSTALL) -e '.[dev,oracle,sentencepiece,grammar]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[dev,bench]'
	@touch $@ $(VENV)/.installed

# -- what there is to do

demo: $(VENV)/.installed
	@rm -rf $(DEMO)
	@mkdir -p $(DEMO)
	@test $(CLIMBED) = $(PROJECT) || sed 's/time: 270s/time: $(TIME)/' $(PROJECT) > $(DEMO)/project.yaml
	@test $(CLIMBED) = $(PROJECT) || sed 's/time: 270s/time: $(TIME)/; s/target: 0.6/target: 0.05/' examples/desk-reply/project.yaml > $(DEMO)/reply.yaml
	@cp examples/desk-reply/judge.py $(DEMO)
	-$(BIN)/modelwright run $(CLIMBED) --output $(DEMO)/run
	@test -f $(DEMO)/run/report.html  # it is there too where no rung met the target, which ends in exit code 1
	-$(BIN)/modelwright run $(ALIGNED) --reuse $(DEMO)/run --output $(DEMO)/reply
	@test -f $(DEMO)/reply/report.html
	@echo
	@echo 'The reports are $(DEMO)/run/report.html and, of a model that was aligned, $(DEMO)/reply/report.html: open them in'
	@echo 'a browser. Next, with $(BIN) on the PATH:'
	@echo '  modelwright run $(CLIMBED) --output $(DEMO)/run --climb all    # the other rungs too, from the same base'
	@echo '  modelwright init --data YOUR_EXAMPLES.jsonl                    # a project of your own'
	@echo '  modelwright pretrain YOUR_TEXT --time 10min --output runs/first'
	@echo '  modelwright --help'

desk-base: $(VENV)/.installed
	$(BIN)/modelwright pretrain desk+episodes:45000 --whole --steps 3000 --vocab 2048 --width 128 --layers 4 --heads 4 --context 512 --batch 3072 --rate 0.004 --matrix-rate 0.02 --output runs/desk-base

desk-gaps: $(VENV)/.installed
	test -d runs/desk-base/model || $(MAKE) desk-base
	$(BIN)/modelwright pretrain desk+gaps:40000 --init runs/desk-base/model --whole --steps 2500 --context 512 --batch 3072 --rate 0.003 --matrix-rate 0.015 --seed 7 --output runs/desk-gaps

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(SPREAD) $(ARGS)

smoke: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m 'not slow' $(SPREAD) $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/test_readme.py tests/test_architecture.py tests/test_names.py

clean:
	rm -rf .venv .venv-openai-1 demo runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
