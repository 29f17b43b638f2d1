"""The speed of variants of one training step: each optimization on its own, and transformers.Trainer."""

import contextlib
import copy
import ctypes
import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from mlm.data.dataset import MaskedLMDataset
from mlm.data.formats import text_lines
from mlm.data.packing import PackingPlan
from mlm.data.random_numbers import Purpose, uniform
from mlm.env.notebook import NotebookError
from mlm.env.products import PRODUCTS
from mlm.models.cpu import keep_freed_memory, use_attention_and_dropout
from mlm.models.encoders import head_logits, hidden_states, packed_attention_mask, supports_packing
from mlm.models.kernels import KERNEL_ATTENTION, KERNEL_DROPOUT, KERNEL_PRODUCTS
from mlm.optim.optimizer import make_optimizer
from mlm.training.causes import StepMemory, explained_memory_errors
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM, masked_labels

Batch = dict[str, Any]
BatchShape = tuple[int, int, int]  # B rows, T tokens, K masked positions

# variants


@dataclass(frozen=True)
class Variant:
    """How lines become batches, and how a training step is computed; by default, a plain loop."""

    name: str
    examples: str = "line"  # of the bench's data. "line": one per line; "block": of max_len tokens
    batch_size: int = 4  # examples per batch
    order: str = "text"  # "text", "random", or (Trainer only) "length": similar lengths together
    pack: bool = False  # packed rows: several short examples share a row (random order only)
    dtype: torch.dtype = torch.float32  # of matrix products, by autocast
    fused_adamw: bool = False  # AdamW updates all weights in one pass
    masked_only: bool = False  # the head computes scores for masked positions only
    products: str = "default"  # "onednn": oneDNN multiplies float32 matrices on a CPU
    attention: str = "sdpa"  # "matmul": attention as two matrix products
    dropout: str = "torch"  # "16bit": dropout with 16 random bits per element
    keep_memory: bool = False  # freed memory stays with the process
    trainer: str = "loop"  # "loop": the loop of this module; "Trainer": transformers.Trainer
    lr: float | None = None  # a constant learning rate; None: peak_lr() with warm-up and decay


def build_variants(first: Variant, changes: list[tuple[str, dict[str, Any]]]) -> list[Variant]:
    """`first`, then one variant for each change, which keeps all earlier changes.

    A change is (name, {field: value}). A change without effect, such as bfloat16 on a machine that does
    not use it, adds no variant. Raises NotebookError if two variants have one name, under which results
    are stored.
    """
    variants = [first]
    for name, fields in changes:
        changed = replace(variants[-1], **fields)
        if changed != variants[-1]:
            variants.append(replace(changed, name=name))
    names = [variant.name for variant in variants]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise NotebookError(f"variants must have different names, got {repeated[0]!r} twice")
    return variants


def other_kernels(variant: Variant, bf16: bool) -> list[Variant]:
    """The variant with each kernel for CPUs that it does not use; bf16: also in bfloat16."""
    names = {"products": KERNEL_PRODUCTS, "attention": KERNEL_ATTENTION, "dropout": KERNEL_DROPOUT}
    changes: list[tuple[str, dict[str, Any]]] = [
        (f"{field}: {name}", {field: name}) for field in names for name in names[field]
    ]
    if bf16:
        changes.append(("bf16", {"dtype": torch.bfloat16}))
    others = [(name, replace(variant, **fields)) for name, fields in changes]
    return [
        replace(other, name=f"this suite, {name}") for name, other in others if other != variant
    ]


def sample_lines(text_file: Path, path: Path, num_lines: int, seed: int) -> None:
    """Write `num_lines` random lines of a text to `path`, in the order of the text."""
    lines = list(text_lines(text_file))
    order = uniform(seed, np.arange(len(lines)), Purpose.LINE_SAMPLE).argsort()
    chosen = np.sort(order[:num_lines])
    path.write_text("\n".join(lines[i] for i in chosen) + "\n", encoding="utf-8")


# what all variants share


def return_freed_memory() -> None:
    """Undo `keep_freed_memory`: glibc returns large blocks of freed memory to the system.

    The thresholds are the values that glibc itself adapts to in a long run.
    """
    if keep_freed_memory():
        libc = ctypes.CDLL(None)
        mmap_max, mmap_threshold, trim_threshold = -4, -3, -1  # numbers from malloc.h
        libc.mallopt(mmap_max, 65536)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 64 << 20)


def measurement(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a function of (bench, variant, ...): see `Bench.explained_errors`."""

    @functools.wraps(function)
    def wrapped(bench: "Bench", variant: Variant, *arguments: Any, **options: Any) -> Any:
        with bench.explained_errors(variant):
            return function(bench, variant, *arguments, **options)

    return wrapped


@dataclass(eq=False)
class Bench:
    """What all variants share: a model and its initial weights, lines, validation batches, a device.

    `model_name` is the notebook's parameter `model`; `data` is {name: MaskedLMDataset}, with the same
    lines as "line" and as "block"; `device` is "cpu" or "cuda". Raises NotebookError if the model does not
    support packing.
    """

    model: PreTrainedModel
    model_name: str
    data: dict[str, MaskedLMDataset]
    validation_batches: list[Batch]
    mlm_probability: float
    seed: int
    device: str

    def __post_init__(self) -> None:
        if not supports_packing(self.model.config):
            raise NotebookError(
                f"model={self.model_name!r} is a {self.model.config.model_type!r} model, which does not "
                "support packing, but this notebook compares packed rows; pass a model such as BERT, "
                "RoBERTa or ModernBERT"
            )
        self.module = MaskedLM(self.model.to(self.device), {})
        self.initial_weights = {name: w.clone() for name, w in self.model.state_dict().items()}
        # Planning is done once per run of 04, so it is cached and does not count as training time.
        self.cached_keys = functools.cache(self.plan_keys)

    def explained_errors(self, variant: Variant) -> contextlib.AbstractContextManager[None]:
        """Context manager: if memory does not suffice for a variant, the error is one line."""
        data, rate = self.data[variant.examples], self.mlm_probability
        return explained_memory_errors(
            StepMemory(
                self.model, data, variant.pack, variant.batch_size, None, rate, variant.dtype
            )
        )

    def clock(self) -> float:
        """The time in seconds, after the device has finished all its work."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def switch(self, variant: Variant) -> None:
        """Prepare model and process for a variant, and restore the initial weights."""
        use_attention_and_dropout(self.model, variant.attention, variant.dropout)
        if variant.keep_memory:
            keep_freed_memory()
        else:
            return_freed_memory()
        PRODUCTS[variant.products if self.device == "cpu" else "default"]()
        self.model.load_state_dict(self.initial_weights)
        self.module.to(self.device).train()
        self.module.matmul_dtype = variant.dtype
        self.scaler = torch.amp.GradScaler(self.device, enabled=variant.dtype == torch.float16)
        torch.manual_seed(self.seed)

    # batches

    def plan_keys(
        self, variant: Variant, epochs: int = 1, mlm_probability: float | None = None
    ) -> tuple[list[tuple], BatchShape | None]:
        """The keys of a variant's batches, for MaskedBatches, and their common shape if they have one."""
        data = self.data[variant.examples]
        if variant.order == "text":
            size = variant.batch_size
            groups = np.split(np.arange(len(data)), range(size, len(data), size))
            return [(epoch, group) for epoch in range(epochs) for group in groups], None
        if variant.order != "random":
            raise KeyError(f"the loop has no order {variant.order!r}: it has 'text' and 'random'")
        plan = PackingPlan(
            data,
            batch_size=variant.batch_size,
            mlm_probability=mlm_probability or self.mlm_probability,
            seed=self.seed,
            epochs=range(epochs),
        )
        keys = [key for epoch in range(epochs) for key in plan.keys(epoch)]
        if variant.pack:
            return keys, plan.shape
        return [(epoch, indices) for epoch, indices, _ in keys], None  # one example per row

    def on_device(self, batch: Batch) -> Batch:
        """The batch with its tensors on the device of the model; a GPU copies from pinned memory."""

        def copied(value: Any) -> Any:
            if not torch.is_tensor(value):
                return value
            if self.device == "cuda":
                return value.pin_memory().to(self.device, non_blocking=True)
            return value.to(self.device)

        return {name: copied(value) for name, value in batch.items()}

    def batches(
        self,
        variant: Variant,
        max_steps: int | None = None,
        epochs: int = 1,
        mlm_probability: float | None = None,
    ) -> Iterator[Batch]:
        """The training batches of a variant, on the device; at most `max_steps` of them."""
        keys, shape = self.cached_keys(variant, epochs, mlm_probability)
        batches = MaskedBatches(
            self.data[variant.examples],
            keys[:max_steps],
            mlm_probability=mlm_probability or self.mlm_probability,
            seed=self.seed,
            shape=shape,
        )
        return map(self.on_device, batches)

    def num_steps(self, variant: Variant) -> int:
        """The number of batches in one epoch."""
        return -(-len(self.data[variant.examples]) // variant.batch_size)

    # optimizer, loss, step

    def peak_lr(self, variant: Variant) -> float:
        """The variant's learning rate, or one rule for all: higher for narrow models and large batches."""
        from_scratch = self.model_name.startswith("scratch:")
        lr = 1e-3 * 128 / self.model.config.hidden_size if from_scratch else 1e-4
        return variant.lr or lr * (variant.batch_size / 32) ** 0.5

    def optimizer_options(self, variant: Variant) -> dict[str, Any]:
        """The arguments of `make_optimizer` for one epoch."""
        return {
            "optimizer": "adamw",
            "lr": self.peak_lr(variant),
            "weight_decay": 0.01,
            "total_steps": self.num_steps(variant),
            "schedule": "constant" if variant.lr else "linear",
        }

    def make_optimizer(
        self, variant: Variant, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """(optimizer, learning-rate schedule). An AdamW that is not fused is torch's default.

        By default, torch updates one weight at a time on a CPU, and all of them together on a GPU.
        """
        options = options or self.optimizer_options(variant)
        optimizer, schedule = make_optimizer(self.module, **options)
        for group in optimizer.param_groups:
            group.update(fused=variant.fused_adamw or None, foreach=None)
        return optimizer, schedule

    def loss(self, variant: Variant, batch: Batch) -> torch.Tensor:
        """Mean loss over the masked tokens, in nats.

        A dense head computes scores for all B * T positions; the loss ignores those without a label.
        """
        if variant.masked_only:
            logits, labels = self.module.masked_logits(batch), masked_labels(batch)
        else:
            use_autocast = variant.dtype != torch.float32
            with torch.autocast(self.device, variant.dtype, enabled=use_autocast):
                hidden = hidden_states(
                    self.model,
                    batch["input_ids"],
                    packed_attention_mask(batch.get("sequence_ids")),
                    batch.get("position_ids"),
                )
                logits = head_logits(self.model, hidden)  # (B, T, V)
            logits, labels = logits.float().flatten(0, 1), batch["labels"].flatten()
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        return loss / batch["num_masked"].clamp(min=1)  # 4 short lines may have no masked token

    def step(self, variant: Variant, batch: Batch, optimizer: Any, schedule: Any) -> None:
        """One optimizer step."""
        self.scaler.scale(self.loss(variant, batch)).backward()
        self.scaler.step(optimizer)
        self.scaler.update()
        schedule.step()
        optimizer.zero_grad()

    # losses to compare

    @measurement
    def first_loss(self, variant: Variant) -> float:
        """The loss of a variant's first batch with the initial weights, without dropout."""
        self.switch(variant)
        self.module.eval()
        with torch.no_grad():
            return self.loss(variant, next(self.batches(variant, max_steps=1))).item()

    def valid_loss(self) -> float:
        """The validation loss of the current weights, always computed in float32."""
        self.module.matmul_dtype = torch.float32
        return evaluate(self.module.to(self.device), self.validation_batches)["loss"]


def adamw_weights(**options: bool) -> torch.Tensor:
    """1,000 weights after five AdamW steps on fixed gradients; `options` choose the implementation."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(1000, generator=generator))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, **options)
    for _ in range(5):
        weight.grad = torch.randn(1000, generator=generator)
        optimizer.step()
    return weight.detach()


# the measurement


def loop_seconds(bench: Bench, variant: Variant, batches: Iterable[Batch]) -> float:
    """Seconds of a plain loop over these batches, from the initial weights."""
    bench.switch(variant)
    optimizer, schedule = bench.make_optimizer(variant)
    start = bench.clock()
    for batch in batches:
        bench.step(variant, batch, optimizer, schedule)
    return bench.clock() - start


TRAINER_ORDERS = {"random": "random", "length": "group_by_length"}  # its train_sampling_strategy


class TrainingTime(TrainerCallback):
    """Seconds from the first batch of a transformers.Trainer to its last step."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = -self.clock()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds += self.clock()


def trainer_seconds(
    bench: Bench,
    variant: Variant,
    max_steps: int | None = None,
    callbacks: Iterable[TrainerCallback] = (),
    mlm_probability: float | None = None,
    epochs: int = 1,
    **options: Any,
) -> float:
    """Seconds of training with transformers.Trainer; `options` override its TrainingArguments.

    Trainer changes the `forward` of its model, so it trains a copy. The bench's model gets the weights.
    `mlm_probability` None: the bench's.
    """
    data, trained = bench.data[variant.examples], copy.deepcopy(bench.model)
    timer = TrainingTime(bench.clock)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        arguments = dict(
            output_dir=folder, per_device_train_batch_size=variant.batch_size, num_train_epochs=epochs,
            max_steps=max_steps or -1, learning_rate=bench.peak_lr(variant), weight_decay=0.01,
            warmup_steps=epochs * bench.num_steps(variant) // 10, max_grad_norm=0.0,
            optim="adamw_torch_fused", bf16=variant.dtype == torch.bfloat16,
            fp16=variant.dtype == torch.float16, use_cpu=bench.device == "cpu", seed=bench.seed,
            train_sampling_strategy=TRAINER_ORDERS[variant.order],
            accelerator_config={"non_blocking": bench.device == "cuda"},  # from pinned memory
            save_strategy="no", eval_strategy="no", logging_strategy="no",
            logging_nan_inf_filter=False, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        training_arguments = TrainingArguments(**{**arguments, **options})
        if training_arguments.n_gpu > 1:
            training_arguments._n_gpu = 1  # otherwise Trainer splits each batch among all GPUs
        trainer = Trainer(
            trained,
            training_arguments,
            data_collator=DataCollatorForLanguageModeling(
                data.tokenizer, mlm_probability=mlm_probability or bench.mlm_probability
            ),
            train_dataset=[{"input_ids": example.tolist()} for example in data],
            callbacks=[timer, *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    bench.model.load_state_dict(trained.state_dict())
    return timer.seconds


EPOCH_SECONDS: dict[str, Callable[[Bench, Variant, int | None], float]] = {
    "loop": lambda bench, variant, max_steps: loop_seconds(
        bench, variant, bench.batches(variant, max_steps)
    ),
    "Trainer": trainer_seconds,
}


@measurement
def speed(bench: Bench, variant: Variant) -> float:
    """Real tokens per second in one epoch from the initial weights, after two warm-up steps."""
    epoch_seconds = EPOCH_SECONDS[variant.trainer]
    bench.switch(variant)
    epoch_seconds(bench, variant, 2)
    bench.switch(variant)
    seconds = epoch_seconds(bench, variant, None)
    return float(bench.data[variant.examples].lengths.sum()) / seconds


def interleave(functions: dict[str, Callable[[], Any]], repeats: int) -> pd.DataFrame:
    """Call each function `repeats` times: a DataFrame of results, one column per function.

    The order is forwards and backwards in turn, so a machine that slows down affects all alike.
    """
    rows = []
    for repeat in range(repeats):
        names = list(functions) if repeat % 2 == 0 else list(functions)[::-1]
        rows.append({name: functions[name]() for name in names})
    return pd.DataFrame(rows)[list(functions)]


def speed_ratios(rates: pd.DataFrame, pairs: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """How many times as fast one column of `rates` is as another: median, lowest and highest.

    `pairs` is {row: (column, the other column)}. Ratios are taken within each repeat (row of `rates`), so
    what slows down a whole repeat does not change them.
    """
    ratios = pd.DataFrame({row: rates[one] / rates[other] for row, (one, other) in pairs.items()})
    return ratios.agg(["median", "min", "max"]).T.set_axis(["ratio", "lowest", "highest"], axis=1)
