"""The figure of 07: accuracy on a task by the number of labels."""

from typing import Any

import numpy as np
import pandas as pd

from mlm.plots.style import hide_frame

MARKERS = "osD^vPX"


def draw_label_curves(ax: Any, table: pd.DataFrame, guessing: float) -> None:
    """Mean accuracy over the labels per class, a curve for each method, with lines from lowest to highest.

    `table` has a row for each trained classifier, with the columns method, labels (per class) and accuracy.
    guessing: the accuracy of guessing, 1 / number of classes; a dotted line.
    """
    for number, (method, rows) in enumerate(table.groupby("method", sort=False)):
        values = 100 * rows.groupby("labels")["accuracy"].agg(["mean", "min", "max"])
        x = values.index * 1.03 ** (number - 2)  # side by side, so that no line hides another
        spread = np.stack([values["mean"] - values["min"], values["max"] - values["mean"]])
        spread = spread.clip(min=0)  # a mean of equal numbers may differ from them by rounding
        marker = MARKERS[number % len(MARKERS)]
        ax.errorbar(x, values["mean"], spread, marker=marker, capsize=3, label=method)
    ax.axhline(100 * guessing, ls=":", color="gray", label="guessing")
    sizes = sorted(table["labels"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()
    ax.set(xlabel="labelled training texts per class", ylabel="accuracy on the test part, %")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    hide_frame(ax)
