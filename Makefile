# Needs Python >= 3.11 and make; `make` lists what there is.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
BENCHMARKS ?= $(sort $(wildcard benchmarks/*.py))
# One thread in each test process: they would fight for the cores, and the number of threads changes last bits.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q
# Processes, hosts and clusters on a busy machine may come late: what failed runs once more, alone, and both are shown.
AGAIN := --last-failed --last-failed-no-failures none

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint docs bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/demo.stamp ## the rules compared on handwritten digits, then two real processes, one of them killed (minutes)
	$(BIN)/tardigrad compare digits --algorithms sequential asgd dc-asgd dc-lowrank --workers 16 --lrs 0.03 0.1 --seeds 0 1 2 --jobs auto --directory runs/demo
	rm -rf runs/demo-local
	$(BIN)/tardigrad train digits --engine local --workers 2 --epochs 5 --chaos "kill worker 1 at push 100" --directory runs/demo-local
	$(BIN)/tardigrad replay runs/demo-local

test: .venv/dev.stamp ## every test but the next ones; JOBS=n processes
	$(PYTEST) -n $(JOBS) -m "not long" || $(PYTEST) -m "not long" $(AGAIN)

test-long: .venv/dev.stamp ## three hosts (network namespaces: as root), Ray, torchrun, benchmarks, long pages; minutes
	$(PYTEST) -n $(JOBS) --dist loadgroup -m long || $(PYTEST) -m long $(AGAIN)

lint: .venv/dev.stamp ## style, types and import direction
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/dev.stamp ## the documentation as a site under site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# One that cannot run here (no CIFAR-10, say) stops no other.
bench: .venv/dev.stamp ## every benchmark, one after the other, into results/bench/ (hours); BENCHMARKS=benchmarks/commits.py for one
	@failed=; for file in $(BENCHMARKS); do \
	  echo "== $$file"; \
	  $(BIN)/python $$file --output results/bench/$$(basename $$file .py | tr _ -).json || failed="$$failed $$file"; \
	done; test -z "$$failed" || { echo "not measured:$$failed" >&2; exit 1; }

clean: ## remove what was installed and built; runs/ stays
	rm -rf .venv site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# One environment. `demo` puts in what the demo needs, `dev` everything; after `dev` nothing is missing for `demo`.
.venv/made.stamp:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Tardigrad needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear .venv
	@touch $@

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/made.stamp
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/made.stamp
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch .venv/demo.stamp $@
