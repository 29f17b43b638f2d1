"""prepare_model: the bias of a new head, the CPU kernels, torch.compile, in this order."""

import copy
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from encoders import make_model
from helpers import refused
from mlm.data.dataset import MaskedLMDataset
from mlm.data.token_frequencies import log_frequencies
from mlm.data.vocabulary import init_added_embeddings
from mlm.models import preparation
from mlm.models.encoders import ENCODERS, head_logits, hidden_states
from mlm.models.loading import init_head_bias, load_model
from mlm.models.long_rows import LONG_SDPA
from mlm.models.preparation import prepare_model
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate, unigram_loss
from mlm.training.module import MaskedLM, reset_module

CPU = {"kind": "cpu", "dtype": torch.float32}
GPU = {"kind": "gpu", "card": SimpleNamespace(name="A100", capability=(8, 0))}
KERNELS = "onednn-matmul-16bit"


@pytest.fixture(autouse=True)
def unchanged_precision():
    """The process has its setting for float32 products again after a test."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


# untied models


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_untied_model_with_added_words_is_saved_as_it_was_trained(
    kind, tokenizer, dataset, tmp_path
):
    """transformers resizes only the decoder's bias, and ties it to the head's in some kinds."""
    make_model(kind, tokenizer, tie_word_embeddings=False).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), tokenizer, 32)
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens(["abcabc", "defdef"])
    init_added_embeddings(model, tokenizer, extended)
    prepare_model(model, dataset, CPU, (4, 32), KERNELS, compile=False)
    with torch.no_grad():
        model.get_output_embeddings().bias += torch.arange(len(extended))
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")
    weights = model.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in loaded.state_dict().items())


# the bias of a new head


def test_log_frequencies_count_every_token_once_more(dataset, monkeypatch):
    ids = np.concatenate([example[1:-1] for example in dataset])
    expected = np.bincount(ids, minlength=dataset.vocab_size) + 1
    expected[dataset.special_ids] = 1
    for size in (10**7, 7):  # the number of ids that are read at a time
        monkeypatch.setattr("mlm.data.token_frequencies.COUNT_TOKENS", size)
        found = log_frequencies(dataset)
        assert np.array_equal(found, np.log(expected / expected.sum()))


@pytest.mark.parametrize("mixture", [False, True])
def test_tokens_beyond_max_len_have_no_frequency(tokenizer, tmp_path, monkeypatch, mixture):
    """No example has them; one long line of other words would make the unigram baseline too high."""
    lines = ["the truth is a woman"] * 20 + ["spirit " * 3000] + ["what then"] * 20
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    weights = [{"weight": 2, "lines": 25, "documents": 1}, {"weight": 0.5, "lines": 16}]
    dataset = MaskedLMDataset(tmp_path / "a.txt", tokenizer, 12, mixture=weights * mixture)
    examples = {int(start): dataset[index] for index, start in enumerate(dataset.starts)}
    ids = np.concatenate([example[1:-1] for example in examples.values()])
    expected = np.bincount(ids, minlength=dataset.vocab_size) + 1
    for size in (10**7, 7):
        monkeypatch.setattr("mlm.data.token_frequencies.COUNT_TOKENS", size)
        assert np.array_equal(log_frequencies(dataset), np.log(expected / expected.sum()))


def test_a_new_head_starts_at_the_loss_of_the_unigram_baseline(tokenizer, dataset):
    data = MaskedLMData(dataset, dataset, 16, 0.15, 0, 1)
    model = load_model("scratch:tiny", tokenizer)
    module, baseline = MaskedLM(model, {}), unigram_loss(dataset, data.validation_batches())
    before = evaluate(module, data.validation_batches())["loss"]
    assert init_head_bias(model, dataset)
    after = evaluate(module, data.validation_batches())["loss"]
    assert abs(after - baseline) < 0.3 < before - baseline


@pytest.mark.parametrize("kind", ENCODERS)
@torch.no_grad()
def test_every_kind_of_encoder_gets_a_head_with_the_token_frequencies(
    kind, tokenizer, dataset, tmp_path, capsys
):
    model = make_model(kind, tokenizer)
    model.base_model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), tokenizer, 32)
    assert loaded.head_was_missing and "without a masked-LM head" in capsys.readouterr().out
    ids = torch.tensor([[5, 6, 7]])
    hidden = hidden_states(model.eval(), ids)
    assert torch.equal(hidden_states(loaded.eval(), ids), hidden)
    before = head_logits(loaded, hidden)
    assert init_head_bias(loaded, dataset)
    difference = head_logits(loaded, hidden) - before
    expected = torch.from_numpy(log_frequencies(dataset)).float().expand_as(difference)
    torch.testing.assert_close(difference, expected, rtol=1e-3, atol=1e-3)


def test_embeddings_without_a_token_are_rare_in_a_new_head(tokenizer, dataset):
    """DeBERTa-v3 has 128,100 embeddings and 128,001 tokens; with a bias of 0, the others would be frequent."""
    data = MaskedLMData(dataset, dataset, 16, 0.15, 0, 1)
    size = len(tokenizer) + 100
    model = make_model("bert", tokenizer, vocab_size=size, initializer_range=0.02)
    assert init_head_bias(model, dataset)
    loss = evaluate(MaskedLM(model, {}), data.validation_batches())["loss"]
    assert abs(loss - unigram_loss(dataset, data.validation_batches())) < 0.3


def test_a_head_without_bias_stays_as_it_is(tokenizer, dataset):
    model = make_model("modernbert", tokenizer, decoder_bias=False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert not init_head_bias(model, dataset)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())


# the whole step


def prepared(model, dataset, device, head_was_missing, compile=False, kernels=None):
    model.head_was_missing = head_was_missing
    kernels = kernels or (KERNELS if device is CPU else "auto")
    return prepare_model(model, dataset, device, (4, 32), kernels, compile)


def test_a_pretrained_model_on_a_cpu_gets_the_kernels_and_keeps_its_weights(bert, dataset, capsys):
    before = {name: weight.clone() for name, weight in bert.state_dict().items()}
    found = prepared(bert, dataset, CPU, head_was_missing=False, compile="auto")
    assert found == {"kernels": KERNELS, "compile": False}
    assert bert.config._attn_implementation == "matmul"
    assert all(torch.equal(bert.state_dict()[name], weight) for name, weight in before.items())
    kernels, compilation = capsys.readouterr().out.splitlines()
    assert kernels.startswith("CPU kernels: ") and compilation.startswith("torch.compile is off: ")


def test_a_new_head_gets_its_bias_and_a_line_says_so(bert, dataset, capsys):
    prepared(bert, dataset, CPU, head_was_missing=True)
    expected = torch.from_numpy(log_frequencies(dataset)).float()
    assert torch.equal(bert.cls.predictions.decoder.bias.detach(), expected)
    assert capsys.readouterr().out.startswith("new head: its bias starts at the token frequencies")


@pytest.fixture
def restored_settings(monkeypatch):
    """The settings of the process that a GPU changes are restored afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.usefixtures("restored_settings")
def test_on_a_gpu_the_model_keeps_its_kernels_and_operations_become_deterministic(
    bert, dataset, capsys
):
    prepared(bert, dataset, GPU, head_was_missing=False)
    assert bert.config._attn_implementation == "sdpa"
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    gpu, compilation = capsys.readouterr().out.splitlines()
    assert gpu.startswith("GPU kernels: deterministic")
    assert compilation == "torch.compile is off: set in the parameters"


def test_the_layers_are_compiled_last(bert, dataset, monkeypatch):
    """Compiling must see the kernels that are used, and the caller learns whether it was done."""
    steps = []
    for name in ("init_head_bias", "use_kernels", "compile_layers"):
        monkeypatch.setattr(preparation, name, lambda *_, name=name: steps.append(name) or True)
    found = prepared(bert, dataset, CPU, head_was_missing=True, compile=True)
    assert found == {"kernels": KERNELS, "compile": True}
    assert steps == ["init_head_bias", "use_kernels", "compile_layers"]


def test_a_gpu_does_not_inherit_the_precision_of_an_earlier_run_on_the_cpu(
    bert, dataset, monkeypatch
):
    """Both in one kernel: oneDNN's setting would round the float32 products of the GPU."""
    monkeypatch.setattr(preparation, "use_deterministic_operations", lambda: None)
    bert.head_was_missing = False
    torch.set_float32_matmul_precision("highest")
    prepared(bert, dataset, CPU, head_was_missing=False)
    torch.set_float32_matmul_precision("medium")  # also where the CPU does not use it
    prepared(bert, dataset, GPU, head_was_missing=False)
    assert torch.get_float32_matmul_precision() == "highest"
    assert bert.config._attn_implementation == LONG_SDPA  # "sdpa" for rows below 1,024 tokens


@pytest.mark.fault
def test_a_model_that_was_trained_is_refused(bert, dataset):
    """The next run would begin with its weights instead of the loaded ones."""
    module = MaskedLM(bert, {})
    reset_module(module, module.state_dict())
    with refused("already trained", "load_model"):
        prepared(bert, dataset, CPU, head_was_missing=False)
