"""A run's folder: open, train, resume.

A folder belongs to one run. It is only resumed with the settings that its checkpoint was made with;
otherwise the weights would belong to neither run.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning.loggers import TensorBoardLogger

import mlm.training.strategies  # noqa: F401  # registers the names that trainer_arguments returns
from mlm.env.devices import check_fork
from mlm.env.hardware import Machine
from mlm.env.loggers import logger_names
from mlm.env.notebook import NotebookError, started_by_launcher
from mlm.training.causes import free_variables
from mlm.training.checkpoint import STAGING, latest_good_checkpoint, restore_checksums, write_errors
from mlm.training.failures import (
    clear_failure_and_stop,
    quiet_writer_threads,
    reported_failure,
    stop_on_signal,
)
from mlm.training.history import history_table, out_of_patience, selected_row, with_current_names
from mlm.training.lock import is_main_process, lock_run, unlock_run
from mlm.training.module import MaskedLM
from mlm.training.run_files import CALLBACK_STATE, LAST, PREVIOUS, selected_weights
from mlm.training.settings import setting_differences
from mlm.training.tracking import SentRows, open_loggers, shown_row


class Run:
    """A run in its folder.

    `step` of `total_steps` are done. `stored` is the newest good checkpoint, and `state` is the
    logger's state in it; both are None before the first checkpoint. `resume_hint` says how to resume
    after a stop.
    """

    resume_hint = "run this cell and all below again"

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.total_steps: int = settings["total_steps"]
        self.outputs_intact = False  # whether all output files of a finished run are as written
        self.results: dict[str, Any] | None = None  # from `run_results`
        self.read()

    def read(self) -> None:
        """Read the newest good checkpoint. Raises NotebookError if all checkpoints are damaged."""
        self.step: int = 0
        self.state: dict[str, Any] | None = None
        self.stored = latest_good_checkpoint(self.folder / "checkpoints")
        if self.stored:
            content = torch.load(self.stored.path, map_location="cpu", mmap=True, weights_only=True)
            self.step = content["global_step"]
            self.state = with_current_names(content["callbacks"][CALLBACK_STATE])

    @property
    def checkpoint(self) -> Path | None:
        """The file to resume from; None: training starts from the beginning."""
        return self.stored.path if self.stored else None

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or early stopping ended the run."""
        return self.step >= self.total_steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping ended the run (see `out_of_patience`)."""
        if not self.state:
            return False
        return out_of_patience(self.state["history"], self.settings["patience"])

    @property
    def kept(self) -> dict[str, Any]:
        """The step of the weights that are kept, and their validation loss."""
        row = selected_row(self.history, self.settings["keep"])
        assert row is not None  # a finished run was evaluated
        return {"step": row["step"], "loss": row["valid_loss"]}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics that were logged."""
        return self.state["history"] if self.state else []

    @property
    def evaluations(self) -> pd.DataFrame:
        """Loss, perplexity and accuracy on the validation set by step; the first row: before training."""
        table = history_table(self.history).filter(like="valid_").dropna()
        return table.rename(columns=lambda name: name.removeprefix("valid_"))

    def check_finished(self) -> None:
        """Raises NotebookError if training is not finished: there is no result yet."""
        if not self.finished:
            raise NotebookError(
                f"{self.folder.name} is at step {self.step:,} of {self.total_steps:,}: run the "
                "training cell to its end first, then the cells below"
            )

    def loggers(self, baseline: float, logger: str | list[str] = "tensorboard") -> list[SentRows]:
        """The loggers of the parameter `logger`, which continue the curves of this run.

        TensorBoard has a second curve with the baseline. A finished run has no loggers. Raises
        NotebookError if the logs cannot be written; the lock is then released.
        """
        if self.finished:
            return []
        try:
            if "tensorboard" in logger_names(logger):
                with write_errors("the logs", self.folder):
                    line = TensorBoardLogger(
                        self.folder / "logs", "", "tensorboard/unigram baseline"
                    )
                    for step in (0, self.total_steps):
                        line.log_metrics(shown_row({"valid_loss": baseline}), step)
                    line.save()
            known = {**self.settings, "unigram_loss": baseline}
            return open_loggers(logger, self.folder, known, self.history)
        except BaseException:  # there will be no training that ends the lock
            unlock_run(self.folder)
            raise

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Context manager for training: a signal requests a stop, errors of all processes are shown.

        Raises NotebookError if a process failed or the run was stopped, and says how to resume, or if
        the processes cannot be started. The lock is then released, so that another process may resume.
        """
        several = self.settings["processes"] > 1
        failure = None
        try:
            with write_errors("logs or checkpoints", self.folder):
                clear_failure_and_stop(self.folder)
                check_fork(self.settings["device"], self.settings["processes"], Machine())
                with stop_on_signal(self.folder), quiet_writer_threads():
                    yield
            failure = reported_failure(self.folder)
        except BaseException as error:
            unlock_run(self.folder)
            # The error of the process that failed first says more than the error of the launcher.
            failure = reported_failure(self.folder, one_line=not several)
            if not failure:
                raise
            free_variables(error)  # they may be what the memory was full of
        if failure:
            unlock_run(self.folder)
            raise NotebookError(failure) from None
        self.read()
        if not self.finished:
            unlock_run(self.folder)
            raise NotebookError(
                f"stopped at step {self.step:,} of {self.total_steps:,}"
                f"{', saved' if self.step else ''}: to resume, {self.resume_hint}"
            )
        if self.stopped_early:
            print(
                f"stopped early at step {self.step:,} of {self.total_steps:,}: no lower validation loss "
                f"in {self.settings['patience']} evaluation(s)"
            )

    def load(self, module: MaskedLM) -> None:
        """Load the weights that the run keeps into a MaskedLM, on the CPU."""
        content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(selected_weights(content))
        module.to("cpu").bert.tie_weights()  # on XLA, decoder and embedding became two tensors


def recorded_state(folder: Path) -> tuple[int, dict[str, Any]]:
    """(step, the logger's state) in the newest checkpoint of a run's folder that can be read; (0, {}) if none.

    The checkpoint is not verified: `open_run` does that.
    """
    for name in (LAST, PREVIOUS):
        with contextlib.suppress(Exception):  # a damaged file can raise anything
            path = folder / "checkpoints" / name
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            return content["global_step"], with_current_names(content["callbacks"][CALLBACK_STATE])
    return 0, {}


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The settings in the newest checkpoint of a run's folder that can be read; {} if there is none."""
    return recorded_state(folder)[1].get("settings", {})


def new_folder(folder: Path) -> Path:
    """Create `folder`, or the first of folder-2, folder-3, ... that does not exist. Returns its path."""
    if "RANK" in os.environ or started_by_launcher():
        raise NotebookError(
            "resume='never': processes that torchrun or SLURM started cannot agree on a new folder; "
            "pass another run_name instead"
        )
    candidate = folder
    for number in itertools.count(2):
        with contextlib.suppress(FileExistsError):
            candidate.mkdir(parents=True)
            break
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def lock_folder(folder: Path, resume: str) -> Path:
    """Create and lock the folder of a run. Raises NotebookError if that fails."""
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


def open_run(workdir: Path, run_name: str, resume: str, settings: dict[str, Any]) -> Run:
    """Open a run and lock its folder. An unfinished run with the same settings is resumed.

    resume="never" takes a new folder. The lock ends when the results are written, or when training
    fails or stops. Raises NotebookError if the folder holds another run, naming the differences, or if
    another process trains in it.
    """
    folder = lock_folder(Path(workdir) / run_name, resume)
    try:
        run = Run(folder, settings)
        check_same_run(run)
    except BaseException:
        unlock_run(folder)
        raise
    if is_main_process():
        restore_checksums(folder / "checkpoints", run.stored)
    if resume == "never":
        run.resume_hint = f'pass run_name="{folder.name}", resume="auto"'
    print(f"{folder.name}: {run.step:,} of {run.total_steps:,} steps are done")
    if run.finished:
        print(
            "finished before: nothing to train. To train again, for example after editing a cell, "
            'set run_name = "another" and run this cell and all below again'
        )
    elif run.state and settings["device"] == "cpu":
        warn_about_threads(run.state.get("threads"))
    return run


def warn_about_threads(threads_before: int | None) -> None:
    """Say so if a run on a CPU is resumed with another number of threads (None: unknown)."""
    threads = torch.get_num_threads()
    if threads_before not in (None, threads):
        print(
            f"the run began with {threads_before} thread(s) and is resumed with {threads}: sums are "
            "rounded in another order, so the weights differ in their last bits from an uninterrupted run"
        )


def check_same_run(run: Run) -> None:
    """Raises NotebookError if a run's folder holds a run with other settings."""
    folder = run.folder
    if run.checkpoint is None and (folder / "run.json").exists():
        raise NotebookError(
            f"{folder} holds a finished run without a readable checkpoint; to keep it, "
            "pass another run_name or resume='never'"
        )
    differences = setting_differences(run.state["settings"], run.settings) if run.state else []
    if differences:
        raise NotebookError(
            f"{folder} holds another run ({'; '.join(differences)}); restore what changed to resume "
            "it, or pass another run_name or resume='never' to start a new one"
        )
