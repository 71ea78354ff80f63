# make demo and make test set everything up themselves: Python 3.11 or later, make and a package registry are enough.
# The first of these that runs and is new enough; PYTHON=... takes another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c $(NEW_ENOUGH) 2>/dev/null && echo $$python && break; done)
NEW_ENOUGH := 'import sys; sys.exit(sys.version_info < (3, 11))'
BIN := .venv/bin

.PHONY: demo test fuzz lint type format bench clean

demo: .venv/installed
	$(BIN)/isthmus demo --overwrite

# Two files at a time, each on one core: faster than one at a time on two. The tests of a file share what it trains.
test: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 20

# Thousands of damaged files; a case is known by its seed: make fuzz COUNT=1 SEED=1234.
COUNT ?= 3000
SEED ?= 0
fuzz: .venv/installed
	PYTHONPATH=tests $(BIN)/python -m fuzz --count $(COUNT) --seed $(SEED)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The repository root is the package: mypy sees it under its name through a link.
type: .venv/installed
	mkdir -p .build
	ln -sfn .. .build/isthmus
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed
	for script in benchmarks/bench_*.py benchmarks/page.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv .build build dist isthmus-demo isthmus-demo.log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c $(NEW_ENOUGH) || \
	{ echo 'No Python 3.11 or later: install one, or say where it is, as in make PYTHON=/opt/bin/python3.12' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
