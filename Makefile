PYTHON ?= python3
BIN := .venv/bin
# Many processes import the same files: where this is set, each would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: demo quick test check lint types fast slow
demo: .venv/installed  ## install, build a corpus from docstrings, find the best of three objectives for it, with a report
	$(BIN)/bertsmith demo

quick: .venv/installed  ## install, build the same corpus, pre-train one small encoder, fill some masks, fine-tune it
	$(BIN)/bertsmith demo --quick

test: .venv/installed  ## install and run every check and test
	$(MAKE) check
	$(MAKE) slow

check: lint types fast  ## lint, types, import direction and the fast tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

fast:
	@# One thread a process: two processes on two cores would only wait for each other.
	@# Each begins with whole files, which share what is made once for a file, and takes from the other at the end.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

slow:
	@# The tests of one file go to one process: those of faults wait for moments that others would move.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not gpu' --numprocesses 2 --dist loadfile
