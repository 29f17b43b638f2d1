"""Logs a run's history to the loggers that the parameter `logger` names.

What has been sent is stored in logs/trackers.json, so that a resumed run continues the same curves: no row
is sent twice and none is missing.
"""

import re
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from mlm.env.files import read_checked_json, write_checked_json
from mlm.env.loggers import LOGGERS, logger_names
from mlm.env.notebook import NotebookError
from mlm.env.secrets import hide_secrets
from mlm.env.trackers import OPEN, TrackedRun
from mlm.training.history import Row

SENT_FILE = "trackers.json"  # in logs/: {name: {"run_id": ..., "rows": number of rows sent}}


def shown_row(row: Row) -> dict[str, float]:
    """The metrics of a row by the names that trackers group them by: "train/loss", "valid/loss", "lr"."""
    return {re.sub("^(train|valid)_", r"\1/", name): row[name] for name in row if name != "step"}


def one_line(error: Exception) -> str:
    """An error in one line, without secrets."""
    lines = hide_secrets(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


class SentRows(Logger):
    """A Lightning logger that sends each row of a run's history once to the logger `name`.

    `history` are the rows until the checkpoint from which training starts. Only the main process sends.
    If a server fails during training, its rows are sent later; training goes on.
    """

    version = None

    def __init__(
        self, name: str, folder: Path, settings: dict[str, Any], history: list[Row]
    ) -> None:
        super().__init__()
        self._name, self.rows = name, list(history)
        self.path = folder / "logs" / SENT_FILE
        # Without a checkpoint, this is a new run: what a killed one has sent does not belong to it.
        sent = self.stored().get(name, {}) if history else {}
        rows = sent.get("rows", 0)
        if not LOGGERS[name].continues:
            rows = min(rows, len(history))
        next_step = history[rows - 1]["step"] + 1 if 0 < rows <= len(history) else 0
        self.run = TrackedRun(folder, settings, sent.get("run_id"), rows, next_step)
        self.logger: Logger | None = None
        self.failed = False  # whether the last row could not be sent

    @property
    def name(self) -> str:
        return self._name

    def stored(self) -> dict[str, Any]:
        """The content of SENT_FILE; {} if there is none."""
        return read_checked_json(self.path) or {}

    def store(self) -> None:
        """Store in SENT_FILE what has been sent."""
        sent = {"run_id": self.run.run_id, "rows": self.run.rows}
        write_checked_json(self.path, {**self.stored(), self.name: sent})

    # what Lightning calls

    @rank_zero_only
    def save(self) -> None:
        """Open the logger: Lightning calls this before training, in each process.

        Raises NotebookError if a tracker does not answer or refuses the run.
        """
        if self.logger:
            return
        try:
            self.logger = OPEN[self.name](self.run)
        except Exception as error:
            if not LOGGERS[self.name].continues:  # a local file: the folder of the run is named
                raise
            raise NotebookError(
                f"logger={self.name!r} does not work ({one_line(error)}): fix that, or pass another "
                'logger, such as "tensorboard"; a run may be resumed with another one'
            ) from None
        self.send()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log a row of the history."""
        self.rows.append({"step": step, **metrics})
        self.send()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The settings of the run are logged when it is opened."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self.logger is None:
            return
        self.send()
        try:
            self.logger.finalize(status)
        except Exception as error:
            self.report(error)
        if self.run.rows < len(self.rows):
            print(
                f"{self.name} lacks the last {len(self.rows) - self.run.rows} rows of metrics.csv"
            )

    # sending

    def send(self) -> None:
        """Send all rows that have not been sent. An error of a server is printed once."""
        if self.logger is None or self.run.rows >= len(self.rows):
            return
        try:
            while self.run.rows < len(self.rows):
                row = self.rows[self.run.rows]
                self.logger.log_metrics(shown_row(row), row["step"])
                self.run.rows += 1
            self.logger.save()
            self.failed = False
        except Exception as error:
            self.report(error)
        self.store()

    def report(self, error: Exception) -> None:
        """Print an error of a server, once. Raises an error of local files."""
        if not LOGGERS[self.name].continues:
            raise error.__cause__ or error  # Lightning says ValueError if a file cannot be written
        if not self.failed:
            print(f"{self.name} does not respond ({one_line(error)}): rows are sent later")
        self.failed = True


def open_loggers(
    logger: str | list[str], folder: Path, settings: dict[str, Any], history: list[Row]
) -> list[SentRows]:
    """The loggers of a run that continues after `history`, for a value of the parameter `logger`."""
    return [SentRows(name, folder, settings, history) for name in logger_names(logger)]
