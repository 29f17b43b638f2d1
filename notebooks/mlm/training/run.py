"""A run's folder: opened, trained in, resumed.

A folder belongs to one run. What its checkpoint was made with must be what is asked for now, or the
weights would be those of neither.
"""

import contextlib
import os
import shutil
import time
from pathlib import Path

import pandas as pd
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from mlm.env.notebook import NotebookError
from mlm.models.compilation import compile_counts
from mlm.training.checkpoint import (
    CALLBACK_STATE,
    STAGING,
    latest_good_checkpoint,
    restore_checksums,
    save_checkpoint,
    selected_weights,
    write_errors,
)
from mlm.training.failures import quiet_writer_threads, stop_on_signal
from mlm.training.history import out_of_patience, selected_row, with_current_names, write_metrics
from mlm.training.lock import is_main_process, lock_run, unlock_run
from mlm.training.logging import TrainingLogger, xla_counts

# the run


class Run:
    """A run in its folder, `total_steps` long, trained with these settings.

    `step` steps are done; `checkpoint` is the path of what they left, `good` that and its SHA-256, None
    before there is one; `state` is the journal's. `go_on` says how to go on with it after a stop.
    """

    def __init__(self, folder, settings, go_on="run this cell and all below again"):
        self.folder, self.settings, self.go_on = folder, settings, go_on
        self.total_steps = settings["total_steps"]
        self.untouched = False  # whether all that a finished run left is as it was written
        self.read()

    def read(self):
        """Look at what is there; raises NotebookError where all checkpoints are damaged."""
        self.checkpoint, self.step, self.state = None, 0, None
        self.good = latest_good_checkpoint(self.folder / "checkpoints")
        if self.good:
            self.checkpoint = self.good[0]
            found = torch.load(self.checkpoint, map_location="cpu", mmap=True, weights_only=True)
            self.step, self.state = (
                found["global_step"],
                with_current_names(found["callbacks"][CALLBACK_STATE]),
            )

    @property
    def finished(self):
        """Whether all steps are done, or so many as it had patience for."""
        return self.step >= self.total_steps or self.stopped_early

    @property
    def stopped_early(self):
        """Whether the held-out loss was measured `patience` times without becoming better."""
        return bool(self.state) and out_of_patience(
            self.state["history"], self.settings["patience"]
        )

    def check_finished(self):
        """Raises NotebookError where training has not come to its end: there is no result yet."""
        if not self.finished:
            raise NotebookError(
                f"{self.folder.name} is at step {self.step:,} of {self.total_steps:,}: run the "
                "training cell to its end first, then those below"
            )

    def loggers(self, baseline):
        """A TensorBoard log that goes on where the run does, the baseline beside its losses.

        None of a finished run. Raises NotebookError where they cannot be written.
        """
        if self.finished:
            return []
        logs = self.folder / "logs"
        with write_errors("the logs", self.folder):
            logger = TensorBoardLogger(logs, "", "tensorboard", purge_step=self.step or None)
            line = TensorBoardLogger(logs, "", "tensorboard/unigram baseline")
            for step in (0, self.total_steps):
                line.log_metrics({"valid_loss": baseline}, step)
            line.save()
        return [logger]

    @contextlib.contextmanager
    def training(self):
        """While the block trains: a signal asks for a stop, an error of any process is seen here.

        Raises NotebookError where a process failed or the run was stopped, saying how to go on. Then
        others may go on with it, too.
        """
        try:
            with write_errors("logs or checkpoints", self.folder, OSError):
                self.train_on()
                with stop_on_signal(self.folder), quiet_writer_threads():
                    yield
        except BaseException:
            unlock_run(self.folder)
            if self.settings["processes"] == 1 or not self.failure():
                raise
        if failure := self.failure():
            unlock_run(self.folder)
            raise NotebookError(failure)
        self.read()
        if not self.finished:
            unlock_run(self.folder)
            raise NotebookError(
                f"stopped at step {self.step:,} of {self.total_steps:,}"
                f"{', saved' if self.step else ''}: to go on, {self.go_on}"
            )
        if self.stopped_early:
            print(
                f"stopped early at step {self.step:,} of {self.total_steps:,}: no better held-out loss in "
                f"{self.settings['patience']} measurement(s)"
            )

    def train_on(self):
        """Forget how the run ended before."""
        for name in ("stop", "failed"):
            (self.folder / name).unlink(missing_ok=True)

    def failure(self):
        """Why a process of several failed, as one line; its traceback is printed. None if none did."""
        with contextlib.suppress(OSError):
            text = (self.folder / "failed").read_text().strip()
            if "\n" not in text:
                return text
            print(text)
            return "a process failed, with the error above; the last good checkpoint is kept"

    def load(self, module):
        """Give a MaskedLM the weights that are kept, on the CPU; decoder and embedding one."""
        found = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(selected_weights(found))
        module.to("cpu").bert.tie_weights()

    @property
    def history(self):
        """What was logged, a DataFrame: a row a step, training and held-out figures in columns."""
        return pd.DataFrame(self.state["history"]).groupby("step").first()

    @property
    def kept(self):
        """Of which step the kept weights are, and their held-out loss."""
        row = selected_row(self.state["history"], self.settings["keep"])
        return {"step": row["step"], "loss": row["valid_loss"]}

    @property
    def measured(self):
        """The held-out measurements, a DataFrame of loss, perplexity, accuracy; the first is before."""
        held_out = self.history.filter(like="valid_").dropna()
        return held_out.rename(columns=lambda name: name.removeprefix("valid_"))


def new_folder(folder):
    """Make `folder`, or the first of folder-2, folder-3, ... that is not there yet; returns its path."""
    if "RANK" in os.environ or "SLURM_PROCID" in os.environ:
        raise NotebookError(
            "resume='never': processes that torchrun started cannot agree on a new folder; "
            "pass another run_name instead"
        )
    candidate, number = folder, 1
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}-{number}")


def lock_folder(folder, resume):
    """The folder that a run is to have, there and locked; raises NotebookError where it cannot be."""
    try:
        if resume == "never":
            folder = new_folder(folder)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        lock_run(folder)
        if is_main_process():
            shutil.rmtree(folder / "checkpoints" / STAGING, ignore_errors=True)
    except (OSError, ValueError) as error:
        if isinstance(error, NotebookError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise NotebookError(
            f"run_name={folder.name!r}: {folder} cannot be a run's folder ({reason}); pass another "
            "run_name, or a workdir that can be written"
        ) from None
    return folder


def open_run(workdir, run_name, resume, settings):
    """The Run to train in: an unfinished one of the same settings goes on; "never" takes a new folder.

    Until its record is written, or training fails or stops, no other process can open it.
    Raises NotebookError where the folder holds another run, naming what differs, or is trained in.
    """
    folder = lock_folder(Path(workdir) / run_name, resume)
    try:
        run = Run(folder, settings)
        check_same_run(run)
    except BaseException:
        unlock_run(folder)
        raise
    if is_main_process():
        restore_checksums(folder / "checkpoints", run.good)
    if resume == "never":
        run.go_on = f'pass run_name="{folder.name}", resume="auto"'
    print(f"{folder.name}: {run.step:,} of {run.total_steps:,} steps are done")
    threads, before = torch.get_num_threads(), (run.state or {}).get("threads")
    if run.finished:
        print(
            "finished before: nothing to train. To train again, with an edited cell for example, "
            'set run_name = "another" and run this cell and all below again'
        )
    elif before not in (None, threads) and settings["device"] == "cpu":
        print(
            f"begun with {before} thread(s), goes on with {threads}: sums are rounded in another order, "
            "so the weights differ in their last bits from those of a run that was left alone"
        )
    return run


def check_same_run(run):
    """Raises NotebookError where a run's folder holds what was made with other settings."""
    folder, settings = run.folder, run.settings
    if run.checkpoint is None and (folder / "run.json").exists():
        raise NotebookError(
            f"{folder} holds a finished run without a checkpoint that could be read; to keep it, "
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
            f"{folder} holds another run ({'; '.join(differ)}); pass the same again to go on "
            "with it, or another run_name or resume='never' to start anew"
        )


class CheckpointingLogger(TrainingLogger):
    """A Journal that saves: every so many steps and minutes, at the end, and when asked to stop.

    What it saves holds all that is needed to go on and, where the run keeps its best weights, a copy of
    those: a checkpoint is one file, so that no stop and no damage can part them.
    """

    state_key = CALLBACK_STATE

    def __init__(self, run, data, baseline, checkpoint_steps, checkpoint_minutes):
        super().__init__(data, baseline, run.settings["evaluations"])
        self.keep, self.patience = run.settings["keep"], run.settings["patience"]
        self.folder, self.steps, self.minutes = run.folder, checkpoint_steps, checkpoint_minutes
        self.good = run.good
        self.state.update(settings=run.settings, threads=torch.get_num_threads())

    def on_train_start(self, trainer, module):
        self.saved = trainer.global_step, time.monotonic()
        super().on_train_start(trainer, module)
        if self.over():  # by a measurement that was given up before
            self.save(trainer, module)
            trainer.should_stop = True

    def over(self):
        """Whether to end early: all processes have measured the same."""
        return out_of_patience(self.state["history"], self.patience)

    def measure(self, trainer, module):
        super().measure(trainer, module)
        best = selected_row(self.state["history"], "best")
        if self.keep == "best" and best and best["step"] == trainer.global_step:
            weights = trainer.strategy.lightning_module_state_dict()
            self.state["best"] = {
                name: weight.to("cpu", copy=True) for name, weight in weights.items()
            }

    def asked_to_stop(self):
        return (self.folder / "stop").exists()

    def votes(self):
        """[stop?, save?] of this process, as numbers that can be added up."""
        late = time.monotonic() - self.saved[1] > 60 * self.minutes
        return [float(self.asked_to_stop()), float(late)]

    def step_done(self, trainer, module, batch):
        self.voted = None  # several processes can only agree where they meet: at a log line
        super().step_done(trainer, module, batch)
        if trainer.world_size == 1:
            self.voted = self.votes()
        over = self.over()
        if self.voted is None and not over:
            return
        stop, late = self.voted or (0, 0)
        many = trainer.global_step - self.saved[0] >= self.steps
        if stop or late or many or over or trainer.global_step == self.data.stop:
            self.save(trainer, module)
        trainer.should_stop = trainer.should_stop or over or stop > 0

    def save(self, trainer, module):
        """Everything that is needed to go on, into last.ckpt; the history as a table beside it."""
        began = self.count_time()
        self.state["sums"] = self.sums.cpu().tolist()
        if module.device.type == "xla":
            self.state["xla"] = xla_counts()
        if self.state["settings"]["compile"]:
            self.state["compile"] = compile_counts()
        self.good = save_checkpoint(trainer, self.folder / "checkpoints", self.good)
        if trainer.is_global_zero:
            write_metrics(self.folder, self.state["history"])
        self.saved = trainer.global_step, time.monotonic()
        self.skip(began)
