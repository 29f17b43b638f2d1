"""What fits a text of which size, and what to expect: the README's table, for 04 to show its row."""

ROWS = (  # up to so many bytes: the text, what fits, training on 2 CPU cores, held-out loss and accuracy
    (
        50_000,
        "20 KB, 400 lines",
        "fine-tune, `-p epochs 3`",
        "3 s*",
        "6.12 (7.61), 13%*",
    ),
    (
        300_000,
        "100 KB, 2,000 lines",
        "`scratch:tiny`, `-p epochs 40`",
        "38 s",
        "3.46 (5.60), 44%",
    ),
    (
        2_000_000,
        "600 KB of manuals (`pydoc`)",
        "`scratch:tiny`, `-p epochs 15`",
        "75 s, one thread",
        "2.99 (5.64), 48%; three seeds 2.95 to 3.02, 46% to 49%",
    ),
    (
        2_000_000,
        "600 KB of prose (`nietzsche`)",
        "`scratch:tiny`, `-p epochs 10`",
        "75 s, one thread",
        "4.69 (6.49), 28%; three seeds 4.67 to 4.70",
    ),
    (
        2_000_000,
        "600 KB of prose (`nietzsche`)",
        "fine-tune, 1 epoch",
        "51 s, one thread*",
        "4.80 (6.57), 26%*; three seeds 4.77 to 4.82",
    ),
    (None, "more", "fine-tune, 1 epoch; or `scratch:mini`", "not measured", "not measured"),
)
HEAD = (
    "your text",
    "what fits",
    "training, 2 CPU cores",
    "held-out loss (word frequencies alone), accuracy",
)


def table():
    """The rows as a Markdown table."""
    rows = [HEAD, ("---",) * len(HEAD), *(row[1:] for row in ROWS)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def advice(size):
    """Lines that say what fits a text of `size` bytes, with what was measured on such a text."""
    limit = next(row[0] for row in ROWS if row[0] is None or size <= row[0])
    found = [row[1:] for row in ROWS if row[0] == limit]
    lines = [f"{what}: of {text} in {time}, {loss}" for text, what, time, loss in found]
    return "\n".join(["what fits a text of this size:", *lines]).translate(
        {ord(c): None for c in "`*"}
    )
