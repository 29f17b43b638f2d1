"""Corpora mixed by weight: the entries of a list such as ["wiki.txt*2", "mail.txt*0.5"]."""

import glob
import math
import os
from collections.abc import Sequence
from pathlib import Path

from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

MAX_WEIGHT = 100


def parse_entry(entry: str) -> tuple[str, float]:
    """(text, weight) of an entry of a list of corpora: "wiki.txt*2" is ("wiki.txt", 2.0).

    Without a weight it is 1. A pattern that matches files is a pattern, and so is one that ends in "*"
    and no number, unless what is before the "*" exists. Raises NotebookError if the weight is not valid.
    """
    before, star, after = entry.rpartition("*")
    text = before.strip()
    if not star or not text or text[-1] in "*/\\" or matches_files(entry):
        return entry, 1.0
    try:
        weight = float(after)
    except ValueError:
        if not matches_files(text):
            return entry, 1.0
        weight = math.nan
    if not 0 < weight <= MAX_WEIGHT:
        raise NotebookError(
            f"a weight in corpus must be a number above 0 and at most {MAX_WEIGHT}, got "
            f"{after.strip()} in {short_repr(entry)}; pass for example {short_repr(text + '*2')}"
        )
    return text, weight


def matches_files(text: str) -> bool:
    """Whether a path or pattern exists or matches files."""
    path = os.path.expanduser(text)
    return os.path.exists(path) or bool(glob.glob(path))


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
