"""Sentences for the widget: right predictions first, no line that may contain a secret."""

import pytest

from encoders import CONFIGS, make_tokenizer
from mlm.inference.mask_token import with_mask
from mlm.inference.validation_examples import ValidationExample
from mlm.inference.widget import may_be_shown, widget_sentence, widget_sentences


def example(sentence, answer="good", *predicted):
    return ValidationExample(sentence, answer, {"after training": list(predicted) or ["evil"]}, "")


def test_right_predictions_come_first_in_the_order_of_the_lines(word_tokenizer):
    lines = [
        example("One is [MASK] and right.", "good", "evil"),
        example("Two is [MASK] and right.", "good", "good", "evil"),
        example("Three is [MASK] and right.", "good", "evil", "good"),  # only the second choice
        example("Four is [MASK] and right.", "good", "good"),
    ]
    shown = [sentence.split()[0] for sentence in widget_sentences(lines, word_tokenizer, 4)]
    assert shown == ["Two", "Four", "One", "Three"]
    for count in range(5):
        assert len(widget_sentences(lines, word_tokenizer, count)) == count


def test_the_model_after_training_decides(word_tokenizer):
    lines = [
        ValidationExample("One [MASK] two.", "a", {"before": ["a"], "after": ["b"]}, ""),
        ValidationExample("Two [MASK] two.", "a", {"before": ["b"], "after": ["a"]}, ""),
    ]
    assert widget_sentences(lines, word_tokenizer, 1) == ["Two [MASK] two."]


def test_no_examples_no_widget(word_tokenizer):
    assert widget_sentences([], word_tokenizer, 3) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Write to ursula@example.org for a [MASK] copy.",
        "See https://me:S3CR3T@example.org/a for [MASK] copies.",
        "The file is in /home/ursula/clients and [MASK] elsewhere.",
        "The file is in C:\\Users\\ursula and [MASK] elsewhere.",
        "Call 030 1234567 for [MASK] copies.",
        "The key is AKIA1234567890 and [MASK] nothing else.",
        "Her password is Swordfish and [MASK] nothing else.",
        "Das Passwort ist Schwertfisch und [MASK] nichts anderes.",
        "export API_KEY=[MASK] before you start.",
        "hf_abcdefghijklmnop is the [MASK] of the day.",
        "The PIN is four two and [MASK] nothing else.",
    ],
)
def test_lines_that_may_contain_a_secret_are_not_shown(word_tokenizer, sentence):
    assert not may_be_shown(sentence)
    assert widget_sentences([example(sentence, "good", "good")], word_tokenizer, 3) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "If the return value was true, the [MASK] is suppressed, and",
        "Das Übermaß an [MASK] ist groß.",
        "Pinpoint [MASK] was never the aim, nor was it expected.",
    ],
)
def test_prose_is_shown(sentence):
    assert may_be_shown(sentence)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_sentence_has_the_tokens_that_the_model_was_shown(kind, corpus_folder):
    tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
    for sentence in ("The [MASK] of power.", "The will [MASK]"):
        shown = widget_sentence(tokenizer, sentence)
        assert shown.count(tokenizer.mask_token) == 1
        ids = tokenizer(shown)["input_ids"]
        assert ids == tokenizer(with_mask(tokenizer, sentence))["input_ids"]
        if kind == "bert":
            assert shown == sentence  # with the space
