"""Fill in masked words, score sentences."""

from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from mlm.data.tokenizer import token_names
from mlm.env.notebook import NotebookError
from mlm.inference.mask_token import with_mask
from mlm.models.encoders import head_logits, hidden_states
from mlm.models.probe import longest_input

Predictions = list[list[tuple[str, float]]]  # for each [MASK]: (token, probability), best first

# fill in masked words


def encode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentence: str
) -> BatchEncoding:
    """A batch of one sentence. Raises NotebookError if it is longer than the model allows."""
    batch = tokenizer(with_mask(tokenizer, sentence), return_tensors="pt", verbose=False)
    num_tokens = batch["input_ids"].shape[1]
    max_tokens = longest_input(model, num_tokens)
    if num_tokens > max_tokens:
        raise NotebookError(
            f"the sentence has {num_tokens} tokens with [CLS] and [SEP], but this model takes at most "
            f"{max_tokens}: shorten it, or split it in two"
        )
    return batch


@torch.no_grad()
def predict_masked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentence: str, top_k: int
) -> list[list[tuple[str, float]]]:
    """The `top_k` most likely tokens for each [MASK], as lists of (token, probability)."""
    batch = encode(model, tokenizer, sentence)
    is_mask = batch["input_ids"] == tokenizer.mask_token_id  # (1, T)
    probabilities = model(**batch).logits[is_mask].softmax(-1)  # (masks, V)
    best, ids = probabilities.topk(min(top_k, len(tokenizer)))  # (masks, top_k)
    return [
        list(zip(token_names(tokenizer, row), p)) for row, p in zip(ids.tolist(), best.tolist())
    ]


def pipeline_predictions(fill_mask: Any, sentence: str, top_k: int) -> Predictions:
    """Predictions of the transformers pipeline "fill-mask", in the form of `predict_masked`.

    Raises NotebookError if the sentence is longer than the model allows.
    """
    tokenizer = fill_mask.tokenizer
    encode(fill_mask.model, tokenizer, sentence)
    answers = fill_mask(with_mask(tokenizer, sentence), top_k=min(top_k, len(tokenizer)))
    if isinstance(answers[0], dict):  # one mask: a list of dicts, not a list of lists
        answers = [answers]
    return [
        list(zip(token_names(tokenizer, (a["token"] for a in row)), (a["score"] for a in row)))
        for row in answers
    ]


def same_predictions(ours: Predictions, theirs: Predictions) -> bool:
    """Whether both have the same tokens in the same order, and probabilities equal up to rounding."""

    def split(predictions: Predictions) -> tuple[list[list[str]], torch.Tensor]:
        tokens = [[token for token, _ in row] for row in predictions]
        return tokens, torch.tensor([[p for _, p in row] for row in predictions])

    (tokens, p), (their_tokens, their_p) = split(ours), split(theirs)
    return tokens == their_tokens and torch.allclose(p, their_p, atol=1e-6)


# score sentences


@torch.no_grad()
def surprisals(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentence: str
) -> tuple[list[str], torch.Tensor]:
    """The tokens of a sentence, and -log p(token | all other tokens) of each, in nats (T - 2,)."""
    ids = encode(model, tokenizer, sentence)["input_ids"]  # (1, T)
    inner = torch.arange(1, ids.shape[1] - 1)  # without [CLS] and [SEP]
    nats = []
    for positions in inner.split(64):  # P copies at a time: all T at once could exceed the memory
        rows = torch.arange(len(positions))
        copies = ids.repeat(len(positions), 1)  # (P, T)
        copies[rows, positions] = tokenizer.mask_token_id  # one mask in each copy
        hidden = hidden_states(model, copies)[rows, positions]  # (P, H)
        log_p = head_logits(model, hidden).log_softmax(-1)  # (P, V)
        nats.append(-log_p[rows, ids[0, positions]])
    return tokenizer.convert_ids_to_tokens(ids[0, 1:-1]), torch.cat(nats)


def pseudo_perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentence: str
) -> float:
    """exp of the mean surprisal of a sentence's tokens (Salazar et al. 2020, arXiv:1910.14659)."""
    return float(surprisals(model, tokenizer, sentence)[1].mean().exp())
