"""How a text is laid out in lines, described with advice. Used in 02."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

from mlm.data.documents import (
    MIN_SENTENCE_FRACTION,
    choose_documents,
    ends_sentence,
    group_lines,
    sample_texts,
)
from mlm.data.formats import DEFAULT_COLUMN, Contents, check_column, count_lines, numbered_lines
from mlm.data.text_options import DOCUMENTS
from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

MIN_FULL_FRACTION = 0.8  # of lines without room for another word, in a hard-wrapped text
MIN_CONTINUED_FRACTION = 0.3  # of lines that begin with a small letter, in a hard-wrapped text
MIN_ENDS_FRACTION = 0.02  # of lines that end a sentence, in a hard-wrapped text
WRAP_WIDTHS = range(30, 121)  # characters per line of hard-wrapped texts
MAIL_HEADER = re.compile(r"[A-Z][A-Za-z-]*: .*|From \S+ .*\d")  # a line of it
MAX_NO_TEXT_FRACTION = 0.3  # of lines that are no text: without letters, or with tags
TAG = re.compile(r"</[a-zA-Z][^<>]*>|<br ?/?>")  # of HTML or XML: an end tag


@dataclass(frozen=True)
class Layout:
    """How a text is laid out in lines. Fractions are of its non-blank lines."""

    num_breaks: int  # blank lines between two groups of several lines, on average
    sentences: float  # lines that end a sentence
    width: int  # characters of nearly all lines at most
    full: float  # lines whose next word would not fit, of those before another one
    continued: float  # lines that begin with a small letter, of those after another one
    num_tabs: int  # in each line, if it is the same in all, else 0
    no_letters: float  # lines that have no letter
    tags: float  # lines with a tag of HTML or XML

    @property
    def is_wrapped(self) -> bool:
        """Whether the lines were broken to fit a page, so that most are parts of a sentence."""
        return (
            self.width in WRAP_WIDTHS
            and self.full >= MIN_FULL_FRACTION
            and self.continued >= MIN_CONTINUED_FRACTION
            and MIN_ENDS_FRACTION <= self.sentences < MIN_SENTENCE_FRACTION
        )


def fraction(conditions: Iterable[bool]) -> float:
    """The fraction of conditions that are true; 0 if there are none."""
    found = list(conditions)
    return sum(found) / max(1, len(found))


def find_layout(texts: Iterable[Iterable[str]]) -> Layout:
    """The layout of the lines of these texts, blank lines included."""
    grouped = [groups for lines in texts if (groups := group_lines(lines))]
    groups = list(chain.from_iterable(grouped))
    lines = list(chain.from_iterable(groups))
    paragraphs = [group for group in groups if not all(map(MAIL_HEADER.fullmatch, group))]
    pairs = list(chain.from_iterable(map(pairwise, paragraphs)))
    lengths = sorted(map(len, lines)) or [0]
    width = lengths[len(lengths) * 19 // 20]
    tabs = {line.count("\t") for line in lines}
    return Layout(
        num_breaks=len(groups) - len(grouped) if len(lines) >= 2 * len(groups) else 0,
        sentences=fraction(map(ends_sentence, lines)),
        width=width,
        full=fraction(
            len(line) + 1 + len(after.split()[0]) > 0.95 * width for line, after in pairs
        ),
        continued=fraction(a[0].islower() for _, a in pairs if a[0].lower() != a[0].upper()),
        num_tabs=tabs.pop() if len(tabs) == 1 else 0,
        no_letters=fraction(not any(map(str.isalpha, line)) for line in lines),
        tags=fraction(TAG.search(line) is not None for line in lines),
    )


def describe_layout(
    files: Sequence[Path],
    column: str = DEFAULT_COLUMN,
    encoding: str | None = None,
    documents: str | None = None,
) -> str:
    """What a text is and what separates its documents, with advice; one line each.

    Raises NotebookError if the text has no line, or if `column` is of no use.
    """
    chosen = choose_documents(files, column, encoding, documents)
    contents = Contents()
    num_lines, num_documents = count_lines(
        numbered_lines(files, column, encoding, chosen, contents)
    )
    if not num_lines:
        others = f" (with {len(files) - 1} other file(s))" if len(files) > 1 else ""
        raise NotebookError(
            f"{short_repr(files[0])}{others} has no text: all lines are blank; pass another one"
        )
    check_column(column, contents)
    formats = ", ".join(f"{name} ({count} file(s))" for name, count in contents.formats.items())
    meaning = DOCUMENTS.get(chosen or "", f"each {' or '.join(sorted(contents.documents))} is one")
    found = [f"{formats}: {num_lines:,} line(s), {num_documents:,} document(s); {meaning}"]
    layout = find_layout(sample_texts(files, column, encoding, Contents()))
    if layout.is_wrapped:
        found.append(
            f"The lines are wrapped at about {layout.width} characters, so most are parts of sentences: "
            'pass examples="block" to 03 and 04, which joins lines'
        )
    if chosen is None and layout.num_breaks:
        found.append(
            "Blank lines separate groups of lines: if each group is a document, pass "
            'documents="blank line"'
        )
    if layout.no_letters > MAX_NO_TEXT_FRACTION:
        found.append(
            f"{layout.no_letters:.0%} of the lines have no letter (such as numbers, times of subtitles or "
            "rulers): the model learns them as well, so remove them if they are not text"
        )
    if layout.tags > MAX_NO_TEXT_FRACTION:
        found.append(
            f"{layout.tags:.0%} of the lines have tags such as <p>: the model learns them as well, so "
            "extract the text first if they are not part of it"
        )
    if layout.num_tabs and not contents.has_columns:
        found.append(
            f"Each line has {layout.num_tabs} tab(s): if it is a table, give it a first line with the names "
            "of its columns and a name that ends in .tsv, and pass column"
        )
    return "\n".join(found)
