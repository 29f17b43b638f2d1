"""Figures of speed and of whole recipes."""

from typing import Any

import pandas as pd

from mlm.plots.style import LOSS_UNIT, hide_frame

STYLES = (("C0", "", "o"), ("C2", "//", "D"), ("0.75", "..", "s"))  # colour, hatch, marker


def kind_styles(kinds: dict[str, str]) -> dict[str, tuple[str, str, str]]:
    """A style for each kind of recipe, in the order in which the kinds appear in {recipe: kind}."""
    return dict(zip(dict.fromkeys(kinds.values()), STYLES, strict=False))


def draw_race(
    ax: Any, rates: pd.DataFrame, kinds: dict[str, str], limits: dict[str, float]
) -> None:
    """Bars of median speeds, thin lines from the slowest to the fastest repeat, and limits near them.

    `rates` (real tokens/s) has a column per recipe and a row per repeat; `kinds` is {recipe: kind};
    `limits` is {name: tokens/s}; one beyond twice the fastest speed is not drawn. The label of a bar is
    its ratio to the first recipe.
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
    fastest = rates.max().max()
    near = {name: limit for name, limit in limits.items() if limit < 2 * fastest}
    for (name, limit), style in zip(near.items(), ("--", ":")):
        ax.axvline(limit, color="C3", ls=style, label=name)
    ax.set_xlim(0, 1.15 * max([fastest, *near.values()]))
    ax.set_yticks(range(len(rates.columns)), rates.columns)
    ax.set_ylim(len(rates.columns) - 0.4, -0.6)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("real tokens per second")
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


def draw_step_parts(axes: Any, cost: pd.DataFrame) -> None:
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
    """A measured growth, and a dotted line from zero through its last point: proportional growth."""
    (line,) = ax.plot(series.index, series, f"{marker}-", label=label)
    ax.plot([0, series.index[-1]], [0, series.iloc[-1]], ":", color=line.get_color())
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None), ylim=(0, None))
    hide_frame(ax)
