# make quickstart   environment, data, teachers, binary student, one JSON line
# make test         environment, lint, tests (what CI runs): compiled without optimisations, most of whose time they are;
#                   then the reference outputs, compiled as for users
# make lint         ruff and mypy
# make docs         the manual, in docs/_build/html

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest --numprocesses=2 --durations=15

.PHONY: quickstart test lint docs clean
.DELETE_ON_ERROR:

$(VENV)/run.done: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev.done: requirements-dev.txt requirements-convert.txt requirements-plan.txt $(VENV)/run.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

quickstart: $(VENV)/run.done
	$(BIN)/python main.py quickstart

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false" $(PYTEST) --dist=loadfile --no-loadscope-reorder -m "not golden"
	$(PYTEST) --dist=load -m golden

$(VENV)/docs.done: requirements-docs.txt $(VENV)/run.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

docs: $(VENV)/docs.done
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

clean:
	rm -rf $(VENV)
