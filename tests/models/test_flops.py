"""What a token costs is what torch counts, and what the formula says; what a device can do is known or measured."""

import inspect
import sys
from types import SimpleNamespace

import pytest
import torch

import mlm.models.flops as peak
from mlm.benchmark.limits import layer_shapes
from mlm.models.cpu import use_fast_kernels
from mlm.models.loading import load_model


@pytest.mark.parametrize("fast", [False, True], ids=["sdpa", "matmul"])
@pytest.mark.parametrize("size", ["tiny", "mini"])
def test_a_tokens_operations_are_those_of_the_formula(tokenizer, size, fast):
    bert = load_model(f"scratch:{size}", tokenizer)
    if fast:
        use_fast_kernels(bert)
    length, share, config = 50, 0.3, bert.config
    products = layer_shapes(config, length, share * length).values()
    weights = 6 * sum(count * rows * inner * columns for rows, inner, columns, count in products)
    attention = 12 * config.num_hidden_layers * config.hidden_size * length
    found = peak.flops_per_token(bert, length, share)
    assert found == pytest.approx(weights / length + attention, rel=1e-9)


def test_what_this_cpu_can_do_is_measured():
    for dtype in ("torch.float32", "torch.bfloat16"):
        flops, source = peak.device_peak("cpu", dtype)
        assert source == "measured" and 1e8 < flops < 1e15


@pytest.mark.parametrize(
    "name, dtype, expected",
    [("Tesla T4", "float16", 65e12), ("NVIDIA A100-SXM4-40GB", "bfloat16", 312e12)],
)
def test_cards_that_lightning_knows(monkeypatch, name, dtype, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak.peak_flops("gpu", f"torch.{dtype}") == (expected, "its maker")


def test_tpus(monkeypatch):
    """A v5e has 197 TFLOPS; of one that nobody knows, or that cannot be asked, nothing is claimed."""
    env = {"ACCELERATOR_TYPE": "v5litepod-8"}
    tpu = SimpleNamespace(get_tpu_env=lambda: env)
    monkeypatch.setitem(sys.modules, "torch_xla._internal", SimpleNamespace(tpu=tpu))
    monkeypatch.setattr("lightning_fabric.accelerators.xla._XLA_GREATER_EQUAL_2_1", True)
    assert peak.device_peak("tpu", "torch.bfloat16") == (197e12, "its maker")
    env["ACCELERATOR_TYPE"] = "v99-8"
    assert peak.device_peak("tpu", "torch.bfloat16") == (None, None)
    env.clear()
    assert peak.device_peak("tpu", "torch.bfloat16") == (None, None)


def test_a_gpu_that_this_process_must_not_touch_is_asked_in_another(monkeypatch):
    """Which gets the function as text, so that it must stand by itself."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was initialised"))

    def run_in_subprocess(function, *values):
        alone = {}
        exec(inspect.getsource(function), alone)
        with monkeypatch.context() as there:
            there.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
            return list(alone[function.__name__](*values))

    monkeypatch.setattr(peak, "run_in_subprocess", run_in_subprocess)
    assert peak.device_peak("gpu", "torch.float16") == (65e12, "its maker")
