# make demo | test | lint | setup | clean       Variables: PYTHON, VENV, TORCH_INDEX, ARGS (passed to pytest or the demo)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.nemo_sortformer-installed
# One thread per process: the tests run in several processes, and threads that fight for a core are slower than none.
THREADS ?= 1

.PHONY: demo test lint setup coverage clean

setup: $(STAMP)

$(STAMP): requirements.txt setup.py scripts/setup_venv.sh
	bash scripts/setup_venv.sh $(VENV) $(PYTHON)
	@touch $@

demo: setup
	$(BIN)/nemo-sortformer demo $(ARGS)

test: setup
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

coverage: setup
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder --cov --cov-report=term $(ARGS)

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	rm -rf nemo_experiments outputs onelogger.log onelogger.err
	find nemo_sortformer tests examples benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
