# `make demo` and `make test` set everything up themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
EXAMPLES := factory/examples
# Each a style of the demo's catalog.
STYLES := woodcut,cyanotype,oil
# One more than small machines have cores: three styles then end together.
SLOTS ?= 3
FACTORY := $(BIN)/style-factory
# On small machines idle OpenMP threads spin and starve the others.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-slow test-ci docs lint format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# The lock is of Python 3.11; older Pythons resolve the lower bounds of pyproject.toml.
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'; \
	else $(BIN)/python -m pip install --quiet -e '.[dev]'; fi
	touch $@

# Three styles on the base and pictures that the package carries; nothing else is needed.
demo: install
	$(FACTORY) train $(EXAMPLES)/catalog.yaml --home $(DEMO)/home --slots $(SLOTS)
	$(FACTORY) styles list --home $(DEMO)/home
	$(FACTORY) stylize --home $(DEMO)/home --styles $(STYLES) \
		--input $(EXAMPLES)/photos --output $(DEMO)/stylized
	@echo
	@echo "stylized photos:  $(DEMO)/stylized"
	@echo "gallery:          $$(ls -d $(DEMO)/home/jobs/*/gallery.html | tail -1)"
	@echo "to serve them:    $(FACTORY) serve --home $(DEMO)/home"

# Two at a time: much of a test of Ray is waiting.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --durations=15

# What precision "auto" means in the tests, whatever this machine's CPU: float32 or bfloat16.
ARITHMETIC ?= float32
test test-slow test-ci: export STYLE_FACTORY_ARITHMETIC := $(ARITHMETIC)

test: install
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

# The slow tests that CI runs every time: a job killed and resumed, a server drained, the page.
test-ci: install
	$(PYTEST) -m "slow and ci"

# The site is written to build/docs. Without --quiet: mkdocs counts no warning that it does not log.
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
