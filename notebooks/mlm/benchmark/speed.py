"""Recipes for the same training, to be measured one beside the other; 06_speed climbs them."""

import copy
import ctypes
import functools
import tempfile
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mlm.data.batches import MaskedBatches
from mlm.data.formats import text_lines
from mlm.data.masking import uniform
from mlm.data.packing import PackingPlan
from mlm.env.notebook import NotebookError
from mlm.models.cpu import keep_freed_memory, onednn_float32, use_default_kernels, use_fast_kernels
from mlm.models.encoders import head_logits, hidden_states, packed_attention_mask, supports_packing
from mlm.optim.optimizer import make_optimizer
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM, masked_labels

# recipes


@dataclass(frozen=True)
class Variant:
    """One recipe: how lines become batches, and how a step is computed."""

    name: str
    examples: str = "line"  # or "block": the same lines, one after the other
    batch: int = 4  # examples in a batch
    order: str = "text"  # or "random"; for Trainer also "length": like lengths together
    rows: str = "own"  # or, in random order, "shared": short examples share a row
    dtype: torch.dtype = torch.float32  # that matrix products run in
    fused: bool = False  # AdamW in one pass over all weights
    masked_only: bool = False  # the head on masked positions only
    fast: bool = False  # attention as matrix products, cheap dropout
    steady: bool = False  # freed memory is kept
    onednn: bool = False  # a CPU's float32 products by oneDNN
    by: str = "loop"  # or "Trainer": transformers.Trainer
    lr: float | None = None  # a constant; None: the peak by one rule for model and batch


def build_ladder(first, changes):
    """A ladder of Rungs: `first`, then for each (name, {field: value}) one more, changed in just that.

    What changes nothing (16 bits where the machine has none, say) is no rung.
    """
    ladder = [first]
    for name, change in changes:
        higher = replace(ladder[-1], **change)
        if higher != ladder[-1]:
            ladder.append(replace(higher, name=name))
    return ladder


def draw_lines(text_file, path, count, seed):
    """Write `count` lines of a text to `path`, drawn by the seed, in the order of the text."""
    lines = list(text_lines(text_file))
    chosen = np.sort(uniform(seed, np.arange(len(lines)), 7).argsort()[:count])
    path.write_text("\n".join(lines[i] for i in chosen) + "\n", encoding="utf-8")


# the bench


def return_freed_memory():
    """Undo `keep_freed_memory`: freed memory goes back in large pieces.

    The thresholds are those that glibc reaches by itself in a long run.
    """
    if keep_freed_memory():
        libc = ctypes.CDLL(None)
        mmap_max, mmap_threshold, trim_threshold = -4, -3, -1  # their numbers in malloc.h
        libc.mallopt(mmap_max, 65536)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 64 << 20)


@dataclass(eq=False)
class Bench:
    """What all recipes share: a model and its first weights, lines, held-out batches, a device.

    `model` is the name that `bert` was loaded by; `data` has the lines as {"line": MaskedLMDataset,
    "block": MaskedLMDataset}; `held_out` is a list of batches; `place` is "cpu" or "cuda".
    Raises NotebookError where the model's examples cannot share rows.
    """

    bert: PreTrainedModel
    model: str
    data: dict
    held_out: list
    mlm_probability: float
    seed: int
    place: str

    def __post_init__(self):
        if not supports_packing(self.bert.config):
            raise NotebookError(
                f"model={self.model!r} is a {self.bert.config.model_type!r} model: its examples cannot "
                "share rows, which is compared here; pass one such as BERT, RoBERTa or ModernBERT"
            )
        self.module = MaskedLM(self.bert.to(self.place), {})
        self.start = {name: value.clone() for name, value in self.bert.state_dict().items()}
        self.keys = functools.cache(self.keys)  # a run plans once, so no pass here pays for it

    def clock(self):
        """The time in seconds, once the device has done all that it was asked to."""
        if self.place == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def switch(self, rung):
        """Make model and process what this rung wants, the weights as they were at first."""
        use_fast_kernels(self.bert)
        if not rung.fast:
            use_default_kernels(self.bert)
        if rung.steady:
            keep_freed_memory()
        else:
            return_freed_memory()
        torch.set_float32_matmul_precision("highest")
        if rung.onednn and self.place == "cpu":
            onednn_float32()
        self.bert.load_state_dict(self.start)
        self.module.to(self.place).train()
        self.module.matmul_dtype = rung.dtype
        self.scaler = torch.amp.GradScaler(self.place, enabled=rung.dtype == torch.float16)
        torch.manual_seed(self.seed)

    def keys(self, rung, epochs=1, mlm_probability=None):
        """(keys, shape) of a rung's batches in so many passes over the lines, for MaskedBatches."""
        data, epochs = self.data[rung.examples], range(epochs)
        if rung.order == "text":
            groups = np.split(np.arange(len(data)), range(rung.batch, len(data), rung.batch))
            return [(epoch, group) for epoch in epochs for group in groups], None
        plan = PackingPlan(
            data, rung.batch, mlm_probability or self.mlm_probability, self.seed, epochs
        )
        keys = [key for epoch in epochs for key in plan.keys(epoch)]
        if rung.rows == "own":
            return [(epoch, group) for epoch, group, _ in keys], None
        return keys, plan.shape

    def on_device(self, batch):
        """A batch with its tensors where the model is."""
        return {k: v.to(self.place) if torch.is_tensor(v) else v for k, v in batch.items()}

    def batches(self, rung, most=None, epochs=1, mlm_probability=None):
        """The batches of so many passes over the lines, on the device; at most `most` of them."""
        keys, shape = self.keys(rung, epochs, mlm_probability)
        share = mlm_probability or self.mlm_probability
        data = self.data[rung.examples]
        return map(self.on_device, MaskedBatches(data, keys[:most], share, self.seed, shape))

    def steps(self, rung):
        """How many batches one pass over the lines has."""
        return -(-len(self.data[rung.examples]) // rung.batch)

    def peak_lr(self, rung):
        """The rung's own learning rate, else one rule for all: narrow models and large batches bear more."""
        hidden, scratch = self.bert.config.hidden_size, self.model.startswith("scratch:")
        rule = 1e-3 * 128 / hidden if scratch else 1e-4
        return rung.lr or rule * (rung.batch / 32) ** 0.5

    def optimizer_arguments(self, rung):
        """The arguments of `make_optimizer` for one pass over the lines."""
        return dict(
            optimizer="adamw",
            lr=self.peak_lr(rung),
            weight_decay=0.01,
            total_steps=self.steps(rung),
            schedule="constant" if rung.lr else "linear",
        )

    def optimizer(self, rung, arguments=None):
        """(optimizer, its schedule); without `fused` torch takes one weight after the other."""
        arguments = arguments or self.optimizer_arguments(rung)
        optimizer, schedule = make_optimizer(self.module, **arguments)
        for group in optimizer.param_groups:
            group.update(fused=rung.fused, foreach=False)
        return optimizer, schedule

    def loss(self, rung, batch):
        """Mean loss over the masked tokens: the head on them only, or on all B * T positions.

        The dense head scores all positions; the loss then ignores those without a label, 85%.
        """
        if rung.masked_only:
            logits, labels = self.module.masked_logits(batch), masked_labels(batch)
        else:
            with torch.autocast(self.place, rung.dtype, enabled=rung.dtype != torch.float32):
                may_look = packed_attention_mask(batch.get("sequence_ids"))
                place = batch.get("position_ids")
                hidden = hidden_states(self.bert, batch["input_ids"], may_look, place)
                logits = head_logits(self.bert, hidden)  # (B, T, V)
            logits, labels = logits.float().flatten(0, 1), batch["labels"].flatten()
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        return loss / batch["num_masked"].clamp(min=1)  # of 4 short lines none may be masked

    def step(self, rung, batch, optimizer, schedule):
        """One optimizer step."""
        self.scaler.scale(self.loss(rung, batch)).backward()
        self.scaler.step(optimizer)
        self.scaler.update()
        schedule.step()
        optimizer.zero_grad()

    def first_loss(self, rung):
        """The loss of a rung's first batch from the first weights, without dropout."""
        self.switch(rung)
        self.module.eval()
        with torch.no_grad():
            return self.loss(rung, next(self.batches(rung, 1))).item()

    def valid_loss(self):
        """The loss on the held-out lines, in float32 whatever the rung."""
        self.module.matmul_dtype = torch.float32
        return evaluate(self.module.to(self.place), self.held_out)["loss"]


def adamw_weights(**how):
    """Some weights after five steps of AdamW on gradients that are always the same."""
    random = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(1000, generator=random))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, **how)
    for _ in range(5):
        weight.grad = torch.randn(1000, generator=random)
        optimizer.step()
    return weight.detach()


# the measurement


def loop_pass(bench, rung, most=None):
    """Seconds of one pass over the lines in a plain loop; at most `most` steps of it."""
    optimizer, schedule = bench.optimizer(rung)
    began = bench.clock()
    for batch in bench.batches(rung, most):
        bench.step(rung, batch, optimizer, schedule)
    return bench.clock() - began


class Clock(TrainerCallback):
    """Seconds from the beginning of training to its end."""

    def __init__(self, bench):
        self.clock = bench.clock

    def on_train_begin(self, *args, **kwargs):
        self.seconds = -self.clock()

    def on_train_end(self, *args, **kwargs):
        self.seconds += self.clock()


def trainer_pass(bench, rung, most=None, callbacks=(), **changes):
    """Seconds of the same with transformers.Trainer, from its first batch to its last step.

    It trains a copy, whose `forward` it changes; the bench's model gets the weights. `changes` are
    arguments that another recipe has.
    """
    data, clock, trained = bench.data[rung.examples], Clock(bench), copy.deepcopy(bench.bert)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        arguments = dict(
            output_dir=folder, per_device_train_batch_size=rung.batch, num_train_epochs=1,
            max_steps=most or -1, learning_rate=bench.peak_lr(rung), weight_decay=0.01,
            warmup_steps=bench.steps(rung) // 10, max_grad_norm=0.0, optim="adamw_torch_fused",
            bf16=rung.dtype == torch.bfloat16, fp16=rung.dtype == torch.float16,
            use_cpu=bench.place == "cpu", seed=bench.seed,
            train_sampling_strategy="group_by_length" if rung.order == "length" else "random",
            save_strategy="no", eval_strategy="no", logging_strategy="no",
            logging_nan_inf_filter=False, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            trained,
            TrainingArguments(**arguments | changes),
            data_collator=DataCollatorForLanguageModeling(
                data.tokenizer, mlm_probability=bench.mlm_probability
            ),
            train_dataset=[{"input_ids": example.tolist()} for example in data],
            callbacks=[clock, *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    bench.bert.load_state_dict(trained.state_dict())
    return clock.seconds


def speed(bench, rung):
    """Real tokens/s of one pass over the lines from the first weights; two steps before warm up."""
    for most in (2, None):
        bench.switch(rung)
        seconds = (trainer_pass if rung.by == "Trainer" else loop_pass)(bench, rung, most)
    return float(bench.data[rung.examples].lengths.sum()) / seconds


def interleave(ways, repeats):
    """What each of `ways`, {name: function}, returns: a DataFrame, a row for each repeat.

    Forwards and backwards in turn, so that a machine that gets slower or busier meets all alike.
    """
    rows = []
    for repeat in range(repeats):
        names = list(ways) if repeat % 2 == 0 else list(ways)[::-1]
        rows.append({name: ways[name]() for name in names})
    return pd.DataFrame(rows)[list(ways)]
