"""The rows of metrics of a run: the best row, early stopping, metrics.csv."""

import pandas as pd

from mlm.env.files import atomic_write


def selected_row(history, keep):
    """The row of a history that was measured on the weights a run keeps: its "last", or its "best".

    The best has the lowest held-out loss, of equals it is the first; the look before the first step does
    not count. None where nothing was measured yet.
    """
    measured = [row for row in history if row["step"] and "valid_loss" in row]
    if keep == "best":
        return min(measured, key=lambda row: row["valid_loss"], default=None)
    return measured[-1] if measured else None


def out_of_patience(history, patience):
    """Whether the last `patience` measurements brought no better held-out loss; never where it is 0."""
    steps = [row["step"] for row in history if "valid_loss" in row]
    best = selected_row(history, "best")
    return patience > 0 and best is not None and best["step"] not in steps[-patience:]


def write_metrics(folder, history):
    """The history as a table, logs/metrics.csv: a row a step."""
    table = pd.DataFrame(history).groupby("step").first()
    with atomic_write(folder / "logs" / "metrics.csv", "w", encoding="utf-8", newline="") as file:
        table.to_csv(file)


OLD_NAMES = {
    "training_loss": "train_loss",
    "held_out_loss": "valid_loss",
    "held_out_perplexity": "valid_perplexity",
    "held_out_accuracy": "valid_accuracy",
}


def with_current_names(state):
    """A callback's state with today's names of the metrics: checkpoints of earlier versions resume."""
    history = [{OLD_NAMES.get(k, k): v for k, v in row.items()} for row in state["history"]]
    return {**state, "history": history}
