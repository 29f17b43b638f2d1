"""The values of the parameter `logger`. They are checked before packages are installed: nothing is imported."""

from typing import Any

LOGGER_NAMES = "tensorboard", "csv", "wandb", "mlflow", "trackio"
NO_LOGGER = "none"  # only metrics.csv, which every run has


def logger_names(logger: str | list[str]) -> list[str]:
    """The LOGGER_NAMES in a value of the parameter `logger`."""
    names = logger if isinstance(logger, list) else [logger]
    return [name for name in names if name != NO_LOGGER]


def is_logger(value: Any) -> bool:
    """Whether this is "none", or a name or a list of different names of LOGGER_NAMES."""
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        return False
    return names == [NO_LOGGER] or (names != [] and set(names) <= {*LOGGER_NAMES})
