# make train      install what is needed, then run 01 to 05 on text that Python itself ships
# make quick      checks and unit tests: run it after every edit (90 seconds)
# make test       checks and all tests except the TPU and GPU paths
# make fix        repair what the checks find: format, the library in the notebooks, generated pages
# make lock       write requirements.lock: the versions in .venv of what requirements.txt needs
# make figures    how long the notebooks and modules are
# make outputs    run the notebooks and store their outputs in them
# make benchmark  06_speed with the shapes of BERT-base: half an hour on an idle machine
# make test-tpu   the TPU path on torch_xla's CPU backend, in two environments (11 GB)
# make test-oldest  the unit tests with the oldest versions that requirements.txt allows, in an environment of their own
# make test-gpu   rehearse the GPU checks on the CPU
#
# PYTHON is the interpreter to build on, PIP_FLAGS goes to pip for .venv, EPOCHS is how long `make train` trains.

PYTHON ?= python3
PIP_FLAGS ?=
EPOCHS ?= 15
PRACTICE := $(CURDIR)/runs/practice
SMALL := -p corpus pydoc -p model scratch:tiny -p workdir $(PRACTICE)
SENTENCE := "If the [MASK] is not found, an [MASK] is raised."
PAPERMILL := $(CURDIR)/.venv/bin/papermill $(CURDIR)/notebooks
STORE := .venv/bin/python tools/store_outputs.py --workdir runs/outputs
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests --ignore tests/tpu --ignore tests/gpu -n auto --dist loadfile

.PHONY: train check fix quick test test-tpu test-oldest test-gpu lock figures outputs benchmark

.venv/made: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q $(PIP_FLAGS) -r requirements.txt
	touch $@

.venv/made-for-tests: tests/requirements.txt .venv/made
	.venv/bin/python -m pip install -q $(PIP_FLAGS) -r tests/requirements.txt
	touch $@

.venv-tpu/made: requirements.txt tests/tpu/requirements.txt | .venv/made-for-tests
	tests/tpu/make_venv.sh .venv-tpu tests/tpu/requirements.txt pytest python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) $(PYTHON)
	touch $@

.venv-kaggle/made: requirements.txt tests/tpu/requirements-kaggle.txt | .venv/made-for-tests
	tests/tpu/make_venv.sh .venv-kaggle tests/tpu/requirements-kaggle.txt pytest python3.12 $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python) $(PYTHON)
	touch $@

.venv-oldest/made: requirements.txt tests/requirements.txt tests/requirements-oldest.txt | .venv/made-for-tests
	tests/tpu/make_venv.sh .venv-oldest tests/requirements-oldest.txt -rtests/requirements.txt python3.10 $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python) python3.11
	touch $@

train: .venv/made
	mkdir -p $(PRACTICE)
	cd $(PRACTICE) && $(PAPERMILL)/01_setup.ipynb 01_setup.ipynb
	cd $(PRACTICE) && $(PAPERMILL)/02_corpus.ipynb 02_corpus.ipynb -p corpus pydoc -p workdir $(PRACTICE)
	cd $(PRACTICE) && $(PAPERMILL)/03_dataset.ipynb 03_dataset.ipynb $(SMALL)
	cd $(PRACTICE) && $(PAPERMILL)/04_train.ipynb 04_train.ipynb $(SMALL) -p epochs $(EPOCHS) --log-output
	cd $(PRACTICE) && $(PAPERMILL)/05_predict.ipynb 05_predict.ipynb -p run_name run -p workdir $(PRACTICE) -p sentence $(SENTENCE)
	.venv/bin/python tools/learned.py runs/practice

check: .venv/made-for-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python tools/check.py

fix: .venv/made-for-tests
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/python tools/check.py --fix

quick: check
	$(PYTEST) -m "not slow"

test: check
	$(PYTEST)

test-tpu: .venv/made-for-tests .venv-tpu/made .venv-kaggle/made
	.venv-tpu/bin/python -m pytest tests/tpu

test-oldest: .venv-oldest/made
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest tests --ignore tests/tpu --ignore tests/gpu -n auto --dist loadfile -m "not slow"

test-gpu: .venv/made-for-tests
	.venv/bin/python -m pytest tests/gpu

lock: .venv/made-for-tests
	.venv/bin/python tools/lock.py

figures: .venv/made-for-tests
	.venv/bin/python tools/figures.py

outputs: .venv/made-for-tests
	rm -rf runs/outputs && mkdir -p runs/outputs
	$(STORE) notebooks/01_setup.ipynb
	$(STORE) notebooks/02_corpus.ipynb -p corpus pydoc
	$(STORE) notebooks/03_dataset.ipynb -p corpus pydoc -p model scratch:tiny
	$(STORE) notebooks/03b_packing.ipynb -p corpus pydoc -p model scratch:tiny
	$(STORE) notebooks/04_train.ipynb -p corpus pydoc -p model scratch:tiny -p epochs 15
	$(STORE) notebooks/05_predict.ipynb -p run_name run -p sentence $(SENTENCE)
	$(STORE) notebooks/06_speed.ipynb -p corpus pydoc -p model scratch:tiny -p race_lines 4000
	$(STORE) notebooks/07_use.ipynb -p run_name run
	.venv/bin/python tools/readme.py fix

benchmark: .venv/made-for-tests
	mkdir -p runs/benchmark
	cd runs/benchmark && $(PAPERMILL)/06_speed.ipynb 06_speed.ipynb -p corpus pydoc -p model scratch:base -p steps 10
