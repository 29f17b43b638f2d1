"""Figures of predictions: probabilities of tokens, surprisal of a sentence."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch

from mlm.plots.fonts import drawable
from mlm.plots.style import hide_frame

MAX_BARS = 100  # in a column: a figure of many masks would be drawn for minutes


def draw_predictions(predictions: dict[str, list[list[tuple[str, float]]]], sentence: str) -> None:
    """Bars of the most probable tokens for each [MASK] of a sentence (rows) by each model (columns).

    `predictions` is {model: for each [MASK] a list of (token, probability)}. Only the first masks are
    drawn if there are more than MAX_BARS bars for each model.
    """
    first_model = next(iter(predictions.values()))
    num_masks, columns = len(first_model), len(predictions)
    max_bars = max(len(row) for row in first_model)
    rows = min(num_masks, max(1, MAX_BARS // max_bars))
    predictions = {name: rows_of_model[:rows] for name, rows_of_model in predictions.items()}
    bars_of = [
        bar for rows_of_model in predictions.values() for row in rows_of_model for bar in row
    ]
    labels, options = drawable([sentence, *predictions, *(token for token, _ in bars_of)])
    size = 4.2 * columns + 1, (0.28 * max_bars + 0.8) * rows + 0.6
    figure, grid = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharex=True, layout="constrained"
    )
    for column, (name, rows_of_model) in enumerate(predictions.items()):
        for row, ax in enumerate(grid[:, column]):
            tokens, probabilities = zip(*rows_of_model[row])
            bars = ax.barh(range(len(tokens)), probabilities, color=f"C{column}")
            ax.bar_label(bars, [percent(p) for p in probabilities], padding=3, fontsize=8)
            ax.set_yticks(range(len(tokens)), [labels[token] for token in tokens], **options)
            ax.invert_yaxis()
            ax.set_title(f"[MASK] {row + 1}, {labels[name]}", fontsize=10, **options)
            hide_frame(ax)
            ax.margins(x=0.15)
            ax.xaxis.set_major_formatter(lambda x, _: percent(x))
    title = labels[sentence].replace("$", r"\$")  # wrap=True ignores parse_math=False
    if rows < num_masks:
        figure.supxlabel(f"the first {rows} of {num_masks} [MASK]", fontsize=10)
    figure.suptitle(title, wrap=True, fontfamily=options["fontfamily"])


def percent(p: float) -> str:
    """A probability with two significant digits: 41%, 5.1%, 0.024%."""
    return f"{100 * p:.0f}%" if p >= 0.0995 else f"{100 * p:.2g}%"


def draw_surprisals(ax: Any, tokens: list[str], nats: dict[str, Any]) -> None:
    """A bar for each token and model: the surprisal of the token. `nats` is {model: (tokens,)}."""
    table = pd.DataFrame({name: torch.as_tensor(heights) for name, heights in nats.items()})
    table.plot.bar(ax=ax, width=0.8, edgecolor="white")
    for bars, hatch in zip(ax.containers, ("", "///")):
        plt.setp(bars, hatch=hatch)
    labels, options = drawable(tokens)
    # the end of a label is below its bars
    options |= {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(tokens)), [labels[token] for token in tokens], **options)
    ax.set_ylabel("surprisal in nats")
    hide_frame(ax)
    ax.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
