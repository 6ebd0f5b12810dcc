# `make demo` and `make test` set everything up themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
SHARED ?= ../shared
FACTORY := $(BIN)/style-factory
# On small machines idle OpenMP threads spin and starve the others.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-slow lint format clean

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

demo: install
	@test -d $(SHARED)/portraits64-bootstrap || \
		{ echo "the demo's base and pictures are expected in $(SHARED); see README.md"; exit 1; }
	$(FACTORY) base import portraits64 --home $(DEMO)/home --config portraits64 \
		--diffae $(SHARED)/portraits64-bootstrap/weights.safetensors \
		--perceptual vgg --perceptual-weights $(SHARED)/weights/lpips_vgg.safetensors \
		--photos $(SHARED)/data/portraits/train
	$(FACTORY) train examples/catalog.yaml --home $(DEMO)/home \
		--previews $(SHARED)/data/portraits/val
	$(FACTORY) styles list --home $(DEMO)/home
	$(FACTORY) stylize --home $(DEMO)/home --styles oil-ochre,ink-bold \
		--input $(SHARED)/data/portraits/val --output $(DEMO)/stylized
	@echo "stylized photos: $(DEMO)/stylized; gallery: $$(ls -d $(DEMO)/home/jobs/*/gallery.html | tail -1)"

# Two at a time: much of a test of Ray is waiting.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --durations=15

test: install
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) *.egg-info .pytest_cache .ruff_cache .mypy_cache
