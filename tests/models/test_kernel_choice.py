"""Which kernels a run on a CPU uses: timed on this machine, unless they are named."""

import time
from types import SimpleNamespace

import pytest
import torch

from encoders import CONFIGS, make_model
from helpers import refused
from mlm.env.products import PRODUCTS
from mlm.models import kernel_choice
from mlm.models.cpu import DROPOUT_CLASSES, PACKED_ATTENTION
from mlm.models.kernel_choice import choose_kernels, faster, time_kernels
from mlm.models.kernels import (
    EARLIER_KERNELS,
    KERNEL_ATTENTION,
    KERNEL_DROPOUT,
    KERNEL_PRODUCTS,
    KERNELS,
)

CPU = {"kind": "cpu", "dtype": torch.float32}
SHAPE = 4, 32


def test_each_kernel_has_a_name_and_each_name_a_kernel():
    assert set(KERNEL_PRODUCTS) == set(PRODUCTS) and set(KERNEL_ATTENTION) == set(PACKED_ATTENTION)
    assert set(KERNEL_DROPOUT) == set(DROPOUT_CLASSES) and EARLIER_KERNELS in KERNELS


def test_the_kernels_of_plain_torch_stay_unless_others_are_clearly_faster():
    plain = "default", "sdpa"
    others = [("default", "matmul"), ("onednn", "sdpa"), ("onednn", "matmul")]
    assert faster({plain: 1.0} | dict.fromkeys(others, 2.0), plain) == plain
    assert faster({plain: 1.0} | dict.fromkeys(others, 0.95), plain) == plain  # noise
    for best in others:
        seconds = {plain: 1.0} | dict.fromkeys(others, 1.1) | {best: 0.8}
        assert faster(seconds, plain) == best


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_of_encoder_is_timed_and_stays_as_it_is(kind, dtype, tokenizer, capsys):
    model = make_model(kind, tokenizer)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    attention, random = model.config._attn_implementation, torch.get_rng_state()
    precision = torch.get_float32_matmul_precision()
    assert time_kernels(model, SHAPE, dtype) in KERNELS
    assert model.config._attn_implementation == attention
    assert torch.get_float32_matmul_precision() == precision
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())
    (line,) = capsys.readouterr().out.splitlines()
    assert ", ms per layer for 4 rows of 32 tokens: default-" in line
    assert line.endswith("; plain torch's (default-sdpa) stay unless others save 8%")


def test_the_choice_follows_the_times_which_are_printed(bert, monkeypatch, capsys):
    """Whatever is fast: a machine on which one kernel of each kind takes half the time."""
    bert.config.hidden_dropout_prob = 0.1

    for name in KERNELS:
        products, attention, dropout = name.split("-")

        def seconds(functions, max_seconds, fast=(products, f"{products}-{attention}", dropout)):
            return {key: 0.5 if key in fast else 1.0 for key in functions}

        monkeypatch.setattr(kernel_choice, "shortest_seconds", seconds)
        monkeypatch.setattr(
            kernel_choice, "precisions", lambda: {"default": "highest", "onednn": "medium"}
        )
        assert time_kernels(bert, SHAPE, torch.float32) == name
        line = capsys.readouterr().out
        assert f"{products}-{attention} " in line and f" {dropout} dropout 500.00" in line


def test_timing_takes_less_than_a_second_of_cpu_time_for_bert_base(tokenizer, capsys):
    from mlm.models.loading import load_model

    model = load_model("scratch:base", tokenizer, dropout=0.1)
    start = time.process_time()
    time_kernels(model, (5, 112), torch.float32)
    assert time.process_time() - start < 2  # a busy machine takes longer


def test_a_model_of_unknown_layers_keeps_the_kernels_of_plain_torch(capsys):
    sizes = SimpleNamespace(model_type="funnel", hidden_size=[8, 16])
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: sizes))
    assert time_kernels(model, SHAPE, torch.float32) == KERNELS[0]
    assert "not timed" in capsys.readouterr().out


def test_kernels_that_are_named_are_used_without_timing(bert, monkeypatch):
    monkeypatch.setattr(kernel_choice, "time_kernels", None)
    for name in KERNELS:
        assert choose_kernels(name, bert, CPU, SHAPE) == name


def test_processes_of_a_launcher_use_the_same_kernels(bert, monkeypatch, capsys):
    monkeypatch.setattr(kernel_choice, "time_kernels", None)
    monkeypatch.setattr(kernel_choice, "started_by_launcher", lambda: True)
    assert choose_kernels("auto", bert, CPU, SHAPE) == KERNELS[0]
    assert "not timed" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_other_devices_have_their_own_kernels(bert, kind):
    device = {"kind": kind, "dtype": torch.float32}
    assert choose_kernels("auto", bert, device, SHAPE) is None
    with refused('kernels="default-sdpa-torch"', kind.upper(), 'pass "auto"'):
        choose_kernels("default-sdpa-torch", bert, device, SHAPE)
