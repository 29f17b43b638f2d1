"""Which kernels are the fastest for a model on this CPU: they are timed, in less than a second."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mlm.env.notebook import NotebookError, started_by_launcher
from mlm.env.products import linear_step, precisions, restored_float32
from mlm.env.timing import shortest_seconds
from mlm.models.cpu import DROPOUT_CLASSES, PACKED_ATTENTION
from mlm.models.encoders import packed_attention_mask
from mlm.models.kernels import KERNELS
from mlm.models.long_rows import LONG_ROW

MIN_GAIN = 0.08  # fraction of a layer's time; below, the kernels of plain torch stay
MAX_TOKENS = 256  # of the timed batch: more change the times, but hardly their ratios
MAX_HEADS = 4  # of the timed attention
MAX_SECONDS = 0.15  # for each of three kinds of kernels


def attention_step(
    heads: int,
    size: int,
    rows: int,
    width: int,
    dtype: torch.dtype,
    dropout: float = 0.0,
    device: str = "cpu",
) -> Callable[[str], None]:
    """A function that computes the attention of packed rows forward and backward.

    Its argument is the implementation. heads, size: number and size of the attention heads. Each row
    has two examples.
    """
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    q, k, v = (
        torch.randn(rows, heads, width, size, requires_grad=True, **options) for _ in range(3)
    )
    is_first = torch.arange(width, device=device) < width // 2
    mask = packed_attention_mask(is_first.long().expand(rows, -1))
    gradient = torch.ones(rows, width, heads, size, **options)
    layer = SimpleNamespace(training=True, is_causal=False)

    def step(implementation: str) -> None:
        attention = ALL_ATTENTION_FUNCTIONS[implementation]
        output, _ = attention(layer, q, k, v, mask, dropout=dropout, scaling=size**-0.5)
        torch.autograd.grad(output, (q, k, v), gradient)

    return step


def dropout_step(rows: int, columns: int, rate: float) -> Callable[[str], None]:
    """A function that computes dropout forward and backward; its argument is the dropout's name."""
    x, gradient = torch.ones(rows, columns, requires_grad=True), torch.ones(rows, columns)
    layers = {name: layer(rate) for name, layer in DROPOUT_CLASSES.items()}

    def step(name: str) -> None:
        torch.autograd.grad(layers[name](x), x, gradient)

    return step


def layer_seconds(
    config: Any, rows: int, width: int, dtype: torch.dtype, own_attention: bool
) -> dict[str, float]:
    """{"library of products-attention": seconds of a layer, forward and backward}.

    A layer has linear layers of 12 H^2 weights, H being the hidden size, of which a third is timed. Their
    products count in float32 also where training rounds to bfloat16: those that remain are in float32.
    own_attention: the model computes its own attention, so only the linear layers count.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    linear = linear_step(rows * width, hidden, 4 * hidden)
    timed_heads, size = min(heads, MAX_HEADS), hidden // heads
    attention = attention_step(timed_heads, size, rows, width, dtype, dropout_rate(config))
    settings = precisions()

    def attend(setting: str, implementation: str) -> None:
        torch.set_float32_matmul_precision(setting)
        attention(implementation)

    products = {library: partial(linear, setting) for library, setting in settings.items()}
    attentions = {
        f"{library}-{name}": partial(attend, setting, name)
        for library, setting in settings.items()
        for name in PACKED_ATTENTION
    }
    with restored_float32():
        seconds = shortest_seconds(products, MAX_SECONDS)
        if own_attention:
            return {f"{library}-sdpa": 3 * seconds[library] for library in settings}
        more = shortest_seconds(attentions, MAX_SECONDS)
    share = heads / timed_heads
    return {pair: 3 * seconds[pair.split("-")[0]] + share * more[pair] for pair in more}


def dropout_rate(config: Any) -> float:
    """The dropout rate of a model's attention and hidden states; 0 if its config has none."""
    return getattr(config, "hidden_dropout_prob", 0.0) or 0.0


def faster(seconds: dict[str, float], plain: str) -> str:
    """The key with the least time, if it saves MIN_GAIN of the time of `plain`; otherwise `plain`."""
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] < (1 - MIN_GAIN) * seconds[plain] else plain


def time_kernels(model: Any, shape: tuple[int, int], dtype: torch.dtype) -> str:
    """The name of the fastest kernels for a model, timed on this CPU; prints the times.

    shape: (B, T) of a batch; long batches are timed in part. dtype: of the run's matrix products. Random
    numbers of the process stay as they are.
    """
    config = model.config.get_text_config()
    width = min(shape[1], LONG_ROW // 2)  # long rows have the same attention with all kernels
    sizes = [getattr(config, name, None) for name in ("hidden_size", "num_attention_heads")]
    if not all(isinstance(size, int) for size in sizes):
        print(f"CPU kernels: not timed, since the layers of {config.model_type!r} are not known")
        return KERNELS[0]
    rows = max(1, min(shape[0], MAX_TOKENS // width))
    with torch.random.fork_rng(devices=[]):
        seconds = layer_seconds(config, rows, width, dtype, not model._supports_attention_backend)
        dropouts = dict.fromkeys(DROPOUT_CLASSES, 0.0)
        if rate := dropout_rate(config):
            step = dropout_step(rows * width, config.hidden_size, rate)
            functions = {name: partial(step, name) for name in DROPOUT_CLASSES}
            dropouts = shortest_seconds(functions, MAX_SECONDS)
    plain, _, plain_dropout = KERNELS[0].rpartition("-")
    times = seconds | {f"{name} dropout": value for name, value in dropouts.items() if value}
    shown = ", ".join(f"{name} {1000 * value:.2f}" for name, value in times.items())
    print(
        f"CPU kernels (named products-attention), ms per layer for {rows} rows of {width} tokens: "
        f"{shown}; plain torch's ({plain}) stay unless others save {MIN_GAIN:.0%}"
    )
    return f"{faster(seconds, plain)}-{faster(dropouts, plain_dropout)}"


def choose_kernels(
    kernels: str, model: Any, device: dict[str, Any], shape: tuple[int, int]
) -> str | None:
    """The name of the kernels to use: `kernels` unless it is "auto"; None if the device is no CPU.

    device: from `trainer_arguments`. shape: (B, T) of a batch. Raises NotebookError if kernels are named
    for another device.
    """
    if device["kind"] != "cpu":
        if kernels != "auto":
            raise NotebookError(
                f'kernels="{kernels}" is for CPUs, but the device is a {device["kind"].upper()}; '
                'pass "auto"'
            )
        return None
    if kernels != "auto":
        return kernels
    if started_by_launcher():
        print("CPU kernels: not timed, since the processes of a launcher could not agree on times")
        return KERNELS[0]
    return time_kernels(model, shape, device["dtype"])
