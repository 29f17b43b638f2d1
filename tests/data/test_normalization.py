"""The words of a text, in every script."""

import itertools
import re
import time
import unicodedata

import pytest

from languages import LANGUAGES, sentences_in
from mlm.data.normalization import find_words, is_word

UNSPACED = {"thai", "chinese", "japanese", "smiles", "protein"}


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name not in UNSPACED])
def test_a_word_keeps_its_accents_vowel_signs_and_joiners(language):
    for line in sentences_in(language):
        parts = line.replace("\u200b", " ").split()
        expected = [part.strip(".?!،؟।។;,") for part in parts]
        assert find_words(line) == expected
        decomposed = unicodedata.normalize("NFD", line)
        assert [unicodedata.normalize("NFC", word) for word in find_words(decomposed)] == [
            unicodedata.normalize("NFC", word) for word in expected
        ]


def test_numbers_and_punctuation_are_no_words():
    assert find_words("1886: don't, e-mail_me x2 \u0301 3.14 --") == [
        "don",
        "t",
        "e",
        "mail",
        "me",
        "x",
    ]
    assert [is_word(text) for text in ("word", "", "a b", "2", "a2", "\u0301")] == [True] + [
        False
    ] * 5


def test_words_are_letters_followed_by_letters_and_marks():
    for length in range(1, 6):
        for letters in itertools.product("a\u0301\u200d1", repeat=length):
            text = "".join(letters)
            assert is_word(text) == bool(re.fullmatch("a[a\u0301\u200d]*", text))
            assert find_words(text) == re.findall("a[a\u0301\u200d]*", text)


def test_many_marks_take_linear_time():
    """Letters with stacks of marks ("zalgo"), followed by what is no part of a word."""
    start = time.process_time()
    assert not is_word("a" + "\u0301" * 10_000 + "1")
    assert not is_word("a\u0301\u0316" * 10_000 + "1")
    assert time.process_time() - start < 1
