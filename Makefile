# make quickstart   train, evaluate and draw on the bundled photographs, from nothing
# make test         lint, types and the fast tests
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
RUN = $(VENV)/bin/python
INSTALLED = $(VENV)/installed
QUICK = outputs/quickstart
QUICK_RUN = $(QUICK)/model
PREPARED = outputs/page-tests

.PHONY: help install quickstart sweep status evaluate baselines figures notebook test test-all test-page lint benchmark clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(INSTALLED)  ## create the environment in .venv

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and \
	  "Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): some minutes, mostly PyTorch."
	$(RUN) -m pip install -q --disable-pip-version-check -e ".[dev]"
	@touch $@

quickstart: $(INSTALLED)  ## train, evaluate and draw on the bundled photographs: minutes, no data needed
	$(RUN) -m progdtd.train experiment=quickstart run_name=model $(ARGS)
	$(RUN) -m progdtd.evaluate run=$(QUICK_RUN) images=held_out protocols=[native]
	$(RUN) -m progdtd.figures runs=$(QUICK_RUN) images=photos-held-out out=$(QUICK)/figures \
	  strip.run=$(QUICK_RUN) strip.image=held_out
	@echo
	@echo "The model    $(QUICK_RUN)/model.onnx"
	@echo "Its numbers  $(QUICK_RUN)/evaluation/photos-held-out_native.csv"
	@echo "Its curve    $(QUICK)/figures/rate_distortion_native.png"
	@echo "Pictures     $(QUICK)/figures/strip_coffee.jpg"

sweep: $(INSTALLED)  ## train the six reference models; ARGS="dataset=folder dataset.root=DIR"
	$(RUN) -m progdtd.train -m experiment=reference \
	  $(if $(findstring dataset=,$(ARGS)),,group=sweeps/trial) $(ARGS)

status: $(INSTALLED)  ## what the runs under outputs/ are doing
	$(RUN) -m progdtd.status $(ARGS)

evaluate: $(INSTALLED)  ## evaluate the swept models on Kodak
	$(RUN) -m progdtd.evaluate 'run=outputs/sweeps/reference/*' 'kinds=[channels,planes]' $(ARGS)

baselines: $(INSTALLED)  ## measure JPEG, JPEG 2000, WebP, AVIF and JPEG XL on Kodak
	$(RUN) -m progdtd.baselines $(ARGS)

figures: $(INSTALLED)  ## draw the rate-distortion figures from the CSV files
	$(RUN) -m progdtd.figures $(ARGS)

notebook: $(INSTALLED)  ## execute the notebook in place
	$(RUN) -m jupyter execute --inplace notebooks/progressive_decoding.ipynb

test: lint  ## lint, types and the fast tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto

test-all: lint  ## the slow tests too
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto -m ""

test-page: $(INSTALLED)  ## the page and its decoder, in Node.js and a headless Chromium
	npm install --prefix tests/page --no-package-lock --no-audit --no-fund --silent
	OMP_NUM_THREADS=1 $(RUN) tests/page/prepare.py $(PREPARED) $(ARGS)
	PREPARED=$(abspath $(PREPARED)) PYTHON=$(abspath $(RUN)) node --test tests/page/

lint: $(INSTALLED)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

benchmark: $(INSTALLED)  ## speed beside the published recipe, as ratios
	$(RUN) scripts/benchmark.py $(ARGS)

clean:  ## remove the environment and the caches, never outputs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
