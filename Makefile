# Targets create the virtual environment if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
EXAMPLES := factory/examples
# Styles of the demo's catalog.
STYLES := woodcut,cyanotype,oil
# One slot per style, so that on small machines too the three styles end at the same time.
SLOTS ?= 3
FACTORY := $(BIN)/style-factory
# Idle OpenMP threads spin; with several processes on few cores they slow the others down.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-slow test-ci docs lint format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# constraints.txt is for Python 3.11 and newer; on 3.10 pip resolves pyproject.toml's bounds.
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'; \
	else $(BIN)/python -m pip install --quiet -e '.[dev]'; fi
	touch $@

# Train three styles on the base and pictures that the package contains, and stylize with them.
demo: install
	$(FACTORY) train $(EXAMPLES)/catalog.yaml --home $(DEMO)/home --slots $(SLOTS)
	$(FACTORY) styles list --home $(DEMO)/home
	$(FACTORY) stylize --home $(DEMO)/home --styles $(STYLES) \
		--input $(EXAMPLES)/photos --output $(DEMO)/stylized
	@echo
	@echo "stylized photos:  $(DEMO)/stylized"
	@echo "gallery:          $$(ls -d $(DEMO)/home/jobs/*/gallery.html | tail -1)"
	@echo "to serve them:    $(FACTORY) serve --home $(DEMO)/home"

# Two processes, even on one core: tests with Ray wait most of their time.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --durations=15

# Arithmetic of precision "auto" in the tests, on every CPU: float32 or bfloat16.
ARITHMETIC ?= float32
test test-slow test-ci: export STYLE_FACTORY_ARITHMETIC := $(ARITHMETIC)

# Tests that compute nothing with a base of osasis, or whose computations other tests repeat, are
# left out of the second run.
NO_ARITHMETIC := docs infra diffstyler factory/catalog factory/cli factory/core factory/methods \
	factory/registry factory/reports serving
LEFT_OUT := $(if $(filter bfloat16,$(ARITHMETIC)),$(NO_ARITHMETIC:%=--ignore=tests/%))
test: install
	$(PYTEST) -m "not slow" $(LEFT_OUT)

test-slow: install
	$(PYTEST) -m slow

# The slow tests that CI runs every time: kill and resume, drain, base training, the web page.
test-ci: install
	$(PYTEST) -m "slow and ci"

# Builds the site in build/docs. No --quiet: mkdocs --strict counts only warnings that it logs.
docs: install
	$(BIN)/python docs/generate_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) *.egg-info .pytest_cache .ruff_cache .mypy_cache
