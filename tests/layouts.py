"""Texts that are laid out in different ways, for the tests of documents and layouts."""

import textwrap


def sentence(i):
    """An English sentence of 6 to 20 words."""
    words = [
        "river",
        "stone",
        "market",
        "harbour",
        "old",
        "lantern",
        "winter",
        "garden",
        "letter",
        "captain",
        "window",
        "silver",
    ]
    middle = " ".join(words[(i * j) % len(words)] for j in range(4, 8 + i % 11))
    return f"The {words[i % 11]} of {i} follows the {middle} near a bridge."


SENTENCES = [sentence(i) for i in range(360)]
GROUPS = [SENTENCES[i : i + 6] for i in range(0, 360, 6)]
PARAGRAPHS = [" ".join(group) for group in GROUPS]
LAYOUTS = {  # name: text
    "BERT": "\n\n".join(
        map("\n".join, GROUPS)
    ),  # a sentence per line, blank lines between documents
    "paragraphs": "\n\n".join(PARAGRAPHS),  # a paragraph per line
    "lines": "\n".join(SENTENCES),
    "wrapped 40": "\n\n".join(textwrap.fill(text, 40) for text in PARAGRAPHS),
    "wrapped 72": "\n\n".join(textwrap.fill(text, 72) for text in PARAGRAPHS),
    "mail": "\n".join(textwrap.fill(text, 72, subsequent_indent="  ") for text in PARAGRAPHS),
    "quoted mail": "\n>\n".join(
        textwrap.fill(text, 72, initial_indent="> ", subsequent_indent="> ") for text in PARAGRAPHS
    ),
    "verse": "\n\n".join("\n".join(f"{w} of the morning" for w in g[0].split()) for g in GROUPS),
    "words": "\n".join(" ".join(SENTENCES).split()),
    "numbers": "\n".join(f"line {i}" for i in range(300)),
    "log": "\n".join(
        f"2026-11-{i % 28 + 1:02} 12:00:{i % 60:02} INFO request {i:05} done" for i in range(300)
    ),
    "chinese": "\n".join("今天天气很好，我们去公园散步。" * (1 + i % 3) for i in range(100)),
}
