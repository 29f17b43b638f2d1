"""Figures of more than a few lines. Colours are always repeated by a hatch, a marker or a label."""

import io
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

LOSS_UNIT = "nats per masked token"


def hide_frame(ax: Any) -> None:
    """Remove the top and right edges of a plot."""
    ax.spines[["top", "right"]].set_visible(False)


# setup and corpus


def draw_products(ax: Any, products: list[tuple[str, str, float, float]], chosen: str) -> None:
    """A bar for each measured matrix product (device, dtype, error, GFLOP/s); dtype `chosen` is coloured."""
    names = [f"{device}, {dtype.removeprefix('torch.')}" for device, dtype, _, _ in products]
    speeds = [speed for _, _, _, speed in products]
    is_chosen = [dtype == chosen for _, dtype, _, _ in products]
    bars = ax.barh(names, speeds, color=["C0" if this else "0.8" for this in is_chosen])
    labels = [f"{s:,.0f}{', chosen' if this else ''}" for s, this in zip(speeds, is_chosen)]
    ax.bar_label(bars, labels, padding=3)
    ax.set(xlabel="GFLOP/s, ten matrix products in a row")
    hide_frame(ax)
    ax.invert_yaxis()
    ax.margins(x=0.2)


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
    ax.set_yticks(range(len(words)), words)
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


# training


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


# predict


def draw_guesses(guesses: dict[str, list[list[tuple[str, float]]]], sentence: str) -> None:
    """Bars of the most probable tokens for each [MASK] of a sentence (rows) by each model (columns).

    `guesses` is {model: for each [MASK] a list of (token, probability)}.
    """
    first_model = next(iter(guesses.values()))
    rows, columns = len(first_model), len(guesses)
    max_bars = max(len(row) for row in first_model)
    size = 4.2 * columns + 1, (0.28 * max_bars + 0.8) * rows + 0.6
    figure, grid = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharex=True, layout="constrained"
    )
    for column, (name, predictions) in enumerate(guesses.items()):
        for row, ax in enumerate(grid[:, column]):
            tokens, probabilities = zip(*predictions[row])
            bars = ax.barh(range(len(tokens)), probabilities, color=f"C{column}")
            ax.bar_label(bars, [percent(p) for p in probabilities], padding=3, fontsize=8)
            ax.set_yticks(range(len(tokens)), tokens)
            ax.invert_yaxis()
            ax.set_title(f"[MASK] {row + 1}, {name}", fontsize=10)
            hide_frame(ax)
            ax.margins(x=0.15)
            ax.xaxis.set_major_formatter(lambda x, _: percent(x))
    figure.suptitle(sentence, wrap=True, parse_math=False)  # a $ in a sentence is not a formula


def percent(p: float) -> str:
    """A probability with two significant digits: 41%, 5.1%, 0.024%."""
    return f"{100 * p:.0f}%" if p >= 0.0995 else f"{100 * p:.2g}%"


def draw_surprises(ax: Any, tokens: list[str], nats: dict[str, Any]) -> None:
    """A bar for each token and model: the surprisal of the token. `nats` is {model: (tokens,)}."""
    width, positions = 0.8 / len(nats), range(len(tokens))
    for number, (name, heights) in enumerate(nats.items()):
        ax.bar(
            [x + width * number for x in positions],
            [float(height) for height in heights],
            width,
            label=name,
            edgecolor="white",
            hatch=["", "///"][number % 2],
        )
    ax.set_xticks([x + width * (len(nats) - 1) / 2 for x in positions], tokens, rotation=30)
    ax.set_ylabel("surprisal in nats")
    hide_frame(ax)
    ax.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


# speed

STYLES = (("C0", "", "o"), ("C2", "//", "D"), ("0.75", "..", "s"))  # colour, hatch, marker


def kind_styles(kinds: dict[str, str]) -> dict[str, tuple[str, str, str]]:
    """A style for each kind of recipe, in the order in which the kinds appear in {recipe: kind}."""
    return dict(zip(dict.fromkeys(kinds.values()), STYLES, strict=False))


def draw_race(
    ax: Any, rates: pd.DataFrame, kinds: dict[str, str], limits: dict[str, float]
) -> None:
    """Bars of median speeds, thin lines from the slowest to the fastest repeat, and the machine's limits.

    `rates` (real tokens/s) has a column per recipe and a row per repeat; `kinds` is {recipe: kind};
    `limits` is {name: tokens/s}. The label of a bar is its ratio to the first recipe.
    """
    ratios, styles = rates.div(rates.iloc[:, 0], axis=0).median(), kind_styles(kinds)
    labelled: set[str] = set()
    for row, name in enumerate(rates):
        kind = kinds[name]
        color, hatch, _ = styles[kind]
        middle, low, high = rates[name].median(), rates[name].min(), rates[name].max()
        label = None if kind in labelled else kind
        labelled.add(kind)
        ax.barh(row, middle, color=color, hatch=hatch, edgecolor="white", label=label)
        ax.plot([low, high], [row, row], color="0.2", lw=1)
        ax.text(high, row, f"  {ratios[name]:.1f} x", va="center", fontsize=9)
    for (name, limit), style in zip(limits.items(), ("--", ":")):
        ax.axvline(limit, color="C3", ls=style, label=f"{name}: {limit:,.0f}")
    fastest = rates.max().max()
    ax.set_xlim(0, 1.15 * max(fastest, min(max(limits.values()), 2 * fastest)))
    ax.set_yticks(range(len(rates.columns)), rates.columns)
    ax.set_ylim(len(rates.columns) - 0.4, -0.6)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("real tokens per second (a limit may be beyond the edge)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    hide_frame(ax)


def draw_learned(
    ax: Any,
    table: pd.DataFrame,
    kinds: dict[str, str],
    before: float,
    cross: tuple[int, float, str],
) -> None:
    """Validation loss over optimizer steps, a point per recipe; the loss before training is a line.

    `table` has the columns "steps" and "validation loss" and a row per recipe; `kinds` is
    {recipe: kind}; `cross` is one more point, (steps, loss, label).
    """
    for kind, (color, _, marker) in kind_styles(kinds).items():
        some = table.loc[[name for name in table.index if kinds[name] == kind]]
        ax.plot(
            some["steps"],
            some["validation loss"],
            marker,
            label=kind,
            color=color,
            alpha=0.7,
            markeredgecolor="0.3",
        )
    steps, loss, label = cross
    ax.plot(steps, loss, "x", color="C1", markersize=9, markeredgewidth=2, label=label)
    ax.axhline(before, ls=":", color="C3", label="before training")
    ax.set(xscale="log", xlabel="optimizer steps for the same lines")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.set_ylabel(f"validation loss, {LOSS_UNIT}")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    hide_frame(ax)


def draw_recipes(ax: Any, tracks: dict[str, pd.DataFrame], baseline: float) -> None:
    """Validation loss over seconds of training on a logarithmic axis, a line per recipe.

    `tracks` is {name: DataFrame with "step", "seconds" and "loss"}. The evaluation before training is
    left out.
    """
    for number, (name, track) in enumerate(tracks.items()):
        shown = track[track["step"] > 0]
        marker = "osD^v"[number % 5]
        ax.plot(
            shown["seconds"],
            shown["loss"],
            label=name,
            color=f"C{number}",
            marker=marker,
            markersize=3,
        )
    ax.axhline(baseline, ls=":", color="0.4", label="unigram baseline")
    ax.set(xscale="log", xlabel="seconds of training", ylabel=f"validation loss, {LOSS_UNIT}")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    hide_frame(ax)


def draw_pieces(axes: Any, cost: pd.DataFrame) -> None:
    """The parts of a step side by side: in milliseconds (left axis) and in percent (right axis).

    `cost` has a row per recipe and a column per part, in ms per 1,000 real tokens.
    """
    hatches = ("", "//", "..", "\\\\", "", "xx")
    percentages = cost.div(cost.sum(axis=1), axis=0) * 100
    for ax, table, label in zip(axes, (cost, percentages), ("ms per 1,000 real tokens", "percent")):
        left = table.cumsum(axis=1) - table
        for number, part in enumerate(table):
            ax.barh(
                table.index,
                table[part],
                left=left[part],
                label=part,
                color=f"C{number}",
                hatch=hatches[number % len(hatches)],
                edgecolor="white",
            )
        ax.set_xlabel(label)
        hide_frame(ax)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, ncols=6, loc="outside upper center", frameon=False)


def draw_growth(
    ax: Any,
    series: pd.Series,
    xlabel: str,
    ylabel: str,
    label: str | None = None,
    marker: str = "o",
) -> None:
    """A measured growth, and as a dotted line the proportional growth that ends in its last point."""
    (line,) = ax.plot(series.index, series, f"{marker}-", label=label)
    proportional = series.iloc[-1] * series.index.to_numpy() / series.index[-1]
    ax.plot(series.index, proportional, ":", color=line.get_color())
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None), ylim=(0, None))
    hide_frame(ax)
