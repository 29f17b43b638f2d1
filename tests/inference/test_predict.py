"""Predictions for masked words equal those of the pipeline; scores of sentences follow their definition."""

import math

import pandas as pd
import pytest
import torch
from nbformat import read
from transformers import BertConfig, BertForMaskedLM, pipeline

from helpers import ROOT, refused
from mlm.inference.predict import (
    encode,
    pipeline_predictions,
    predict_masked,
    pseudo_perplexity,
    same_predictions,
    surprisals,
)

SENTENCE = "The [MASK] to power is not a [MASK]."

# fill in masked words


@pytest.mark.parametrize("notebook", ["05_predict", "07_use"])
def test_prices_in_a_table_of_texts_are_no_formula(notebook):
    """Jupyter would show "$5 and $6" as a formula."""
    cells = read(ROOT / "notebooks" / f"{notebook}.ipynb", 4).cells
    lines = [line for cell in cells for line in cell.source.splitlines() if "set_option" in line]
    with pd.option_context("display.max_colwidth", 50, "display.html.use_mathjax", True):
        exec("\n".join(lines), {"pd": pd})
        assert "tex2jax_ignore" in pd.DataFrame({"text": ["$5 and $6"]}).to_html()


def test_the_probabilities_of_all_tokens_add_up_to_1(model, word_tokenizer):
    predictions = predict_masked(model, word_tokenizer, SENTENCE, len(word_tokenizer))
    assert len(predictions) == 2
    for row in predictions:
        tokens, probabilities = zip(*row)
        assert sorted(tokens) == sorted(word_tokenizer.get_vocab())
        assert math.isclose(sum(probabilities), 1, abs_tol=1e-5)
        assert list(probabilities) == sorted(probabilities, reverse=True)


def test_the_top_3_are_the_first_of_all_predictions(model, word_tokenizer):
    top_3, all_tokens = (predict_masked(model, word_tokenizer, SENTENCE, k) for k in (3, 10**6))
    assert top_3 == [row[:3] for row in all_tokens] and len(all_tokens[0]) == len(word_tokenizer)


@pytest.mark.parametrize("sentence", [SENTENCE, "The [MASK].", "[MASK] [MASK] [MASK]"])
@pytest.mark.parametrize("top_k", [1, 5, 10**6])
def test_the_pipeline_predicts_the_same(finished_run, model, word_tokenizer, sentence, top_k):
    fill_mask = pipeline("fill-mask", model=str(finished_run / "model"), device="cpu")
    ours = predict_masked(model, word_tokenizer, sentence, top_k)
    theirs = pipeline_predictions(fill_mask, sentence, top_k)
    assert len(ours) == sentence.count("[MASK]") and same_predictions(ours, theirs)


def test_an_id_without_a_token_may_be_predicted(word_tokenizer):
    """Models may have more embeddings than their tokenizer has tokens; the others have no name."""
    size = len(word_tokenizer) + 3
    config = BertConfig(
        vocab_size=size, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )  # fmt: skip
    larger = BertForMaskedLM(config).eval()
    with torch.no_grad():
        larger.cls.predictions.bias[size - 1] = 100
    fill_mask = pipeline("fill-mask", model=larger, tokenizer=word_tokenizer, device="cpu")
    ours = predict_masked(larger, word_tokenizer, SENTENCE, 2)
    assert [row[0][0] for row in ours] == [f"id {size - 1}"] * 2
    assert same_predictions(ours, pipeline_predictions(fill_mask, SENTENCE, 2))


def test_different_tokens_or_probabilities_are_not_the_same():
    ours = [[("good", 0.5), ("evil", 0.25)]]
    assert same_predictions(ours, [[("good", 0.5), ("evil", 0.25 + 1e-8)]])
    assert not same_predictions(ours, [[("evil", 0.5), ("good", 0.25)]])
    assert not same_predictions(ours, [[("good", 0.5), ("evil", 0.26)]])
    assert not same_predictions(ours, ours * 2)


def through_pipeline(model, tokenizer, sentence):
    fill_mask = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")
    return pipeline_predictions(fill_mask, sentence, 3)


@pytest.mark.fault
@pytest.mark.parametrize(
    "function", [encode, lambda *a: predict_masked(*a, 3), surprisals, through_pipeline]
)
def test_a_sentence_longer_than_the_model_allows_is_refused(model, word_tokenizer, function):
    function(model, word_tokenizer, "the " * 21 + "[MASK]")
    with refused("the sentence has 25 tokens", "takes at most 24", "split it in two"):
        function(model, word_tokenizer, "the " * 22 + "[MASK]")


# score sentences


@pytest.mark.parametrize(
    "sentence", ["the will to power is not a name", "good.", "The [MASK] of power, unbeknownst!"]
)
def test_a_surprisal_masks_one_token_at_a_time(model, word_tokenizer, sentence):
    tokens, nats = surprisals(model, word_tokenizer, sentence)
    ids = word_tokenizer(sentence, return_tensors="pt")["input_ids"]
    assert tokens == word_tokenizer.convert_ids_to_tokens(ids[0])[1:-1]
    assert len(nats) == len(tokens)
    for position, surprisal in enumerate(nats, 1):
        masked = ids.clone()
        masked[0, position] = word_tokenizer.mask_token_id
        with torch.no_grad():
            log_p = model(masked).logits[0, position].log_softmax(-1)
        torch.testing.assert_close(surprisal, -log_p[ids[0, position]], atol=1e-4, rtol=0)


def test_at_most_64_copies_of_a_long_sentence_are_in_memory(model, word_tokenizer):
    config = BertConfig(**{**model.config.to_dict(), "max_position_embeddings": 512})
    torch.manual_seed(0)
    long_model, shapes = BertForMaskedLM(config).eval(), []
    long_model.bert.register_forward_pre_hook(
        lambda _, given, named: shapes.append([*given, *named.values()][0].shape), with_kwargs=True
    )
    tokens, nats = surprisals(long_model, word_tokenizer, "good " * 510)
    assert len(tokens) == len(nats) == 510
    assert shapes[1:] == [(64, 512)] * 7 + [(62, 512)]  # the first: whether 512 tokens fit


def test_a_surprisal_is_minus_the_log_of_the_predicted_probability(model, word_tokenizer):
    tokens, nats = surprisals(model, word_tokenizer, "the will to power")
    predictions = predict_masked(
        model, word_tokenizer, "the [MASK] to power", top_k=len(word_tokenizer)
    )
    p = dict(predictions[0])["will"]
    assert math.isclose(math.exp(-nats[tokens.index("will")]), p, rel_tol=1e-4)


def test_a_model_that_finds_all_tokens_equally_likely_has_the_perplexity_of_the_vocabulary(
    text, word_tokenizer
):
    config = BertConfig(vocab_size=len(word_tokenizer), hidden_size=12, num_hidden_layers=1)
    uniform_model = BertForMaskedLM(config).eval()
    for weight in uniform_model.parameters():
        torch.nn.init.zeros_(weight)
    perplexity = pseudo_perplexity(uniform_model, word_tokenizer, text)
    assert math.isclose(perplexity, len(word_tokenizer), rel_tol=1e-4)
