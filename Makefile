# make demo, make test: both create the environment first where there is none.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= runs/demo

.PHONY: demo test test-slow smoke-newest lowest dist notebooks lint bench env fuzz docs claims

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else "seqzoo needs Python 3.11 to 3.13; this is " + sys.version.split()[0] + " (choose another with make PYTHON=python3.12)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: env
	$(BIN)/seqzoo demo --out $(OUT)

# Two workers, each with neighbouring files, so that what it compiles serves what follows. What one
# process has made of the sources, the many that tests start read.
test: export PYTHONDONTWRITEBYTECODE =
test: env
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

# With XLA's flags as users have them; the fast tests take those that compile quickly.
test-slow: export XLA_FLAGS = --xla_force_host_platform_device_count=8
test-slow: env
	$(BIN)/python -m pytest -q -m slow
	NNX_GRAPH_MODE=false NNX_GRAPH_UPDATES=false $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/models

# The tests marked smoke on the newest JAX, in an environment of its own.
smoke-newest:
	.ci/newest

# The same on the lowest versions that pyproject.toml allows.
lowest:
	.ci/lowest

# Wheel and sdist, checked, and the wheel alone on each Python that is here.
dist:
	PYTHON=$(PYTHON) .ci/dist

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The site, build/site/index.html; a warning is an error, a link without a target too.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# Each notebook of docs/notebooks, in a kernel of its own.
notebooks: env
	$(BIN)/python -m pip install --quiet --editable '.[notebooks]'
	$(BIN)/python -m pytest -q -m slow tests/test_notebooks.py

bench: env
	$(BIN)/seqzoo bench

# Published claims, docs/claims.md: hours for all; NAMES=parity for one.
claims: env
	$(BIN)/python docs/claims.py $(NAMES)

# N random command lines, files and moments; each must end as docs/pods.md says.
N ?= 1000
SEED ?= 0
fuzz: env
	$(BIN)/python -m tests.fuzz --n $(N) --seed $(SEED)
