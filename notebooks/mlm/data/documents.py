"""What separates the documents of a text."""

from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path

from mlm.data.formats import Contents, read_texts

SAMPLE_CHARS = 2**18  # of a text, from its start, that decide what separates documents
SENTENCE_ENDS = tuple(".!?…:;。！？।॥؟۔։።፧།‽")
CLOSING = " \t\"'”’»›)]}*_」』）"  # may follow the end of a sentence
MIN_SENTENCE_FRACTION = 0.8  # of lines that end a sentence, in a text with a sentence per line


def sample_texts(
    files: Iterable[Path], column: str, encoding: str | None, contents: Contents
) -> Iterator[list[str]]:
    """Yield the lines of each text in these files, until there are SAMPLE_CHARS characters."""
    num_chars = 0
    for _, lines in read_texts(files, column, encoding, contents):
        sample = []
        for line in lines:
            sample.append(line)
            num_chars += len(line)
            if num_chars >= SAMPLE_CHARS:
                yield sample
                return
        yield sample


def group_lines(lines: Iterable[str]) -> list[list[str]]:
    """The non-blank lines of a text in groups that blank lines separate, without the > of mail."""
    groups = groupby((line.strip().lstrip("> ") for line in lines), key=bool)
    return [list(group) for is_text, group in groups if is_text]


def ends_sentence(line: str) -> bool:
    """Whether a line ends a sentence."""
    return line.rstrip(CLOSING).endswith(SENTENCE_ENDS)


def has_document_breaks(texts: Iterable[Iterable[str]]) -> bool:
    """Whether the lines of these texts are sentences or paragraphs, in groups that blank lines separate.

    That is the input format of BERT (https://github.com/google-research/bert).
    """
    grouped = [groups for lines in texts if (groups := group_lines(lines))]
    groups = list(chain.from_iterable(grouped))
    ends = [ends_sentence(line) for group in groups for line in group]
    return (
        len(groups) > len(grouped)
        and len(ends) >= 2 * len(groups)
        and sum(ends) >= MIN_SENTENCE_FRACTION * len(ends)
    )


def choose_documents(
    files: Iterable[Path], column: str, encoding: str | None, documents: str | None
) -> str | None:
    """`documents`, or if it is None, "blank line" for plain text in BERT's input format."""
    if documents is not None:
        return documents
    contents = Contents()
    has_breaks = has_document_breaks(sample_texts(files, column, encoding, contents))
    return "blank line" if has_breaks and contents.documents == {"file"} else None
