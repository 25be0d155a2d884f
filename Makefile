# The commands that people and CI run. Each target sets up what it needs; `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# 3.11 first: the Python that constraints.txt was made with. A name that does not run (a shim, an old version) is passed over.
PYTHONS := python3.11 python3 python3.12 python3.13 python
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in $(PYTHONS); do if $$p -c '$(SUPPORTED)' >/dev/null 2>&1; then echo $$p; break; fi; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench hacks docs browser
# Targets that train use all cores, so they never run side by side.
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do printf '  make %-7s %s\n' "$$name" "$$text"; done

setup: $(READY) ## make .venv with everything pinned in constraints.txt

# Once, and again when what is pinned or declared changes.
$(READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (the first time this takes minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check]'
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found (tried: $(PYTHONS)): install one, or give PYTHON=path" >&2; exit 1; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "$(PYTHON) is not Python 3.11 to 3.13" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: see above" >&2; exit 1; }

demo: $(READY) ## train, measure and write a report: the laptop preset of math_two_stage, minutes on two cores
	@out=runs/demo-$$(date +%Y%m%d-%H%M%S); \
	$(BIN)/postgrad run math_two_stage --preset laptop --out "$$out" && \
	echo "open in a browser: $(CURDIR)/$$out/report.html"

test: $(READY) browser ## run the tests, without those that take minutes
	@$(BIN)/python -m pytest

check: $(READY) ## lint, format and types, as CI does
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY) browser ## run the proofs that take minutes, then measure beside the peers
	@$(BIN)/python -m pytest -m slow
	@$(BIN)/python -m bench.cpu

# KERNELBENCH=folder and CUDA_L1=folder name checkouts whose own evaluators are asked as well.
hacks: $(READY) ## play the catalogue of reward hacks against the kernel pipeline; writes docs/results/hacks.md
	@$(BIN)/python -m bench.hacks $(if $(KERNELBENCH),--kernelbench $(KERNELBENCH)) $(if $(CUDA_L1),--cuda-l1 $(CUDA_L1))

docs: $(READY) ## write the measured numbers of docs/results into README.md
	@$(BIN)/python scripts/results.py

browser:
	@sh scripts/browser
