"""The letters of a text, and its words with their counts."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import normalizers

from mlm.data.normalization import make_normalizer, word_splitter

SAMPLE_CHARS = 2 * 10**6  # characters; the words of a longer text are counted in a sample

Lines = Callable[[], Iterable[str]]  # reads a text from its beginning, in pieces of bounded length


@dataclass(frozen=True)
class TextCounts:
    """letters: all characters of the text. words: counts of its words, as they are written, in a sample."""

    num_chars: int
    letters: set[str]
    words: Counter[str]


def take_evenly(lines: Iterable[str], num_chars: int, max_chars: int) -> Iterator[str]:
    """Lines from everywhere in a text of `num_chars` characters, about `max_chars` characters in all."""
    read = taken = 0
    for line in lines:
        read += len(line)
        if taken * num_chars <= max_chars * read or num_chars <= max_chars:
            taken += len(line)
            yield line


def count_words(lines: Iterable[str], normalizer: Any, splitter: Any) -> Counter[str]:
    """Counts of the words that a normalizer and a pre-tokenizer find.

    Most of a text is repetition: texts between spaces are counted first, then split once.
    """
    between_spaces = Counter[str]()
    for line in lines:
        between_spaces.update(line.split())
    words = Counter[str]()
    for text, count in between_spaces.items():
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            words[word] += count
    return words


def count_text(lines: Lines) -> TextCounts:
    """Count a text. Memory is bounded by the sample, time is linear."""
    composer, letters, num_chars = normalizers.NFC(), set[str](), 0
    for line in lines():
        num_chars += len(line)
        letters.update(line if line.isascii() else composer.normalize_str(line))
    sample = take_evenly(lines(), num_chars, SAMPLE_CHARS)
    keep_case = make_normalizer(cased=True, dotless_i=False)
    return TextCounts(num_chars, letters, count_words(sample, keep_case, word_splitter()))
