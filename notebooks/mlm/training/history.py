"""The rows of metrics of a run: best row, early stopping, metrics.csv.

A history is a list of rows. A row is a dict of "step" and metrics; several rows may have one step.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from mlm.env.files import atomic_write

Row = dict[str, Any]

RENAMED_METRICS = {  # name in checkpoints of earlier versions: name today
    "training_loss": "train_loss",
    "held_out_loss": "valid_loss",
    "held_out_perplexity": "valid_perplexity",
    "held_out_accuracy": "valid_accuracy",
}


def selected_row(history: list[Row], keep: str) -> Row | None:
    """The evaluation of the weights that a run keeps: the "last" one, or the "best" one.

    The best one has the lowest validation loss, the first of equals. The evaluation before training
    does not count. None if there is no other.
    """
    evaluated = [row for row in history if row["step"] and "valid_loss" in row]
    if keep == "best":
        return min(evaluated, key=lambda row: row["valid_loss"], default=None)
    return evaluated[-1] if evaluated else None


def out_of_patience(history: list[Row], patience: int) -> bool:
    """Early stopping: whether the last `patience` evaluations brought no improvement (0: never)."""
    steps = [row["step"] for row in history if "valid_loss" in row]
    best = selected_row(history, "best")
    return patience > 0 and best is not None and best["step"] not in steps[-patience:]


def history_table(history: list[Row]) -> pd.DataFrame:
    """A history as a DataFrame: one row per step, one column per metric."""
    return pd.DataFrame(history).groupby("step").first()


def write_metrics(folder: Path, history: list[Row]) -> None:
    """Write a history as logs/metrics.csv below a run's folder."""
    with atomic_write(folder / "logs" / "metrics.csv", "w", encoding="utf-8", newline="") as file:
        history_table(history).to_csv(file)


def with_current_names(state: dict[str, Any]) -> dict[str, Any]:
    """A logger's state with today's metric names: checkpoints of earlier versions can be resumed."""
    history = [
        {RENAMED_METRICS.get(name, name): value for name, value in row.items()}
        for row in state["history"]
    ]
    return {**state, "history": history}
