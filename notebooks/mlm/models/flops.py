"""How near the limit: what a real token costs to train on, what the device could do at most."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from mlm.env.hardware import in_own_process


def flops_per_token(bert, length, share):
    """Floating-point operations of training on a token: forward, and twice as many backward.

    Each weight of a matrix is multiplied and added once a token, three times in all: 6 a weight. The
    head's are for the `share` of the tokens that is asked about. Attention adds 12 * layers *
    hidden size * `length`, the tokens of an example, each of which looks at all (Chowdhery et al. 2022,
    arXiv:2204.02311, appendix B). Counted by torch in one pass over an example, so that it holds for
    any encoder; lookups, LayerNorm, GELU, softmax and the optimizer are not counted.
    """
    token = torch.zeros(1, length, dtype=torch.int64, device=bert.device)
    eagerly = torch.compiler.set_stance("force_eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), eagerly:
        bert(token)
    encoder = counter.get_flop_counts()[f"{type(bert).__name__}.{bert.base_model_prefix}"]
    encoder = sum(encoder.values())
    head = counter.get_total_flops() - encoder
    return 3 * (encoder + share * head) / length


def peak_flops(kind, dtype):
    """(operations a second of one device in matrix products of `dtype`, where that is from).

    "its maker" where Lightning's table has the card or the TPU, else "measured": square products, the
    best of 0.3 s or more. (None, None) on a TPU that the table does not have. `dtype` is its name. It
    imports what it needs: on GPUs another process may have to answer.
    """
    import time
    import warnings

    import torch
    from lightning_fabric.utilities.throughput import get_available_flops

    place = torch.device({"gpu": "cuda", "tpu": "xla"}.get(kind, "cpu"))
    dtype = getattr(torch, dtype.removeprefix("torch."))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = get_available_flops(place, dtype)
    except Exception:  # a TPU is asked of a server that only Google's machines have
        known = None
    if known or kind == "tpu":
        return known, known and "its maker"
    size, seconds, began = 4096 if kind == "gpu" else 1024, [], time.perf_counter()
    one, other = torch.randn(2, size, size, device=place).to(dtype)
    while len(seconds) < 4 or time.perf_counter() - began < 0.3:
        start = time.perf_counter()
        one @ other
        if kind == "gpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds), "measured"


def device_peak(kind, dtype):
    """`peak_flops`, in a process of its own where this one has to stay away from the GPUs."""
    if kind == "gpu" and not torch.cuda.is_initialized():
        return tuple(in_own_process(peak_flops, kind, dtype))
    return peak_flops(kind, dtype)
