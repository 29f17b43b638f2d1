"""FLOPs per token agree with formulas; the peak of a device comes from the vendor or is measured."""

import inspect
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers

from encoders import CONFIGS, OTHERS, SMALL
from mlm.benchmark.limits import layer_shapes
from mlm.models import flops
from mlm.models.cpu import use_attention_and_dropout
from mlm.models.loading import load_model

VOCABULARY, LENGTH, RATE = 300, 50, 0.3
CONVBERT = SMALL | dict(embedding_size=16, num_attention_heads=4)


def make(kind, **changes):
    """A small model of this kind."""
    known = CONFIGS | OTHERS | {"convbert": CONVBERT}
    options = known[kind] | changes
    config = transformers.AutoConfig.for_model(
        kind, **options, vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    return transformers.AutoModelForMaskedLM.from_config(config)


# operations per token, from the shapes of the layers; H: hidden size, I: inner size, E: embedding size


def layer(config, length=LENGTH):
    """Weights of a layer of BERT's kind, and the products of its attention as if they were weights."""
    h, i = getattr(config, "hidden_size", 32), getattr(config, "intermediate_size", 64)
    return 4 * h * h + 2 * h * i + 2 * length * h


def modernbert_layers(config):
    """Gated feed-forward layers (3 matrices); the layers with a window of 4 tokens on each side."""
    h, i, window = config.hidden_size, config.intermediate_size, 4
    near = sum(min(LENGTH, t + window + 1) - max(0, t - window) for t in range(LENGTH)) / LENGTH
    one_layer = 4 * h * h + 3 * h * i
    return 3 * one_layer + 2 * h * (LENGTH + near + LENGTH)  # global, local, global


def deberta_layers(config):
    """Each layer also multiplies queries and keys by those of 2 x 8 relative positions."""
    return 2 * (layer(config) + 2 * 16 * config.hidden_size)


def convbert_layers(config):
    """Half of the heads attend; the others convolve with kernels of 9 that depend on the token."""
    h, i, half, kernel = 32, 64, 16, config.conv_kernel_size
    attention = 3 * h * half + 2 * LENGTH * half  # query, key, value and their products
    separable = h * kernel + h * half  # depthwise, then pointwise
    dynamic = (
        half * 2 * kernel + h * half + half * kernel
    )  # 2 heads' kernels, values, their product
    return 2 * (attention + separable + dynamic + h * h + 2 * h * i)


BERT_HEAD = 32 * 32 + 32 * VOCABULARY
FACTORIZED_HEAD = 32 * 16 + 16 * VOCABULARY
FORMULAS = {  # kind: (products per token in the encoder, in the head)
    "albert": lambda c: (16 * 32 + 2 * layer(c), FACTORIZED_HEAD),
    "convbert": lambda c: (16 * 32 + convbert_layers(c), FACTORIZED_HEAD),
    "deberta-v2": lambda c: (deberta_layers(c), BERT_HEAD),
    "electra": lambda c: (16 * 32 + 2 * layer(c), FACTORIZED_HEAD),
    "modernbert": lambda c: (modernbert_layers(c), BERT_HEAD),
}


@pytest.mark.parametrize("mode", ["default kernels", "fast kernels"])
@pytest.mark.parametrize("kind", [*CONFIGS, *OTHERS, "convbert"])
def test_flops_per_token_agree_with_the_formula_of_each_kind(kind, mode):
    """6 operations for each weight: 2 forward, 4 backward. The head counts for masked tokens only."""
    model = make(kind).eval()
    if mode == "fast kernels":
        use_attention_and_dropout(model, "matmul", "16bit")
    default = lambda config: (2 * layer(config), BERT_HEAD)  # noqa: E731
    encoder, head = FORMULAS.get(kind, default)(model.config)
    found = flops.flops_per_token(model, LENGTH, RATE)
    assert found == pytest.approx(6 * (encoder + RATE * head), rel=1e-9)
    assert not model.training


@pytest.mark.parametrize("size", ["tiny", "mini"])
def test_flops_agree_with_the_shapes_that_06_measures(tokenizer, size):
    model = load_model(f"scratch:{size}", tokenizer)
    config = model.config
    products = layer_shapes(config, LENGTH, RATE * LENGTH).values()
    weights = 6 * sum(count * rows * inner * columns for rows, inner, columns, count in products)
    attention = 12 * config.num_hidden_layers * config.hidden_size * LENGTH
    found = flops.flops_per_token(model, LENGTH, RATE)
    assert found == pytest.approx(weights / LENGTH + attention, rel=1e-9)


@pytest.mark.parametrize("length, window", [(50, 4), (5, 4), (4, 4), (3, 9), (1, 1), (7, 0)])
def test_the_pairs_in_a_window_are_counted(length, window):
    positions = torch.arange(length)
    near = (positions[:, None] - positions).abs() <= (window or length)
    assert flops.pairs_in_window(length, window) == near.sum()


# the peak


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_the_peak_of_this_cpu_is_measured(dtype):
    peak, source = flops.device_peak("cpu", dtype)
    assert source == "measured" and 1e8 < peak < 1e15


H100, V100 = "NVIDIA H100 80GB HBM3", "Tesla V100-SXM2-16GB"


@pytest.mark.parametrize(
    "name, dtype, precision, tera",
    [
        ("Tesla T4", "float16", "highest", 65),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", "highest", 312),
        ("A100-SXM4-40GB", "bfloat16", "highest", 312),
        ("NVIDIA A100 80GB PCIe", "float32", "highest", 19.5),
        (H100, "bfloat16", "highest", 989),
        (H100, "float32", "highest", 67),
        (H100, "float32", "high", 495),
        ("NVIDIA H100 PCIe", "float16", "highest", 756),
        ("NVIDIA H100 NVL", "float16", "highest", 835),
        ("NVIDIA H200", "bfloat16", "highest", 989),
        ("NVIDIA L4", "bfloat16", "highest", 121),
        ("NVIDIA L40", "bfloat16", "highest", 181),
        ("NVIDIA L40S", "bfloat16", "highest", 362),
        ("NVIDIA RTX A6000", "bfloat16", "highest", 154.8),
        ("NVIDIA A40", "bfloat16", "highest", 149.7),
        ("NVIDIA GeForce RTX 3090", "bfloat16", "highest", 71),
        ("NVIDIA GeForce RTX 4090", "float16", "highest", 165.2),
        ("NVIDIA GeForce RTX 4090", "float32", "medium", 82.6),
        (V100, "float32", "medium", 15.7),
        (V100, "bfloat16", "highest", None),
        # parts of a card, smaller cards with a similar name, unknown cards
        (f"{H100} MIG 1g.10gb", "bfloat16", "highest", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", "highest", None),
        ("NVIDIA GeForce RTX 4090 D", "bfloat16", "highest", None),
        ("NVIDIA A10G", "bfloat16", "highest", None),
        ("NVIDIA Z9", "bfloat16", "highest", None),
    ],
)
def test_the_vendors_figure_of_a_gpu_is_that_of_dense_products(name, dtype, precision, tera):
    peak = flops.vendor_peak(name, f"torch.{dtype}", precision)
    assert peak == (tera and pytest.approx(tera * 1e12))


def test_every_figure_is_plausible():
    """Narrower types are at least as fast; a factor of 2 for sparsity would exceed 16 bits = 2 x tf32."""
    for name, peaks in flops.PEAKS.items():
        sixteen = peaks.get("16") or peaks["float16"]
        assert sixteen > peaks["float32"] and peaks.get("tf32", sixteen) >= peaks["float32"], name
        if "tf32" in peaks:
            assert sixteen / peaks["tf32"] == pytest.approx(2, rel=0.02), name


@pytest.mark.parametrize(
    "name, measured, expected",
    [
        (H100, 6e14, (989e12, "vendor")),
        (H100, 1e15, (1e15, "measured")),
        ("NVIDIA Z9", 5e13, (5e13, "measured")),
    ],
)
def test_the_peak_of_a_gpu_is_the_larger_of_both_figures(monkeypatch, name, measured, expected):
    monkeypatch.setattr(flops, "run_in_subprocess", lambda *_: [name, measured])
    assert flops.device_peak("gpu", "torch.bfloat16") == pytest.approx(expected)


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

    def run_in_subprocess(function, kind, *values):
        assert kind == "gpu"
        namespace = {}
        exec(inspect.getsource(function), namespace)
        _, measured = namespace[function.__name__]("cpu", *values)  # this machine has no GPU
        return ["Tesla T4", measured]

    monkeypatch.setattr(flops, "run_in_subprocess", run_in_subprocess)
    assert flops.device_peak("gpu", "torch.float16") == (65e12, "vendor")
