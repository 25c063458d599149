# make test   sets up a virtual environment and passes the tests
# make demo   sets up a virtual environment, makes demonstrations, trains on them and writes a report
# Needs Python 3.11 or newer (PYTHON=python3.12 make test), and nothing else.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO ?= checkpoints/demo

.PHONY: setup test test-full lint demo clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version), rtjax needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@# It asks for numpy<2 and runs with newer ones; a test lets it drive the server.
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps openpi-client==0.1.2
	@# It asks for the full TensorFlow and runs with tensorflow-cpu. There are no wheels for Windows.
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps \
	  "tensorflow-text>=2.21,<2.22; platform_system != 'Windows'"
	@touch $@

# One worker per core; each file's tests stay in one worker, where they share what they compiled.
test: setup
	$(RUN) -m pytest -n 2 --dist loadfile -m 'not slow'

test-full: setup
	$(RUN) -m pytest -n 2 --dist loadfile

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Interrupted and started again, it goes on where it was; what is complete is not made again.
demo: setup
	$(RUN) data/tabletop/generate.py --out data/built/pick --episodes 3000 --skills pick --no-wrist
	$(RUN) train.py rt1_tabletop --data data/built/pick/tabletop/1.0.0 --output $(DEMO)
	$(RUN) eval.py $(DEMO) --env tabletop --split seen --skills pick --baseline untrained blind --output $(DEMO)/report

clean:
	rm -rf $(VENV) build *.egg-info
