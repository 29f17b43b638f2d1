"""Texts -> vectors -> classes; the verdict says what the numbers say."""

import numpy as np
import pandas as pd
import pytest
import torch

from mlm.inference.task import (
    TextClassifier,
    fine_tune,
    linear_classifier,
    pool,
    scores,
    summary,
    text_vectors,
    tfidf_classifier,
    verdict,
)

TEXTS = [
    "good human power",
    "evil evil question",
    "will to power and good",
    "a question of evil",
] * 8
LABELS = ["good", "evil", "good", "evil"] * 8


def test_pooling_is_the_mean_over_real_tokens():
    hidden = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    expected = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0)])
    assert torch.allclose(pool(hidden, mask), expected)


def test_a_text_has_the_same_vector_in_every_batch(model, word_tokenizer, text):
    together = text_vectors(model, word_tokenizer, [text, "evil", "good name"] * 30, 16)
    alone = text_vectors(model, word_tokenizer, ["evil"], 16)
    assert together.shape == (90, 32)
    assert np.allclose(together[1::3], alone, atol=1e-5)


def test_long_texts_are_cut_off_and_special_tokens_are_text(model, word_tokenizer, text):
    assert len(text_vectors(model, word_tokenizer, [text * 50], 16)) == 1
    mask, word = (text_vectors(model, word_tokenizer, [t], 16) for t in ("[MASK]", "mask"))
    assert not np.allclose(mask, text_vectors(model, word_tokenizer, [" "], 16))
    assert mask.shape == word.shape


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
        ([50, 50, 50], [50, 50, 50], [51] * 3, ["makes no clear difference", "+0.0 points", "more: it wins"]),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_numbers_say(before, after, tfidf, words):
    text = verdict(results_table(before, after, tfidf), 8, "frozen", "before", "after")
    assert all(word in text for word in words), text
    assert text.count(". ") == 0  # one sentence
