# Every target creates .venv and installs its requirements. If nothing changed, it starts at once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help benchmark data test test-faults submit paper claims speed lint docs package clean

help:                 ## print the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 14

$(VENV)/installed: pyproject.toml $(wildcard pbt_bench/sparse/kernels/*.[ch])
	@echo "== creating $(VENV) and installing (torch is large: minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pbt-bench needs Python 3.11 or newer: make PYTHON=/path/to/python3 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@ls pbt_bench/sparse/kernels/_kernels*.so >/dev/null 2>&1 || echo "note: no C compiler with OpenMP here, so sparse networks train more slowly (docs/execution.md)"
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "== installing the developers' tools"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	@echo "== installing the requirements of the documentation"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

benchmark: $(VENV)/installed   ## run six methods on real images on this machine, and write figures, tables and a page
	@echo "== running grids/digits.toml (finished runs are kept in results/digits)"
	@$(BIN)/pbt-bench run grids/digits.toml
	@echo "== drawing"
	@$(BIN)/pbt-bench report grids/digits.toml

DEBIAN_IMAGES := /usr/share/datasets/fashion-mnist
data: $(VENV)/installed        ## put Fashion-MNIST into data/: from Debian's package where apt has it, or downloaded
	@test -d $(DEBIAN_IMAGES) || test "`id -u`" != 0 || ! command -v apt-get >/dev/null || { echo "== installing dataset-fashion-mnist"; apt-get install -y -qq --no-install-recommends dataset-fashion-mnist >/dev/null; } || true
	@mkdir -p data/FashionMNIST/raw
	@if test -d $(DEBIAN_IMAGES); then cp -n $(DEBIAN_IMAGES)/*.gz data/FashionMNIST/raw/; fi
	@$(BIN)/python -c 'from pathlib import Path; from pbt_bench.data import load; d = load("fashion-mnist", Path("data")); print(f"data/FashionMNIST: {len(d.train):,} training and {len(d.test):,} test images")'

test: $(VENV)/installed-dev    ## run the test suite, except the long tests of test-faults
	@echo "== tests"
	@$(BIN)/python -m pytest --numprocesses 2

submit: $(VENV)/installed      ## submit a grid as Slurm job arrays: make submit GRID=grids/X.toml CLUSTER=slurm/Y.toml
	@test -n "$(GRID)" -a -n "$(CLUSTER)" || { echo "usage: make submit GRID=grids/digits.toml CLUSTER=slurm/gpu.toml"; exit 2; }
	@echo "== submitting $(GRID) to the cluster of $(CLUSTER)"
	@$(BIN)/pbt-bench submit $(GRID) --cluster $(CLUSTER)

test-faults: $(VENV)/installed-dev ## run all tests of kills, full disks, hostile files, a failing Slurm cluster, the wheel and README.md (minutes)
	@echo "== faults"
	@PBT_BENCH_FAULTS=all $(BIN)/python -m pytest tests/faults tests/slurm tests/pruning/test_synflow.py \
		tests/test_distribution.py tests/docs/test_readme.py

paper: $(VENV)/installed       ## draw every table and figure of the papers from the available results
	@echo "== drawing the available results beside the published numbers"
	@$(BIN)/pbt-bench paper

claims: $(VENV)/installed      ## test published claims on the available records: results/claims/index.html, docs/claims.md
	@echo "== testing the claims"
	@$(BIN)/pbt-bench claims --out results/claims
	@cp results/claims/claims.md docs/claims.md
	@$(BIN)/python benchmarks/headline_figures.py

speed: $(VENV)/installed       ## measure speed on this machine; writes results/speed.json
	@echo "== measuring (minutes; a quiet machine gives honest ratios)"
	@$(BIN)/python benchmarks/speed.py
	@$(BIN)/python benchmarks/scale.py

lint: $(VENV)/installed-dev    ## check formatting, style, types and the order of imports
	@echo "== lint"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(VENV)/installed-docs    ## build the documentation: build/docs/index.html; a warning is an error
	@$(BIN)/python -m sphinx -b html -a -W --keep-going -q -d build/doctrees docs build/docs
	@echo "docs: build/docs/index.html"

package: $(VENV)/installed-dev ## build and check the source distribution and the wheel of this machine: dist/
	@$(BIN)/python -m build
	@$(BIN)/python -m twine check --strict dist/*

clean:                ## remove .venv and caches; results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
