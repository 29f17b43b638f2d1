"""Fixtures for the tests of training. An uninterrupted small run is trained once for all tests."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from IPython.display import Image

import mlm.training.model_card
import mlm.training.results
from encoders import make_model
from mlm.data.dataset import MaskedLMDataset
from mlm.training.datamodule import MaskedLMData
from mlm.training.lock import HELD_LOCKS, unlock_run
from mlm.training.module import MaskedLM
from small_runs import OPTIMIZER, SmallRuns

PNG = Image(b"\x89PNG\r\n\x1a\n", format="png")


def tiny_model(tokenizer, dropout=0.1):
    """A BertForMaskedLM of two narrow layers."""
    torch.set_num_threads(1)  # tiny models are not faster with more
    return make_model(
        "bert", tokenizer, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )


@pytest.fixture
def quick_results(monkeypatch):
    """Results without what takes longest: measuring the CPU's peak and drawing the learning curve."""
    monkeypatch.setattr(mlm.training.results, "device_peak", lambda *_: (1e11, "measured"))
    monkeypatch.setattr(mlm.training.model_card, "curve_image", lambda *_: PNG)


@pytest.fixture
def runs(corpus_folder, tokenizer, quick_results):
    """SmallRuns with dropout."""
    yield SmallRuns(corpus_folder, tokenizer, tiny_model(tokenizer))
    for path in list(HELD_LOCKS):  # of runs whose results were not written
        unlock_run(path.parent)


@pytest.fixture(scope="session")
def trained(corpus_folder, tokenizer, tmp_path_factory):
    """The folder of an uninterrupted run with dropout. Tests only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlm.training.results, "device_peak", lambda *_: (1e11, "measured"))
        patch.setattr(mlm.training.model_card, "curve_image", lambda *_: PNG)
        runs = SmallRuns(corpus_folder, tokenizer, tiny_model(tokenizer))
        return runs(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of the folder of the uninterrupted run, which a test may change."""
    return shutil.copytree(trained.parent, tmp_path / "finished") / "run"


@pytest.fixture
def module(bert):
    """A MaskedLM without dropout, as in training with one process."""
    module = MaskedLM(bert, OPTIMIZER)
    module.trainer = SimpleNamespace(world_size=1, global_step=0, global_rank=0)
    return module


@pytest.fixture
def make_data(dataset, corpus_folder, tokenizer):
    """A function that returns a MaskedLMData of 50 steps; an epoch has 45."""
    valid = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)

    def make(batch_size=8, mlm_probability=0.15, total_steps=50, **options):
        return MaskedLMData(dataset, valid, batch_size, mlm_probability, 0, total_steps, **options)

    return make
