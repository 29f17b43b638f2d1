"""What separates the documents of a text, and whether its lines are parts of sentences."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from pathlib import Path

from mlm.data.formats import (
    DEFAULT_COLUMN,
    Contents,
    check_column,
    count_lines,
    numbered_lines,
    read_texts,
)
from mlm.data.text_options import DOCUMENTS
from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

SAMPLE_CHARS = 2**18  # of a text, from its start, that decide what separates documents

SENTENCE_ENDS = tuple(".!?…:;。！？।॥؟۔։።፧།‽")
CLOSING = " \t\"'”’»›)]}*_」』）"  # may follow the end of a sentence
MIN_SENTENCE_FRACTION = 0.8  # of lines that end a sentence, in a text with a sentence per line
MIN_FULL_FRACTION = 0.8  # of lines without room for another word, in a hard-wrapped text
MIN_CONTINUED_FRACTION = 0.3  # of lines that begin with a small letter, in a hard-wrapped text
MIN_ENDS_FRACTION = 0.02  # of lines that end a sentence, in a hard-wrapped text
WRAP_WIDTHS = range(30, 121)  # characters per line of hard-wrapped texts
MAIL_HEADER = re.compile(r"[A-Z][A-Za-z-]*: .*|From \S+ .*\d")  # a line of it
MAX_NO_TEXT_FRACTION = 0.3  # of lines that are no text: without letters, or with tags
TAG = re.compile(r"</[a-zA-Z][^<>]*>|<br ?/?>")  # of HTML or XML: an end tag


@dataclass(frozen=True)
class Layout:
    """How a text is laid out in lines."""

    num_lines: int  # non-blank ones
    num_groups: int  # of lines without a blank line between them
    num_breaks: int  # blank lines between two groups of a text
    sentences: float  # fraction of the lines that end a sentence
    width: int  # characters of nearly all lines at most
    full: float  # fraction of the lines, if followed by another one, whose next word would not fit
    continued: float  # fraction of the lines after another one that begin with a small letter
    num_tabs: int  # in each line, if it is the same in all, else 0
    no_letters: float  # fraction of the lines that have no letter
    tags: float  # fraction of the lines with a tag of HTML or XML

    @property
    def has_document_breaks(self) -> bool:
        """Whether the lines are sentences or paragraphs, and blank lines separate groups of them.

        That is the input format of BERT (https://github.com/google-research/bert).
        """
        return (
            self.num_breaks > 0
            and self.num_lines >= 2 * self.num_groups
            and self.sentences >= MIN_SENTENCE_FRACTION
        )

    @property
    def is_wrapped(self) -> bool:
        """Whether the lines were broken to fit a page, so that most are parts of a sentence."""
        return (
            self.width in WRAP_WIDTHS
            and self.full >= MIN_FULL_FRACTION
            and self.continued >= MIN_CONTINUED_FRACTION
            and MIN_ENDS_FRACTION <= self.sentences < MIN_SENTENCE_FRACTION
        )


def group_lines(lines: Iterable[str]) -> list[list[str]]:
    """The non-blank lines of a text in groups that blank lines separate, without the > of mail."""
    groups = groupby((line.strip().lstrip("> ") for line in lines), key=bool)
    return [list(group) for is_text, group in groups if is_text]


def find_layout(texts: Iterable[Iterable[str]]) -> Layout:
    """The layout of the lines of these texts, blank lines included."""
    grouped = [groups for lines in texts if (groups := group_lines(lines))]
    groups = list(chain.from_iterable(grouped))
    lines = list(chain.from_iterable(groups))
    paragraphs = [group for group in groups if not all(map(MAIL_HEADER.fullmatch, group))]
    pairs = list(chain.from_iterable(map(pairwise, paragraphs)))
    lengths = sorted(map(len, lines)) or [0]
    width = lengths[len(lengths) * 19 // 20]
    ends = [line for line in lines if line.rstrip(CLOSING).endswith(SENTENCE_ENDS)]
    full = [len(line) + 1 + len(after.split()[0]) > 0.95 * width for line, after in pairs]
    small = [after[0].islower() for _, after in pairs if after[0].lower() != after[0].upper()]
    tabs = {line.count("\t") for line in lines}
    return Layout(
        num_lines=len(lines),
        num_groups=len(groups),
        num_breaks=len(groups) - len(grouped),
        sentences=len(ends) / max(1, len(lines)),
        width=width,
        full=sum(full) / max(1, len(full)),
        continued=sum(small) / max(1, len(small)),
        num_tabs=tabs.pop() if len(tabs) == 1 else 0,
        no_letters=sum(not any(map(str.isalpha, line)) for line in lines) / max(1, len(lines)),
        tags=sum(TAG.search(line) is not None for line in lines) / max(1, len(lines)),
    )


def sample_layout(
    files: Iterable[Path], column: str, encoding: str | None
) -> tuple[Layout, Contents]:
    """The layout of the first SAMPLE_CHARS characters of these files, and what the files are."""
    contents = Contents()

    def samples() -> Iterator[list[str]]:
        num_chars = 0
        for _, lines in read_texts(files, column, encoding, contents):
            sample = []
            for line in lines:
                sample.append(line)
                num_chars += len(line)
                if num_chars >= SAMPLE_CHARS:
                    break
            yield sample
            if num_chars >= SAMPLE_CHARS:
                return

    return find_layout(samples()), contents


def choose_documents(
    files: Iterable[Path], column: str, encoding: str | None, documents: str | None
) -> str | None:
    """`documents`, or if it is None, "blank line" for plain text in BERT's input format."""
    if documents is not None:
        return documents
    layout, contents = sample_layout(files, column, encoding)
    is_plain = contents.documents == {"file"}
    return "blank line" if is_plain and layout.has_document_breaks else None


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
    layout, _ = sample_layout(files, column, encoding)
    if layout.is_wrapped:
        found.append(
            f"The lines are wrapped at about {layout.width} characters, so most are parts of sentences: "
            'pass examples="block" to 03 and 04, which joins lines'
        )
    if chosen is None and layout.num_breaks and layout.num_lines >= 2 * layout.num_groups:
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
