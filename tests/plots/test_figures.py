"""Figures have the labels that a reader needs, and never distinguish by colour alone."""

import matplotlib.pyplot as plt
import pytest

from mlm.plots.figures import draw_guesses, draw_surprises, percent


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
    draw_guesses(predictions, "$ The [MASK] and the [MASK] $")  # not a formula
    figure = plt.gcf()
    assert [ax.get_title() for ax in figure.axes] == [
        f"[MASK] {row}, {name}" for row in (1, 2) for name in predictions
    ]
    figure.canvas.draw()
    plt.close(figure)


def test_surprisals_of_two_models_differ_by_their_hatch():
    figure, ax = plt.subplots()
    tokens = ["the", "will", "to", "power"]
    draw_surprises(ax, tokens, {"before": [8.0, 9.0, 7.5, 9.5], "after": [1.0, 5.0, 0.5, 6.0]})
    assert [label.get_text() for label in ax.get_xticklabels()] == tokens
    hatches = {bars.get_label(): {bar.get_hatch() for bar in bars} for bars in ax.containers}
    assert hatches["before"] != hatches["after"]
    plt.close(figure)
