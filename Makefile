# make train      install what is needed, then run 01 to 05 on text that Python itself carries
# make test       every test but those of the TPU path (make check: its fast part)
# make fix        repair what make check finds: format, and the library inside the notebooks
# make test-tpu   the TPU path on torch_xla's CPU backend, in an environment of its own
# make benchmark  06_speed with BERT-base's shapes: half an hour on an idle machine
# make outputs    run the notebooks and store what they print in them
#
# PYTHON is the interpreter to build on; PIP_FLAGS goes to pip (the README says what for).

PYTHON ?= python3
PIP_FLAGS ?=
PRACTICE := $(CURDIR)/runs/practice
SMALL := -p corpus pydoc -p model scratch:tiny -p workdir $(PRACTICE)
SENTENCE := "If the [MASK] is not found, an [MASK] is raised."
PAPERMILL := $(CURDIR)/.venv/bin/papermill $(CURDIR)/notebooks
STORE := .venv/bin/python tools/store_outputs.py --workdir runs/outputs

.PHONY: train check fix test test-tpu benchmark outputs

.venv/made: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q $(PIP_FLAGS) -r requirements.txt
	touch $@

.venv/made-for-tests: tests/requirements.txt .venv/made
	.venv/bin/python -m pip install -q $(PIP_FLAGS) -r tests/requirements.txt
	touch $@

.venv-tpu/made: requirements.txt tests/tpu/requirements.txt
	tests/tpu/make_venv.sh .venv-tpu tests/tpu/requirements.txt python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) $(PYTHON)
	touch $@

.venv-kaggle/made: requirements.txt tests/tpu/requirements-kaggle.txt
	tests/tpu/make_venv.sh .venv-kaggle tests/tpu/requirements-kaggle.txt python3.12 $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python) $(PYTHON)
	touch $@

train: .venv/made
	mkdir -p $(PRACTICE)
	cd $(PRACTICE) && $(PAPERMILL)/01_setup.ipynb 01_setup.ipynb
	cd $(PRACTICE) && $(PAPERMILL)/02_corpus.ipynb 02_corpus.ipynb -p corpus pydoc -p workdir $(PRACTICE)
	cd $(PRACTICE) && $(PAPERMILL)/03_dataset.ipynb 03_dataset.ipynb $(SMALL)
	cd $(PRACTICE) && $(PAPERMILL)/04_train.ipynb 04_train.ipynb $(SMALL) -p epochs 15 --log-output
	cd $(PRACTICE) && $(PAPERMILL)/05_predict.ipynb 05_predict.ipynb -p run_name run -p workdir $(PRACTICE) -p sentence $(SENTENCE)
	.venv/bin/python tools/learned.py runs/practice

check: .venv/made-for-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python tools/library.py check
	.venv/bin/python tools/readme.py check
	.venv/bin/python tools/structure.py

fix: .venv/made-for-tests
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/python tools/library.py fix
	.venv/bin/python tools/readme.py fix

test: check
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests --ignore tests/tpu -n auto --dist loadfile

test-tpu: .venv/made-for-tests .venv-tpu/made .venv-kaggle/made
	.venv-tpu/bin/python -m pytest tests/tpu

benchmark: .venv/made-for-tests
	mkdir -p runs/benchmark
	cd runs/benchmark && $(PAPERMILL)/06_speed.ipynb 06_speed.ipynb -p corpus pydoc -p model scratch:base -p steps 10

outputs: .venv/made-for-tests
	rm -rf runs/outputs && mkdir -p runs/outputs
	$(STORE) notebooks/01_setup.ipynb
	$(STORE) notebooks/02_corpus.ipynb -p corpus pydoc
	$(STORE) notebooks/03_dataset.ipynb -p corpus pydoc -p model scratch:tiny
	$(STORE) notebooks/04_train.ipynb -p corpus pydoc -p model scratch:tiny -p epochs 15
	$(STORE) notebooks/05_predict.ipynb -p run_name run -p sentence $(SENTENCE)
	$(STORE) notebooks/06_speed.ipynb -p corpus pydoc -p model scratch:tiny
	.venv/bin/python tools/readme.py fix
