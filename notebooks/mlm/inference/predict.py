"""What a run left: found, loaded so that nothing is lost unseen, asked for words, asked for scores."""

import torch

from mlm.env.notebook import NotebookError
from mlm.models.encoders import head_logits, hidden_states, max_positions

# the run


# loading


# words


def with_mask(tokenizer, sentence):
    """A sentence with the tokenizer's own mask for [MASK]; the space before a word is part of it."""
    mask = tokenizer.mask_token
    return sentence.replace(" [MASK]", mask).replace("[MASK]", mask)


def encode(bert, tokenizer, sentence):
    """A batch of one sentence; raises NotebookError where it is longer than the model's positions."""
    batch = tokenizer(with_mask(tokenizer, sentence), return_tensors="pt")
    tokens, room = batch["input_ids"].shape[1], max_positions(bert.config)
    if tokens > room:
        raise NotebookError(
            f"the sentence has {tokens} tokens, [CLS] and [SEP] included, and this model takes {room}: "
            "shorten it, or cut it in two"
        )
    return batch


@torch.no_grad()
def predict_masked(bert, tokenizer, sentence, top_k):
    """The guesses for each [MASK]: a list of lists of (token, probability), the likeliest first."""
    batch = encode(bert, tokenizer, sentence)
    masks = batch["input_ids"] == tokenizer.mask_token_id  # (1, T)
    probabilities = bert(**batch).logits[masks].softmax(-1)  # (masks, V)
    likeliest, ids = probabilities.topk(min(top_k, len(tokenizer)))
    return [
        list(zip(tokenizer.convert_ids_to_tokens(row), p))
        for row, p in zip(ids.tolist(), likeliest.tolist())
    ]


def pipeline_guesses(fill_mask, sentence, top_k):
    """What transformers' pipeline "fill-mask" answers, in the form of `predict_masked`."""
    sentence = with_mask(fill_mask.tokenizer, sentence)
    answers = fill_mask(sentence, top_k=min(top_k, len(fill_mask.tokenizer)))
    if isinstance(answers[0], dict):  # one mask: a list of guesses, not a list of lists
        answers = [answers]
    name = fill_mask.tokenizer.convert_ids_to_tokens
    return [[(name(guess["token"]), guess["score"]) for guess in row] for row in answers]


def same_guesses(ours, theirs):
    """Whether two lists of guesses have the same tokens and, but for rounding, probabilities."""

    def split(guesses):
        tokens = [[token for token, _ in row] for row in guesses]
        return tokens, torch.tensor([[p for _, p in row] for row in guesses])

    (tokens, p), (their_tokens, their_p) = split(ours), split(theirs)
    return tokens == their_tokens and torch.allclose(p, their_p, atol=1e-6)


# scores


@torch.no_grad()
def surprisals(bert, tokenizer, sentence):
    """(tokens, -log probability of each given all others), in nats."""
    ids, nats = encode(bert, tokenizer, sentence)["input_ids"], []  # (1, T)
    inside = torch.arange(1, ids.shape[1] - 1)  # without [CLS] and [SEP]
    for places in inside.split(64):  # P at a time, or a long sentence would fill the memory
        rows = torch.arange(len(places))
        copies = ids.repeat(len(places), 1)  # (P, T)
        copies[rows, places] = tokenizer.mask_token_id
        hidden = hidden_states(bert, copies)[rows, places]  # (P, H)
        nats.append(-head_logits(bert, hidden).log_softmax(-1)[rows, ids[0, places]])
    return tokenizer.convert_ids_to_tokens(ids[0, 1:-1]), torch.cat(nats)


def pseudo_perplexity(bert, tokenizer, sentence):
    """Among how many equally likely words the model hesitates, on average over the tokens."""
    return float(surprisals(bert, tokenizer, sentence)[1].mean().exp())
