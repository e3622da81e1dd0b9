# make quickstart   environment, data, teachers, binary student, one JSON line
# make test         environment, lint, tests (what CI runs): compiled without optimisations, most of whose time they are;
#                   then the reference outputs, compiled as for users
# make lint         ruff and mypy
# make docs         the manual, in docs/_build/html
# make buckets      runs with work directories and datasets in a bucket: a storage emulator on loopback
# make native       tests of the engine in C: sanitizers, damaged files (FUZZ_SECONDS=240 of computing, in two processes), 64-bit ARM in an
#                   emulator, faults put in on purpose; its parts are sanitize, fuzz, example, arm and mutants
# make native-packages   installs what make native needs beyond gcc, with apt

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest --numprocesses=2 --durations=15

# Most of the time of tests is compilation.
QUICK = XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

NATIVE = sanitize fuzz example arm mutants
.PHONY: quickstart test lint docs buckets native native-packages $(NATIVE) clean
.DELETE_ON_ERROR:

$(VENV)/run.done: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev.done: requirements-dev.txt requirements-convert.txt requirements-gcs.txt requirements-plan.txt $(VENV)/run.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

quickstart: $(VENV)/run.done
	$(BIN)/python main.py quickstart

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(QUICK) $(PYTEST) --dist=loadfile --no-loadscope-reorder -m "not golden and not bucket"
	$(PYTEST) --dist=load -m golden
	@echo "not run: make buckets (storage emulator), make native (sanitizers, ARM, fuzzing), make docs"

buckets: $(VENV)/dev.done
	$(QUICK) $(PYTEST) --dist=load -m bucket

$(VENV)/docs.done: requirements-docs.txt $(VENV)/run.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

docs: $(VENV)/docs.done
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# One after the other, so that the output can be read; each uses both cores.
native: $(VENV)/run.done
	for part in $(NATIVE); do $(MAKE) --no-print-directory -j2 $$part || exit 1; done

$(NATIVE): $(VENV)/run.done
	+$(MAKE) --no-print-directory -s -C tests/c PYTHON=$(abspath $(BIN)/python) $@

ARM_PACKAGES = gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
native-packages:
	dpkg --status $(ARM_PACKAGES) > /dev/null 2>&1 || { \
	  root=; [ "$$(id -u)" = 0 ] || root=sudo; \
	  $$root apt-get update -qq && $$root apt-get install -qq -y --no-install-recommends $(ARM_PACKAGES); }

clean:
	rm -rf $(VENV) .cache/native
