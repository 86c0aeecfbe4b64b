# make demo      set everything up and reconstruct the packaged images
# make test      set everything up, then style, types and tests
# make check     the same without set-up (what `make test` runs)
# make coverage  the same tests with the share of lines that they run
# make nightly   the slow tests, those with real hloc (HLOC=its checkout), the oldest pycolmap, 50 killed runs
# make slow      the tests that take minutes;  make gpu: those that need a CUDA build of torch
# make docs      build the pages of docs/ into build/site; a warning is an error
# make docker    build the image of the Dockerfile, and run it
# make results   write docs/results from what is measured in RESULTS, and name what is missing
# make measure   measure what is missing first (a day on a CPU; goes on where it was interrupted)
# Options: PYTHON=python3.12  VENV=.venv  HLOC=../Hierarchical-Localization  RESULTS=runs/results  TORCH=torch==2.13.0  TORCH_INDEX=https://...
.PHONY: demo docker docs test check style types setup results measure slow gpu coverage nightly hloc oldest clean

VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(p) 2>/dev/null),$(p))))
STAMP := $(VENV)/.installed
JOBS ?= 2
RESULTS ?= runs/results
HLOC ?= ../Hierarchical-Localization
OLDEST ?= pycolmap==3.13.0
OLDEST_TESTS ?= tests

demo: setup
	$(BIN)/rekd-hloc demo demo

test: setup
	$(MAKE) --no-print-directory check

check: style types
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not gpu"

style:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

slow: setup
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -q -m "slow and not gpu"

gpu: setup
	$(BIN)/python -m pytest -q -m gpu

coverage: setup
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not gpu" --cov --cov-report=term:skip-covered

nightly: slow hloc oldest
	$(BIN)/python -m tests.campaign --kills 50

# real hloc: git clone https://github.com/cvg/Hierarchical-Localization, its folder as HLOC
hloc: setup
	@test -d "$(HLOC)/hloc" || { echo "HLOC=$(HLOC) holds no hloc: clone it there"; exit 1; }
	PYTHONPATH=$(HLOC) $(BIN)/python -m pytest -q -m "hloc and not gpu"

# a second environment: its own pycolmap, all else from the first
oldest: setup
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(OLDEST)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(VENV)-oldest/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/rest.pth
	$(VENV)-oldest/bin/python -m pytest -q -n $(JOBS) -m "not slow and not gpu" $(OLDEST_TESTS)

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m typer rekd_hloc.cli.main utils docs --name rekd-hloc --title 'Command line' \
	  --output docs/command-line.md
	$(BIN)/zensical build --clean --strict

# an image for a CPU; its program must name its version
docker:
	docker build --tag rekd-hloc .
	docker run --rm rekd-hloc --version

results: setup
	$(BIN)/python -m evaluation.results $(RESULTS)

measure: setup
	$(BIN)/python -m evaluation.results $(RESULTS) --measure

setup: $(STAMP)

# torch first: a plain `pip install torch` on Linux brings gigabytes of CUDA libraries
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[train,pose,dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(VENV)-oldest demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
