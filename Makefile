# `make` lists the targets. Each makes its own .venv where there is none, and brings it up to date when
# pyproject.toml or the pinned versions change. Another interpreter: `make test PYTHON=python3.12`.

PYTHON ?= python3
# Each test worker compiles with JAX and wants about 1 GB of memory, hence the bound.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2); \
	[ "$$n" -le 8 ] && echo $$n || echo 8)

BIN := .venv/bin
PYTEST_ARGS = -n $(WORKERS) --dist worksteal $(ARGS)
# tests/conftest.py has XLA compile without optimisation, which is quicker. What depends on rounding runs optimised too:
# other flags than its own turn that off. ARGS may choose none of these tests, which pytest answers with 5.
OPTIMISED := --xla_cpu_multi_thread_eigen=false
ROUNDING = -m pytest -q -m "rounding and not slow" $(PYTEST_ARGS) || [ $$? -eq 5 ]
PYVERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# The versions known to work with this Python; a Python without such a file gets the newest.
CONSTRAINTS := $(wildcard constraints/py$(subst .,,$(PYVERSION)).txt)
# Named after the Python, so that another PYTHON makes a new .venv.
STAMP := .venv/.installed-py$(PYVERSION)
DOCS_STAMP := .venv/.docs-py$(PYVERSION)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow test-isa test-gpu fuzz lint format types check docs docs-test test-newest \
	newest-python bench bench-quick clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## make .venv, or bring it up to date

demo: $(STAMP) ## run examples/demo.py
	@$(BIN)/python examples/demo.py

test: $(STAMP) ## run the tests but for the slow ones; ARGS="-k kkt" chooses among them
	@$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)
	@XLA_FLAGS="$(OPTIMISED)" $(BIN)/python $(ROUNDING)

test-slow: $(STAMP) ## run the slow tests: experiments, and many cases of what one case shows
	@$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-isa: $(STAMP) ## run what depends on rounding with older instructions, and BLAS with other threads
	@XLA_FLAGS="$(OPTIMISED) --xla_cpu_max_isa=AVX" OPENBLAS_NUM_THREADS=2 $(BIN)/python $(ROUNDING)
	@XLA_FLAGS="$(OPTIMISED) --xla_cpu_max_isa=AVX2" OPENBLAS_NUM_THREADS=3 $(BIN)/python $(ROUNDING)

test-gpu: $(STAMP) ## run the tests of a GPU, after `.venv/bin/pip install "jax[cuda12]"`
	@IMPLICITDIFF_TEST_PLATFORM=cuda $(BIN)/python -m pytest -m gpu tests/gpu $(ARGS)

fuzz: SECONDS = 600
fuzz: SEED = 0
fuzz: $(STAMP) ## look for wrong derivatives of random programs and systems: SECONDS=600 SEED=0
	@XLA_FLAGS="$(OPTIMISED)" $(BIN)/python -m fuzz --seconds $(SECONDS) --seed $(SEED)

lint: $(STAMP) ## check style
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: $(STAMP) ## mend style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: $(STAMP) ## check types
	@$(BIN)/mypy

check: lint types test ## lint, types and test

docs: $(DOCS_STAMP) ## build the documentation into docs/_build/html; a warning is an error
	@$(BIN)/python -m sphinx -b html -q -W --keep-going docs docs/_build/html
	@echo "open docs/_build/html/index.html"

docs-test: docs ## run the code of its pages, and read the site in a headless Chromium
	@for browser in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$browser >/dev/null && exit 0; \
	done; echo "error: docs-test needs Chromium or Chrome on the PATH (on Debian: apt-get install chromium)" >&2; exit 1
	@$(BIN)/python -m pytest -q docs/tests $(PYTEST_ARGS)

bench: $(STAMP) ## time this library beside its peers
	@$(BIN)/python -m benchmarks

bench-quick: $(STAMP) ## the same on small problems
	@$(BIN)/python -m benchmarks --quick

# Stable, with pip, and not too old for us: "minor-version path", one a line, for each such interpreter.
PROBE = import sys, venv, ensurepip; v = sys.version_info; \
	v >= (3, 11) and v[3] == "final" and print(v[1], sys.executable)

# Prints the newest Python at hand. The real binaries come first: a pyenv shim may stand for nothing.
newest-python:
	@for py in "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.*/bin/python3 \
		python3.14 python3.13 python3.12 "$(PYTHON)"; do \
		"$$py" -c '$(PROBE)' 2>/dev/null; \
	done | sort -s -n -r -k1,1 | head -n 1 | cut -d ' ' -f 2-

# What is most exposed to the versions of JAX and of the libraries behind the adapters.
EXPOSED := tests/test_[a-dh-z]*.py tests/sharding tests/convex/test_convex.py tests/convex/test_cvxpy_layer.py \
	tests/optimality/test_behaviour.py tests/projection/test_projection_values.py tests/solvers/test_sklearn.py \
	tests/solvers/test_named.py tests/solvers/test_scipy.py

# pip's eager strategy also upgrades what our dependencies depend on.
test-newest: ## run what depends on versions on the newest Python at hand, with the newest dependencies
	@py="$$($(MAKE) -s newest-python)"; \
	[ -n "$$py" ] || { echo "error: no Python 3.11 or newer found" >&2; exit 1; }; \
	version="$$("$$py" -V)"; \
	if [ "$$(.venv-newest/bin/python -V 2>/dev/null)" != "$$version" ]; then \
		echo "making .venv-newest with $$version"; \
		"$$py" -m venv --clear .venv-newest || exit 1; \
	fi; \
	echo "installing the newest dependencies (about a minute)"; \
	.venv-newest/bin/pip install -q -q --upgrade --upgrade-strategy eager -e '.[test]'
	@.venv-newest/bin/python -c 'import sys, jax; print("Python", sys.version.split()[0], "jax", jax.__version__)'
	@.venv-newest/bin/python -m pytest -m "not slow" $(EXPOSED) $(PYTEST_ARGS)

clean: ## remove environments, caches and built files
	rm -rf .venv .venv-newest build dist docs/_build docs/api docs/benchmarks docs/tutorials docs/sg_execution_times.rst .hypothesis .jax_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# No stamp means no .venv, a half-made one or one of another Python: --clear starts afresh.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: implicitdiff needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@if [ ! -e $@ ]; then \
		echo "making .venv with Python $(PYVERSION)"; \
		$(PYTHON) -m venv --clear .venv; \
	fi
	@echo "installing into .venv (about a minute)"
	@$(BIN)/pip install -q -q $(addprefix -c ,$(CONSTRAINTS)) -e '.[test,bench]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@echo "installing Sphinx into .venv"
	@$(BIN)/pip install -q -q $(addprefix -c ,$(CONSTRAINTS)) -e '.[docs]'
	@touch $@
