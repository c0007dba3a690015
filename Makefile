# The commands: `make install`, `make demo`, `make test`, `make calibrate`, `make image-truth`, `make selection`, `make docs`, `make lint`. Each makes .venv if it is missing.
# `make clean` deletes .venv, runs/ and site/.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: install demo test calibrate image-truth selection docs lint clean

install: .venv/installed
	@echo "$(CURDIR)/$(BIN)/twobounds --help lists the commands"

demo: .venv/installed
	@$(BIN)/python scripts/demo.py

test: .venv/installed
	@$(BIN)/python -m pytest

calibrate: .venv/installed
	@$(BIN)/python scripts/calibrate.py

# ROOT: the folder that holds MNIST/raw
image-truth: .venv/installed
	@$(BIN)/python scripts/image_truth.py --root "$(or $(ROOT),data)"

selection: .venv/installed
	@$(BIN)/python scripts/selection.py --root "$(or $(ROOT),data)"

# the documentation site, in site/; a warning is an error
docs: .venv/installed
	@$(BIN)/python -c "import mkdocs, mkdocstrings" 2>/dev/null || $(BIN)/python -m pip install --quiet --editable ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet && echo "open site/index.html"

lint: .venv/installed
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

# torch comes first, pinned to the newest release that setup.cfg allows. If pip may choose from a range of releases, it may take a GPU build on a machine without a GPU.
.venv/installed: setup.cfg pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once, a few minutes)"
	@$(BIN)/python -m pip install --quiet "torch==2.13.0"
	@$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv runs site
