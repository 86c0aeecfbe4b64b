# make demo      set everything up and reconstruct the packaged images
# make test      set everything up, then style, types and tests
# make check     the same without set-up (what `make test` runs)
# make slow      the tests that take minutes;  make gpu: those that need a CUDA build of torch
# make results   fill docs/results.md from what is measured in RESULTS, and name what is missing
# make measure   measure what is missing first (a day on a CPU; goes on where it was interrupted)
# Options: PYTHON=python3.12  VENV=.venv  RESULTS=runs/results  TORCH=torch==2.13.0  TORCH_INDEX=https://...
.PHONY: demo test check style types setup results measure slow gpu clean

VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(p) 2>/dev/null),$(p))))
STAMP := $(VENV)/.installed
JOBS ?= 2
RESULTS ?= runs/results

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
	$(BIN)/python -m pytest -q -m "slow and not gpu"

gpu: setup
	$(BIN)/python -m pytest -q -m gpu

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
	@$(BIN)/python -c 'import cv2' 2>/dev/null || $(MAKE) --no-print-directory system-libraries
	@$(BIN)/python -c 'import cv2' || \
	  { echo "OpenCV cannot be loaded: install libgl1 and libglib2.0-0, then run make again"; exit 1; }
	touch $(STAMP)

.PHONY: system-libraries
system-libraries:
	@echo "OpenCV needs libgl1 and libglib2.0-0"
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq libgl1 libglib2.0-0; \
	else \
	  echo "install them: sudo apt-get install libgl1 libglib2.0-0"; exit 1; \
	fi

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
