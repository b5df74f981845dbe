# Two commands on a fresh machine with Python 3.11 or later; each makes .venv by itself.
#   make demo    the whole method on 1,797 real digits, about a minute after installation
#   make test    all tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench clean

demo: $(READY)
	$(BIN)/icce demo --out demo-run

test: $(READY)
	$(BIN)/python -m pytest tests/unit tests/numerics -n 2 --dist loadfile \
		--cov=icce_ray.core --cov-report=term:skip-covered --cov-fail-under=95
	$(BIN)/python -m pytest tests/integration tests/e2e

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(READY)
	$(BIN)/python jobs/bench/heads.py
	$(BIN)/python jobs/bench/consensus.py --quick

# torch first and alone: its version decides what else is installed with it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) demo-run
