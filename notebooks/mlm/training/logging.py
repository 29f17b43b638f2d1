"""What is written down while a model trains: losses, speed, held-out figures."""

import math
import time

import pytorch_lightning as pl
import torch

from mlm.env.notebook import NotebookError
from mlm.training.evaluation import evaluate
from mlm.training.history import with_current_names
from mlm.training.progress import ProgressBar, ProgressLines, is_interactive


def sum_over_processes(trainer, sums):
    """The sums of all processes, still on the device."""
    if trainer.world_size == 1:
        return sums
    if sums.device.type == "xla":  # Lightning's reduce would go by way of the host
        import torch_xla.core.xla_model as xm

        return xm.all_reduce(xm.REDUCE_SUM, sums)
    return trainer.strategy.reduce(sums, reduce_op="sum")


class EvaluationStopped(Exception):
    """A measurement was given up, since a stop is asked for."""


class TrainingLogger(pl.Callback):
    """Logs the training loss about 25 times or more, measures the held-out loss before and while training.

    That is done `evaluations` times, the last one at the end. `data` is the MaskedLMData, `baseline` its
    unigram loss. Losses stay on the device until a log line needs them: each read makes the device wait.
    The history is a list of rows, dicts of step and figures; it and all counts are the callback's state,
    and so in the checkpoint.
    """

    def __init__(self, data, baseline, evaluations=4):
        self.data, self.baseline = data, baseline
        self.log_every = max(1, min(50, data.stop // 25))
        parts = range(1, evaluations + 1)
        self.evaluations = {-(-data.stop * part // evaluations) for part in parts}  # and before
        self.progress = ProgressBar() if is_interactive() else ProgressLines()
        self.state = dict(
            history=[], sums=[0.0, 0.0], tokens=0, examples=0, cells=0,
            timed_tokens=0, timed_seconds=0.0, seconds=0.0,
        )  # fmt: skip
        self.shown, self.cells = False, 0  # of this process, since they were last counted
        self.clock = None  # starts at the first log line: before it, devices warm up and compile

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = with_current_names(state)

    def on_train_start(self, trainer, module):
        self.sums = torch.tensor(self.state["sums"]).to(module.device)  # loss, tokens since a line
        self.shown, self.step = trainer.is_global_zero, trainer.global_step
        if self.shown:
            done, history = trainer.global_step, self.state["history"]
            self.progress.start(done, self.data.stop, history, self.baseline)
        self.counted = time.perf_counter()  # until when the seconds are counted
        last = (self.state["history"] or [{}])[-1]
        if trainer.global_step in {0, *self.evaluations} and (
            "valid_loss" not in last or last["step"] != trainer.global_step
        ):
            self.measure(trainer, module)  # or it was stopped in the middle of that

    def on_after_backward(self, trainer, module):
        """Add up before the optimizer steps: on XLA it is then a part of the step's own program."""
        self.sums = self.sums + module.seen

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.cells += batch["input_ids"].numel()
        if trainer.global_step != self.step:  # or it was not the last batch of a step
            self.step = trainer.global_step
            self.step_done(trainer, module, batch)

    def step_done(self, trainer, module, batch):
        """The optimizer has made a step; `batch` is the last one of it."""
        step = trainer.global_step
        self.state["tokens"] += batch["num_tokens"]
        self.state["examples"] += batch["num_examples"]
        if trainer.world_size == 1:
            self.count_cells(self.cells)
        if self.shown:
            self.progress.step()
        if step % self.log_every == 0 or step == self.data.stop:
            self.note(trainer, module)
        if step in self.evaluations:
            self.measure(trainer, module)

    def on_train_end(self, trainer, module):
        if self.shown:
            self.progress.end()

    def on_exception(self, trainer, module, exception):
        self.on_train_end(trainer, module)

    def count_cells(self, cells):
        """So many cells of batches, padding included, were seen by all processes together."""
        self.state["cells"] += cells
        self.cells = 0

    def votes(self):
        """Numbers of this process that are added up over all with each log line."""
        return []

    def note(self, trainer, module):
        """Loss and speed since the last log line, and all votes: one read of the device."""
        norm = getattr(trainer.optimizers[0], "norm", None)  # the same in all processes
        sums = (
            self.sums if norm is None else torch.cat([self.sums, norm[None] / trainer.world_size])
        )
        if trainer.world_size > 1:
            mine = torch.tensor([float(self.cells), *self.votes()]).to(module.device)
            found = sum_over_processes(trainer, torch.cat([sums, mine])).cpu().tolist()
            cells, *self.voted = found[len(sums) :]
            self.count_cells(int(cells))
        else:
            found = sums.cpu().tolist()
        loss, count, *norm = found[: len(sums)]
        self.sums = torch.zeros(2).to(module.device)
        row = {
            "train_loss": loss / max(count, 1),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **({"gradient_norm": norm[0]} if norm else {}),
        }
        if not math.isfinite(row["train_loss"]):
            raise NotebookError(
                f"the training loss is {row['train_loss']} at step {trainer.global_step}: the last "
                "good checkpoint is kept; try a lower lr or precision='32'"
            )
        now, tokens = self.count_time(), self.state["tokens"]
        if self.clock:
            self.state["timed_seconds"] += now - self.clock[0]
            self.state["timed_tokens"] += tokens - self.clock[1]
            row["tokens_per_second"] = (tokens - self.clock[1]) / (now - self.clock[0])
        self.clock = now, tokens
        self.write(trainer, row)
        self.skip(now)

    def measure(self, trainer, module):
        """Held-out loss, perplexity and accuracy; not counted as training time.

        Given up where one process alone is asked to stop: it is then made when the run goes on.
        """
        began = self.count_time()
        batches = self.data.validation_batches(trainer.global_rank, trainer.world_size)
        if trainer.world_size == 1 and trainer.global_step < self.data.stop:
            batches = self.until_stopped(batches)
        try:
            figures = evaluate(module, batches, lambda sums: sum_over_processes(trainer, sums))
            self.write(trainer, {f"valid_{name}": value for name, value in figures.items()})
        except EvaluationStopped:
            module.train()
            trainer.should_stop = True
        self.skip(began)

    def asked_to_stop(self):
        """Whether training is to end soon: never, for who only writes down."""
        return False

    def until_stopped(self, batches):
        """The same batches; raises Stopped before the next one when a stop is asked for."""
        for batch in batches:
            if self.asked_to_stop():
                raise EvaluationStopped
            yield batch

    def count_time(self):
        """Add the seconds since this was last done to those of the run; the time now."""
        now = time.perf_counter()
        self.state["seconds"] += now - self.counted
        self.counted = now
        return now

    def skip(self, began):
        """Take the seconds since `began` out of the training time."""
        self.counted = now = time.perf_counter()
        if self.clock:
            self.clock = self.clock[0] + now - began, self.clock[1]

    def write(self, trainer, row):
        self.state["history"].append({"step": trainer.global_step, **row})
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step)
        if self.shown:
            self.progress.row(self.state["history"])


def xla_counts():
    """How often XLA compiled, which operations fell back to the host, how often it was read."""
    import torch_xla.debug.metrics as metrics

    count = {name: metrics.metric_data(name)[0] for name in metrics.metric_names()}
    return dict(
        compilations=count.get("CompileTime", 0),
        fallbacks=[name for name in metrics.counter_names() if name.startswith("aten::")],
        reads=count.get("TransferFromDeviceTime", 0),
    )
