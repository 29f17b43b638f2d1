"""Examples as boxes: what the masks did with each token, who shares a row, who may look at whom."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from mlm.data.packing import MAX_ROW_TOKENS

TOKEN_STATES = {  # what the masks did with a token: its colour, and the sign that stands in its box
    "kept": ("#eef1f5", ""),
    "[MASK]": ("#f5b83d", "M"),
    "random token": ("#e8776f", "R"),
    "unchanged, but asked": ("#8fc97f", "U"),
    "[CLS] or [SEP]": ("#c9d7ee", "·"),
    "padding": ("#ffffff", "–"),
}
COLOURS, SIGNS = zip(*TOKEN_STATES.values())


def token_states(input_ids, labels, tokenizer):
    """What became of each token of a batch, (B, T) int: its place in FATES."""
    asked, original = labels != -100, np.where(labels != -100, labels, input_ids)
    is_special = np.isin(original, [tokenizer.cls_token_id, tokenizer.sep_token_id])
    fate = np.where(input_ids == tokenizer.mask_token_id, 1, np.where(input_ids == labels, 3, 2))
    fate = np.where(asked, fate, np.where(is_special, 4, 0))
    return np.where(original == tokenizer.pad_token_id, 5, fate)


def add_legend(ax, fate, **axes):
    """Set the axes of a picture of fates (B, T); above it stands what colours and signs mean."""
    labels = [f"{sign}  {name}".strip() for name, (_, sign) in TOKEN_STATES.items()]
    boxes = [Patch(fc=colour, ec="0.7", label=label) for colour, label in zip(COLOURS, labels)]
    place = dict(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(boxes))
    ax.legend(handles=boxes, frameon=False, fontsize=9, handlelength=1.2, **place)
    ax.set(**dict(xlim=(0, fate.shape[1]), ylim=(len(fate), 0), yticks=[]) | axes)
    ax.spines[:].set_visible(False)


def draw_tokens(batch, tokenizer, most=14):
    """Draw the first tokens of each row as boxes: what is read; under it, in italics, what was there."""
    read, labels = (np.asarray(batch[name])[:, :most] for name in ("input_ids", "labels"))
    fate = token_states(read, labels, tokenizer)
    width = max(12, fate.shape[1])  # the legend's, or it would squeeze the boxes
    _, ax = plt.subplots(figsize=(0.75 * width, 0.5 * len(fate) + 0.4), layout="constrained")
    for (row, column), what in np.ndenumerate(fate):
        edge = dict(ec="0.8", ls=":") if what == 5 else dict(ec="white")
        ax.add_patch(plt.Rectangle((column, row), 0.96, 0.9, fc=COLOURS[what], **edge))
        if what in (1, 2, 3):
            corner = column + 0.04, row + 0.06
            ax.text(*corner, SIGNS[what], fontsize=6.5, weight="bold", va="top")
        ids = [read[row, column], labels[row, column]][: 2 if what in (1, 2) else 1]
        for i, word in enumerate(tokenizer.convert_ids_to_tokens([int(i) for i in ids])):
            word, colour = word[:16], "0.45" if what > 3 else "0.1"
            look = dict(style=("normal", "italic")[i], fontsize=min(8, 92 / len(word)))
            height = row + (0.45 if len(ids) == 1 else (0.36, 0.69)[i])
            ax.text(column + 0.48, height, word, ha="center", va="center", color=colour, **look)
    add_legend(ax, fate, xlim=(0, width), xticks=[])


def draw_batch(batch, tokenizer, rows=12):
    """Draw the rows of a batch, every token a narrow box with its sign, a line before each example."""
    read, labels = (np.asarray(batch[n])[:rows, :MAX_ROW_TOKENS] for n in ("input_ids", "labels"))
    fate = token_states(read, labels, tokenizer)
    _, ax = plt.subplots(figsize=(12, 0.3 * len(fate) + 0.9), layout="constrained")
    look = dict(cmap=ListedColormap(COLOURS), vmin=-0.5, vmax=len(TOKEN_STATES) - 0.5)
    ax.pcolormesh(fate, edgecolors="white", lw=0.3, **look)
    middle = dict(ha="center", va="center", fontsize=min(8, max(3, 800 / fate.shape[1])))
    for (row, column), what in np.ndenumerate(fate):
        ax.text(column + 0.55, row + 0.5, SIGNS[what], **middle)
    ax.hlines(range(1, len(fate)), 0, fate.shape[1], color="white", lw=3)
    for row, start in np.argwhere(read == tokenizer.cls_token_id):
        ax.vlines(start, row + 0.1, row + 0.9, color="black", lw=1.5)
    add_legend(ax, fate, xlabel="place in the row", xlim=(-0.5, fate.shape[1] + 0.5))


def draw_rows(ax, sizes, rows, width, title):
    """Draw the examples of each row as bars, one after the other, and the padding behind them."""
    ax.barh(range(len(rows)), width, color="white", edgecolor="0.8", lw=0.5, height=1)
    for number, row in enumerate(rows):
        left = sizes[row].cumsum() - sizes[row]
        ax.barh(number, sizes[row], left=left, color="C0", edgecolor="white", lw=0.5, height=1)
    padding = 1 - sizes.sum() / (width * len(rows))
    ax.set(title=f"{title}: {padding:.0%} padding", xlabel="tokens", yticks=[])
    ax.set_ylim(len(sizes), -1)
    ax.spines[:].set_visible(False)


def draw_attention(ax, tokens, may_look, owner):
    """Draw who may look at whom, (T, T) bool; `owner` (T,) is the number of each token's example."""
    ax.pcolormesh(may_look, cmap=ListedColormap(["white", "#9ec5e8"]), edgecolors="0.85", lw=0.5)
    for example in np.unique(owner):
        middle = np.flatnonzero(owner == example).mean() + 0.5
        ax.text(middle, middle, f"example {example}", ha="center", va="center", weight="bold")
    places = np.arange(len(tokens)) + 0.5
    ax.set_yticks(places, tokens, fontsize=10)
    ax.set_xticks(places, tokens, fontsize=10, rotation=90)
    ax.xaxis.tick_top()
    ax.set(ylim=(len(tokens), 0), aspect="equal")
