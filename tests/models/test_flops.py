"""FLOPs per token agree with the formula; the peak of a device comes from the vendor or is measured."""

import inspect
import sys
from types import SimpleNamespace

import pytest
import torch

from mlm.benchmark.limits import layer_shapes
from mlm.models import flops
from mlm.models.cpu import use_attention_and_dropout
from mlm.models.loading import load_model


@pytest.mark.parametrize("fast_kernels", [False, True])
@pytest.mark.parametrize("size", ["tiny", "mini"])
def test_flops_per_token_agree_with_the_formula(tokenizer, size, fast_kernels):
    model = load_model(f"scratch:{size}", tokenizer)
    if fast_kernels:
        use_attention_and_dropout(model, "matmul", "16bit")
    length, rate, config = 50, 0.3, model.config
    products = layer_shapes(config, length, rate * length).values()
    weights = 6 * sum(count * rows * inner * columns for rows, inner, columns, count in products)
    attention = 12 * config.num_hidden_layers * config.hidden_size * length
    found = flops.flops_per_token(model, length, rate)
    assert found == pytest.approx(weights / length + attention, rel=1e-9)


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_the_peak_of_this_cpu_is_measured(dtype):
    peak, source = flops.device_peak("cpu", dtype)
    assert source == "measured" and 1e8 < peak < 1e15


@pytest.mark.parametrize(
    "name, dtype, expected",
    [("Tesla T4", "float16", 65e12), ("NVIDIA A100-SXM4-40GB", "bfloat16", 312e12)],
)
def test_the_peak_of_a_known_gpu_comes_from_the_vendor(monkeypatch, name, dtype, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert flops.peak_flops("gpu", f"torch.{dtype}") == (expected, "vendor")


def test_the_peak_of_a_tpu_comes_from_the_vendor_or_is_unknown(monkeypatch):
    """A v5e has 197 TFLOPS. An unknown TPU, or one whose type cannot be read, has no figure."""
    env = {"ACCELERATOR_TYPE": "v5litepod-8"}
    tpu = SimpleNamespace(get_tpu_env=lambda: env)
    monkeypatch.setitem(sys.modules, "torch_xla._internal", SimpleNamespace(tpu=tpu))
    monkeypatch.setattr("lightning_fabric.accelerators.xla._XLA_GREATER_EQUAL_2_1", True)
    assert flops.device_peak("tpu", "torch.bfloat16") == (197e12, "vendor")
    env["ACCELERATOR_TYPE"] = "v99-8"
    assert flops.device_peak("tpu", "torch.bfloat16") == (None, None)
    env.clear()
    assert flops.device_peak("tpu", "torch.bfloat16") == (None, None)


def test_a_gpu_is_measured_in_another_process_before_cuda_is_initialized(monkeypatch):
    """That process gets the function as source code, so it must not need anything else."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was initialized"))

    def run_in_subprocess(function, *values):
        namespace = {}
        exec(inspect.getsource(function), namespace)
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
            return list(namespace[function.__name__](*values))

    monkeypatch.setattr(flops, "run_in_subprocess", run_in_subprocess)
    assert flops.device_peak("gpu", "torch.float16") == (65e12, "vendor")
