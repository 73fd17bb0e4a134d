# `make help` lists the targets. Every target sets up .venv first; a second call installs nothing again.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# The size of `make run`: embedded, smoke, or the root folder of a dataset.
IDKL_RUN ?= embedded
export IDKL_RUN
.DEFAULT_GOAL := help

.PHONY: help setup run test lab export readme clean constraints

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## create .venv and install the project with all extras

$(STAMP): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e '.[dev]'
	@touch $@

run: setup ## train and evaluate: run the last notebook (IDKL_RUN=embedded, smoke or a dataset's root)
	@mkdir -p runs
	$(BIN)/papermill nbs/18_end_to_end.ipynb runs/end_to_end.ipynb --cwd nbs --no-progress-bar --stdout-file /dev/stdout --stderr-file /dev/stderr

test: setup ## export in sync, notebooks clean, every notebook's tests, pytest
	PATH="$(abspath $(BIN)):$$PATH" IDKL_RUN=smoke $(BIN)/nbdev_test --n_workers 2 --do_print --timing
	$(BIN)/python -m pytest -q tests

lab: setup ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs

export: setup ## write idkl_nb/ from the notebooks, and clean the notebooks
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/nbdev_export
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/nbdev_clean

readme: setup ## write README.md from nbs/index.ipynb
	$(BIN)/python tests/readme.py

constraints: ## resolve constraints.txt anew for the oldest supported Python
	@echo "not yet"

clean: ## remove what the targets made, but not your runs
	rm -rf $(VENV) *.egg-info .pytest_cache build dist
