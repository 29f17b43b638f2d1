"""Which vocabulary is chosen for a text, and the reasons that are printed."""

import pytest

from helpers import sentences
from languages import HOSTILE, LANGUAGES, sentences_in
from mlm.data.vocabulary_choice import choose_vocabulary
from mlm.data.vocabulary_names import is_vocabulary, parse_vocabulary
from mlm.data.word_counts import count_text

PROSE = [line.split(" ", 1)[-1].capitalize() for line in sentences(400)]


def choice_for(lines, asked=None):
    return choose_vocabulary(count_text(lambda: lines), asked)


@pytest.mark.parametrize(
    "lines, kind, cased, keeps_accents",
    [
        (PROSE, "wordpiece", False, None),
        (sentences_in("hindi"), "wordpiece", True, True),
        (sentences_in("thai"), "bpe", True, True),
        (sentences_in("khmer"), "wordpiece", True, True),  # U+200B between words
        (sentences_in("vietnamese"), "wordpiece", False, True),
        (sentences_in("arabic"), "wordpiece", True, True),
        (sentences_in("persian"), "wordpiece", True, True),
        (sentences_in("japanese"), "wordpiece", True, True),
        (sentences_in("korean"), "wordpiece", True, True),
        (sentences_in("turkish"), "wordpiece", False, True),
        (sentences_in("german"), "wordpiece", False, True),
        (sentences_in("greek"), "wordpiece", False, True),
        (sentences_in("smiles"), "wordpiece", True, True),
        (sentences_in("protein"), "bpe", True, True),
        (HOSTILE["code"] * 5, "wordpiece", True, True),
        (["[\n", "1 2 3", ".."], "wordpiece", True, True),
        (["... --- / ...", ".- / ...-"], "bpe", True, True),  # Morse code
        ([""], "wordpiece", True, True),
    ],
)
def test_the_text_decides(lines, kind, cased, keeps_accents):
    choice = choice_for(lines)
    assert (choice.kind, choice.cased) == (kind, cased), choice.reasons
    assert keeps_accents is None or choice.keeps_accents == keeps_accents, choice.reasons


def test_english_prose_gets_the_vocabulary_of_bert():
    """A few accents in a long text are removed, as BERT does, and the words counted."""
    lines = [line.replace("ï", "i").replace("Ü", "U").replace("ü", "u") for line in PROSE]
    choice = choice_for([*lines, "A brontë café"])
    assert (choice.kind, choice.cased, choice.keeps_accents) == ("wordpiece", False, False)
    assert "accents removed (2 distinct words have any; removing them merges 0)" in choice.reasons


def test_the_effect_of_folding_case_is_reported():
    reasons = choice_for(["The cat", "the dog", "Cat and dog"] * 5).reasons
    assert "lowercasing merges 2 of 6 distinct words" in reasons


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_capital_of_dotless_i_is_known_in_turkish_only(language):
    assert choice_for(sentences_in(language)).dotless_i == (language == "turkish")


@pytest.mark.parametrize(
    "value, expected",
    [
        ("wordpiece", ("wordpiece", False, 8000)),
        ("bpe-cased:16000", ("bpe", True, 16000)),
        ("unigram:100", ("unigram", False, 100)),
    ],
)
def test_a_value_names_kind_case_and_size(value, expected):
    assert is_vocabulary(value) and parse_vocabulary(value) == expected
    choice = choice_for(PROSE, value)
    assert (choice.kind, choice.cased, choice.size) == expected
    assert "as set" in choice.reasons


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bpe:",
        "bpe:99",
        "bpe:1000001",
        "BPE",
        "words",
        "bpe-uncased",
        "bpe:8000-cased",
        "bpe: 500",
    ],
)
def test_other_values_are_not_valid(value):
    assert not is_vocabulary(value)


def test_the_reasons_are_true():
    """No negative counts; Chinese has no spaces between words."""
    turkish = ["Işık ışık IŞIK İstanbul istanbul ılık ilik IRMAK ırmak"] * 50
    for lines in [turkish, *map(sentences_in, LANGUAGES)]:
        assert "merges -" not in choice_for(lines).reasons
    assert "each Chinese character is a word" in choice_for(sentences_in("chinese")).reasons
    assert "spaces and punctuation separate words" in choice_for(sentences_in("korean")).reasons
    assert "its letters have no case" in choice_for(["12 34 5.6"] * 20).reasons
