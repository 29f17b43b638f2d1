"""Corpora mixed by weight: the entries of a list such as ["wiki.txt*2", "mail.txt*0.5"]."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

WEIGHTED = re.compile(r"(.+[^*/\\])\*([0-9.]+)")
MAX_WEIGHT = 100


def parse_entry(entry: str) -> tuple[str, float]:
    """(text, weight) of an entry of a list of corpora: "wiki.txt*2" is ("wiki.txt", 2.0).

    Without a weight it is 1. A pattern that matches files is a pattern. Raises NotebookError if the
    weight is not valid.
    """
    match = WEIGHTED.fullmatch(entry)
    if match is None or glob.glob(os.path.expanduser(entry)):
        return entry, 1.0
    try:
        weight = float(match[2])
    except ValueError:  # "1.2.3"
        weight = 0.0
    if not 0 < weight <= MAX_WEIGHT:
        raise NotebookError(
            f"a weight in corpus must be a number above 0 and at most {MAX_WEIGHT}, got {match[2]} in "
            f"{short_repr(entry)}; pass for example {short_repr(match[1] + '*2')}"
        )
    return match[1].strip(), weight


def is_mixture(corpus: str | Sequence[str]) -> bool:
    """Whether a corpus is a list with a weight other than 1."""
    return not isinstance(corpus, str) and any(parse_entry(entry)[1] != 1 for entry in corpus)


def count_units(text_file: Path) -> tuple[int, int]:
    """The numbers of lines and documents of a text file, as `encode_lines` counts them."""
    num_lines = num_documents = 0
    after_blank = True
    with open(text_file, encoding="utf-8") as lines:
        for line in lines:
            is_blank = not line.strip()
            num_documents += after_blank and not is_blank
            num_lines += not is_blank
            after_blank = is_blank
    return num_lines, num_documents
