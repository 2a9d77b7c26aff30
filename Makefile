# aigc-edge: every target makes what it needs first and skips what is already done. PYTHON=python3.12 chooses the Python.
PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: help setup demo zoo zoo-test test lint bench docs clean

help:
	@echo "make setup   environment .venv with the project, editable, and all extras"
	@echo "make demo    train on real digits, compile, sample, measure: out/demo/ (about 10 minutes on 2 cores)"
	@echo "make zoo     download published generators, compile, compare with their publishers: out/zoo/ (long)"
	@echo "make test    build the wheel, install it into a fresh environment, run all tests there"
	@echo "make lint    ruff, mypy, clang-format"
	@echo "make bench   measure the demo's bundle: out/demo/bench.json and report.html"
	@echo "make docs    build the documentation site: build/docs/index.html"
	@echo "make clean   remove what make made, but for .venv, out/ and runs/"

setup:
	@$(PYTHON) tools/setup.py dev

demo: setup
	@$(RUN) tools/demo.py

zoo: setup
	@$(RUN) examples/zoo $(ARGS)

zoo-test: setup
	@$(RUN) -m pytest -q tests/zoo

test:
	@$(PYTHON) tools/setup.py test runtime
	@.venv-test/bin/python tools/run_tests.py $(ARGS)

lint: setup
	@$(RUN) tools/lint.py

bench: setup
	@$(RUN) tools/demo.py bench

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "build/docs/index.html is written"

clean:
	rm -rf build dist .venv-test .venv-runtime .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis
	find aigc_edge tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
