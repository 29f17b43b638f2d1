"""Vectors -> classes; the verdict says what the numbers say."""

import numpy as np
import pandas as pd
import pytest
import torch

from mlm.inference.task import (
    TextClassifier,
    compare,
    difference,
    fine_tune,
    linear_classifier,
    mean_difference,
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


def results_table(methods, num_texts=100):
    """{method: {labels: accuracies of the seeds in %}}; the first texts are the right ones."""
    rows = []
    for method, columns in methods.items():
        for labels, values in columns.items():
            for seed, value in enumerate(values):
                correct = np.arange(num_texts) < value * num_texts / 100
                row = {"method": method, "labels": labels, "seed": seed, "correct": correct}
                rows.append(row | {"accuracy": correct.mean()})
    return pd.DataFrame(rows)


def test_the_summary_has_means_and_extremes_in_order():
    values = {"TF-IDF": [40, 40, 40], "frozen, before": [10, 20, 30], "frozen, after": [50, 50, 53]}
    table = summary(results_table({m: {128: v, 8: v} for m, v in values.items()}), "accuracy")
    assert list(table.columns) == [8, 128]
    assert list(table.index) == ["TF-IDF", "frozen, before", "frozen, after"]
    assert table.loc["frozen, before", 8] == "20.0 (10.0 to 30.0)"


def simulated(generator, gain, num_texts, text_spread, seed_spread):
    """A method that is better by `gain` than another; texts and seeds change the difference as well."""
    texts = generator.normal(0, text_spread, (2, 1, num_texts))
    seeds = generator.normal(0, seed_spread, (2, 3, 1))
    p = 0.5 + np.array([gain, 0])[:, None, None] + texts + seeds
    correct = (generator.random((2, 3, num_texts)) < p).astype(int)
    return mean_difference(correct[0] - correct[1])


@pytest.mark.parametrize("num_texts", [2, 30, 300])
@pytest.mark.parametrize("text_spread", [0, 0.3])
@pytest.mark.parametrize("seed_spread", [0, 0.1])
def test_equal_methods_seldom_differ_clearly(num_texts, text_spread, seed_spread):
    """At most one time in twenty, whether other texts or other seeds would change the difference."""
    generator = np.random.default_rng(0)
    found = [simulated(generator, 0, num_texts, text_spread, seed_spread).sign for _ in range(500)]
    assert np.mean(np.abs(found)) < 0.05 + 2 * (0.05 * 0.95 / 500) ** 0.5


def test_a_large_difference_is_clear_and_has_a_sign():
    generator = np.random.default_rng(0)
    assert {simulated(generator, 0.3, 300, 0.1, 0).sign for _ in range(20)} == {1}
    assert {simulated(generator, -0.3, 300, 0.1, 0).sign for _ in range(20)} == {-1}


def test_texts_that_are_right_for_both_methods_narrow_the_interval():
    paired = results_table({"new": {8: [70] * 3}, "old": {8: [60] * 3}})
    other = paired.copy()
    other["correct"] = [
        c[::-1] if m == "old" else c for m, c in zip(paired["method"], paired["correct"])
    ]
    narrow, wide = (difference(table, 8, "new", "old") for table in (paired, other))
    assert narrow.points == pytest.approx(10) and wide.points == pytest.approx(10)
    assert narrow.half_width < wide.half_width and (narrow.sign, wide.sign) == (1, 0)


def test_few_texts_without_an_exception_prove_nothing():
    few, many = (
        difference(results_table({"new": {8: [100] * 3}, "old": {8: [0] * 3}}, n), 8, "new", "old")
        for n in (2, 4)
    )
    assert few.points == many.points == 100 and (few.sign, many.sign) == (0, 1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_predictions_make_no_difference(seeds):
    table = results_table({"new": {8: [50] * seeds}, "old": {8: [50] * seeds}})
    found = difference(table, 8, "new", "old")
    assert (found.points, found.sign) == (0, 0) and found.half_width > 0


LEVELS = {"majority class": [25] * 3, "TF-IDF": [50] * 3}


def lines_of(**methods):
    """The verdict on frozen and fine-tuned encoders: {name: accuracies with 8 and with 32 labels}."""
    columns = {m: {8: v, 32: v} for m, v in LEVELS.items()}
    columns |= {
        name.replace("__", ", ").replace("_", "-"): {8: [a] * 3, 32: [b] * 3}
        for name, (a, b) in methods.items()
    }
    return verdict(compare(results_table(columns), "after", "before")).split("\n")


def test_the_verdict_looks_at_every_number_of_labels():
    frozen, need = lines_of(frozen__before=(40, 60), frozen__after=(70, 60))
    assert frozen == (
        "frozen encoder: training on your text helps with 8 labels per class; "
        "training on your text makes no clear difference with 32 labels per class."
    )
    assert (
        need
        == "Do you need the encoder? Yes with 8, 32 labels per class (it is better than TF-IDF)."
    )


def test_the_verdict_says_if_tfidf_is_as_good_or_better():
    frozen, need = lines_of(frozen__before=(70, 45), frozen__after=(50, 30))
    assert "hurts with 8, 32 labels per class" in frozen
    assert (
        "Not clearly with 8 labels per class (no clear difference from the simpler TF-IDF)" in need
    )
    assert "no with 32 labels per class (TF-IDF is better)" in need


def test_the_better_encoder_is_compared_with_tfidf():
    methods = {
        "frozen__before": (30, 30),
        "frozen__after": (70, 30),
        "fine_tuned__before": (60, 25),
    }
    *_, tuned, need = lines_of(**methods, fine_tuned__after=(40, 70))
    assert "Yes with 8, 32 labels per class" in need
    assert "not clearly better than the majority class with 32 labels per class" in tuned


def test_without_a_model_before_training_only_the_need_is_answered():
    columns = {m: {8: v} for m, v in LEVELS.items()} | {"frozen, without": {8: [30] * 3}}
    found = compare(results_table(columns), "without", None)
    assert (
        verdict(found) == "Do you need the encoder? No with 8 labels per class (TF-IDF is better)."
    )
