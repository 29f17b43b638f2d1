"""What fits a text of which size, and what to expect: the README's table, for 04 to show its row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What was measured on a text: held-out loss in nats, that of word frequencies, accuracy."""

    up_to: float  # bytes of a text for which this is the advice
    text: str
    what: str
    seconds: str
    loss: float
    baseline: float
    accuracy: float
    note: str = ""


ROWS = (
    Row(5e4, "20 KB of manuals", "fine-tune, `-p epochs 3`", "5 s*", 5.63, 7.57, 0.16),
    Row(3e5, "100 KB of manuals", "`scratch:tiny`, `-p epochs 20`", "23 s", 4.10, 5.74, 0.33),
    Row(
        2e6, "380 KB of manuals (`pydoc`)", "`scratch:tiny`, `-p epochs 15`", "62 s", 2.99, 5.64, 0.48,
        "three seeds: 2.95 to 3.02, 46% to 49%",
    ),
    Row(
        2e6, "600 KB of prose (`nietzsche`)", "`scratch:tiny`, `-p epochs 10`", "53 s", 4.69, 6.49, 0.28,
        "three seeds: 4.67 to 4.70",
    ),
    Row(
        2e6, "600 KB of prose (`nietzsche`)", "fine-tune, 1 epoch", "32 s*", 4.80, 6.57, 0.26,
        "three seeds: 4.77 to 4.82",
    ),
)  # fmt: skip
LARGER = "fine-tune, 1 epoch; or `scratch:mini`"  # not measured


def table():
    """The rows as a Markdown table."""
    head = "| your text | what fits | training, 2 CPU cores | held-out loss (word frequencies alone), accuracy |"
    lines = [
        f"| {r.text} | {r.what} | {r.seconds} | {r.loss:.2f} ({r.baseline:.2f}), {r.accuracy:.0%}"
        f"{'; ' if r.note else ''}{r.note} |"
        for r in ROWS
    ]
    return "\n".join([head, "|---|---|---|---|", *lines, f"| more | {LARGER} | not measured | |"])


def advice(size):
    """Lines that say what fits a text of `size` bytes, with what was measured on such a text."""
    limit = min((row.up_to for row in ROWS if size <= row.up_to), default=None)
    lines = [
        f"{row.what}. On {row.text}: held-out loss {row.loss:.2f} (word frequencies alone "
        f"{row.baseline:.2f}) in {row.seconds.rstrip('*')} of two CPU cores"
        for row in ROWS
        if row.up_to == limit
    ]
    said = lines or [f"{LARGER}; not measured"]
    return "\n".join(["What fits a text of this size:", *said]).replace("`", "")
