"""When something fails or is to stop: every process knows it, and nobody waits for ever.

Lightning's launchers and torch_xla's loader threads lose errors, and the other processes would wait.
So whoever fails writes it down, and each process watches for that. A wish to stop is a file, too.
"""

import contextlib
import os
import signal
import threading
import time
import traceback

import pytorch_lightning as pl
import torch


def report(folder, error):
    """Write a process's error down where all others look; the first one stands."""
    part = folder / f"failed.{os.getpid()}"
    part.write_text("".join(traceback.format_exception(error)))
    with contextlib.suppress(FileExistsError):
        os.link(part, folder / "failed")
    part.unlink()


class Alarm(pl.Callback):
    """Reports this process's error, and ends it when another has failed or the notebook is gone."""

    def __init__(self, folder):
        self.folder, self.notebook = folder, os.getpid()

    def report(self, error):
        report(self.folder, error)

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
    """While training, Ctrl-C, *Interrupt* and SIGTERM ask for a checkpoint and an end after this step."""

    def ask(number, frame):
        (folder / "stop").touch()

    kept = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
