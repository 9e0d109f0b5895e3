# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# one more than cores, at most four: a test that waits for a process of its own leaves its core to another
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n + 1 : 4)))
PIP = $(BIN)/python -m pip --disable-pip-version-check
RECIPE ?= recipes/quickstart.yaml

.PHONY: run install clients test ray accept bench web sanitize docs lint clean

$(VENV)/core: pyproject.toml constraints.txt $(wildcard native/*.* native/*/*)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e ".[facts]"
	@if command -v c++ > /dev/null; then $(PIP) install --quiet ./native || echo "Going on without native kernels: they could not be built."; \
		else echo "Going on without native kernels: there is no C++ compiler."; fi
	@touch $@

$(VENV)/all: $(VENV)/core
	$(PIP) install --quiet -c constraints.txt -e ".[all,test,dev,docs]"
	@touch $@

run: $(VENV)/core      ## set up the core and weigh the quickstart recipe
	$(BIN)/steelyard weigh $(RECIPE)

install: $(VENV)/all   ## .venv with everything a developer needs

clients: $(VENV)/core  ## other people's clients, each in an environment of its own, for the server's tests
	$(BIN)/python tests/serve/clients/install.py

test: $(VENV)/all clients  ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

ray: $(VENV)/all       ## two workers on Ray answer as one process; Ray (80 MB) goes into build/ray
	$(PIP) install --quiet -c constraints.txt --target build/ray --upgrade ray
	PYTHONPATH=build/ray OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/weigh/asking/test_ray.py

accept: $(VENV)/all    ## one experiment in full (NAME=prompt_lookup), or all of them; results go to docs/results
	cd tests && $(abspath $(BIN))/python -m acceptance $(NAME)

bench: $(VENV)/all     ## side by side with peers (NAME=decoding), or all of them; docs/benchmarks.md says what each answers
	for name in $(or $(NAME),startup decoding training pretraining mixers); do $(BIN)/python benchmarks/$$name.py $(ARGS) || exit 1; done

web: $(VENV)/core      ## the page into steelyard/serve/page, with Node from PyPI where the machine has none
	$(BIN)/python web/build.py steelyard/serve/page

sanitize: $(VENV)/all  ## the tests of the native kernels under address and undefined-behaviour sanitizers
	$(BIN)/python native/sanitize.py

docs: $(VENV)/all      ## docs/challenges.md from the stored results, then the site into site/
	$(BIN)/python docs/tools/challenges.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lint: $(VENV)/all      ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --threads 2 --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist native/build site .pytest_cache .ruff_cache
