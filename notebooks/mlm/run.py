"""A run's folder: opened, trained in, resumed; its checkpoints.

A folder belongs to one run. What its checkpoint was made with must be what is asked for now, or the
weights would be those of neither.
"""

import contextlib
import os
import time
from pathlib import Path

import pandas as pd
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from .faults import stop_on_signal
from .journal import Journal
from .notebook import NotebookError

# checkpoints


def keep_checkpoint(trainer, folder):
    """Write last.ckpt whole or not at all, the one before becoming previous.ckpt.

    It is written beside the last one, read back and checked, and only then takes its place: there is
    a good one at any moment, whatever is pulled out.
    Raises NotebookError where it cannot be written or has weights that are not finite.
    """
    part, last = folder / "next.part", folder / "last.ckpt"
    try:
        trainer.save_checkpoint(part)  # all processes meet here
        if trainer.is_global_zero:
            read = torch.load(part, map_location="cpu", mmap=True, weights_only=True)
            weights = read["state_dict"].items()
            bad = [name for name, w in weights if not torch.isfinite(w).all()]
            if bad:
                raise NotebookError(
                    f"weights are no longer finite at step {trainer.global_step} ({bad[0]}): the "
                    "last good checkpoint is kept; try a lower lr or precision='32'"
                )
            if last.exists():
                last.replace(folder / "previous.ckpt")
            part.replace(last)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise NotebookError(
            f"the checkpoint of step {trainer.global_step} could not be written to {folder} "
            f"({error}); the last good one is kept: make room, then run this again"
        ) from None
    trainer.strategy.barrier()


def read_checkpoint(folder):
    """The newest whole checkpoint of a run as (path, step, state), or None where there is none yet.

    Raises NotebookError where there are some and all of them are damaged.
    """
    damaged = []
    for path in (folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "previous.ckpt"):
        if path.exists():
            try:
                found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
                return path, found["global_step"], found["callbacks"]["Keeper"]
            except Exception as error:
                print(f"{path} is damaged ({type(error).__name__}): trying the one before")
                damaged.append(path.name)
    if damaged:
        raise NotebookError(
            f"{folder}/checkpoints: {' and '.join(damaged)} cannot be read, so this run cannot go on; "
            "to train anew, pass another run_name or resume='never'"
        )
    return None


# the run


class Run:
    """A run in its folder, `total_steps` long, trained with these settings.

    `step` steps are done; `checkpoint` is the path of what they left, None before there is one;
    `state` is the journal's.
    """

    def __init__(self, folder, settings):
        self.folder, self.settings = folder, settings
        self.total_steps = settings["total_steps"]
        self.read()

    def read(self):
        """Look at what is there."""
        self.checkpoint, self.step, self.state = read_checkpoint(self.folder) or (None, 0, None)

    @property
    def finished(self):
        return self.step >= self.total_steps

    def loggers(self, baseline):
        """A TensorBoard log that goes on where the run does, the baseline beside its losses."""
        logs = self.folder / "logs"
        logger = TensorBoardLogger(logs, "", "tensorboard", purge_step=self.step or None)
        line = TensorBoardLogger(logs, "", "tensorboard/unigram baseline")
        for step in (0, self.total_steps):
            line.log_metrics({"held_out_loss": baseline}, step)
        line.save()
        return [logger]

    @contextlib.contextmanager
    def training(self):
        """While the block trains: a signal asks for a stop, an error of any process is seen here.

        Raises NotebookError where a process failed or the run was stopped, saying how to go on.
        """
        for name in ("stop", "failed"):
            (self.folder / name).unlink(missing_ok=True)
        failed = self.folder / "failed"
        try:
            with stop_on_signal(self.folder):
                yield
        except BaseException:
            if self.settings["processes"] == 1 or not failed.exists():
                raise
        if failed.exists():
            print(failed.read_text())
            raise NotebookError(
                "a process failed, with the error above; the last good checkpoint is kept"
            )
        self.read()
        if not self.finished:
            raise NotebookError(
                f"stopped at step {self.step:,} of {self.total_steps:,}, saved: to go on, run this "
                "cell and all below again"
            )

    def load(self, module):
        """Give a MaskedLM the weights of the last checkpoint, on the CPU; decoder and embedding one."""
        weights = torch.load(self.checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        module.load_state_dict(weights)
        module.to("cpu").bert.tie_weights()

    @property
    def history(self):
        """What was logged, a DataFrame: a row a step, training and held-out figures in columns."""
        return pd.DataFrame(self.state["history"]).groupby("step").first()

    @property
    def measured(self):
        """The held-out measurements, a DataFrame of loss, perplexity, accuracy; the first is before."""
        held_out = self.history.filter(like="held_out_").dropna()
        return held_out.rename(columns=lambda name: name.removeprefix("held_out_"))


def new_folder(folder):
    """`folder`, or the first of folder-2, folder-3, ... that is not there yet."""
    if "RANK" in os.environ or "SLURM_PROCID" in os.environ:
        raise NotebookError(
            "resume='never': processes that torchrun started cannot agree on a new folder; "
            "pass another run_name instead"
        )
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def open_run(workdir, run_name, resume, settings):
    """The Run to train in: an unfinished one of the same settings goes on; "never" takes a new folder.

    Raises NotebookError where the folder holds another run, naming what differs.
    """
    folder = Path(workdir) / run_name
    run = Run(new_folder(folder) if resume == "never" else folder, settings)
    if run.checkpoint is None and (run.folder / "run.json").exists():
        raise NotebookError(
            f"{run.folder} holds a finished run without a checkpoint that could be read; to keep it, "
            "pass another run_name or resume='never'"
        )
    theirs = run.state["settings"] if run.state else settings
    if theirs != settings:
        differ = [
            f"{name} was {theirs.get(name)!r}, is {settings.get(name)!r}"
            for name in sorted(settings.keys() | theirs.keys())
            if theirs.get(name) != settings.get(name)
        ]
        raise NotebookError(
            f"{run.folder} holds another run ({'; '.join(differ)}); pass the same again to go on "
            "with it, or another run_name or resume='never' to start anew"
        )
    (run.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    print(f"{run.folder.name}: {run.step:,} of {run.total_steps:,} steps are done")
    if run.finished:
        print(
            "finished before: nothing to train. To train again, with an edited cell for example, "
            'set run_name = "another" and run this cell and all below again'
        )
    return run


class Keeper(Journal):
    """A Journal that saves: every so many steps and minutes, at the end, and when asked to stop."""

    def __init__(self, run, data, baseline, checkpoint_steps, checkpoint_minutes):
        super().__init__(data, baseline)
        self.folder, self.steps, self.minutes = run.folder, checkpoint_steps, checkpoint_minutes
        self.state["settings"] = run.settings

    def on_train_start(self, trainer, module):
        self.saved = trainer.global_step, time.monotonic()
        super().on_train_start(trainer, module)

    def votes(self):
        """[stop?, save?] of this process, as numbers that can be added up."""
        late = time.monotonic() - self.saved[1] > 60 * self.minutes
        return [float((self.folder / "stop").exists()), float(late)]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.voted = None  # several processes can only agree where they meet: at a log line
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)
        if trainer.world_size == 1:
            self.voted = self.votes()
        if self.voted is None:
            return
        stop, late = self.voted
        many = trainer.global_step - self.saved[0] >= self.steps
        if stop or late or many or trainer.global_step == self.data.stop:
            self.save(trainer, module)
        trainer.should_stop = trainer.should_stop or stop > 0

    def save(self, trainer, module):
        """Everything that is needed to go on, into last.ckpt; the history as a table beside it."""
        began = time.perf_counter()
        self.state["sums"] = self.sums.cpu().tolist()
        if module.device.type == "xla":
            self.state["xla"] = xla_counts()
        keep_checkpoint(trainer, self.folder / "checkpoints")
        if trainer.is_global_zero:
            table = pd.DataFrame(self.state["history"]).groupby("step").first()
            table.to_csv(self.folder / "logs" / "metrics.csv")
        self.saved = trainer.global_step, time.monotonic()
        self.skip(began)


def xla_counts():
    """How often XLA compiled, which operations fell back to the host, how often it was read."""
    import torch_xla.debug.metrics as metrics

    count = {name: metrics.metric_data(name)[0] for name in metrics.metric_names()}
    return dict(
        compilations=count.get("CompileTime", 0),
        fallbacks=[name for name in metrics.counter_names() if name.startswith("aten::")],
        reads=count.get("TransferFromDeviceTime", 0),
    )
