"""The learning curve of a run."""

import io
from typing import Any

import matplotlib.pyplot as plt

from mlm.plots.style import LOSS_UNIT


def draw_curve(ax: Any, history: list[dict[str, Any]], baseline: float) -> None:
    """The learning curve: training loss, validation loss and unigram baseline over optimizer steps.

    `history` is a list of rows of metrics, `run.history` for example; losses are in nats.
    """
    for name, style, label in (
        ("train_loss", {"color": "0.6", "lw": 1}, "training loss"),
        ("valid_loss", {"color": "C0", "marker": "o"}, "validation loss"),
    ):
        points = [(row["step"], row[name]) for row in history if name in row]
        ax.plot(*(zip(*points) if points else ([], [])), label=label, **style)
    ax.axhline(baseline, ls=":", color="C3", label="unigram baseline")
    ax.set(xlabel="optimizer step", ylabel=LOSS_UNIT)
    ax.legend(frameon=False)


def curve_image(history: list[dict[str, Any]], baseline: float) -> Any:
    """The learning curve as a PNG, an IPython Image."""
    from IPython.display import Image

    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    draw_curve(ax, history, baseline)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    plt.close(figure)
    return Image(file.getvalue())
