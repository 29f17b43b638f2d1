"""Gradient checkpointing: the same loss and gradients, less memory; on if a batch would not fit."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from encoders import CONFIGS, make_model
from helpers import masked_loss, refused
from mlm.models.cpu import use_attention_and_dropout
from mlm.training.causes import StepMemory
from mlm.training.gradient_checkpointing import (
    check_weights_fit,
    choose_checkpointing,
    has_dropout,
    set_checkpointing,
    use_gradient_checkpointing,
)
from mlm.training.module import MaskedLM, is_checkpointing
from small_runs import FEW_EXAMPLES, batch_of, same, stop_at

DATA = "train", "pack", "batch_size", "accumulate", "mlm_probability"
CPU = {"kind": "cpu", "processes": 1, "dtype": torch.float32}
SUPPORTED = sorted(CONFIGS.keys() - {"albert"})


def set_dropout(model, rate):
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = rate
    return model


def loss_and_gradients(model, batch):
    torch.manual_seed(1)
    loss = masked_loss(MaskedLM(model.train(), {}), batch)[0]
    loss.backward()
    grads = {name: w.grad for name, w in model.named_parameters() if w.grad is not None}
    return loss.detach(), grads, torch.rand(1)


def saved_bytes(model, batch):
    """Bytes that the backward pass of a batch needs."""
    sizes = {}

    def count(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = masked_loss(MaskedLM(model.train(), {}), batch)[0]
    loss.backward()
    return sum(sizes.values())


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("fast_kernels", [False, True])
@pytest.mark.parametrize("kind", SUPPORTED)
def test_loss_gradients_and_dropout_stay_the_same(dataset, tokenizer, kind, fast_kernels, rate):
    model = set_dropout(make_model(kind, tokenizer, max_position_embeddings=200), rate)
    if fast_kernels:
        use_attention_and_dropout(model, "matmul", "16bit")
    other = copy.deepcopy(model)
    set_checkpointing(other, True)
    batch = batch_of(dataset, FEW_EXAMPLES)
    loss, gradients, drawn = loss_and_gradients(model, batch)
    other_loss, other_gradients, other_drawn = loss_and_gradients(other, batch)
    assert torch.equal(loss, other_loss)
    assert torch.equal(drawn, other_drawn)  # the next batch has the same dropout, too
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_it_can_be_switched_on_and_off_and_is_not_saved(tokenizer, kind, tmp_path):
    model = make_model(kind, tokenizer)
    before = model.config.to_json_string()
    for is_on in (True, False, True):
        set_checkpointing(model, is_on)
        assert is_checkpointing(model) == is_on
    assert model.config.to_json_string() == before


def test_the_random_state_is_saved_only_for_dropout(bert):
    assert has_dropout(set_dropout(copy.deepcopy(bert), 0.1))
    for model in (bert,):
        set_dropout(model, 0.0)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            setattr(model.config, name, 0.0)
        assert not has_dropout(model)


@pytest.fixture
def step(bert):
    """A function that makes a StepMemory with some other values."""

    def make(**changes):
        values = dict(
            model=bert, train=SimpleNamespace(lengths=np.full(5000, 500), examples_per_epoch=5000), pack=False, batch_size=64,
            accumulate=1, mlm_probability=0.3, dtype=torch.float32,
        )  # fmt: skip
        return StepMemory(**(values | changes))

    return make


def test_auto_is_on_if_a_batch_does_not_fit_otherwise(step, monkeypatch, capsys):
    one = step()
    data = SimpleNamespace(**{name: getattr(one, name) for name in DATA})
    needed = one.bytes_needed(False)
    assert one.bytes_needed(True) < needed
    for memory, is_on in ((10 * needed, False), (needed, True), (needed / 10, True)):
        monkeypatch.setattr(
            "mlm.training.gradient_checkpointing.available_memory", lambda _, m=memory: (m, "")
        )
        use_gradient_checkpointing("auto", one.model, data, CPU)
        assert is_checkpointing(one.model) == is_on
        line = capsys.readouterr().out
        assert ("a third more time" in line) == is_on
        assert f"{memory / 1e9:.0f} GB" in line
        gpu = {"kind": "gpu", "processes": 1, "card": SimpleNamespace(memory=memory)}
        assert choose_checkpointing("auto", one, gpu)[0] == is_on


def test_a_model_or_a_device_without_it_is_one_line(step, tokenizer):
    albert = step(model=make_model("albert", tokenizer))
    for one, device, cause in ((albert, CPU, "albert"), (step(), {"kind": "tpu"}, "XLA")):
        with refused("gradient_checkpointing", "got True", cause):
            choose_checkpointing(True, one, device)
        for value in ("auto", False):
            assert choose_checkpointing(value, one, device)[0] is False
    set_checkpointing(albert.model, False)


def test_the_advice_for_too_little_memory_names_it_until_it_is_on(step):
    one = step()
    assert "gradient_checkpointing=True" in one.advice(80e9)
    assert "gradient_checkpointing" not in step(accumulate=None).advice(80e9)  # 06 has none
    set_checkpointing(one.model, True)
    assert "gradient_checkpointing" not in one.advice(80e9)


@pytest.mark.parametrize("first, then", [(True, True), (True, False), (False, True)])
def test_a_run_resumes_to_the_same_bits_with_and_without_it(runs, trained, tmp_path, first, then):
    """With dropout. Another machine may have less memory: the setting may differ."""
    set_checkpointing(runs.module.bert, first)
    stop_at(runs, tmp_path, 4, gradient_checkpointing=first)
    set_checkpointing(runs.module.bert, then)
    assert same(runs(tmp_path, gradient_checkpointing=then), trained)


def test_less_is_stored_for_the_backward_pass(dataset, tokenizer):
    model = make_model("bert", tokenizer, num_hidden_layers=8)
    batch = batch_of(dataset, FEW_EXAMPLES)
    plain = saved_bytes(model, batch)
    set_checkpointing(model, True)
    assert saved_bytes(model, batch) < 0.5 * plain


@pytest.mark.fault
def test_weights_that_cannot_be_trained_here_are_refused(bert, monkeypatch):
    step = SimpleNamespace(model=bert, weights=18 * bert.num_parameters())
    monkeypatch.setattr(
        "mlm.training.gradient_checkpointing.available_memory", lambda on_gpu: (step.weights, "")
    )
    check_weights_fit(step, CPU)
    check_weights_fit(step, {"kind": "tpu", "processes": 8})
    gpu = {"kind": "gpu", "processes": 1, "card": SimpleNamespace(memory=step.weights - 1)}
    for device in (CPU | {"processes": 2}, gpu):
        with refused(f"training its {bert.num_parameters():,} weights takes", "GB", "scratch:tiny"):
            check_weights_fit(step, device)
