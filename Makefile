# make run: environment, then a simulation with the defaults. make test: everything that CI checks.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
SITE ?= site

.PHONY: run install install-dev install-edge stubs test coverage test-slow mutants check docs clean

run: $(VENV)/installed
	$(BIN)/fedrec simulate $(ARGS)

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

# A device without torch: fedrec itself comes without its dependencies, which would bring torch.
install-edge:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --requirement requirements-edge.txt
	$(BIN)/pip install --quiet --no-deps .

# Makes the gRPC stubs again after a change of fedrec/device/recommender.proto.
stubs: $(VENV)/installed-dev
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. fedrec/device/recommender.proto

# torch comes first, pinned: left to a resolver, it would bring gigabytes of CUDA packages.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

# Types: strict in fedrec (pyproject.toml), standard everywhere else (tests/pyrightconfig.json).
check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --project tests --pythonpath $(BIN)/python

test: check
	$(BIN)/python -m pytest tests/test_imports.py
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore tests/test_imports.py

# The same, and says which lines of fedrec/ it ran; ends badly under the floor in pyproject.toml. Python 3.12 watches
# lines at next to no cost; under 3.11 this takes half as long again.
coverage: check
	$(BIN)/python -m pytest tests/test_imports.py
	$(BIN)/python -c 'import sys; print(*["COVERAGE_CORE=sysmon"][: sys.version_info >= (3, 12)])' > $(VENV)/core
	env $$(cat $(VENV)/core) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore tests/test_imports.py \
		--cov --cov-report term:skip-covered

# The site, in site/: a broken link, or a page that is in no menu, ends it.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(abspath $(SITE))

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

# Plants known faults in copies of the tree, and reports which the tests find.
mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.mutants.run $(ARGS)

clean:
	rm -rf $(VENV) runs dist build site .pytest_cache .ruff_cache
