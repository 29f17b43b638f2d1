"""Vectors -> classes; the verdict says what the numbers say."""

import pandas as pd
import pytest
import torch

from mlm.inference.task import (
    TextClassifier,
    fine_tune,
    linear_classifier,
    scores,
    summary,
    tfidf_classifier,
    verdict,
)
from mlm.inference.vectors import text_vectors

TEXTS = [
    "good human power",
    "evil evil question",
    "will to power and good",
    "a question of evil",
] * 8
LABELS = ["good", "evil", "good", "evil"] * 8


def test_frozen_fine_tuned_and_tfidf_learn_a_simple_task(model, word_tokenizer):
    vectors = text_vectors(model, word_tokenizer, TEXTS, 16)
    assert (linear_classifier().fit(vectors, LABELS).predict(vectors) == LABELS).all()
    assert (tfidf_classifier().fit(TEXTS, LABELS).predict(TEXTS) == LABELS).all()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    classifier = TextClassifier(model, word_tokenizer, ["evil", "good"], 16)
    fine_tune(classifier, TEXTS, LABELS, steps=20, seed=0)
    assert classifier.predict(TEXTS) == LABELS
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # a copy was trained


@pytest.mark.parametrize(
    "good, evil", [("😀😃", "😢😭"), ("!?", ";;"), ("good!", "😢"), ("…", "\u200b")]
)
def test_texts_without_words_are_classified_by_their_characters(good, evil):
    texts, labels = [good, evil, good * 2, evil * 2], ["good", "evil"] * 2
    assert (tfidf_classifier().fit(texts, labels).predict(texts) == labels).all()


def test_macro_f1_counts_classes_equally():
    result = scores(["a"] * 9 + ["b"], ["a"] * 10)
    assert result["accuracy"] == 0.9
    assert result["macro-F1"] == pytest.approx((2 * 0.9 / 1.9 + 0) / 2)


# results


def results_table(before, after, tfidf):
    methods = {"TF-IDF": tfidf, "frozen, before": before, "frozen, after": after}
    rows = [
        {"method": method, "labels": labels, "seed": seed, "accuracy": value / 100}
        for method, values in methods.items()
        for labels in (128, 8)
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_summary_has_means_and_extremes_in_order():
    table = summary(results_table([10, 20, 30], [50, 50, 53], [40, 40, 40]), "accuracy")
    assert list(table.columns) == [8, 128]
    assert list(table.index) == ["TF-IDF", "frozen, before", "frozen, after"]
    assert table.loc["frozen, before", 8] == "20.0 (10.0 to 30.0)"


@pytest.mark.parametrize(
    "before, after, tfidf, words",
    [
        ([50, 52, 54], [61, 62, 63], [40] * 3, ["helps", "+10.0 points", "is more than", "reaches 40.0%, less"]),
        ([61, 62, 63], [50, 52, 54], [70] * 3, ["hurts", "-10.0 points", "reaches 70.0%, more: it wins"]),
        ([50, 50, 50], [50, 52, 54], [51] * 3, ["makes no clear difference", "not more than", "4.0 points", "no clear difference from the better encoder"]),
        ([50, 50, 50], [49.99, 50, 50], [51] * 3, ["makes no clear difference", "+0.0 points"]),
        ([50, 50, 50], [50, 50, 50], [51] * 3, ["makes no clear difference", "+0.0 points", "more: it wins"]),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_numbers_say(before, after, tfidf, words):
    text = verdict(results_table(before, after, tfidf), 8, "frozen", "before", "after")
    assert all(word in text for word in words), text
    assert text.count(". ") == 0  # one sentence
