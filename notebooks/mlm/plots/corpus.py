"""Figures of a text: line lengths, frequent words, the split."""

from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from mlm.plots.fonts import drawable
from mlm.plots.style import hide_frame

PARTS = {"train": "0.85", "valid": "C1", "removed": "0"}  # parts of a text: their colours
MAX_STRIP_LINES = 4000  # that are drawn; of a longer text, every n-th one


def draw_line_lengths(ax: Any, lengths: np.ndarray) -> None:
    """A histogram of characters per line. The longest 0.5% of lines are only counted."""
    limit, median = int(np.quantile(lengths, 0.995)) + 1, np.median(lengths)
    step = -(-limit // 100)
    ax.hist(lengths, bins=np.arange(0, limit + step, step), color="C0", alpha=0.8)
    ax.axvline(median, color="0.2", ls=":", label=f"median {median:.0f}")
    longer = f"{(lengths > limit).sum():,} lines are longer than shown"
    ax.set(xlabel=f"characters per line ({longer})", ylabel="lines")
    ax.legend(frameon=False)


def draw_words(ax: Any, counted_words: list[tuple[str, int]], stop_words: set[str]) -> None:
    """A bar for each (word, count), the first on top. Stop words are grey and hatched."""
    words, counts = zip(*counted_words) if counted_words else ((), ())
    bars = ax.barh(range(len(words)), counts, color="C0")
    for word, bar in zip(words, bars):
        if word in stop_words:
            bar.set(facecolor="0.8", hatch="///", edgecolor="white")
    labels, options = drawable(words)
    ax.set_yticks(range(len(words)), [labels[word] for word in words], **options)
    ax.set(xlabel="occurrences")
    ax.invert_yaxis()
    hide_frame(ax)


def draw_split(ax: Any, parts: np.ndarray) -> None:
    """Lines as a strip: which are in train.txt, in valid.txt, or in neither; `parts`: keys of PARTS, (lines,)."""
    shown = parts[:: -(-len(parts) // MAX_STRIP_LINES)]
    numbers = np.select([shown == name for name in PARTS], range(len(PARTS)))
    ax.imshow(
        numbers[None], aspect="auto", interpolation="nearest", extent=(0, len(parts), 0, 1),
        cmap=ListedColormap([*PARTS.values()]), vmin=0, vmax=len(PARTS) - 1,
    )  # fmt: skip
    ax.set(yticks=[])
    ax.spines[:].set_visible(False)


def add_split_legend(figure: Any) -> None:
    """A legend for the strips of `draw_split`, above them."""
    patches = [Patch(color=color, label=name) for name, color in PARTS.items()]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(PARTS), frameon=False)
