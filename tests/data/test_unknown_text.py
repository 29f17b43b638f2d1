"""[UNK] is counted in characters, for tokenizers of every kind."""

import pytest
from transformers import BertTokenizer

from helpers import refused
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenization import text_backend
from mlm.data.tokenizer import load_tokenizer
from mlm.data.unknown_text import describe_unknown, find_unk_fraction

NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c", "."]


@pytest.fixture
def small():
    """A tokenizer that knows four words: a, b, ac and bc."""
    return BertTokenizer(
        vocab={name: number for number, name in enumerate(NAMES)}, do_lower_case=True
    )


def test_unknown_words_count_by_their_letters(tmp_path, small):
    """One unknown word of six letters among four known ones: 6 of 10 letters, 1 of 5 tokens."""
    (tmp_path / "a.txt").write_text("a b xxxxxx a .\n" * 20)
    small.name_or_path = "a model"
    assert find_unk_fraction(tmp_path / "a.txt", small) == 0.6
    with refused("a.txt", "60% of its letters are [UNK]", "at most 50%", "scratch:tiny") as message:
        MaskedLMDataset(tmp_path / "a.txt", small)
    assert "spaces" not in message()


def test_a_vocabulary_that_was_learned_here_is_not_told_to_be_learned(tmp_path):
    """A validation text in another script: model="scratch:tiny" is what was passed already."""
    (tmp_path / "train.txt").write_text("some words of a training text\n" * 20)
    (tmp_path / "valid.txt").write_text("слова\n" * 20, "utf-8")
    learned = load_tokenizer("scratch:tiny", tmp_path / "train.txt")
    with refused("valid.txt: 100%", "learned from the training text, which lacks them") as message:
        MaskedLMDataset(tmp_path / "valid.txt", learned)
    assert "scratch:tiny" not in message()


def test_a_text_that_is_half_known_is_accepted(tmp_path, small):
    (tmp_path / "a.txt").write_text("a b . xxx\n\n  áć  .. xy\n" * 20, "utf-8")
    assert MaskedLMDataset(tmp_path / "a.txt", small).unk_fraction == pytest.approx(5 / 12)


def test_a_text_without_unknown_words_has_none(tmp_path, small):
    (tmp_path / "a.txt").write_text("a b\nac bc .\n" * 20)
    assert MaskedLMDataset(tmp_path / "a.txt", small).unk_fraction == 0
    assert find_unk_fraction(tmp_path / "a.txt", small) == 0


def test_a_long_text_is_sampled(tmp_path, small, monkeypatch):
    monkeypatch.setattr("mlm.data.unknown_text.SAMPLE_CHARS", 500)
    (tmp_path / "a.txt").write_text("a b xx a .\n" * 1000)
    assert find_unk_fraction(tmp_path / "a.txt", small) == pytest.approx(1 / 3)


def test_labelled_texts_that_the_vocabulary_lacks_are_mentioned(small):
    known, unknown = (
        describe_unknown(small, ["a b", "ac b"], 8),
        describe_unknown(small, ["a", "😀😀😀"], 8),
    )
    assert known == "0.0% of the letters of the texts became [UNK]"
    assert unknown.startswith("75.0% of the letters") and "the encoder cannot read them" in unknown
    assert describe_unknown(small, ["a" + 100 * " b" + "xxxxxx" * 9], 8).startswith(
        "0.0%"
    )  # not read


def test_the_tokenizer_is_copied_once_for_a_text(tmp_path, small, monkeypatch):
    """A large vocabulary takes a second."""
    (tmp_path / "a.txt").write_text("a b xx\n" * 3000)
    copies = []

    def copy(tokenizer):
        copies.append(text_backend(tokenizer))
        return copies[-1]

    monkeypatch.setattr("mlm.data.unknown_text.text_backend", copy)
    assert find_unk_fraction(tmp_path / "a.txt", small) == 0.5 and len(copies) == 1
