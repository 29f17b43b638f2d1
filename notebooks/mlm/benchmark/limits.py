"""What bounds the speed: matrix products. Where a step's time and memory go, and how both grow."""

import time
from functools import partial
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mlm.benchmark.speed import interleave
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.token_ids import encode_lines
from mlm.models.cpu import PACKED_ATTENTION, keep_freed_memory, onednn_float32
from mlm.models.encoders import head_layers, packed_attention_mask
from mlm.training.seeded_dropout import SeededDropout

# matrix products


def best_seconds(bench, work, at_least=0.1):
    """The shortest time of `work`, of as many runs as fit into `at_least` seconds, three or more."""
    work()
    times, end = [], time.perf_counter() + at_least
    while len(times) < 3 or time.perf_counter() < end:
        began = bench.clock()
        work()
        times.append(bench.clock() - began)
    return min(times)


def product_seconds(bench, rows, inner, columns, dtype):
    """Seconds of the three products of a linear layer: forward, and both of backward."""
    x, w, g = (
        torch.randn(shape, device=bench.place, dtype=dtype)
        for shape in ((rows, inner), (columns, inner), (rows, columns))
    )
    works = (lambda: x @ w.T, lambda: g @ w, lambda: g.T @ x)
    return sum(best_seconds(bench, work) for work in works)


def layer_shapes(config, tokens, masked):
    """The products of a step: {name: (rows, inner, columns, how many in the model)}."""
    hidden, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    return {
        "query, key, value, output": (tokens, hidden, hidden, 4 * layers),
        "feed-forward, up": (tokens, hidden, wide, layers),
        "feed-forward, down": (tokens, wide, hidden, layers),
        "head, transform": (masked, hidden, hidden, 1),
        "head, vocabulary": (masked, hidden, config.vocab_size, 1),
    }


def product_rates(bench, shapes, dtype):
    """({product: GFLOP/s}, seconds of a step if it were these products alone), at the CPU's best."""
    if bench.place == "cpu":
        keep_freed_memory()
        onednn_float32()
    rates, total = {}, 0.0
    for name, (rows, inner, columns, count) in shapes.items():
        seconds = product_seconds(bench, rows, inner, columns, dtype)
        rates[name] = 3 * 2 * rows * inner * columns / seconds / 1e9
        total += count * seconds
    return rates, total


# a step, taken apart


def pieces(bench, rung, most):
    """{piece: milliseconds for 1,000 real tokens} of the first `most` steps of a rung."""
    bench.switch(rung)
    optimizer, schedule = bench.optimizer(rung)
    spent = dict.fromkeys(("input", "encoder", "head", "loss", "backward", "optimizer"), 0.0)
    last, tokens = bench.clock(), 0

    def lap(piece):
        nonlocal last
        now = bench.clock()
        spent[piece] += now - last
        last = now

    head = head_layers(bench.bert)
    with (
        head[0].register_forward_pre_hook(lambda *_: lap("encoder")),
        head[-1].register_forward_hook(lambda *_: lap("head")),
    ):
        for batch in bench.batches(rung, most):
            lap("input")
            loss = bench.loss(rung, batch)
            lap("loss")
            bench.scaler.scale(loss).backward()
            lap("backward")
            bench.scaler.step(optimizer)
            bench.scaler.update()
            schedule.step()
            optimizer.zero_grad()
            lap("optimizer")
            tokens += batch["num_tokens"]
    return {piece: 1e6 * seconds / tokens for piece, seconds in spent.items()}


def kept_bytes(bench, rung, batch):
    """Bytes that the forward pass of a rung keeps for backward, each storage once, no weights."""
    bench.switch(rung)
    weights = {p.untyped_storage().data_ptr() for p in bench.bert.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bench.loss(rung, batch)
    return sum(kept.values())


def attention_seconds(bench, dtype, width, tokens=4096):
    """{way: seconds} of a layer's attention, forward and backward, in rows that two examples share."""
    config = bench.bert.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    shape = max(1, tokens // width), heads, width, size
    how = dict(device=bench.place, dtype=dtype, requires_grad=True)
    q, k, v = (torch.randn(shape, **how) for _ in range(3))
    example = torch.arange(width, device=bench.place).expand(shape[0], -1) < width // 2
    layer = SimpleNamespace(training=True, is_causal=False)

    def work(way):
        attend = ALL_ATTENTION_FUNCTIONS[way]
        attend(layer, q, k, v, packed_attention_mask(example), scaling=size**-0.5)[
            0
        ].sum().backward()

    return {way: best_seconds(bench, partial(work, way)) for way in PACKED_ATTENTION}


# growth


def encode_seconds(text_file, tokenizer, folder, times):
    """Seconds to tokenize a text `times` times over, from a copy in `folder`."""
    copies = folder / f"copies-{time.time_ns()}.txt"
    text = text_file.read_bytes()
    with open(copies, "wb") as file:
        for _ in range(times):
            file.write(text)
    began = time.perf_counter()
    encode_lines(copies, tokenizer)
    return time.perf_counter() - began


def full_batch(bench, text_file, examples, width):
    """A batch of so many full blocks of `width` tokens, on the device."""
    tokenizer = bench.data["line"].tokenizer
    blocks = MaskedLMDataset(text_file, tokenizer, width, "block")
    key = 0, np.arange(examples) % max(1, len(blocks) - 1)  # the last block is shorter
    batches = MaskedBatches(blocks, [key], bench.mlm_probability, bench.seed)
    return bench.on_device(batches.batch(*key))


def step_seconds(bench, rung, batch, repeats):
    """Median seconds of a rung's step on one batch; one step before warms up."""
    bench.switch(rung)
    optimizer, schedule = bench.optimizer(rung)
    times = []
    for _ in range(1 + repeats):
        began = bench.clock()
        bench.step(rung, batch, optimizer, schedule)
        times.append(bench.clock() - began)
    return float(np.median(times[1:]))


# Lightning


def bare_loop(bench, rung, batches):
    """Seconds of a loop that does nothing but train on these batches."""
    bench.switch(rung)
    optimizer, schedule = bench.optimizer(rung)
    began = bench.clock()
    for batch in batches:
        bench.step(rung, batch, optimizer, schedule)
    return bench.clock() - began


class Batches:
    """An iterable for Lightning that looks like nothing it knows, so it is taken as it is."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Timer(pl.Callback):
    """Seconds from the beginning of training to its end."""

    def __init__(self, bench):
        self.clock = bench.clock

    def on_train_start(self, trainer, module):
        self.seconds = -self.clock()

    def on_train_end(self, trainer, module):
        self.seconds += self.clock()


def lightning(bench, rung, batches, trainer_args):
    """Seconds of the same by pytorch_lightning.Trainer, which seeds dropout at each step as 04 does."""
    bench.switch(rung)
    bench.module.optimizer, timer = bench.optimizer_arguments(rung), Timer(bench)
    trainer = pl.Trainer(
        **trainer_args, max_epochs=1, callbacks=[timer, SeededDropout(bench.seed)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(bench.module, Batches(batches))
    return timer.seconds


def overhead(bench, rung, arguments, repeats):
    """What Lightning costs beside a bare loop over the same tensors: a DataFrame, a row a way.

    Columns: ms a step, and percent more than the bare loop (median, lowest, highest). `arguments` are
    Trainer's. Each way takes two seconds or longer.
    """
    ready = list(bench.batches(rung))
    lightning(bench, rung, ready, arguments), bare_loop(bench, rung, ready)  # warm up
    passes = max(1, round(2 / bare_loop(bench, rung, ready)))

    def made():
        """The same batches, made when they are asked for."""
        return chain.from_iterable(bench.batches(rung) for _ in range(passes))

    ways = {
        "bare loop": lambda: bare_loop(bench, rung, ready * passes),
        "Lightning, same tensors": lambda: lightning(bench, rung, ready * passes, arguments),
        "Lightning, batches made": lambda: lightning(bench, rung, made(), arguments),
    }
    seconds = interleave(ways, repeats)
    more = seconds.div(seconds["bare loop"], axis=0).sub(1).mul(100)
    a_step = 1000 * seconds.median() / len(ready) / passes
    columns = {"percent more": more.median(), "lowest": more.min(), "highest": more.max()}
    return pd.DataFrame({"ms a step": a_step, **columns})
