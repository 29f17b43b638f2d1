"""Failures and stops: an error in one process ends all of them; an interrupt reaches all of them.

Lightning's launchers and torch_xla's loader threads lose errors, and the other processes would wait
for ever. So a process that fails writes its error to the file `failed` in the run's folder, and every
other process watches for it. The file `stop` requests a checkpoint and an end after the current step.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from mlm.env.notebook import NotebookError
from mlm.training.causes import (
    StepMemory,
    is_out_of_memory,
    memory_error,
    model_error,
    signal_error,
)

FAILURE_FILE = "failed"
TRACEBACK_FILE = "traceback.txt"
STOP_FILE = "stop"
ONE_LINE = f"{NotebookError.__module__}.{NotebookError.__name__}: "  # how a traceback ends with it
WATCH_SECONDS = 0.3  # between two looks for the failure file
GRACE_SECONDS = 2  # for a process that can end by itself


def report_failure(
    folder: Path, error: BaseException, explained: NotebookError | None = None
) -> None:
    """Write an error to the run's folder: a NotebookError as its one line, others with traceback.

    The error of a process that Lightning started arrives as text, with the NotebookError in its last line.
    `explained` is the line for another error; the traceback is then in TRACEBACK_FILE. The first reported
    error is kept.
    """
    text = "".join(traceback.format_exception(error))
    if explained:
        with contextlib.suppress(OSError):
            (folder / TRACEBACK_FILE).write_text(text, encoding="utf-8")
    last_line = text.strip().rpartition("\n")[2]
    if explained or isinstance(error, NotebookError):
        text = str(explained or error)
    elif last_line.startswith(ONE_LINE):
        text = last_line.removeprefix(ONE_LINE)
    with (
        contextlib.suppress(OSError),  # the file exists, or the folder is full or gone
        open(folder / FAILURE_FILE, "x", encoding="utf-8") as file,
    ):
        file.write(text)


def reported_failure(folder: Path, one_line: bool = False) -> str | None:
    """Why a process failed, as one line; a traceback is printed. None if no process failed.

    `one_line`: None also if the report is a traceback.
    """
    try:
        text = (folder / FAILURE_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    if not text:  # on a full disk, the file is empty
        return None if one_line else "a process failed; the last good checkpoint is kept"
    if "\n" not in text:
        return text
    if one_line:
        return None
    print(text)
    return "a process failed with the error above; the last good checkpoint is kept"


def request_stop(folder: Path) -> None:
    """Request a checkpoint and an end after the current step."""
    (folder / STOP_FILE).touch()


def stop_requested(folder: Path) -> bool:
    """Whether a stop was requested."""
    return (folder / STOP_FILE).exists()


def clear_failure_and_stop(folder: Path) -> None:
    """Remove what earlier training left: a reported failure and a requested stop."""
    for name in (FAILURE_FILE, TRACEBACK_FILE, STOP_FILE):
        (folder / name).unlink(missing_ok=True)


class FailureMonitor(pl.Callback):
    """Callback that reports this process's error and ends this process if another one fails.

    It also ends a process whose notebook is gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notebook_process = os.getpid()
        self.data: Any = None  # MaskedLMData, MaskedLM and the Trainer's callbacks, from `setup` on
        self.module: Any = None
        self.callbacks: list[Any] = []

    def report(self, error: BaseException) -> None:
        report_failure(self.folder, error, self.explained(error))

    def explained(self, error: BaseException) -> NotebookError | None:
        """The line that says why the error happened (see mlm.training.causes); None: not known."""
        data, module = self.data, self.module
        if data is None:
            return signal_error(error)
        step = StepMemory.of(module.bert, data, module.matmul_dtype)
        path = self.folder / TRACEBACK_FILE
        return memory_error(error, step) or model_error(error, module, path, self.callbacks)

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        self.data, self.module, self.callbacks = trainer.datamodule, module, trainer.callbacks
        trainer.datamodule.on_error = self.report
        if os.getpid() != self.notebook_process:  # a fork
            # Its parent's threads do not exist here: a pool that expects them would wait for ever.
            torch.set_num_threads(1)
            threading.Thread(target=self.watch, daemon=True).start()
            trainer.fit_loop.run = self.reporting(trainer.fit_loop.run)

    def reporting(self, run: Callable[[], None]) -> Callable[[], None]:
        """A fork's training loop, which reports too little memory: only this process knows what would fit.

        Of other errors, Lightning gives `on_exception` in the notebook's process the text. They may follow
        from the end of another process, which is then the one to report.
        """

        def run_and_report() -> None:
            try:
                run()
            except Exception as error:
                if is_out_of_memory(error):
                    self.report(error)
                raise

        return run_and_report

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Lightning's handling of SIGTERM reads the device at each step. `stop_on_signal` replaces it.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = contextlib.nullcontext
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.report(exception)

    def watch(self) -> None:
        """End this process when the notebook's process is gone or another process has failed."""
        while os.getppid() == self.notebook_process and not (self.folder / FAILURE_FILE).exists():
            time.sleep(WATCH_SECONDS)
        time.sleep(GRACE_SECONDS)
        os._exit(1)


@contextlib.contextmanager
def stop_on_signal(folder: Path) -> Iterator[None]:
    """Context manager: Ctrl-C, *Interrupt* and SIGTERM request a stop (see `request_stop`).

    A second signal ends the process, even while it waits. In a notebook, a second *Interrupt* only
    ends the cell.
    """
    in_notebook = "ipykernel" in sys.modules
    second_interrupt = signal.default_int_handler if in_notebook else signal.SIG_DFL

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, second_interrupt)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # disk full: the next checkpoint reports it
            request_stop(folder)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def quiet_writer_threads() -> Iterator[None]:
    """Context manager: a thread that cannot write a file prints no traceback.

    The error is not lost: TensorBoard's writer raises it again when the next line is logged.
    """
    before = threading.excepthook

    def show(failure: Any) -> None:
        if not issubclass(failure.exc_type, OSError):
            before(failure)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = before
