"""Floating-point operations: how many a real token costs, and how many a device can do per second."""

import re
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mlm.env.hardware import run_in_subprocess
from mlm.models.long_rows import is_long

# per token

# Tokens. What long rows cost is computed from rows of this and twice this length.
MEASURED_LENGTH = 128


def flops_per_token(model: Any, length: int, mlm_probability: float) -> float:
    """Floating-point operations for training on one token: forward, and twice as many backward.

    Every weight of a matrix costs a multiplication and an addition in each of these three passes: 6
    operations. The head is computed only for the fraction `mlm_probability` of the tokens. Attention
    adds 12 * layers * hidden size * `length`, where `length` is the number of tokens in an example
    (Chowdhery et al. 2022, arXiv:2204.02311, appendix B); in a layer that attends within a window, only
    the pairs of tokens in the window count. torch counts the products of the model's own forward pass, so
    the result holds for every encoder: shared layers, factorized embeddings, convolutions, and the
    products with relative positions of DeBERTa. What is computed once for a whole batch is not
    counted, nor are embedding lookups, LayerNorm, GELU, softmax and the optimizer.
    """
    encoder, head = row_flops(model, length)
    config = model.config.get_text_config()  # of a model that also reads images
    outside_windows = length**2 - pairs_in_window(length, window_of(config))
    # A local layer computes all pairs and discards most of them.
    num_local_layers = (getattr(config, "layer_types", None) or []).count("sliding_attention")
    encoder -= 4 * outside_windows * config.hidden_size * num_local_layers
    return 3 * (encoder + mlm_probability * head) / length


def row_flops(model: Any, length: int) -> tuple[float, float]:
    """(operations in the encoder, operations in the head) of the forward pass of one more row of `length` tokens.

    All pairs of tokens count. For long rows, that is computed from two shorter ones: a length T costs
    a * T^2 + b * T.
    """
    if not is_long(length):
        one_row, two_rows = (forward_flops(model, rows, length) for rows in (1, 2))
        return two_rows[0] - one_row[0], two_rows[1] - one_row[1]
    short = MEASURED_LENGTH
    (encoder, head), (encoder_2, _) = row_flops(model, short), row_flops(model, 2 * short)
    quadratic = (encoder_2 - 2 * encoder) / (2 * short**2)
    linear = (encoder - quadratic * short**2) / short
    return quadratic * length**2 + linear * length, head / short * length


def forward_flops(model: Any, rows: int, length: int) -> tuple[int, int]:
    """(operations in the encoder, operations in the head) of one forward pass of (rows, length) tokens.

    Attention runs as plain matrix products: torch has no count for some of its fused kernels, the
    CPU's among them. Gradients stay enabled: torch cannot count DeBERTa's operations without.
    """
    some_id = 0 if model.config.pad_token_id else 1  # transformers warns of padding without a mask
    input_ids = torch.full((rows, length), some_id, device=model.device)
    not_compiled = torch.compiler.set_stance("force_eager")
    was_training = model.training
    model.eval()  # dropout may choose another kernel
    try:
        with (
            FlopCounterMode(display=False) as counter,
            torch.enable_grad(),
            not_compiled,
            sdpa_kernel(SDPBackend.MATH),
        ):
            model(input_ids)
    finally:
        model.train(was_training)
    by_operator = counter.get_flop_counts()[f"{type(model).__name__}.{model.base_model_prefix}"]
    encoder = sum(by_operator.values())
    return encoder, counter.get_total_flops() - encoder


def window_of(config: Any) -> int:
    """The number of tokens on each side that a layer with local attention (ModernBERT) sees; 0: all."""
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]
    return max(getattr(layer, "sliding_window", None) or 0 for layer in layers)


def pairs_in_window(length: int, window: int) -> int:
    """How many pairs of `length` tokens are at most `window` tokens apart; all pairs if it is 0."""
    if not 0 < window < length:
        return length**2
    return length * (2 * window + 1) - window * (window + 1)


# per second

PEAKS: dict[
    str, dict[str, float]
] = {  # {name of a GPU: dense 10^12 operations per second}, without sparsity and its factor of 2
    # Products are summed in float32, as PyTorch does it; "tf32" are float32 products in TensorFloat-32.
    # Sources: NVIDIA's data sheet of each card; for GeForce cards the whitepapers "NVIDIA Ampere GA102",
    # "NVIDIA Ada" and "NVIDIA RTX Blackwell GPU Architecture", appendix A.
    r"B200": {"16": 2250, "tf32": 1125, "float32": 75},
    r"GH200 \d+GB|H200|H100 80GB HBM3": {"16": 989, "tf32": 495, "float32": 67},
    r"(H200|H100) NVL": {"16": 835, "tf32": 417, "float32": 60},
    r"H100 PCIe": {"16": 756, "tf32": 378, "float32": 51},
    r"A100.SXM4.\d+GB|A100.PCIE.\d+GB|A100 80GB PCIe": {"16": 312, "tf32": 156, "float32": 19.5},
    r"A40": {"16": 149.7, "tf32": 74.8, "float32": 37.4},
    r"A30": {"16": 165, "tf32": 82, "float32": 10.3},
    r"A10": {"16": 125, "tf32": 62.5, "float32": 31.2},
    r"RTX A6000": {"16": 154.8, "tf32": 77.4, "float32": 38.7},
    r"RTX 6000 Ada Generation": {"16": 364.2, "tf32": 182.1, "float32": 91.1},
    r"L40S": {"16": 362, "tf32": 183, "float32": 91.6},
    r"L40": {"16": 181, "tf32": 90.5, "float32": 90.5},
    r"L4": {"16": 121, "tf32": 60, "float32": 30.3},
    r"GeForce RTX 5090": {"16": 209.5, "tf32": 104.8, "float32": 104.8},
    r"GeForce RTX 4090": {"16": 165.2, "tf32": 82.6, "float32": 82.6},
    r"GeForce RTX 4080": {"16": 97.5, "tf32": 48.7, "float32": 48.7},
    r"GeForce RTX 3090": {"16": 71, "tf32": 35.6, "float32": 35.6},
    r"T4": {"float16": 65, "float32": 8.1},
    r"V100.SXM2.\d+GB": {"float16": 125, "float32": 15.7},
    r"V100.PCIE.\d+GB": {"float16": 112, "float32": 14},
    r"P100.SXM2.\d+GB": {"float16": 21.2, "float32": 10.6},
    r"P100.PCIE.\d+GB": {"float16": 18.7, "float32": 9.3},
}


def vendor_peak(name: str, dtype: str, matmul_precision: str) -> float | None:
    """The vendor's figure for a GPU: operations per second for dense matrix products in `dtype`.

    matmul_precision: what torch.get_float32_matmul_precision() says; below "highest", float32 products
    run in TensorFloat-32. None for an unknown card, a part of one (MIG), or a type that it lacks.
    """
    short_name = re.sub(r"^(NVIDIA |Tesla )+", "", name)
    for pattern, peaks in PEAKS.items():
        if re.fullmatch(pattern, short_name):
            kind = dtype.removeprefix("torch.")
            if kind == "float32" and matmul_precision != "highest" and "tf32" in peaks:
                kind = "tf32"
            tera = peaks.get(kind) or (peaks.get("16") if kind.endswith("float16") else None)
            return tera * 1e12 if tera else None
    return None


def measured_peak(kind: str, dtype: str, matmul_precision: str) -> tuple[str, float]:
    """(name of the GPU, operations per second): the fastest of several square products over at least 0.3 s.

    The function does its own imports, because `device_peak` may run its source code in another process.
    """
    import time

    import torch

    if kind == "gpu":
        torch.set_float32_matmul_precision(matmul_precision)
    device = "cuda" if kind == "gpu" else "cpu"
    size = 4096 if kind == "gpu" else 1024
    a, b = torch.randn(2, size, size, device=device).to(getattr(torch, dtype.split(".")[-1]))
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < 4 or time.perf_counter() - began < 0.3:
        start = time.perf_counter()
        a @ b
        if kind == "gpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    name = torch.cuda.get_device_name() if kind == "gpu" else ""
    return name, 2 * size**3 / min(seconds)


def tpu_peak() -> float | None:
    """The vendor's figure for this TPU's bfloat16 products, from Lightning; None if it is unknown."""
    import warnings

    from lightning_fabric.utilities.throughput import get_available_flops

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return get_available_flops(torch.device("xla"), torch.bfloat16)
    except Exception:  # Lightning asks a metadata server that only Google's TPU machines have
        return None


def device_peak(kind: str, dtype: str) -> tuple[float | None, str | None]:
    """(peak operations per second of one device for matrix products in `dtype`, the source).

    The larger of two figures: the "vendor"'s, if the GPU is in PEAKS, and a "measured" one. So no run
    reaches more than the peak. A TPU has only the vendor's figure; both are None for an unknown TPU.
    dtype: the name of a torch dtype. A GPU is measured in another process if this one has not started
    CUDA: it may have to fork later.
    """
    if kind == "tpu":
        peak = tpu_peak()
        return peak, "vendor" if peak else None
    precision = torch.get_float32_matmul_precision()
    if kind == "gpu" and not torch.cuda.is_initialized():
        name, measured = run_in_subprocess(measured_peak, kind, dtype, precision)
    else:
        name, measured = measured_peak(kind, dtype, precision)
    vendor = vendor_peak(name, dtype, precision) or 0
    return (vendor, "vendor") if vendor >= measured else (measured, "measured")
