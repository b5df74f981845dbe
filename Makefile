# Two commands on a fresh machine with Python 3.11 or later; each makes .venv by itself.
#   make demo    the whole method on 1,797 real digits, about a minute after installation
#   make test    the fast tests, about ten minutes on two cores
# and
#   make test-all    every test; SHARD=1/4 a quarter of them, TIER=slow only those that make test leaves out
#   make test-faults    the fast ones that kill something, TIMES=20 times
#   make docs    the documentation as a site, with settings, commands, artifacts and API, in build/docs

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

TESTS := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
TIMES ?= 1

.PHONY: demo test test-all test-faults lint docs bench clean

demo: $(READY)
	$(BIN)/icce demo --out demo-run

test: $(READY)
	$(TESTS) tests/unit tests/numerics -m "not slow" \
		--cov=icce_ray.core --cov-report=term:skip-covered --cov-fail-under=95
	$(TESTS) tests/integration tests/e2e -m "not slow"

test-all: $(READY)
	$(TESTS) tests -m "$(or $(TIER),slow or not slow)" --shard=$(SHARD)

test-faults: $(READY)
	for time in $$(seq $(TIMES)); do $(TESTS) tests -m "faults and $(or $(TIER),not slow)" || exit 1; done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs icce_ray jobs tests

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# The tables of jobs/bench/RESULTS.md at reduced sizes, in under ten minutes on two cores.
bench: $(READY)
	$(BIN)/python jobs/bench/heads.py --chunks 1 2 50 --steps 3
	$(BIN)/python jobs/bench/precision.py --seeds 2 --epochs 20
	$(BIN)/python jobs/bench/parallel.py --heads 8 --steps 2 --workers 2
	$(BIN)/python jobs/bench/neighbors.py --queries 6000
	$(BIN)/python jobs/bench/consensus_shards.py --images 200000 --clusters 200 --heads 50
	$(BIN)/python jobs/bench/consensus.py --quick
	$(BIN)/python jobs/bench/classifier.py --clusters 100 --iterations 6
	$(BIN)/python jobs/bench/decode.py --passes 2
	$(BIN)/python jobs/bench/embed.py --depth 4 --few 64 --many 320
	$(BIN)/python jobs/bench/fixed.py --times 2
	$(BIN)/python jobs/bench/growth.py --images 8192

# torch first and alone: its version decides what else is installed with it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) demo-run
