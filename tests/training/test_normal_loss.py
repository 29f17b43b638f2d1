"""Is my loss normal? The answer quotes what was measured for the same kind of model and size of text."""

import json

import pytest

from mlm.data.text_size import PRETRAINED, RESULTS
from mlm.training.normal_loss import SIX_LAYERS, compare_with_measured, similar_results
from mlm.training.verdict import Evidence

RUN = Evidence([(0, 8.4), (2985, 3.0)], [(2985, 2.9)], 5.6, from_scratch=True, epochs=15)


def test_every_measured_result_is_quoted_for_its_own_kind_and_size():
    for result in RESULTS:
        model = "bert-base-uncased" if result.model == PRETRAINED else result.model
        assert result in similar_results(model, result.max_bytes)


@pytest.mark.parametrize(
    "model, kilobytes, words",
    [
        ("scratch:tiny", 380, ["scratch:tiny", "pydoc", "nietzsche", "After 15 epoch(s), the loss is 2.6 nats below"]),
        ("scratch:tiny", 0.1, ["scratch:tiny", "100 KB"]),
        ("scratch:tiny", 1e6, ["longer texts were not measured"]),
        ("scratch:base", 380, ["scratch:tiny", "for scratch:base there is no such figure"]),
        ("bert-base-uncased", 600, [SIX_LAYERS, "nietzsche", "such as bert-base-uncased, end lower"]),
        ("mine (folder 0a1b2c3d)", 20, [SIX_LAYERS, "20 KB"]),
    ],
)  # fmt: skip
def test_the_answer_says_what_was_measured_and_what_was_not(model, kilobytes, words):
    text = compare_with_measured(RUN, model, kilobytes * 1000, 0.4)
    words = [
        *words,
        "40% of the tokens are masked in training, 15% in validation",
        "unigram baseline",
    ]
    assert [each for each in words if each not in text] == [], text
    assert text.startswith("Is this normal? ")  # it was measured on other texts
    assert "\n" not in text and len(text) < 800


@pytest.mark.parametrize(
    "below, words",
    [(2.6, "This is normal."), (0.9, "This is worse"), (3.5, "This is better")],
)
@pytest.mark.parametrize("corpus, other", [("pydoc", "nietzsche"), ("nietzsche", "pydoc")])
def test_a_run_on_a_measured_text_is_compared_with_that_text_alone(below, words, corpus, other):
    (result,) = similar_results("scratch:tiny", 4e5, corpus)
    below += (result.unigram_baseline - result.valid_loss) - 2.6
    loss = 5.6 - below
    run = Evidence([(0, 8.4), (2985, loss)], [(2985, loss)], 5.6, from_scratch=True, epochs=15)
    text = compare_with_measured(run, "scratch:tiny", 4e5, 0.3, corpus)
    assert text.startswith(words) and corpus in text and other not in text


def test_a_loss_above_the_baseline_is_called_so():
    run = Evidence([(0, 6.0), (9, 8.3)], [(9, 0.1)], 5.6, from_scratch=True, epochs=15)
    text = compare_with_measured(run, "scratch:tiny", 1e5, 0.3)
    assert "the loss is 2.7 nats above the unigram baseline" in text


def test_the_answer_is_in_run_json_and_in_the_card(trained):

    verdict = json.loads((trained / "run.json").read_text())["verdict"]
    card = (trained / "model/README.md").read_text()
    assert verdict["text"] in card and verdict["comparison"] in card
