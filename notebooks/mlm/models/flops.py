"""Floating-point operations: how many a real token costs, and how many a device can do per second."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mlm.env.hardware import run_in_subprocess


def flops_per_token(model: Any, length: int, mlm_probability: float) -> float:
    """Floating-point operations for training on one token: forward, and twice as many backward.

    Every weight of a matrix costs a multiplication and an addition in each of these three passes: 6
    operations. The head is computed only for the fraction `mlm_probability` of the tokens. Attention
    adds 12 * layers * hidden size * `length`, where `length` is the number of tokens in an example
    (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). torch counts the operations in one forward
    pass, so the result holds for every encoder. Embedding lookups, LayerNorm, GELU, softmax and the
    optimizer are not counted.
    """
    input_ids = torch.zeros(1, length, dtype=torch.int64, device=model.device)
    not_compiled = torch.compiler.set_stance("force_eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), not_compiled:
        model(input_ids)
    by_operator = counter.get_flop_counts()[f"{type(model).__name__}.{model.base_model_prefix}"]
    encoder = sum(by_operator.values())
    head = counter.get_total_flops() - encoder
    return 3 * (encoder + mlm_probability * head) / length


def peak_flops(kind: str, dtype: str) -> tuple[float | None, str | None]:
    """(peak operations per second of one device for matrix products in `dtype`, the source).

    The source is "vendor" if Lightning has the vendor's figure for this GPU or TPU. Otherwise it is
    "measured": the fastest of several square products, over at least 0.3 s. Both are None for an unknown TPU.
    dtype: the name of a torch dtype.
    The function does its own imports, because `device_peak` may run its source code in another process.
    """
    import time
    import warnings

    import torch
    from lightning_fabric.utilities.throughput import get_available_flops

    device = torch.device({"gpu": "cuda", "tpu": "xla"}.get(kind, "cpu"))
    torch_dtype = getattr(torch, dtype.removeprefix("torch."))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = get_available_flops(device, torch_dtype)
    except Exception:  # Lightning asks a metadata server that only Google's TPU machines have
        known = None
    if known or kind == "tpu":
        return known, known and "vendor"
    size = 4096 if kind == "gpu" else 1024
    a, b = torch.randn(2, size, size, device=device).to(torch_dtype)
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < 4 or time.perf_counter() - began < 0.3:
        start = time.perf_counter()
        a @ b
        if kind == "gpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds), "measured"


def device_peak(kind: str, dtype: str) -> tuple[float | None, str | None]:
    """`peak_flops`, in another process if this one has not started CUDA: it may have to fork later."""
    if kind == "gpu" and not torch.cuda.is_initialized():
        return tuple(run_in_subprocess(peak_flops, kind, dtype))
    return peak_flops(kind, dtype)
