"""Masks are filled in step by step: all of them, the most probable first, with tokens of text only."""

import itertools

import pytest
import torch
from nbformat import read

from encoders import CONFIGS, OTHERS, make_model, make_tokenizer
from helpers import ROOT, refused
from mlm.inference.generation import fill_masks, text_tokens, to_line, tokens_per_step
from mlm.inference.predict import encode, predict_masked
from python_tokenizers import MAKERS, lines_for

SENTENCE = "The [MASK] to [MASK] is not a [MASK]."
KINDS = sorted({*CONFIGS, *OTHERS})


@pytest.fixture(scope="module", params=KINDS)
def kind(request, corpus_folder):
    """(model, tokenizer) of each kind."""
    torch.set_num_threads(1)
    tokenizer = make_tokenizer(request.param, corpus_folder / "train.txt")
    return make_model(request.param, tokenizer).eval(), tokenizer


# how many per step


@pytest.mark.parametrize("num_masks, steps", [*itertools.product(range(1, 9), (1, 2, 3, 7, 50))])
def test_steps_share_the_masks_evenly(num_masks, steps):
    counts = tokens_per_step(num_masks, steps)
    assert sum(counts) == num_masks and len(counts) == min(steps, num_masks)
    assert max(counts) - min(counts) <= 1 and min(counts) >= 1


def test_by_default_each_step_fills_in_one():
    assert tokens_per_step(4, None) == [1, 1, 1, 1]


@pytest.mark.fault
@pytest.mark.parametrize("steps", [0, -1, 1.5, "2", True])
def test_a_wrong_number_of_steps_is_refused(model, word_tokenizer, steps):
    with refused("steps must be at least 1", str(steps)):
        fill_masks(model, word_tokenizer, SENTENCE, steps)


@pytest.mark.fault
@pytest.mark.parametrize("sentence", ["", "no mask here", "[mask]", "<mask>"])
def test_a_sentence_without_a_mask_is_refused(model, word_tokenizer, sentence):
    with refused("the sentence has no [MASK]", "put [MASK]"):
        fill_masks(model, word_tokenizer, sentence)


@pytest.mark.fault
def test_a_sentence_that_is_too_long_is_refused(model, word_tokenizer):
    fill_masks(model, word_tokenizer, "[MASK] " * 22)
    with refused("takes at most 24", "shorten it"):
        fill_masks(model, word_tokenizer, "[MASK] " * 23)


@pytest.mark.fault
def test_predictions_that_are_not_finite_are_refused(word_tokenizer):
    broken = make_model("bert", word_tokenizer).eval()
    torch.nn.init.constant_(broken.get_input_embeddings().weight, float("nan"))
    with refused("not finite"):
        fill_masks(broken, word_tokenizer, SENTENCE)


# what is filled in


@pytest.mark.parametrize("steps", [None, 1, 2, 100])
def test_all_masks_are_filled_in_for_every_kind(kind, steps):
    model, tokenizer = kind
    history = fill_masks(model, tokenizer, SENTENCE, steps)
    counts = tokens_per_step(3, steps)
    assert [len(step.tokens) for step in history] == [0, *counts]
    remaining = [step.line.count("[MASK]") for step in history]
    assert remaining == [3 - sum(counts[:done]) for done in range(len(counts) + 1)]
    for step in history:
        probabilities = [p for _, p in step.tokens]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(0 < p <= 1 for p in probabilities)
        assert not {token for token, _ in step.tokens} & {*tokenizer.all_special_tokens}


def test_one_mask_gets_the_plain_prediction(kind):
    model, tokenizer = kind
    sentence = "The [MASK] to power is not a name."
    (predictions,) = predict_masked(model, tokenizer, sentence, top_k=len(tokenizer))
    (_, filled) = fill_masks(model, tokenizer, sentence)
    ((token, p),) = filled.tokens
    expected = next(row for row in predictions if row[0] not in tokenizer.all_special_tokens)
    assert token == expected[0] and p == pytest.approx(expected[1], rel=1e-4)


def test_all_at_once_is_the_independent_prediction(model, word_tokenizer):
    rows = predict_masked(model, word_tokenizer, SENTENCE, top_k=20)
    special = word_tokenizer.all_special_tokens
    best = [next(row for row in predictions if row[0] not in special) for predictions in rows]
    (_, filled) = fill_masks(model, word_tokenizer, SENTENCE, steps=1)
    assert [t for t, _ in filled.tokens] == [t for t, _ in sorted(best, key=lambda row: -row[1])]


def test_each_step_takes_the_most_probable_token_of_its_own_line(model, word_tokenizer):
    """The definition, step by step, with `predict_masked` alone."""
    special = {*word_tokenizer.all_special_tokens}
    for before, after in itertools.pairwise(fill_masks(model, word_tokenizer, SENTENCE)):
        rows = predict_masked(model, word_tokenizer, before.line, len(word_tokenizer))
        best = max(
            (row for row in itertools.chain(*rows) if row[0] not in special), key=lambda row: row[1]
        )
        ((token, p),) = after.tokens
        assert token == best[0] and p == pytest.approx(best[1], rel=1e-4)


def test_special_tokens_and_unused_rows_are_never_filled_in(word_tokenizer):
    """Even if the model prefers them: the bias of its head is raised."""
    wide = make_model("bert", word_tokenizer, vocab_size=len(word_tokenizer) + 8).eval()
    is_text = text_tokens(word_tokenizer, len(word_tokenizer) + 8)
    with torch.no_grad():
        wide.cls.predictions.bias[~is_text] = 10.0
    history = fill_masks(wide, word_tokenizer, "[MASK] [MASK] [MASK]")
    tokens = [token for step in history for token, _ in step.tokens]
    assert len(tokens) == 3 and None not in tokens
    assert not {*tokens} & {*word_tokenizer.all_special_tokens}
    assert is_text.sum() == len(word_tokenizer) - 5


def test_every_step_has_one_shape(model, word_tokenizer):
    """A compiler for fixed shapes compiles once."""
    shapes = set()
    handle = model.register_forward_pre_hook(
        lambda _, args, named: shapes.add(named["input_ids"].shape), with_kwargs=True
    )
    fill_masks(model, word_tokenizer, SENTENCE)
    handle.remove()
    assert len({shape for shape in shapes if shape[1] > 0}) == 1


def test_the_input_is_not_changed(model, word_tokenizer):
    """The same call gives the same result."""
    assert fill_masks(model, word_tokenizer, SENTENCE) == fill_masks(
        model, word_tokenizer, SENTENCE
    )


# the lines


@pytest.mark.parametrize(
    "line, masked",
    [
        ("one two three four five six", "one [MASK] [MASK] [MASK] [MASK] six"),
        ("船长记得小机器", "船[MASK][MASK][MASK][MASK]机器"),
        ("one two", "[MASK] [MASK]"),
    ],
)
def test_words_in_the_middle_are_masked_or_characters_if_there_are_no_spaces(line, masked):
    """In 05. A Chinese line is not one word."""
    cells = read(ROOT / "notebooks" / "05_predict.ipynb", 4).cells
    (source,) = (cell.source for cell in cells if cell.id == "fill-masks")
    function = source[source.index("def mask_middle") : source.index("\n\n\nfor step in")]
    names = {}
    exec(function, names)
    assert names["mask_middle"](line) == masked


def test_a_line_can_be_predicted_again(kind):
    """Its [MASK] are where the model read them, so the line has the same token ids."""
    model, tokenizer = kind
    for sentence in ("the [MASK] of power", "[MASK] [MASK] truth", "to [MASK], and [MASK]"):
        ids = encode(model, tokenizer, sentence)["input_ids"][0]
        line = to_line(tokenizer, ids)
        assert line.count("[MASK]") == sentence.count("[MASK]")
        assert torch.equal(encode(model, tokenizer, line)["input_ids"][0], ids), line


def test_words_are_separated_from_masks(kind):
    model, tokenizer = kind
    line = to_line(
        tokenizer, encode(model, tokenizer, "the [MASK] of [MASK] [MASK]")["input_ids"][0]
    )
    assert line == "the [MASK] of [MASK] [MASK]"


@pytest.mark.parametrize("name", MAKERS)
def test_tokenizers_in_python_work(name, tmp_path):
    tokenizer = MAKERS[name](tmp_path)
    model = make_model("bert", tokenizer, max_position_embeddings=128).eval()
    (line,) = lines_for(name, 1)
    history = fill_masks(model, tokenizer, f"[MASK] {line} [MASK]")
    assert [step.line.count("[MASK]") for step in history] == [2, 1, 0]
