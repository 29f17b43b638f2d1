"""Figures have the labels that a reader needs, and never distinguish by colour alone."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mlm.plots.corpus import MAX_STRIP_LINES, PARTS, add_split_legend, draw_split, draw_words
from mlm.plots.predictions import draw_predictions, draw_surprisals, percent
from mlm.plots.speed import draw_learned, draw_race
from mlm.plots.task import draw_label_curves
from mlm.plots.training import curve_image, draw_curve


@pytest.mark.parametrize(
    "p, text",
    [
        (1, "100%"),
        (0.997, "100%"),
        (0.41, "41%"),
        (0.0996, "10%"),
        (0.051, "5.1%"),
        (0.00024, "0.024%"),
    ],
)
def test_a_probability_has_two_significant_digits(p, text):
    assert percent(p) == text


def test_predictions_have_a_title_for_each_mask_and_model():
    predictions = {
        name: [[("good", 0.5), ("evil", 0.2)], [("will", 0.4), ("power", 0.1)]]
        for name in ("before", "after")
    }
    draw_predictions(predictions, "$ The [MASK] and the [MASK] $")  # not a formula
    figure = plt.gcf()
    assert [ax.get_title() for ax in figure.axes] == [
        f"[MASK] {row}, {name}" for row in (1, 2) for name in predictions
    ]
    figure.canvas.draw()
    plt.close(figure)


@pytest.mark.parametrize("num_masks, top_k, drawn", [(30, 8, 12), (3, 100, 1), (2, 8, 2)])
def test_of_many_masks_the_first_are_drawn(num_masks, top_k, drawn):
    """A figure of 126 masks would take two minutes."""
    rows = [[(f"token {n}", 0.01) for n in range(top_k)]] * num_masks
    draw_predictions({"before": rows, "after": rows}, "[MASK] " * num_masks)
    figure = plt.gcf()
    assert len(figure.axes) == 2 * drawn
    note = figure.get_supxlabel()
    assert note == ("" if drawn == num_masks else f"the first {drawn} of {num_masks} [MASK]")
    plt.close(figure)


def test_surprisals_of_two_models_differ_by_their_hatch():
    figure, ax = plt.subplots()
    tokens = ["the", "will", "to", "power"]
    draw_surprisals(ax, tokens, {"before": [8.0, 9.0, 7.5, 9.5], "after": [1.0, 5.0, 0.5, 6.0]})
    assert [label.get_text() for label in ax.get_xticklabels()] == tokens
    hatches = {bars.get_label(): {bar.get_hatch() for bar in bars} for bars in ax.containers}
    assert hatches["before"] != hatches["after"]
    plt.close(figure)


# training


HISTORY = [
    {"step": 0, "valid_loss": 8.0},
    {"step": 2, "train_loss": 7.0, "lr": 0.1},
    {"step": 2, "valid_loss": 6.0},
]


def test_the_learning_curve_has_both_losses_and_the_baseline():
    figure, ax = plt.subplots()
    draw_curve(ax, HISTORY, 5.6)
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["training loss", "validation loss", "unigram baseline"]
    assert list(ax.lines[1].get_xdata()) == [0, 2] and list(ax.lines[1].get_ydata()) == [8, 6]
    assert ax.get_ylabel() == "nats per masked token"
    plt.close(figure)


@pytest.mark.parametrize("history", [[], HISTORY])
def test_the_learning_curve_is_a_png_also_before_the_first_evaluation(history):
    assert curve_image(history, 5.6).data.startswith(b"\x89PNG")


@pytest.mark.parametrize("num_lines", [10, 1000, 30_000])
def test_a_strip_shows_the_parts_of_a_text_to_scale(num_lines):
    parts = np.array(["train", "valid", "train", "removed"]).repeat(num_lines // 4 + 1)[:num_lines]
    figure, ax = plt.subplots()
    draw_split(ax, parts)
    (image,) = ax.images
    shown = image.get_array()[0]
    assert len(shown) <= MAX_STRIP_LINES and image.get_extent() == [0, num_lines, 0, 1]
    for number, name in enumerate(PARTS):
        assert abs((shown == number).mean() - (parts == name).mean()) < 1e-3
    add_split_legend(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*PARTS]
    plt.close(figure)


@pytest.mark.fault
def test_a_text_without_words_gives_an_empty_figure():
    figure, ax = plt.subplots()
    draw_words(ax, [], set())
    assert not ax.patches
    plt.close(figure)


# speed


def test_kinds_of_recipes_differ_by_hatch_and_marker_and_are_labelled_once():
    rates = pd.DataFrame({"plain": [10.0, 12.0], "fused": [20.0, 22.0], "Trainer": [15.0, 15.0]})
    kinds = {"plain": "steps", "fused": "steps", "Trainer": "transformers.Trainer"}
    figure, (ax, other) = plt.subplots(1, 2)
    draw_race(ax, rates, kinds, {"limit in fp32": 30.0, "limit in bf16": 50.0})
    labels = ax.get_legend_handles_labels()[1]
    assert sorted(labels) == ["limit in fp32", "steps", "transformers.Trainer"]
    assert 30.0 < ax.get_xlim()[1] < 50.0  # what is not seen is not in the legend
    assert [text.get_text().strip() for text in ax.texts] == ["1.0 x", "1.9 x", "1.4 x"]
    assert len({bars[0].get_hatch() for bars in ax.containers}) == 2
    table = pd.DataFrame({"steps": [8, 4, 4], "validation loss": [5.0, 4.0, 4.5]}, index=[*kinds])
    draw_learned(other, table, kinds, 8.0, (8, 6.0, "plain at 1e-5"))
    assert {line.get_label(): line.get_marker() for line in other.lines[:2]} == {
        "steps": "o", "transformers.Trainer": "D",
    }  # fmt: skip
    plt.close(figure)


def test_a_limit_far_beyond_all_speeds_is_not_drawn():
    figure, ax = plt.subplots()
    draw_race(ax, pd.DataFrame({"plain": [10.0]}), {"plain": "steps"}, {"limit in fp32": 50.0})
    assert ax.get_legend_handles_labels()[1] == ["steps"] and ax.get_xlim()[1] < 50
    plt.close(figure)


@pytest.mark.parametrize("correct", [54, 55, 57, 101])  # of 60 or 127: not exact in binary
@pytest.mark.parametrize("num_texts", [60, 127])
def test_label_curves_can_have_equal_accuracies(correct, num_texts):
    """The mean of three equal numbers may be lower or higher than each by a rounding error."""
    accuracy = {"method": "TF-IDF", "labels": 8, "accuracy": correct / num_texts}
    _, ax = plt.subplots()
    draw_label_curves(ax, pd.DataFrame([accuracy] * 3), guessing=0.5)
    plt.close("all")


def test_label_curves_have_a_legend_entry_and_a_marker_for_each_method():
    methods = ["majority class", "TF-IDF", "frozen, before MLM", "frozen, after MLM"]
    rows = [
        {"method": method, "labels": labels, "accuracy": 0.5 + 0.01 * seed}
        for method in methods
        for labels in (8, 32)
        for seed in range(3)
    ]
    _, ax = plt.subplots()
    draw_label_curves(ax, pd.DataFrame(rows), guessing=0.25)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {*methods, "guessing"}
    markers = [container[0].get_marker() for container in ax.containers]
    assert len({*markers}) == len(methods)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["8", "32"]
    plt.close("all")
