"""Split a text into training and validation lines: no validation line occurs in the training text.

Lines are equal here if they differ only in capitals, spaces or compatible characters (`normalize`). A
split needs no random numbers, so every machine gets the same files. Memory does not grow with the text.
"""

import contextlib
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, compress, groupby, islice
from pathlib import Path
from typing import IO

import numpy as np

from mlm.env.files import atomic_write, move_into_place, partial_path, write_error
from mlm.env.notebook import NotebookError

SPLIT_FILES = "train.txt", "valid.txt"
SPLIT_VERSION = 2  # of these rules; a corpus that was split by other rules is another corpus
BLOCK_LINES = 50
MIN_DOCUMENTS = 20  # a text with fewer is split between any two lines
VALID_FRACTIONS = 1 / 40, 1 / 4  # smallest and largest part of the lines in a split by documents
MIN_REMAINING = 1 / 4  # of the lines that were held out, after duplicates were removed
READ_CHARS = 2**17  # of a text, in memory at once
MAX_HASHES = 2**22  # of validation lines, in memory at once

WITHOUT_DUPLICATES = "without lines of the training text"

# A function that reads the text from its start as (document number, line).
ReadLines = Callable[[], Iterable[tuple[int, str]]]


# equal lines


def is_invisible(letter: str) -> bool:
    """Whether this is a control or format character, such as a soft hyphen; BERT's tokenizer drops them."""
    return unicodedata.category(letter) in ("Cc", "Cf") and not letter.isspace()


INVISIBLE = re.compile(f"[{re.escape(''.join(filter(is_invisible, map(chr, range(0x10000)))))}]")


def normalize(text: str) -> str:
    """Lines in the form in which they are compared: NFKC, case folded, spaces collapsed to one.

    NFKC (https://unicode.org/reports/tr15) replaces compatible characters, such as full-width letters.
    Invisible characters are left out. Works on one line or on many lines at once.
    """
    text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text)).casefold()
    return "\n".join(" ".join(line.split()) for line in text.split("\n"))


def line_hashes(path: Path) -> Iterator[np.ndarray]:
    """Yield 64-bit hashes of the normalized non-blank lines of a text file, many at a time: (lines,)."""
    with open(path, encoding="utf-8", newline="\n") as file:
        while text := file.read(READ_CHARS):
            text += file.readline()
            # A non-blank line may be empty in this form: select by the lines themselves.
            lines = compress(normalize(text).split("\n"), text.split("\n"))
            yield np.fromiter(map(hash, lines), np.int64)


def hash_batches(path: Path) -> Iterator[np.ndarray]:
    """The arrays of `line_hashes`, joined to arrays of about MAX_HASHES."""
    batch: list[np.ndarray] = []
    for hashes in line_hashes(path):
        batch.append(hashes)
        if sum(map(len, batch)) >= MAX_HASHES:
            yield np.concatenate(batch)
            batch = []
    if batch:
        yield np.concatenate(batch)


def occur_in(hashes: np.ndarray, path: Path) -> np.ndarray:
    """Whether lines with these hashes, (lines,), occur in a text file, (lines,) bool."""
    distinct = np.unique(hashes)
    found = np.zeros(len(distinct), bool)
    for others in line_hashes(path):
        positions = np.minimum(np.searchsorted(distinct, others), len(distinct) - 1)
        found[positions[distinct[positions] == others]] = True
    return np.isin(hashes, distinct[found])


def remove_common_lines(path: Path, other: Path) -> int:
    """Remove the lines of a text file that also occur in another one; returns their number."""
    removed = 0
    with (
        open(path, encoding="utf-8", newline="\n") as lines,
        atomic_write(path, "w", encoding="utf-8", newline="\n") as file,
    ):
        is_common = chain.from_iterable(occur_in(h, other).tolist() for h in hash_batches(path))
        separator, is_first = "", True
        for line in lines:
            if line == "\n":
                separator = line
            elif next(is_common):
                removed += 1
            else:
                file.write(line if is_first else separator + line)
                separator, is_first = "", False
    return removed


# write


@contextlib.contextmanager
def new_files(folder: Path, names: Sequence[str] = SPLIT_FILES) -> Iterator[list[Path]]:
    """Context manager that yields a path for each name, and gives these files their names at the end.

    Until then, no other process sees them: several may write the same files at once. Raises
    NotebookError if they cannot be written; then none is left.
    """
    paths = [partial_path(folder / name) for name in names]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield paths
        for path, name in zip(paths, names):
            move_into_place(path, folder / name)
    except OSError as error:
        raise write_error(folder / names[0], error) from None
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


class DocumentFile:
    """A text file for the lines of documents, with a blank line between two of them."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.num_lines, self.document = file, 0, -1

    def write(self, document: int, line: str) -> None:
        """Write a line of the document with this number."""
        if document != self.document:
            if self.num_lines:
                self.file.write("\n")
            self.document = document
        self.file.write(f"{line}\n")
        self.num_lines += 1


@contextlib.contextmanager
def document_file(path: Path) -> Iterator[DocumentFile]:
    """Context manager that yields a DocumentFile."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        yield DocumentFile(file)


def write_lines(path: Path, lines: Iterable[tuple[int, str]]) -> int:
    """Write lines, given as (document number, line), to a file; returns their number."""
    with document_file(path) as file:
        for document, line in lines:
            file.write(document, line)
    return file.num_lines


def write_split(
    lines: Iterable[tuple[int, str]],
    train_path: Path,
    valid_path: Path,
    is_valid: Callable[[int, int, str], bool],
) -> tuple[int, int]:
    """Write lines to `valid_path` if is_valid(line number, document number, line), else to `train_path`.

    Returns the numbers of training and validation lines.
    """
    with document_file(train_path) as train, document_file(valid_path) as valid:
        for number, (document, line) in enumerate(lines):
            part = valid if is_valid(number, document, line) else train
            part.write(document, line)
    return train.num_lines, valid.num_lines


# which lines are held out


@dataclass(frozen=True)
class Rule:
    """Which lines are held out."""

    text: str
    is_valid: Callable[[int, int, str], bool]  # of line number, document number, line
    holds_out_documents: bool = False


def tenth_blocks(unit: str, size: int) -> str:
    """The text of a rule that holds out every tenth block of `size` units."""
    block = unit if size == 1 else f"block of {size} {unit}s"
    return f"every tenth {block} is the validation set, {WITHOUT_DUPLICATES}"


def content_class(content: bytes) -> int:
    """A number from 0 to 9 that depends on the content alone."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") % 10


def closest_to_a_tenth(sizes: Counter[int]) -> int | None:
    """The class, {class: lines}, with about a tenth of the lines; None if there is only one class."""
    if len(sizes) < 2:
        return None
    return min(sizes, key=lambda number: (abs(sizes[number] - sizes.total() / 10), number))


@lru_cache(2**16)  # it is used for texts that repeat their lines
def line_class(line: str) -> int:
    """The `content_class` of a line; equal lines have the same."""
    return content_class(normalize(line).encode())


def document_classes(read: ReadLines) -> tuple[bytearray, Counter[int]]:
    """The `content_class` of each document, and the number of lines in each class."""
    classes, sizes = bytearray(), Counter[int]()
    for _, lines in groupby(read(), key=lambda item: item[0]):
        digest, num_lines = hashlib.sha256(), 0
        while some := [line for _, line in islice(lines, 1000)]:
            digest.update(normalize("\n".join(some)).encode() + b"\n")
            num_lines += len(some)
        classes.append(content_class(digest.digest()))
        sizes[classes[-1]] += num_lines
    return classes, sizes


def split_rules(read: ReadLines, num_lines: int, num_documents: int) -> Iterator[Rule]:
    """The rules for a text, best first.

    Blocks have few neighbours in the other part. Whole documents are held out if there are enough of
    them. If nearly all lines are repeated, their content decides, so that all copies are in one part.
    """
    if num_documents >= MIN_DOCUMENTS:
        documents = max(1, BLOCK_LINES * num_documents // num_lines)
        documents = min(documents, num_documents // 10)
        yield Rule(
            tenth_blocks("document", documents),
            lambda number, document, line: document // documents % 10 == 9,
            holds_out_documents=True,
        )
        classes, sizes = document_classes(read)
        held_out = closest_to_a_tenth(sizes)
        yield Rule(
            "a tenth of the different documents is the validation set, with all copies of them, "
            + WITHOUT_DUPLICATES,
            lambda number, document, line: classes[document] == held_out,
            holds_out_documents=True,
        )
    block = min(BLOCK_LINES, num_lines // 10)
    yield Rule(
        tenth_blocks("line", block), lambda number, document, line: number // block % 10 == 9
    )
    held_out_lines = closest_to_a_tenth(Counter(line_class(line) for _, line in read()))
    yield Rule(
        "a tenth of the different lines is the validation set, with all copies of them",
        lambda number, document, line: line_class(line) == held_out_lines,
    )


def split_text(
    read: ReadLines, folder: Path, num_lines: int, num_documents: int
) -> dict[str, int | str]:
    """Write about a tenth of a text to valid.txt and the rest to train.txt, by the first fitting rule.

    Validation lines that occur in the training text are removed. A rule does not fit if that removes
    too many of them, or if the held-out documents are too long or too short. Returns the numbers of
    lines, how many were removed, and the rule. Raises NotebookError if all lines of the text are equal.
    """
    least, most = (fraction * num_lines for fraction in VALID_FRACTIONS)
    with new_files(folder) as (train, valid):
        for rule in split_rules(read, num_lines, num_documents):
            num_train, num_valid = write_split(read(), train, valid, rule.is_valid)
            if not num_valid or (rule.holds_out_documents and not least <= num_valid <= most):
                continue
            removed = remove_common_lines(valid, train)
            if num_valid - removed >= MIN_REMAINING * num_valid:
                return {
                    "train": num_train,
                    "valid": num_valid - removed,
                    "removed": removed,
                    "rule": rule.text,
                }
        raise NotebookError(
            "the text has too few different lines to hold some of them out: pass a text with more "
            "different lines (or, for corpus, pass valid_corpus)"
        )


def split_by_files(read: ReadLines, read_valid: ReadLines, folder: Path) -> dict[str, int | str]:
    """Write one text to train.txt and another one to valid.txt, without lines that are in both.

    They are removed from the validation set. If that removes most of it, they are removed from the
    training text instead. Returns what `split_text` returns. Raises NotebookError if no line is left.
    """
    with new_files(folder) as (train, valid):
        num_train = write_lines(train, read())
        num_valid = write_lines(valid, read_valid())
        rule = f"valid_corpus is the validation set, {WITHOUT_DUPLICATES}"
        removed = remove_common_lines(valid, train)
        if num_valid - removed < MIN_REMAINING * num_valid:
            num_valid = write_lines(valid, read_valid())
            removed = remove_common_lines(train, valid)
            rule = (
                "valid_corpus is the validation set; its lines are removed from the training text"
            )
            num_train -= removed
        else:
            num_valid -= removed
        if not num_train:
            raise NotebookError(
                "all lines of corpus are also in valid_corpus, so none is left for training; pass "
                "another valid_corpus"
            )
    return {"train": num_train, "valid": num_valid, "removed": removed, "rule": rule}
