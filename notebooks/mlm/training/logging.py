"""TrainingLogger: the callback that logs the training loss and evaluates on the validation set."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch

from mlm.env.notebook import NotebookError
from mlm.training.causes import is_unedited
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate
from mlm.training.forecast import TimeLeft
from mlm.training.history import with_current_names
from mlm.training.module import MaskedLM
from mlm.training.progress import ProgressBar, ProgressLines, is_interactive

MAX_LOG_STEPS = 50  # steps between two log lines
MIN_LOG_LINES = 25  # in a short run
FIRST_LOG_STEPS = 5, 20  # lines before that: after the second, the estimated time left is good


def sum_over_processes(trainer: pl.Trainer, sums: torch.Tensor) -> torch.Tensor:
    """A tensor summed over all processes. It stays on the device."""
    if trainer.world_size == 1:
        return sums
    if sums.device.type == "xla":  # Lightning's reduce copies to the host and back
        import torch_xla.core.xla_model as xm

        return xm.all_reduce(xm.REDUCE_SUM, sums)
    return trainer.strategy.reduce(sums, reduce_op="sum")


class EvaluationStopped(Exception):
    """An evaluation was given up because a stop is requested."""


class TrainingLogger(pl.Callback):
    """Callback that logs the training loss and evaluates on the validation set.

    It evaluates once before training and `evaluations` times during training, the last time at the end.
    `data` has the validation batches; `baseline` is the unigram loss in nats, shown in the curve.

    Losses stay on the device until a log line needs them, because each read makes the device wait.
    `state` is saved in every checkpoint: the history (see history.py), the counts and the times.
    """

    def __init__(self, data: MaskedLMData, baseline: float, evaluations: int = 4) -> None:
        self.data, self.baseline = data, baseline
        self.log_every = max(1, min(MAX_LOG_STEPS, data.total_steps // MIN_LOG_LINES))
        first = {step for step in FIRST_LOG_STEPS if step < self.log_every}
        self.log_steps = first | {data.total_steps}  # besides every `log_every` steps
        self.evaluation_steps = {
            -(-data.total_steps * number // evaluations) for number in range(1, evaluations + 1)
        }
        self.progress = ProgressBar() if is_interactive() else ProgressLines()
        self.shows_progress = False  # only one process does
        self.state: dict[str, Any] = {
            "history": [],
            "sums": [0.0, 0.0],  # training loss and masked tokens since the last log line
            "tokens": 0,
            "examples": 0,
            "cells": 0,  # tokens of all batches, with padding
            "timed_tokens": 0,  # for the speed: without warm-up, evaluations and checkpoints
            "timed_seconds": 0.0,
            "seconds": 0.0,  # of training: without evaluations and checkpoints
        }
        self.cells = 0  # of this process, not yet in the state
        self.has_gradients = False  # whether there was a backward pass
        self.last_line: tuple[float, int] | None = None  # (time, tokens) of the last log line
        self.requests: list[float] | None = None  # the sum over processes, see `own_requests`

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = with_current_names(state)

    # what Lightning calls

    def on_train_start(self, trainer: pl.Trainer, module: MaskedLM) -> None:
        self.sums = torch.tensor(self.state["sums"]).to(module.device)
        self.step = trainer.global_step
        self.shows_progress = trainer.is_global_zero
        if self.shows_progress:
            self.progress.start(
                self.step, self.data.total_steps, self.state["history"], self.baseline
            )
        self.time_left = TimeLeft(self.step, self.data.total_steps, self.evaluation_steps)
        self.counted_until = time.perf_counter()  # the end of what is in `seconds`
        last = self.state["history"][-1] if self.state["history"] else {}
        evaluated = last.get("step") == self.step and "valid_loss" in last
        if self.step in {0, *self.evaluation_steps} and not evaluated:  # also if it was given up
            self.log_validation(trainer, module)

    def on_after_backward(self, trainer: pl.Trainer, module: MaskedLM) -> None:
        self.has_gradients = True
        sums = getattr(module, "loss_sums", None)
        if not (isinstance(sums, torch.Tensor) and sums.shape == self.sums.shape):  # after an edit
            raise NotebookError(
                "training_step must set self.loss_sums, a tensor with two numbers: the sum of the losses of all "
                "targets, and the number of targets; the training loss in the log is their ratio"
            )
        # Before the optimizer step: on XLA the sum is then a part of the step's graph.
        self.sums = self.sums + sums

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: MaskedLM, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.cells += batch["input_ids"].numel()
        if trainer.global_step != self.step:  # the last batch of a step
            self.step = trainer.global_step
            self.after_step(trainer, module, batch)

    def on_train_end(self, trainer: pl.Trainer, module: MaskedLM) -> None:
        if self.shows_progress:
            self.progress.end()

    def on_exception(self, trainer: pl.Trainer, module: MaskedLM, exception: BaseException) -> None:
        self.on_train_end(trainer, module)

    # logging

    def after_step(self, trainer: pl.Trainer, module: MaskedLM, batch: dict[str, Any]) -> None:
        """The optimizer made a step; `batch` is its last batch."""
        self.state["tokens"] += batch["num_tokens"]
        self.state["examples"] += batch["num_examples"]
        self.state["cells"] += (
            self.cells * trainer.world_size
        )  # all processes' batches have one shape
        self.cells = 0
        if self.shows_progress:
            self.progress.step()
        if self.step % self.log_every == 0 or self.step in self.log_steps:
            self.check_gradients(module)
            self.log_training(trainer, module)
        if self.step in self.evaluation_steps:
            self.log_validation(trainer, module)

    def log_training(self, trainer: pl.Trainer, module: MaskedLM) -> None:
        """Log loss and speed since the last log line. This reads the device once.

        Raises NotebookError if the loss is not finite.
        """
        optimizer = trainer.optimizers[0]
        norm = getattr(optimizer, "norm", None)  # the same in all processes
        sums = self.sums
        if norm is not None:
            sums = torch.cat([sums, norm[None] / trainer.world_size])
        if trainer.world_size > 1:  # processes can only agree on requests where they meet
            own = torch.tensor(self.own_requests(), dtype=sums.dtype).to(module.device)
            values = sum_over_processes(trainer, torch.cat([sums, own])).cpu().tolist()
            self.requests = values[len(sums) :]
        else:
            values = sums.cpu().tolist()
        self.sums = torch.zeros(2).to(module.device)
        loss = values[0] / max(values[1], 1)
        self.check_finite("training", loss, trainer, module)
        row = {"train_loss": loss, "lr": optimizer.param_groups[0]["lr"]}
        if norm is not None:
            row["gradient_norm"] = values[2]
        now, tokens = self.count_seconds(), self.state["tokens"]
        if self.last_line:  # until the first log line, devices warm up and compile
            seconds, new_tokens = now - self.last_line[0], tokens - self.last_line[1]
            self.state["timed_seconds"] += seconds
            self.state["timed_tokens"] += new_tokens
            row["tokens_per_second"] = new_tokens / seconds
        self.last_line = now, tokens
        self.add_row(trainer, row)
        self.exclude_time_since(now)

    def check_gradients(self, module: MaskedLM) -> None:
        """Raise NotebookError if an edited training_step returns nothing: Lightning then skips every batch."""
        if module.automatic_optimization and not self.has_gradients:
            raise NotebookError(
                f"training_step returned None for every batch up to step {self.step}, so nothing was trained: "
                "it must end with `return` and the loss"
            )

    def check_finite(self, name: str, loss: float, trainer: pl.Trainer, module: MaskedLM) -> None:
        """Raise NotebookError if a loss is not finite."""
        if not math.isfinite(loss):
            edit = "" if is_unedited(type(module)) else "check your edit of MaskedLM, or "
            raise NotebookError(
                f"the {name} loss is {loss} at step {trainer.global_step}: the last good checkpoint is "
                f"kept; {edit}try a lower lr or precision='32'"
            )

    def log_validation(self, trainer: pl.Trainer, module: MaskedLM) -> None:
        """Log loss, perplexity and accuracy on the validation set.

        A single process gives the evaluation up if a stop is requested, and repeats it on resume.
        """
        began = self.count_seconds()
        batches: Iterable[dict[str, Any]] = self.data.validation_batches(
            trainer.global_rank, trainer.world_size
        )
        if trainer.world_size == 1 and trainer.global_step < self.data.total_steps:
            batches = self.until_stop_requested(batches)
        try:
            metrics = evaluate(module, batches, lambda sums: sum_over_processes(trainer, sums))
            self.check_finite("validation", metrics["loss"], trainer, module)
            self.add_row(trainer, {f"valid_{name}": value for name, value in metrics.items()})
        except EvaluationStopped:
            module.train()
            trainer.should_stop = True
        self.exclude_time_since(began)
        self.time_left.evaluated(self.counted_until - began)

    def add_row(self, trainer: pl.Trainer, row: dict[str, Any]) -> None:
        """Add a row to the history, the logs and the display."""
        self.state["history"].append({"step": trainer.global_step, **row})
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step)
        if self.shows_progress:
            is_training = "train_loss" in row  # after an evaluation, the next line says it again
            left = self.time_left.seconds(trainer.global_step) if is_training else None
            self.progress.row(self.state["history"], left)

    # times

    def count_seconds(self) -> float:
        """Add the seconds since the last call to the training time. Returns the time now."""
        now = time.perf_counter()
        self.state["seconds"] += now - self.counted_until
        self.counted_until = now
        return now

    def exclude_time_since(self, began: float) -> None:
        """Do not count the seconds since `began` as training time."""
        self.counted_until = now = time.perf_counter()
        if self.last_line:
            self.last_line = self.last_line[0] + now - began, self.last_line[1]

    # requests; CheckpointingLogger overrides these

    def own_requests(self) -> list[float]:
        """What this process requests, as numbers that are summed over all processes."""
        return []

    def stop_requested(self) -> bool:
        """Whether training should stop soon."""
        return False

    def until_stop_requested(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches. Raises EvaluationStopped instead of the next one if a stop is requested."""
        for batch in batches:
            if self.stop_requested():
                raise EvaluationStopped
            yield batch


def xla_counts() -> dict[str, Any]:
    """XLA's counters: compilations, operations that fell back to the host, reads by the host."""
    import torch_xla.debug.metrics as metrics

    count = {name: metrics.metric_data(name)[0] for name in metrics.metric_names()}
    return {
        "compilations": count.get("CompileTime", 0),
        "fallbacks": [name for name in metrics.counter_names() if name.startswith("aten::")],
        "reads": count.get("TransferFromDeviceTime", 0),
    }
