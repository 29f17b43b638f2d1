"""How much of a text is [UNK]: counted in characters, because one [UNK] may be a whole line."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mlm.data.tokenization import text_backend, word_mark
from mlm.data.tokenizer import read_lines
from mlm.data.word_counts import take_evenly
from mlm.env.notebook import NotebookError

MAX_UNK_FRACTION = 0.5  # of the characters; a text with more is refused
MANY_UNK = 0.2  # from this fraction on, a line says what to do about it
SAMPLE_CHARS = 10**6  # characters; a longer text is sampled
BATCH_LINES = 1000  # tokenized at once
SEQUENCE = re.compile(r"(?=.{20})([ACGTUN]+|[A-Z*.-]+|[acgtun]+)")  # DNA, RNA, protein


def num_letters(text: str) -> int:
    """The number of characters that are not spaces."""
    return len("".join(text.split()))


def unknown_counter(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[str]], list[int]]:
    """A function: lines -> the number of characters of each, without spaces, that become [UNK].

    A tokenizer in Python does not say which: it is what is not in the other tokens.
    """
    unk_id, unk = tokenizer.unk_token_id, tokenizer.unk_token
    if tokenizer.is_fast:
        backend = text_backend(tokenizer)  # this takes a second for 200,000 tokens

        def count_fast(lines: list[str]) -> list[int]:
            encodings = backend.encode_batch(lines, add_special_tokens=False)
            return [
                sum(
                    num_letters(line[start:stop])
                    for token, (start, stop) in zip(encoding.ids, encoding.offsets)
                    if token == unk_id
                )
                for line, encoding in zip(lines, encodings)
            ]

        return count_fast
    mark = word_mark(tokenizer) or ""

    def count(lines: list[str]) -> list[int]:
        found = []
        for line in lines:
            tokens = tokenizer.tokenize(line)
            known = [t for t in tokens if t != unk and tokenizer.convert_tokens_to_ids(t) != unk_id]
            num_known = sum(len(token.replace(mark, "")) for token in known)
            found.append(max(0, num_letters(line) - num_known))
        return found

    return count


def find_unk_fraction(text_file: str | Path, tokenizer: PreTrainedTokenizerBase) -> float:
    """The fraction of a text's characters, without spaces, that are in [UNK]; of a sample, if it is long."""
    num_chars = sum(map(len, read_lines(text_file)))
    sample = take_evenly(read_lines(text_file), num_chars, SAMPLE_CHARS)
    letters = unknown = 0
    unknown_chars = unknown_counter(tokenizer)
    for lines in batches_of(sample):
        letters += sum(map(num_letters, lines))
        unknown += sum(unknown_chars(lines))
    return unknown / max(1, letters)


def describe_unknown(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_len: int) -> str:
    """How much of some labelled texts, as far as an encoder reads them, is [UNK], as text for people."""
    lines = [text[: 4 * max_len] for text in texts]  # characters: a token has about four
    unknown = sum(unknown_counter(tokenizer)(lines)) if tokenizer.unk_token_id is not None else 0
    fraction = unknown / max(1, sum(map(num_letters, lines)))
    text = f"{fraction:.1%} of the letters of the texts became [UNK]"
    if fraction >= MANY_UNK:
        text += (
            ": the encoder cannot read them, so its results say nothing about training; use a run whose "
            "vocabulary fits these texts"
        )
    return text


def batches_of(lines: Iterator[str]) -> Iterator[list[str]]:
    """Lists of up to BATCH_LINES lines."""
    while batch := [*islice(lines, BATCH_LINES)]:
        yield batch


def is_sequences(text_file: str | Path) -> bool:
    """Whether the first lines of a text are sequences of nucleotides or amino acids, not words."""
    lines = [line for line in islice(read_lines(text_file), 1000) if line]
    return sum(SEQUENCE.fullmatch(line) is not None for line in lines) > len(lines) / 2


def check_unk_fraction(text_file: str | Path, unk_fraction: float, learned: bool) -> None:
    """Raise NotebookError if the tokenizer knows too little of a text to learn from it.

    learned: whether its vocabulary was learned here, from the training text.
    """
    if unk_fraction <= MAX_UNK_FRACTION:
        return
    found = (
        f"{text_file}: {unk_fraction:.0%} of its letters are [UNK], not in the vocabulary (at most "
        f"{MAX_UNK_FRACTION:.0%} can be)"
    )
    if learned:
        raise NotebookError(
            f"{found}: it was learned from the training text, which lacks them; pass texts of the same "
            "language or notation for training and validation, a longer text, or a larger vocabulary"
        )
    advice = "pass a model of its language or notation"
    if is_sequences(text_file):
        advice = (
            "these look like sequences of nucleotides or amino acids, so pass a model of such "
            "sequences, for example facebook/esm2_t6_8M_UR50D for proteins"
        )
    raise NotebookError(
        f'{found}: {advice}, or model="scratch:tiny", which learns a vocabulary from the text'
    )
