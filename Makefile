# `make help` lists the targets. Every target sets up .venv first; a second call installs nothing again.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# What installs: uv (fetched into .venv where the machine has none), or pip, which takes some minutes.
INSTALLER ?= uv
# TORCH=cpu: torch without CUDA, a tenth of the size, for a laptop. Left empty: as PyPI has it.
TORCH ?=
# The size of `make run`: embedded, smoke, or the root folder of a dataset.
IDKL_RUN ?= embedded
# The precision of `make run`: auto, no (float32), bf16 or fp16.
IDKL_PRECISION ?= auto
export IDKL_RUN IDKL_PRECISION
# Compiled modules are kept: without, each process compiles torch's thousands of files anew, which takes longer than importing them.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help

.PHONY: help setup run test test-slow test-browser test-figures test-wheel audit docs experiments verify warm-start lab export stills readme clean constraints

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## create .venv and install the project with all extras

CPU_WHEELS := https://download.pytorch.org/whl/cpu
ifeq ($(INSTALLER),uv)
INSTALL := $$(command -v uv || echo $(BIN)/uv) pip install --quiet --compile-bytecode --python $(BIN)/python $(if $(TORCH),--torch-backend $(TORCH)) -c constraints.txt
else
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q $(if $(TORCH),--extra-index-url $(CPU_WHEELS)) -c constraints.txt
endif

# A .venv whose Python no longer starts, or that was set up for another folder, is set up anew.
PLACE := $(shell cat $(STAMP) 2>/dev/null)
ifneq ($(wildcard $(VENV)),)
ifneq ($(shell $(BIN)/python -c 'print("starts")' 2>/dev/null),starts)
STALE := stale
else ifneq ($(or $(PLACE),$(CURDIR)),$(CURDIR))
STALE := stale
endif
endif
.PHONY: stale
stale:

$(STAMP): settings.ini setup.py constraints.txt $(STALE)
	@$(PYTHON) .ci/python.py $(INSTALLER) $(TORCH)
	$(PYTHON) -m venv $(if $(STALE),--clear) $(VENV)
	$(if $(filter uv,$(INSTALLER)),command -v uv || $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt uv)
	$(INSTALL) -e '.[dev]'
	@echo '$(CURDIR)' > $@

run: setup ## train and evaluate: run the last notebook (IDKL_RUN=embedded, smoke or a dataset's root)
	@mkdir -p runs
	$(BIN)/python -c "import sys, papermill; papermill.execute_notebook('nbs/13_end_to_end.ipynb', 'runs/end_to_end.ipynb', cwd='nbs', progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr)"

test: setup ## export in sync, notebooks clean, every notebook's cells, pytest
	$(BIN)/python -m pytest -q -n 2 tests/test_project.py
	runs=$$(mktemp -d) && IDKL_RUN=smoke IDKL_RUNS=$$runs OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -o tmp_path_retention_policy=failed -n 3 --dist worksteal --durations 5 tests --ignore tests/browser --ignore tests/test_project.py && rm -r $$runs

test-slow: setup ## end a hundred trainings at random times (twenty minutes), write nbs/results/faults.csv; torchrun; every page through nbdev and axe
	$(INSTALL) playwright axe-playwright-python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --slow tests/test_faults.py tests/test_training.py tests/test_site.py tests/browser/test_pages.py

audit: setup ## look the installed packages up in a list of known vulnerabilities (needs the network)
	$(BIN)/python -m pip install --disable-pip-version-check -q pip-audit==2.10.1
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

test-browser: setup ## use the explorers in JupyterLab and in the site's pages in a real Chromium (as root it installs Debian's chromium)
	for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && exit 0; done; (apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium) || { echo 'the browser test needs Chromium: apt-get install chromium'; exit 1; }
	$(INSTALL) playwright axe-playwright-python
	IDKL_SCREENSHOTS="$(abspath runs/screenshots)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n 2 --dist worksteal tests/browser

test-figures: setup ## run every notebook twice: are the figures the same to the pixel?
	twice=$$(mktemp -d) && for n in 1 2; do IDKL_EXECUTED=$$twice/books IDKL_RUN=smoke IDKL_RUNS=$$twice/runs OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 tests/notebooks || exit 1; done && rm -r $$twice

test-wheel: setup ## build the wheel, install it with its requirements into an empty environment, and train there
	dist=$$(mktemp -d) && $(BIN)/python -m build --outdir $$dist . && $(PYTHON) -m venv $$dist/venv \
	&& $$dist/venv/bin/pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt $$dist/*.whl && cd $$dist \
	&& venv/bin/python -c 'import idkl_nb.training' && venv/bin/python -c 'import time, torch, torchvision; t = time.perf_counter(); import idkl_nb.training; print("import of idkl_nb.training beyond torch: %.2f s" % (time.perf_counter() - t))' \
	&& OMP_NUM_THREADS=1 venv/bin/idkl-train --preset smoke --out run && rm -r $$dist

ONLY  ?= main
experiments: setup ## compute what is missing in nbs/results (ONLY=table4 PROCESSES=2 for other rows): hours on two CPU cores
	$(BIN)/python -m idkl_nb.experiments --only $(ONLY) $(if $(PROCESSES),--processes $(PROCESSES))

verify: setup ## score the packaged networks of both methods: the home page's table without training
	$(BIN)/python -m idkl_nb.verify

warm-start: setup ## make the packaged weights of the small network anew
	$(BIN)/python -m idkl_nb.warm_start --out idkl_nb/weights/narrow-world-v2.safetensors

lab: setup ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs

export: setup ## write idkl_nb/ from the notebooks, and clean the notebooks
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/nbdev_export
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/nbdev_clean
	$(BIN)/python .ci/widgets.py nbs/[01]*.ipynb nbs/workshop/*.ipynb

stills: setup ## draw the pictures of the page's explorers anew after a change of their modules (needs Chromium, as test-browser)
	$(INSTALL) playwright
	$(BIN)/python .ci/stills.py

readme: setup ## fill the tables of the home page, the measured scores and the contents; write README.md from the home page
	$(BIN)/python .ci/readme.py

docs: setup ## build the site in _docs with Quarto; without Quarto it says how to get it (`make test` checks the pages either way)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python .ci/site.py

constraints: setup ## resolve constraints.txt anew, for every Python from min_python on and every system at once (the newest versions)
	$(INSTALL) uv
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version $$(sed -n 's/^min_python = //p' settings.ini) --no-annotate --no-header --extra dev --extra browser setup.py -o constraints.new
	{ echo '# Versions that the test suite passed with, for every supported Python and system. `make constraints` writes it anew.'; cat constraints.new; } > constraints.txt && rm constraints.new

clean: ## remove what the targets made, but not your runs
	rm -rf $(VENV) *.egg-info .pytest_cache build dist
