# Each target works from a fresh clone: it makes a virtual environment and installs what it needs first.
# Use another place for the environment with: make test VENV=/path/to/venv

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The interpreter for the oldest versions that are allowed.
PYTHON_LOWEST ?= python3.10
LOWEST := $(VENV)-lowest

.PHONY: demo view test test-slow test-lowest lint clean

demo: $(VENV)/.installed-demo
	VENV=$(VENV) bash examples/demo.sh

# A page in your browser, until Ctrl-C. Other photographs or models: make view PHOTOS='a.jpg b.jpg' ARGS='-m radio_v2.5-l'
PHOTOS ?= examples/images/astronaut.jpg examples/images/chelsea.jpg examples/images/coffee.jpg

view: $(VENV)/.installed-view
	$(BIN)/radio view $(PHOTOS) $(ARGS)

# The viewer's tests have processes of their own. In one that has run all others before, the kernel ended it now and then: a SIGSEGV
# without a fault, in a sleep of the main thread. The cause was not found.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow" --ignore tests/viewer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow" tests/viewer

# What takes long: before a release, and before a change to what these tests cover.
test-slow: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m slow

# The suite without slow tests, with the versions of tests/lowest.txt. Left out is what needs newer packages or a newer Python:
# types, benchmarks against peers, data sets, search, probes, the viewer, export, runtimes and quantization.
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n 2 -m "not slow" \
		--ignore tests/test_docs_types.py --ignore tests/test_types.py --ignore tests/extraction \
		--ignore tests/cli/test_extract.py --ignore tests/test_search.py --ignore tests/test_docs_extraction.py \
		--ignore-glob 'tests/test_benchmark*' \
		--ignore tests/test_export.py --ignore tests/test_quantization.py --ignore tests/test_docs_speed.py \
		--ignore tests/tasks/probing --ignore tests/cli/test_probe.py --ignore tests/test_docs_probing.py \
		--ignore tests/test_example_report.py --ignore tests/tasks/test_segmentation_evaluation.py \
		--ignore tests/viewer --ignore tests/runtimes

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV) $(LOWEST) out build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml | $(VENV)/bin/python
	@echo 'Installing into $(VENV). The first time this takes some minutes.'
	$(BIN)/python -m pip install --quiet -e '.[demo]'
	touch $@

$(VENV)/.installed-view: pyproject.toml | $(VENV)/bin/python
	@echo 'Installing into $(VENV). The first time this takes some minutes.'
	$(BIN)/python -m pip install --quiet -e '.[demo,view]'
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	@echo 'Installing into $(VENV). The first time this takes some minutes.'
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@ $(VENV)/.installed-demo $(VENV)/.installed-view

$(LOWEST)/.installed: pyproject.toml tests/lowest.txt
	@echo 'Installing into $(LOWEST). The first time this takes some minutes.'
	$(PYTHON_LOWEST) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint tests/lowest.txt \
		-e '.[text,sam,datasets,video,plot,demo,finetune,training]' hypothesis pytest pytest-xdist
	touch $@
