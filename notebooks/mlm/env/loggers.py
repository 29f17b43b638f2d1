"""The names of the loggers that 04 can send its metrics to: one table, LOGGERS.

mlm.env.trackers opens them. No package is imported: values are checked before packages are installed.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tracker:
    """A row of LOGGERS.

    `continues`: a resumed run adds to what a server has. Otherwise it is a local file, in which what is
    newer than the checkpoint is replaced.
    """

    package: str  # its name for pip
    continues: bool = True


LOGGERS = {
    "tensorboard": Tracker("tensorboard", continues=False),
    "csv": Tracker("pytorch-lightning", continues=False),
    "wandb": Tracker("wandb"),
    "mlflow": Tracker("mlflow"),
    "trackio": Tracker("trackio"),
}
NO_LOGGER = "none"  # only metrics.csv, which every run has


def logger_names(logger: str | list[str]) -> list[str]:
    """The names of LOGGERS in a value of the parameter `logger`."""
    names = logger if isinstance(logger, list) else [logger]
    return [name for name in names if name != NO_LOGGER]


def is_logger(value: Any) -> bool:
    """Whether this is "none", or a name or a list of different names of LOGGERS."""
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        return False
    return names == [NO_LOGGER] or (names != [] and set(names) <= LOGGERS.keys())
