"""The words of a text, in every script."""

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
