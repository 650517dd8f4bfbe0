# Each target does the set-up it needs: a fresh clone runs `make train` or `make test` at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv train test bench lint format clean

help:
	@echo "make train   train the quickstart on this machine, print samples"
	@echo "make test    run the tests"
	@echo "make bench   measure on this CPU, write docs/performance.md; nothing else should run"
	@echo "make lint    run the linters and the type checker"
	@echo "make format  format the code"
	@echo "make venv    only make .venv with everything for development"

venv: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

train: venv
	$(BIN)/python -m psann_jax.main --config configs/quickstart.py

# One device, with a compile cache; then what needs eight, whose programs must not come from it.
test: venv
	JAX_NUM_CPU_DEVICES=1 $(BIN)/python -m pytest -m "not mesh"
	$(BIN)/python -m pytest -m mesh

# One that fails does not lose the others, nor leave its last record. B15 is B8 at a CPU's sizes.
# PyTorch is installed first, as on a slow line that takes longer than a benchmark may.
CPU_BENCHMARKS := 0 1 2 3 4 5 6 7 9 10 11 12 13 14 15 16 17 18
CPU_REPORTS := reports/performance/cpu

bench: venv
	-PYTHONPATH=tools $(BIN)/python -c "import peer; peer.interpreter('torch', 'psannlm')"
	failed=; for i in $(CPU_BENCHMARKS); do \
	    rm -f $(CPU_REPORTS)/B$$i.json; \
	    JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 timeout 300 $(BIN)/python tools/bench.py B$$i \
	        --keep-memory --out $(CPU_REPORTS)/B$$i.json || failed="$$failed B$$i"; \
	done; \
	JAX_PLATFORMS=cpu $(BIN)/python tools/performance_page.py || failed="$$failed page"; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
