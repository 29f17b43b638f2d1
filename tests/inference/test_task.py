"""Vectors -> classes; the verdict says what the numbers say."""

import numpy as np
import pandas as pd
import pytest
import torch
from nbformat import read

from helpers import ROOT, refused
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


def test_with_many_classes_tfidf_needs_no_more_memory(monkeypatch):
    """A weight for each class and feature, 25 times: 150 classes with 400,000 pairs of words were 12 GB."""
    monkeypatch.setattr("mlm.inference.task.MAX_TFIDF_WEIGHTS", 90)
    labels = [f"class {n}" for n in range(30)] * 3
    texts = [f"{label} word{n} more{n}" for n, label in enumerate(labels)]
    assert tfidf_classifier(30).fit(texts, labels)[-1].coef_.size == 90


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


@pytest.mark.fault
@pytest.mark.parametrize("method", ["TF-IDF", "frozen, after", "frozen, before"])
@pytest.mark.parametrize("results", [0, 1, 2])
def test_methods_with_other_samples_are_not_compared(method, results):
    """A cell of 07 was interrupted, or no longer adds results."""
    complete = {8: [50, 60, 70], 32: [50, 60, 70]}
    values = dict.fromkeys(["TF-IDF", "frozen, before", "frozen, after"], complete)
    table = results_table({**values, method: {**complete, 8: complete[8][:results]}})
    with refused(f"{method!r} has results for {results} of 3 sample(s) with 8 labels"):
        compare(table, "after", "before", 5)


LEVELS = {"majority class": [25] * 3, "TF-IDF": [50] * 3}


def lines_of(**methods):
    """The verdict on encoders for five classes: {name: accuracies with 8 and with 32 labels}."""
    columns = {m: {8: v, 32: v} for m, v in LEVELS.items()}
    columns |= {
        name.replace("__", ", ").replace("_", "-"): {8: [a] * 3, 32: [b] * 3}
        for name, (a, b) in methods.items()
    }
    return verdict(compare(results_table(columns), "after", "before", 5)).split("\n")


def test_the_verdict_looks_at_every_number_of_labels():
    frozen, need, _ = lines_of(frozen__before=(40, 60), frozen__after=(70, 60))
    assert frozen == (
        "frozen encoder: MLM on your text helps with 8 labels per class; "
        "MLM on your text makes no clear difference with 32 labels per class."
    )
    assert need.startswith("Do you need the encoder? Yes with 8, 32 labels per class (")


def test_the_verdict_says_if_tfidf_is_as_good_or_better():
    frozen, need, _ = lines_of(frozen__before=(70, 45), frozen__after=(50, 30))
    assert "hurts with 8, 32 labels per class" in frozen
    assert "Not clearly with 8 labels per class (" in need
    assert "no with 32 labels per class (TF-IDF is clearly better" in need


@pytest.mark.parametrize(
    "frozen, tuned, expected",
    [
        (70, 40, "Yes"),  # one better kind is enough, whatever the other does
        (30, 70, "Yes"),
        (30, 50, "Not clearly"),
        (50, 50, "Not clearly"),
        (30, 30, "No"),
    ],
)
def test_both_kinds_of_encoders_are_compared_with_tfidf(frozen, tuned, expected):
    *_, need, _ = lines_of(
        frozen__before=(30, 30),
        frozen__after=(frozen, frozen),
        fine_tuned__before=(30, 30),
        fine_tuned__after=(tuned, tuned),
    )
    assert need.startswith(f"Do you need the encoder? {expected} with 8, 32 labels per class (")


@pytest.mark.parametrize("after", [15, 22, 70])  # below, near and above the start
def test_fine_tuning_that_starts_at_guessing_gives_no_conclusion(after):
    """Also if it is clearly below or above the majority class (25%): guessing among five classes is 20%."""
    methods = {"frozen__before": (30, 30), "frozen__after": (50, 50)}
    frozen, tuned, *_ = lines_of(
        **methods, fine_tuned__before=(22, 40), fine_tuned__after=(after, 60)
    )
    assert tuned.startswith("fine-tuned encoder: MLM on your text helps with 32 labels per class; ")
    assert "no conclusion with 8 labels per class (" in tuned and "finetune_steps" in tuned
    assert "no conclusion" not in frozen


def test_fine_tuning_that_ends_below_its_own_linear_probe_gives_no_conclusion():
    """Before MLM, fine-tuning reaches 40% and 60%, the frozen encoder 50%: too few steps with 8 labels."""
    frozen, tuned, *_ = lines_of(
        frozen__before=(50, 50),
        frozen__after=(70, 70),
        fine_tuned__before=(40, 60),
        fine_tuned__after=(80, 80),
    )
    assert tuned.startswith("fine-tuned encoder: MLM on your text helps with 32 labels per class; ")
    assert (
        "no conclusion with 8 labels per class (" in tuned and "its mean is below frozen" in tuned
    )
    assert "no conclusion" not in frozen


def test_the_yardstick_of_a_start_is_guessing_whatever_the_majority_class_reaches():
    methods = {
        "majority class": 60,
        "TF-IDF": 50,
        "fine-tuned, before": 40,
        "fine-tuned, after": 45,
    }
    found = compare(
        results_table({m: {8: [v] * 3} for m, v in methods.items()}), "after", "before", 5
    )
    start = found["before MLM: fine-tuned minus guessing"][8]
    assert start.points == pytest.approx(40 - 20) and start.sign == 1
    assert "no conclusion" not in verdict(found)


def test_the_verdict_says_which_differences_the_test_can_detect():
    values = {**LEVELS, "frozen, after": [50, 53, 50]}
    found = compare(results_table({m: {8: v, 32: v} for m, v in values.items()}), "after", None, 5)
    widths = [d.half_width for d in found["after: frozen minus TF-IDF"].values()]
    last = verdict(found).split("\n")[-1]
    assert "does not mean equal" in last
    assert f"half-width, {min(widths):.1f} to {max(widths):.1f} points" in last


def test_without_a_model_before_training_only_the_need_is_answered():
    columns = {m: {8: v} for m, v in LEVELS.items()} | {"frozen, as loaded": {8: [30] * 3}}
    found = compare(results_table(columns), "as loaded", None, 5)
    assert [*found] == ["as loaded: frozen minus TF-IDF"]  # nothing was trained: not "after MLM"
    need, _ = verdict(found).split("\n")
    assert need.startswith("Do you need the encoder? No with 8 labels per class (")


@pytest.mark.parametrize("results", [None, {"parameters": {}}], ids=["no run", "a run"])
def test_only_without_a_run_the_advice_is_to_train_one(results, capsys):
    """With a run, an earlier cell has said why the model before training cannot be loaded."""
    name = "after MLM" if results else "as loaded"
    columns = {m: {8: v} for m, v in LEVELS.items()} | {f"frozen, {name}": {8: [30] * 3}}
    cells = read(ROOT / "notebooks" / "07_use.ipynb", 4).cells
    (source,) = (cell.source for cell in cells if cell.id == "verdict")
    names = {"pd": pd, "display": print, "labelled": "a.csv", "classes": [*"abcde"]}
    names |= {"table": results_table(columns), "models": {name: None}, "results": results}
    exec(source, names)
    assert ("train with 04_train.ipynb" in capsys.readouterr().out) == (results is None)
