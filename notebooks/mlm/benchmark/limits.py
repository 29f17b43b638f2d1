"""The limit of the machine: matrix products. Where the time and memory of a step go, and how they grow."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

import mlm.training.strategies  # noqa: F401  # registers the names that trainer_arguments returns
from mlm.benchmark.speed import (
    Batch,
    Bench,
    Variant,
    interleave,
    loop_seconds,
    measurement,
    speed_ratios,
)
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.token_ids import encode_lines
from mlm.env.products import precisions, restored_float32
from mlm.models.cpu import PACKED_ATTENTION, keep_freed_memory
from mlm.models.encoders import head_layers
from mlm.models.kernel_choice import attention_step
from mlm.training.seeded_dropout import SeededDropout

Shapes = dict[
    str, tuple[int, int, int, int]
]  # {product: (rows, inner, columns, number in the model)}
STEP_PARTS = "batch", "encoder", "head", "loss", "backward", "optimizer"
LIGHTNING_SECONDS = 2  # at least, of each loop that `lightning_overhead` times

# matrix products


def best_seconds(bench: Bench, function: Callable[[], Any], min_seconds: float = 0.1) -> float:
    """The shortest time of a function, called for `min_seconds` and at least three times."""
    function()  # warm-up
    times: list[float] = []
    end = time.perf_counter() + min_seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = bench.clock()
        function()
        times.append(bench.clock() - start)
    return min(times)


def product_seconds(bench: Bench, rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    """Seconds of the three products of a linear layer: one forward, two backward."""
    x, w, g = (
        torch.randn(shape, device=bench.device, dtype=dtype)
        for shape in ((rows, inner), (columns, inner), (rows, columns))
    )
    products = (lambda: x @ w.T, lambda: g @ w, lambda: g.T @ x)
    return sum(best_seconds(bench, product) for product in products)


def layer_shapes(config: PretrainedConfig, tokens: int, masked: int) -> Shapes:
    """The matrix products of a step: {name: (rows, inner, columns, number in the model)}.

    `tokens` and `masked` are the numbers of all tokens and of masked tokens in a batch.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    wide = getattr(config, "intermediate_size", None) or config.hidden_dim  # DistilBERT
    narrow = getattr(config, "embedding_size", hidden)  # of the head in ALBERT and ELECTRA
    is_gated = config.model_type == "modernbert"  # two matrices up, in one
    return {
        "query, key, value, output": (tokens, hidden, hidden, 4 * layers),
        "feed-forward, up": (tokens, hidden, 2 * wide if is_gated else wide, layers),
        "feed-forward, down": (tokens, wide, hidden, layers),
        "head, transform": (masked, hidden, narrow, 1),
        "head, vocabulary": (masked, narrow, config.vocab_size, 1),
    }


def product_rates(
    bench: Bench, shapes: Shapes, dtype: torch.dtype
) -> tuple[dict[str, float], float]:
    """({product: GFLOP/s}, seconds of a step that consists of these products alone).

    On a CPU, each product is computed by the library that is faster.
    """
    if bench.device == "cpu":
        keep_freed_memory()
    rates, total = {}, 0.0
    for name, (rows, inner, columns, count) in shapes.items():
        times = []
        with restored_float32():
            for precision in precisions().values() if bench.device == "cpu" else ("highest",):
                torch.set_float32_matmul_precision(precision)
                times.append(product_seconds(bench, rows, inner, columns, dtype))
        seconds = min(times)
        rates[name] = 3 * 2 * rows * inner * columns / seconds / 1e9
        total += count * seconds
    return rates, total


# the parts of a step


@measurement
def step_breakdown(bench: Bench, variant: Variant, max_steps: int) -> dict[str, float]:
    """{part: milliseconds per 1,000 real tokens} in the first `max_steps` steps, after two warm-up steps."""
    loop_seconds(bench, variant, bench.batches(variant, 2))
    bench.switch(variant)
    optimizer, schedule = bench.make_optimizer(variant)
    spent = dict.fromkeys(STEP_PARTS, 0.0)
    last, tokens = bench.clock(), 0

    def lap(part: str) -> None:
        nonlocal last
        now = bench.clock()
        spent[part] += now - last
        last = now

    head = head_layers(bench.model)
    with (
        head[0].register_forward_pre_hook(lambda *_: lap("encoder")),
        head[-1].register_forward_hook(lambda *_: lap("head")),
    ):
        for batch in bench.batches(variant, max_steps):
            lap("batch")
            loss = bench.loss(variant, batch)
            lap("loss")
            bench.scaler.scale(loss).backward()
            lap("backward")
            bench.scaler.step(optimizer)
            bench.scaler.update()
            schedule.step()
            optimizer.zero_grad()
            lap("optimizer")
            tokens += batch["num_tokens"]
    return {part: 1e6 * seconds / tokens for part, seconds in spent.items()}


@measurement
def activation_bytes(bench: Bench, variant: Variant, batch: Batch) -> int:
    """Bytes that the forward pass keeps for the backward pass, without the weights.

    Each storage counts once.
    """
    bench.switch(variant)
    weights = {p.untyped_storage().data_ptr() for p in bench.model.parameters()}
    sizes = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        bench.loss(variant, batch)
    return sum(sizes.values())


def attention_seconds(
    bench: Bench, dtype: torch.dtype, width: int, tokens: int = 4096
) -> dict[str, float]:
    """{implementation: seconds} of one layer's attention, forward and backward, on packed rows.

    Rows of `width` tokens have two examples each; together they have about `tokens` tokens.
    """
    config = bench.model.config
    heads, rows = config.num_attention_heads, max(1, tokens // width)
    step = attention_step(
        heads, config.hidden_size // heads, rows, width, dtype, device=bench.device
    )
    return {name: best_seconds(bench, partial(step, name)) for name in PACKED_ATTENTION}


# growth


def encode_seconds(
    text_file: Path, tokenizer: PreTrainedTokenizerBase, folder: Path, copies: int
) -> float:
    """Seconds to tokenize `copies` copies of a text, joined in one temporary file in `folder`."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as new:
        path = Path(new) / "copies.txt"
        with open(path, "wb") as file:
            file.writelines([text_file.read_bytes()] * copies)
        start = time.perf_counter()
        encode_lines(path, tokenizer)
        return time.perf_counter() - start


def full_batch(bench: Bench, text_file: Path, num_blocks: int, width: int) -> Batch:
    """A batch of full blocks of `width` tokens, on the device."""
    tokenizer = bench.data["line"].tokenizer
    blocks = MaskedLMDataset(text_file, tokenizer, width, "stream")  # all full
    indices = np.arange(num_blocks) % max(1, len(blocks) - 1)  # the last block is shorter
    batches = MaskedBatches(blocks, [(0, indices)], bench.mlm_probability, bench.seed)
    return bench.on_device(next(iter(batches)))


@measurement
def step_seconds(bench: Bench, variant: Variant, batch: Batch, repeats: int) -> float:
    """Median seconds of a step on one batch, after one warm-up step."""
    bench.switch(variant)
    optimizer, schedule = bench.make_optimizer(variant)
    times = []
    for _ in range(1 + repeats):
        start = bench.clock()
        bench.step(variant, batch, optimizer, schedule)
        times.append(bench.clock() - start)
    return float(np.median(times[1:]))


# Lightning


class TrainingTime(pl.Callback):
    """Seconds from the first batch of a Lightning Trainer to its last step."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds = -self.clock()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds += self.clock()


def lightning_loop(
    bench: Bench, variant: Variant, batches: Iterable[Batch], trainer_args: dict[str, Any]
) -> float:
    """Seconds of the same training with pytorch_lightning.Trainer.

    Dropout is seeded at each step, as in 04.
    """
    bench.switch(variant)
    bench.module.optimizer_options = bench.optimizer_options(variant)
    timer = TrainingTime(bench.clock)
    trainer = pl.Trainer(
        **trainer_args, max_epochs=1, callbacks=[timer, SeededDropout(bench.seed)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(bench.module, iter(batches))  # it would replace a list
    return timer.seconds


@measurement
def lightning_overhead(
    bench: Bench, variant: Variant, trainer_args: dict[str, Any], repeats: int
) -> tuple[float, pd.DataFrame]:
    """(milliseconds per step of a bare loop, how many times as long Lightning takes).

    The table has a row for each way to prepare batches: median, lowest and highest of the repeats. Each
    measurement takes at least two seconds.
    """
    prepared = list(bench.batches(variant))
    lightning_loop(bench, variant, prepared, trainer_args)  # warm-up
    loop_seconds(bench, variant, prepared)
    epochs = max(1, round(LIGHTNING_SECONDS / loop_seconds(bench, variant, prepared)))

    def on_the_fly() -> Iterator[Batch]:
        """The same batches, each prepared when it is needed."""
        return chain.from_iterable(bench.batches(variant) for _ in range(epochs))

    loops: dict[str, Callable[[], float]] = {
        "bare loop": lambda: loop_seconds(bench, variant, prepared * epochs),
        "Lightning, prepared batches": lambda: lightning_loop(
            bench, variant, prepared * epochs, trainer_args
        ),
        "Lightning, batches on the fly": lambda: lightning_loop(
            bench, variant, on_the_fly(), trainer_args
        ),
    }
    seconds = interleave(loops, repeats)
    bare, *others = loops
    milliseconds = 1000 * seconds[bare].median() / len(prepared) / epochs
    return milliseconds, speed_ratios(seconds, {name: (name, bare) for name in others})
