"""A task that needs no network: which kind of page of Python's manual is a passage from? Used in 07."""

import re

import pandas as pd

from mlm.data.split import normalize

MIN_LINES, MAX_LINES = 2, 4  # of a passage
HEADING = re.compile(r"^.*\n *([*=\-~^])\1{3,} *$", re.MULTILINE)  # a title and the line under it
PAGES = {  # {class: pages in `pydoc_data.topics`}; pages that fit none of the classes are left out
    "containers": "typesseq typesseq-mutable typesmapping typesmethods typesmodules typesfunctions",
    "expressions": """
        atom-identifiers atom-literals attribute-references await binary bitwise booleans calls comparisons
        conversions dict dynamic-features exceptions execmodel exprlists in lambda lists naming numbers
        operator-summary power shifting slicings subscriptions unary yield""",
    "special methods": """
        attribute-access callable-types context-managers customization numeric-types sequence-types
        specialnames""",
    "statements": """
        assert assignment async augassign break class compound continue del else for function global if
        import nonlocal pass raise return try while with""",
    "strings": "formatstrings string-methods strings",
    "types": "objects specialattrs types",
}


def passages(paragraph: str) -> list[str]:
    """A paragraph, cut into passages of MIN_LINES to MAX_LINES lines; a shorter rest is dropped.

    Headings are dropped as well: 'The "for" statement' would give the class away.
    """
    lines = [line for line in HEADING.sub("", paragraph).split("\n") if line.strip()]
    parts = [lines[start : start + MAX_LINES] for start in range(0, len(lines), MAX_LINES)]
    return ["\n".join(part) for part in parts if len(part) >= MIN_LINES]


def python_topics() -> pd.DataFrame:
    """Passages of Python's manual, each with its class: columns "text" and "label".

    A paragraph that pages of several classes quote is left out, and a repeated one is kept once.
    """
    from pydoc_data.topics import topics

    classes: dict[str, set[str]] = {}  # of each paragraph, normalized
    texts: dict[str, str] = {}
    for label, pages in PAGES.items():
        for page in pages.split():
            for paragraph in topics.get(page, "").split("\n\n"):
                key = normalize(paragraph.replace("\n", " "))
                classes.setdefault(key, set()).add(label)
                texts.setdefault(key, paragraph)
    rows = [
        (passage, *labels)
        for key, labels in classes.items()
        if len(labels) == 1
        for passage in passages(texts[key])
    ]
    return pd.DataFrame(rows, columns=["text", "label"])
