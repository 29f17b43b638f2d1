"""What fits a text of which size, and what to expect: the README's table, for 04 to show its row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """What was measured on a text: held-out loss in nats, that of word frequencies, accuracy.

    They are those of the middle one of three seeds; `spread` is that of the three losses.
    """

    up_to: float  # bytes of a text for which this is the advice
    text: str
    what: str
    seconds: str
    loss: float
    baseline: float
    accuracy: float
    spread: str


RESULTS = (
    Result(5e4, "20 KB of manuals", "fine-tune, `-p epochs 3`", "5 s*", 5.61, 7.62, 0.14, "5.56 to 5.98"),
    Result(
        3e5, "100 KB of manuals", "`scratch:tiny`, `-p epochs 20`", "23 s", 4.00, 5.75, 0.39,
        "3.89 to 4.05",
    ),
    Result(
        2e6, "380 KB of manuals (`pydoc`)", "`scratch:tiny`, `-p epochs 15`", "61 s", 3.04, 5.71, 0.49,
        "2.98 to 3.07",
    ),
    Result(
        2e6, "600 KB of prose (`nietzsche`)", "`scratch:tiny`, `-p epochs 10`", "53 s", 4.62, 6.49, 0.30,
        "4.61 to 4.72",
    ),
    Result(
        2e6, "600 KB of prose (`nietzsche`)", "fine-tune, 1 epoch", "32 s*", 4.86, 6.67, 0.26,
        "4.78 to 4.89",
    ),
)  # fmt: skip
LARGER = "fine-tune, 1 epoch; or `scratch:mini`"  # not measured


def size_table():
    """The rows as a Markdown table."""
    head = (
        "| your text | what fits | training, 2 CPU cores | "
        "held-out loss (word frequencies alone), accuracy; three seeds |"
    )
    lines = [
        f"| {r.text} | {r.what} | {r.seconds} | {r.loss:.2f} ({r.baseline:.2f}), {r.accuracy:.0%}; "
        f"{r.spread} |"
        for r in RESULTS
    ]
    return "\n".join([head, "|---|---|---|---|", *lines, f"| more | {LARGER} | not measured | |"])


def suggest_settings(size):
    """Lines that say what fits a text of `size` bytes, with what was measured on such a text."""
    limit = min((row.up_to for row in RESULTS if size <= row.up_to), default=None)
    lines = [
        f"{row.what}. On {row.text}: held-out loss {row.loss:.2f} (word frequencies alone "
        f"{row.baseline:.2f}) in {row.seconds.rstrip('*')} of two CPU cores"
        for row in RESULTS
        if row.up_to == limit
    ]
    said = lines or [f"{LARGER}; not measured"]
    return "\n".join(["What fits a text of this size:", *said]).replace("`", "")
