"""Figures of a text: line lengths, frequent words, the split."""

from typing import Any

import numpy as np

from mlm.plots.fonts import drawable
from mlm.plots.style import hide_frame


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
    words, counts = zip(*counted_words)
    bars = ax.barh(range(len(words)), counts, color="C0")
    for word, bar in zip(words, bars):
        if word in stop_words:
            bar.set(facecolor="0.8", hatch="///", edgecolor="white")
    labels, options = drawable(words)
    ax.set_yticks(range(len(words)), [labels[word] for word in words], **options)
    ax.set(xlabel="occurrences")
    ax.invert_yaxis()
    hide_frame(ax)


def draw_split(ax: Any, first: int, last: int, block: int) -> None:
    """The lines from `first` to `last` as a strip. Every tenth block of lines, the validation set, is orange.

    Blocks are labelled if there is room.
    """
    ax.broken_barh([(first, last - first)], (0, 1), color="0.85")
    for start in range(9 * block, last, 10 * block):
        size = min(block, last - start)
        ax.broken_barh([(start, size)], (0, 1), color="C1")
        if last - first <= 20 * block:
            ax.text(start - 4.5 * block, 0.5, "train", ha="center", va="center")
            ax.text(start + size / 2, 0.5, "valid", ha="center", va="center", fontsize=9)
    ax.set(xlim=(first, last), ylim=(0, 1), yticks=[])
    ax.spines[:].set_visible(False)
