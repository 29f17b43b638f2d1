"""When something fails or is to stop: every process knows it, and nobody waits for ever.

Lightning's launchers and torch_xla's loader threads lose errors, and the other processes would wait.
So whoever fails writes it down, and each process watches for that. A wish to stop is a file, too.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback

import pytorch_lightning as pl
import torch

from mlm.env.notebook import NotebookError


def report_failure(folder, error):
    """Write a process's error down where all others look, an error of ours as its line; the first stands."""
    if isinstance(error, NotebookError):
        text = str(error)
    else:
        text = "".join(traceback.format_exception(error))
    with (
        contextlib.suppress(OSError),  # there is one, or the folder is full or gone
        open(folder / "failed", "x", encoding="utf-8") as file,
    ):
        file.write(text)


class FailureMonitor(pl.Callback):
    """Reports this process's error, and ends it when another has failed or the notebook is gone."""

    def __init__(self, folder):
        self.folder, self.notebook = folder, os.getpid()

    def report(self, error):
        report_failure(self.folder, error)

    def setup(self, trainer, module, stage):
        trainer.datamodule.on_error = self.report
        if os.getpid() != self.notebook:
            torch.set_num_threads(1)  # a fork has its parent's threads in name only: it would wait
            threading.Thread(target=self.watch, daemon=True).start()

    def on_train_start(self, trainer, module):
        """Our way to stop in place of Lightning's, which reads the device at each step."""
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = contextlib.nullcontext
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))

    def watch(self):
        """End this process once it is alone or another has failed."""
        while os.getppid() == self.notebook and not (self.folder / "failed").exists():
            time.sleep(0.3)
        time.sleep(2)  # whoever can end by itself may
        os._exit(1)

    def on_exception(self, trainer, module, exception):
        self.report(exception)


@contextlib.contextmanager
def stop_on_signal(folder):
    """While training, Ctrl-C, *Interrupt* and SIGTERM ask for a checkpoint and an end after this step.

    A second one is not ours any more: it ends the process, wherever that waits. In a notebook a second
    *Interrupt* ends the cell alone.
    """
    ends = signal.default_int_handler if "ipykernel" in sys.modules else signal.SIG_DFL

    def ask(number, frame):
        signal.signal(signal.SIGINT, ends)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(OSError):  # the disk is full or gone: the next checkpoint says so
            (folder / "stop").touch()

    kept = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def quiet_writer_threads():
    """In this block a thread that cannot write prints no traceback: who gave it work meets the error.

    TensorBoard's writer raises it at its next line.
    """
    kept = threading.excepthook

    def shown(failure):
        if not issubclass(failure.exc_type, OSError):
            kept(failure)

    threading.excepthook = shown
    try:
        yield
    finally:
        threading.excepthook = kept
