# make run | test | test-all | lab | demo | predict PHOTOS=/path   (README.md tells the same steps without make)
# make run DATASET=utkface DATA=/path NOTEBOOKS="1 2"
# make data DATASET=imdb_wiki [DATA=/path]
# make prepare DATASET=imdb_wiki DATA=/path [SCHEDULER=tcp://host:8786]
# make protocol IMDB_WIKI=/path ADIENCE=/path
# make check: style and types · make figures, report, video: regenerate docs/ from code and result files

DATASET ?= sample
DATA ?=
NOTEBOOKS ?= 1 2 3 4 5 6 7
PHOTOS ?= data/photos
CSV ?= predictions.csv
SCHEDULER ?=
IMDB_WIKI ?=
ADIENCE ?=

# The first Python from 3.11 to 3.13 that has venv; `make PYTHON=…` chooses another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)

# The environment is ready for exactly these requirements in exactly this place.
READY := .venv/ready-$(shell (pwd; cat requirements.txt pyproject.toml) | cksum | cut -d' ' -f1)
PY := .venv/bin/python
# pip installs uv, and uv the requirements; where uv cannot, for example from an index in pip's settings, pip installs them.
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: run test test-all lab demo predict setup data prepare protocol check figures report video
run: setup
	@$(PY) -m src.run_notebooks --dataset "$(DATASET)" --data "$(DATA)" --notebooks $(NOTEBOOKS)

test: setup
	@$(PY) -m pytest -m "not slow"

test-all: setup
	@$(PY) -m pytest

lab: setup
	@$(PY) -m jupyterlab notebooks

predict: setup
	@$(PY) -m src.predict "$(PHOTOS)" --csv "$(CSV)"

demo: setup
	@$(PY) -m src.predict.demo

data: setup
	@$(PY) -m src.data.download "$(DATASET)" --to "$(DATA)"

prepare: setup
	@$(PY) -m src.faces.prepare --dataset "$(DATASET)" --data "$(DATA)" --scheduler "$(SCHEDULER)"

protocol: setup
	@$(PY) -m experiments.adience_benchmark --imdb-wiki "$(IMDB_WIKI)" --adience "$(ADIENCE)"

check: setup
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

figures: setup
	@$(PY) -m tools.diagrams

report: setup
	@$(PY) -m tools.report --pdf docs/report.pdf

video: setup
	@$(PY) -m tools.demonstration

setup: $(READY) shape_predictor_68_face_landmarks.dat

$(READY): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 with the venv module is required, and none was found: install one, or run make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up .venv (once, about a minute)"
	@$(PY) -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@rm -f .venv/ready-*
	@{ $(PIP) $$(grep -o '^uv==[0-9.]*' requirements.txt) && \
		$(PY) -m uv pip install --quiet --python $(PY) --compile-bytecode -r requirements.txt; } || $(PIP) -r requirements.txt
	@touch $@

shape_predictor_68_face_landmarks.dat: $(READY)
	@$(PY) -m src.faces.landmark_file && touch $@
