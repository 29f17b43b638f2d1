"""The plots of more than a few lines. Colours never stand alone: each is repeated by a sign or a label."""

import io

import matplotlib.pyplot as plt
import numpy as np

# setup and corpus


def draw_products(ax, products, chosen):
    """A bar for each matrix product, (device, dtype, error, GFLOP/s); those in `chosen` stand out."""
    names = [f"{device}, {dtype.removeprefix('torch.')}" for device, dtype, *_ in products]
    speeds = [speed for *_, speed in products]
    stands_out = [dtype == chosen for _, dtype, *_ in products]
    bars = ax.barh(names, speeds, color=["C0" if this else "0.8" for this in stands_out])
    labels = [f"{s:,.0f}{', chosen' if this else ''}" for s, this in zip(speeds, stands_out)]
    ax.bar_label(bars, labels, padding=3)
    ax.set(xlabel="GFLOP/s, ten matrix products in a row")
    ax.spines[["top", "right"]].set_visible(False)
    ax.invert_yaxis()
    ax.margins(x=0.2)


def draw_line_lengths(ax, lengths):
    """How many lines have how many characters; the longest half percent is only counted."""
    limit, median = int(np.quantile(lengths, 0.995)) + 1, np.median(lengths)
    step = -(-limit // 100)
    ax.hist(lengths, bins=np.arange(0, limit + step, step), color="C0", alpha=0.8)
    ax.axvline(median, color="0.2", ls=":", label=f"median {median:.0f}")
    longer = f"{(lengths > limit).sum():,} lines are longer than shown"
    ax.set(xlabel=f"characters in a line ({longer})", ylabel="lines")
    ax.legend(frameon=False)


def draw_words(ax, common, stop_words):
    """A bar for each (word, count), the first on top; stop words are grey and hatched."""
    words, counts = zip(*common)
    bars = ax.barh(range(len(words)), counts, color="C0")
    for word, bar in zip(words, bars):
        if word in stop_words:
            bar.set(facecolor="0.8", hatch="///", edgecolor="white")
    ax.set_yticks(range(len(words)), words)
    ax.set(xlabel="times")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)


def draw_split(ax, first, last, run):
    """The lines from `first` to `last` as a strip; held-out runs are orange, labelled if there's room."""
    ax.broken_barh([(first, last - first)], (0, 1), color="0.85")
    for start in range(9 * run, last, 10 * run):
        size = min(run, last - start)
        ax.broken_barh([(start, size)], (0, 1), color="C1")
        if last - first <= 20 * run:
            ax.text(start - 4.5 * run, 0.5, "train", ha="center", va="center")
            ax.text(start + size / 2, 0.5, "held\nout", ha="center", va="center", fontsize=9)
    ax.set(xlim=(first, last), ylim=(0, 1), yticks=[])
    ax.spines[:].set_visible(False)


# training


def draw_curve(ax, history, baseline):
    """Draw the learning curve: training loss, held-out loss, the unigram baseline (nats a masked token).

    `history` is a list of rows, as the journal keeps them.
    """
    for name, style, label in (
        ("train_loss", dict(color="0.6", lw=1), "training loss"),
        ("valid_loss", dict(color="C0", marker="o"), "held-out loss"),
    ):
        points = [(row["step"], row[name]) for row in history if name in row]
        ax.plot(*(zip(*points) if points else ([], [])), label=label, **style)
    ax.axhline(baseline, ls=":", color="C3", label="unigram baseline")
    ax.set(xlabel="optimizer step", ylabel="nats a masked token")
    ax.legend(frameon=False)


def curve_image(history, baseline):
    """The learning curve so far as a PNG that IPython displays."""
    from IPython.display import Image

    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    draw_curve(ax, history, baseline)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    plt.close(figure)
    return Image(file.getvalue())


# predict


def draw_guesses(guesses, sentence):
    """Bars of the guesses for each [MASK] (rows) by each model (columns).

    `guesses` is {model: a list of lists of (token, probability)}.
    """
    rows, columns = len(next(iter(guesses.values()))), len(guesses)
    most = max(len(row) for row in next(iter(guesses.values())))
    size = 4.2 * columns + 1, (0.28 * most + 0.8) * rows + 0.6
    figure, grid = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharex=True, layout="constrained"
    )
    for column, (name, found) in enumerate(guesses.items()):
        for row, ax in enumerate(grid[:, column]):
            tokens, probabilities = zip(*found[row])
            bars = ax.barh(range(len(tokens)), probabilities, color=f"C{column}")
            ax.bar_label(bars, [percent(p) for p in probabilities], padding=3, fontsize=8)
            ax.set_yticks(range(len(tokens)), tokens)
            ax.invert_yaxis()
            ax.set_title(f"[MASK] {row + 1}, {name}", fontsize=10)
            ax.spines[["top", "right"]].set_visible(False)
            ax.margins(x=0.15)
            ax.xaxis.set_major_formatter(lambda x, _: percent(x))
    figure.suptitle(sentence, wrap=True, parse_math=False)  # a $ is a $


def percent(p):
    """Two significant digits: 41%, 5.1%, 0.024%."""
    return f"{100 * p:.0f}%" if p >= 0.0995 else f"{100 * p:.2g}%"


def draw_surprises(ax, tokens, nats):
    """A bar for each token and model: how little that model expected it. `nats` is {model: (tokens,)}."""
    width, here = 0.8 / len(nats), range(len(tokens))
    for number, (name, heights) in enumerate(nats.items()):
        places, look = [x + width * number for x in here], dict(hatch=["", "///"][number % 2])
        ax.bar(places, [float(h) for h in heights], width, label=name, edgecolor="white", **look)
    ax.set_xticks([x + width * (len(nats) - 1) / 2 for x in here], tokens, rotation=30)
    ax.set_ylabel("surprise, in nats")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


# speed

KINDS = {  # of recipes: colour, hatch, marker
    "the ladder": ("C0", "", "o"),
    "this suite, beside it": ("C2", "//", "D"),
    "transformers.Trainer": ("0.75", "..", "s"),
}


def draw_race(ax, rates, kinds, limits):
    """Bars of median speeds, thin lines from the slowest repeat to the fastest, and the limits.

    `rates` (real tokens/s) has a column a recipe and a row a repeat; `kinds` is {recipe: one of KINDS};
    `limits` is {name: tokens/s}. Beside each bar: how many times the first recipe it is.
    """
    times, told = rates.div(rates.iloc[:, 0], axis=0).median(), set()
    for row, name in enumerate(rates):
        color, hatch, _ = KINDS[kinds[name]]
        middle, low, high = rates[name].median(), rates[name].min(), rates[name].max()
        label = kinds[name] if kinds[name] not in told else None
        told.add(kinds[name])
        ax.barh(row, middle, color=color, hatch=hatch, edgecolor="white", label=label)
        ax.plot([low, high], [row, row], color="0.2", lw=1)
        ax.text(high, row, f"  {times[name]:.1f} x", va="center", fontsize=9)
    for (name, limit), style in zip(limits.items(), ("--", ":")):
        ax.axvline(limit, color="C3", ls=style, label=f"{name}: {limit:,.0f}")
    fastest = rates.max().max()
    ax.set_xlim(0, 1.15 * max(fastest, min(max(limits.values()), 2 * fastest)))
    ax.set_yticks(range(len(rates.columns)), rates.columns)
    ax.set_ylim(len(rates.columns) - 0.4, -0.6)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("real tokens a second (a limit may lie beyond the edge)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def draw_learned(ax, table, kinds, before, cross):
    """Held-out loss over optimizer steps, a point a recipe; the loss before, and one more as a cross.

    `table` has "steps" and "held-out loss", a row a recipe; `cross` is (steps, loss, label).
    """
    for kind, (color, _, marker) in KINDS.items():
        some = table.loc[[name for name in table.index if kinds[name] == kind]]
        ax.plot(
            some["steps"], some["held-out loss"], marker, label=kind,
            color=color, alpha=0.7, markeredgecolor="0.3",
        )  # fmt: skip
    steps, loss, label = cross
    ax.plot(steps, loss, "x", color="C1", markersize=9, markeredgewidth=2, label=label)
    ax.axhline(before, ls=":", color="C3", label="before training")
    ax.set(xscale="log", xlabel="optimizer steps for the same lines")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.set_ylabel("held-out loss, nats a masked token")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.spines[["top", "right"]].set_visible(False)


def draw_recipes(ax, tracks, baseline):
    """Held-out loss over seconds of training on a logarithmic axis, a line a recipe.

    `tracks` is {name: DataFrame with "seconds" and "loss"}; the look before the first step is left out.
    """
    for number, (name, track) in enumerate(tracks.items()):
        seen = track[track["step"] > 0]
        look = dict(color=f"C{number}", marker="osD^v"[number % 5], markersize=3)
        ax.plot(seen["seconds"], seen["loss"], label=name, **look)
    ax.axhline(baseline, ls=":", color="0.4", label="unigram baseline")
    ax.set(xscale="log", xlabel="seconds of training", ylabel="held-out loss, nats a masked token")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.spines[["top", "right"]].set_visible(False)


def draw_pieces(axes, cost):
    """The pieces of a step: beside each other in milliseconds (left) and in percent (right).

    `cost` has a row a recipe and a column a piece, in ms for 1,000 real tokens.
    """
    hatches = ("", "//", "..", "\\\\", "", "xx")
    shares = cost.div(cost.sum(axis=1), axis=0) * 100
    for ax, table, label in zip(axes, (cost, shares), ("ms for 1,000 real tokens", "percent")):
        left = table.cumsum(axis=1) - table
        for number, piece in enumerate(table):
            look = dict(color=f"C{number}", hatch=hatches[number % 6], edgecolor="white")
            ax.barh(table.index, table[piece], left=left[piece], label=piece, **look)
        ax.set_xlabel(label)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, ncols=6, loc="outside upper center", frameon=False)


def draw_growth(ax, series, xlabel, ylabel, label=None, marker="o"):
    """A growth, and in dots what it would be in proportion, from its last point back."""
    (drawn,) = ax.plot(series.index, series, f"{marker}-", label=label)
    line = series.iloc[-1] * series.index.to_numpy() / series.index[-1]
    ax.plot(series.index, line, ":", color=drawn.get_color())
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None), ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
