"""Suggested settings for a text of your size, with measured results."""

from dataclasses import dataclass

import pandas as pd

PRETRAINED = "a pretrained model"


@dataclass(frozen=True)
class Result:
    """Settings that suit a text of up to `max_bytes`, and what they gave on a text of that kind.

    Losses are in nats per masked token. They and the accuracy belong to the median of three seeds;
    `valid_loss_range` is the lowest and the highest validation loss of the three.
    """

    max_bytes: float
    text: str
    model: str
    epochs: int
    seconds: int  # of training on two cores in float32; docs/your-text.md names the CPUs
    bf16_seconds: int  # the same with fast bfloat16, measured with an earlier version
    valid_loss: float
    unigram_baseline: float
    accuracy: float
    valid_loss_range: tuple[float, float]


# PRETRAINED was measured with all-MiniLM-L6-v2, an encoder of six layers whose MLM head starts untrained.
RESULTS = (
    Result(5e4, "20 KB of Python's manual", PRETRAINED, 3, 8, 5, 5.65, 7.62, 0.16, (5.57, 5.98)),
    Result(3e5, "100 KB of Python's manual", "scratch:tiny", 20, 20, 23, 3.86, 5.75, 0.37, (3.86, 3.99)),
    Result(2e6, "370 KB of Python's manual (pydoc)", "scratch:tiny", 15, 64, 61, 3.44, 5.94, 0.40, (3.30, 3.46)),
    Result(2e6, "600 KB of prose (nietzsche)", "scratch:tiny", 10, 62, 53, 4.71, 6.54, 0.27, (4.68, 4.72)),
    Result(2e6, "600 KB of prose (nietzsche)", PRETRAINED, 1, 69, 32, 4.90, 6.77, 0.24, (4.84, 4.90)),
)  # fmt: skip
LARGER_TEXTS = f"{PRETRAINED} for 1 epoch, or scratch:mini"  # not measured
MEASURED = "validation loss", "unigram baseline", "accuracy"
CONDITIONS = "median and range of 3 seeds; seconds of training on 2 cores, float32"
FOOTNOTE = (
    "* Measured with all-MiniLM-L6-v2: six layers, and an MLM head that starts untrained. bert-base-uncased "
    "was not measured: a step takes about eight times as long, and its loss should be lower."
)


def measurements(result: Result) -> list[str]:
    """What was MEASURED."""
    lowest, highest = result.valid_loss_range
    return [
        f"{result.valid_loss:.2f} ({lowest:.2f} to {highest:.2f})",
        f"{result.unigram_baseline:.2f}",
        f"{result.accuracy:.0%}",
    ]


def time_mark(result: Result) -> str:
    """A mark that refers to FOOTNOTE, if it is about this result."""
    return "*" if result.model == PRETRAINED else ""


def suggest_settings(num_bytes: float) -> tuple[str, pd.DataFrame | None]:
    """(a note, a table) with settings for a text of `num_bytes` bytes, and what they gave on such a text.

    The table has a row for each suggestion; it is None if none was measured.
    """
    size = f"{num_bytes / 1000:,.0f} KB of text"
    limits = [result.max_bytes for result in RESULTS if num_bytes <= result.max_bytes]
    if not limits:
        return f"Suggested settings for {size} (not measured): {LARGER_TEXTS}", None
    rows = {}
    for result in (result for result in RESULTS if result.max_bytes == min(limits)):
        model = PRETRAINED if result.model == PRETRAINED else f'model="{result.model}"'
        seconds = f"{result.seconds} s{time_mark(result)}"
        values = [result.text, *measurements(result), seconds]
        rows[f"{model}, epochs={result.epochs}"] = values
    table = pd.DataFrame.from_dict(rows, "index", columns=["measured on", *MEASURED, "training"])
    note = f"Suggested settings for {size} ({CONDITIONS})."
    has_mark = table["training"].str.endswith("*").any()
    return (f"{note}\n{FOOTNOTE}" if has_mark else note), table.rename_axis("settings")
