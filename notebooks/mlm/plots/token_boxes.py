"""Masked batches, packed rows and attention masks as figures, one box per token."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle
from transformers import PreTrainedTokenizerFast

from mlm.data.tokenizer import token_names
from mlm.plots.fonts import drawable

TOKEN_STATES = {  # what masking did with a token: the color and the sign of its box
    "not masked": ("#eef1f5", ""),
    "target, now [MASK]": ("#f5b83d", "M"),
    "target, now a random token": ("#e8776f", "R"),
    "target, left unchanged": ("#8fc97f", "U"),
    "[CLS] or [SEP]": ("#c9d7ee", "·"),
    "padding": ("#ffffff", "–"),
}
NOT_MASKED, MASK, RANDOM, UNCHANGED, SPECIAL, PADDING = range(len(TOKEN_STATES))
TARGETS = (MASK, RANDOM, UNCHANGED)
LEGEND_ORDER = (MASK, NOT_MASKED, RANDOM, SPECIAL, UNCHANGED, PADDING)  # in columns of two
COLORS, SIGNS = zip(*TOKEN_STATES.values())
MAX_COLUMNS = 128  # tokens of a row that `draw_batch` draws


def token_states(
    input_ids: np.ndarray, labels: np.ndarray, tokenizer: PreTrainedTokenizerFast
) -> np.ndarray:
    """What masking did with each token of a batch, (B, T) int: an index into TOKEN_STATES."""
    input_ids, labels = np.asarray(input_ids), np.asarray(labels)
    is_target = labels != -100
    original = np.where(is_target, labels, input_ids)
    states = np.full(input_ids.shape, NOT_MASKED)
    states[np.isin(original, [tokenizer.cls_token_id, tokenizer.sep_token_id])] = SPECIAL
    states[is_target] = RANDOM
    states[is_target & (input_ids == labels)] = UNCHANGED
    states[is_target & (input_ids == tokenizer.mask_token_id)] = MASK
    states[original == tokenizer.pad_token_id] = PADDING
    return states


def add_legend(ax: Axes, states: np.ndarray, signed: Sequence[int]) -> None:
    """Explain, above a figure of tokens, the colors of its states and the signs of `signed` states."""
    names = list(TOKEN_STATES)
    boxes = []
    for state in LEGEND_ORDER:
        if (states == state).any():
            sign = SIGNS[state] if state in signed else ""
            boxes.append(Patch(fc=COLORS[state], ec="0.7", label=f"{sign}  {names[state]}".strip()))
    ax.legend(
        handles=boxes,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=3,
        frameon=False,
        fontsize=9,
        handlelength=1.2,
    )


def draw_tokens(
    batch: dict[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    row_names: Sequence[str] = (),
    max_tokens: int = 14,
) -> None:
    """Draw the first tokens of each row as boxes: the input; below it, in italics, the target if it differs.

    `row_names` are written to the left of the rows.
    """
    input_ids, labels = (
        np.asarray(batch[name])[:, :max_tokens] for name in ("input_ids", "labels")
    )
    states = token_states(input_ids, labels, tokenizer)
    num_rows, num_tokens = states.shape
    width = max(12, num_tokens)  # the legend needs as much
    ids = np.append(input_ids, labels[labels != -100]).tolist()
    names = dict(zip(ids, token_names(tokenizer, ids)))
    box_labels, options = drawable(names.values())
    _, ax = plt.subplots(figsize=(0.75 * width, 0.5 * num_rows + 0.6), layout="constrained")
    for (row, column), state in np.ndenumerate(states):
        edge_color, line_style = ("0.8", ":") if state == PADDING else ("white", "-")
        box = Rectangle((column, row), 0.96, 0.9, fc=COLORS[state], ec=edge_color, ls=line_style)
        ax.add_patch(box)
        if state in TARGETS:
            ax.text(column + 0.04, row + 0.06, SIGNS[state], fontsize=6.5, weight="bold", va="top")
        lines = [(input_ids[row, column], "normal", 0.45)]  # (token id, style, height in the box)
        if state in (MASK, RANDOM):
            lines = [
                (input_ids[row, column], "normal", 0.36),
                (labels[row, column], "italic", 0.69),
            ]
        for token_id, style, height in lines:
            token = box_labels[names[int(token_id)]][:16]
            ax.text(
                column + 0.48,
                row + height,
                token,
                ha="center",
                va="center",
                color="0.45" if state in (SPECIAL, PADDING) else "0.1",
                style=style,
                fontsize=min(8, 92 / len(token)),
                **options,
            )
    add_legend(ax, states, signed=TARGETS)
    ax.set(xlim=(0, width), ylim=(num_rows, 0), xticks=[])
    ax.set_yticks([row + 0.45 for row in range(len(row_names))], row_names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def draw_batch(
    batch: dict[str, Any], tokenizer: PreTrainedTokenizerFast, max_rows: int = 12
) -> None:
    """Draw the rows of a batch: a narrow box with a sign per token, a line before each example."""
    input_ids, labels = (
        np.asarray(batch[name])[:max_rows, :MAX_COLUMNS] for name in ("input_ids", "labels")
    )
    states = token_states(input_ids, labels, tokenizer)
    num_rows, width = states.shape
    _, ax = plt.subplots(figsize=(12, 0.3 * num_rows + 1.1), layout="constrained")
    ax.pcolormesh(
        states,
        cmap=ListedColormap(COLORS),
        vmin=-0.5,
        vmax=len(TOKEN_STATES) - 0.5,
        edgecolors="white",
        lw=0.3,
    )
    sign_size = min(8, max(3, 800 / width))
    for (row, column), state in np.ndenumerate(states):
        ax.text(
            column + 0.55, row + 0.5, SIGNS[state], ha="center", va="center", fontsize=sign_size
        )
    ax.hlines(range(1, num_rows), 0, width, color="white", lw=3)
    for row, start in np.argwhere(input_ids == tokenizer.cls_token_id):
        ax.vlines(start, row + 0.1, row + 0.9, color="black", lw=1.5)
    add_legend(ax, states, signed=range(len(SIGNS)))
    ax.set(xlabel="position in the row", xlim=(-0.5, width + 0.5), ylim=(num_rows, 0), yticks=[])
    ax.spines[:].set_visible(False)


def draw_rows(
    ax: Axes, sizes: np.ndarray, rows: Sequence[Sequence[int]], width: int, title: str
) -> None:
    """Draw the examples of each row as bars, one after the other, and the padding behind them.

    sizes (examples,): tokens of each example; rows: the examples of each row; width: tokens in a row.
    """
    ax.barh(range(len(rows)), width, color="white", edgecolor="0.8", lw=0.5, height=1)
    for number, examples in enumerate(rows):
        lengths = sizes[examples]
        left = lengths.cumsum() - lengths
        ax.barh(number, lengths, left=left, color="C0", edgecolor="white", lw=0.5, height=1)
    padding = 1 - sizes.sum() / (width * len(rows))
    ax.set(title=f"{title}: {padding:.0%} padding", xlabel="tokens", yticks=[])
    ax.set_ylim(len(rows), -1)
    ax.spines[:].set_visible(False)


def draw_attention(
    ax: Axes, tokens: Sequence[str], may_attend: np.ndarray, sequence_ids: np.ndarray
) -> None:
    """Draw which tokens may attend to which, (T, T) bool; sequence_ids (T,): the example of each token."""
    ax.pcolormesh(may_attend, cmap=ListedColormap(["white", "#9ec5e8"]), edgecolors="0.85", lw=0.5)
    for example in np.unique(sequence_ids):
        middle = np.flatnonzero(sequence_ids == example).mean() + 0.5
        ax.text(middle, middle, f"example {example}", ha="center", va="center", weight="bold")
    centers = np.arange(len(tokens)) + 0.5
    labels, options = drawable(tokens)
    names = [labels[token] for token in tokens]
    ax.set_yticks(centers, names, fontsize=10, **options)
    ax.set_xticks(centers, names, fontsize=10, rotation=90, **options)
    ax.xaxis.tick_top()
    ax.set(ylim=(len(tokens), 0), aspect="equal")
