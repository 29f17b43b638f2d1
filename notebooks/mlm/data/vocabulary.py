"""Frequent words that a pretrained vocabulary splits into pieces, added as tokens of their own."""

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.data.encoding import MAX_WORD_TOKENS
from mlm.data.token_ids import encode_lines
from mlm.env.notebook import NotebookError

CHUNK = 10**6  # tokens that are read from disk at once


def find_split_words(text_file: Path, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """The words of a text that the tokenizer splits into several tokens, one row per word.

    Columns: `count`, the number of occurrences; `tokens`, the tokens of the word; `saved`, the number of
    tokens that the text is shorter by if the word becomes one token. Sorted by `saved`, the largest
    first. Only words of letters count: no numbers, no words with [UNK].
    """
    ids, _, word_starts = encode_lines(text_file, tokenizer)
    counts = Counter[bytes]()  # bytes of a word's ids: the number of its occurrences
    for first in range(0, len(ids), CHUNK):
        edges = first + np.flatnonzero(word_starts[first : first + CHUNK + MAX_WORD_TOKENS])
        starts = edges[edges < first + CHUNK]
        stops = np.append(edges[1:], len(ids))[: len(starts)]
        is_split = stops - starts > 1
        counts.update(ids[a:b].tobytes() for a, b in zip(starts[is_split], stops[is_split]))
    words = [np.frombuffer(word, np.int32) for word in counts]
    found = pd.DataFrame(
        {"count": counts.values()}, pd.Index(map(tokenizer.decode, words), name="word")
    )
    found.index = found.index.str.strip()
    found["tokens"] = [" ".join(tokenizer.convert_ids_to_tokens(word)) for word in words]
    found["saved"] = found["count"] * [len(word) - 1 for word in words]
    found = found[found.index.str.isalpha()].sort_index()
    return found.sort_values("saved", ascending=False, kind="stable")


def add_frequent_words(
    tokenizer: PreTrainedTokenizerBase, text_file: Path, number: int, model: str
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with a token for each of the `number` words that save the most tokens.

    With 0, the tokenizer itself. Raises NotebookError if `model` learns its vocabulary from the text, if
    the tokenizer is not WordPiece, or if it splits fewer words.
    """
    if not number:
        return tokenizer
    if model.startswith("scratch:"):
        raise NotebookError(
            f"add_words must be 0 with model={model!r}, got {number}: its vocabulary is learned from "
            "the text and contains the frequent words; pass add_words=0 or a pretrained model"
        )
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"]
    if kind != "WordPiece":  # in other tokenizers, the first token of a word includes its space
        raise NotebookError(
            f"add_words must be 0 with model={model!r}, got {number}: only WordPiece tokenizers (as in "
            f"BERT) can get new words, and this is a {kind} tokenizer; pass add_words=0"
        )
    words = find_split_words(text_file, tokenizer).index[:number]
    if len(words) < number:
        raise NotebookError(
            f"add_words must be at most {len(words)}, got {number}: the vocabulary of {model!r} splits "
            f"only {len(words)} words of the text"
        )
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    return extended


@torch.no_grad()
def init_added_embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, extended: PreTrainedTokenizerBase
) -> None:
    """Resize a masked LM for the tokens that `extended` has and `tokenizer` has not.

    Each new row of embedding, decoder and decoder bias is the mean of the rows of the tokens that the word had
    before (Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html). Weights that are tied stay
    tied.
    """
    added = range(len(tokenizer), len(extended))
    if not added:
        return
    model.resize_token_embeddings(max(len(extended), model.config.vocab_size), mean_resizing=False)
    decoder = model.get_output_embeddings()
    parts = [model.get_input_embeddings().weight, decoder.weight, decoder.bias]
    for new in added:
        word = extended.convert_ids_to_tokens(new)
        old = tokenizer(word, add_special_tokens=False)["input_ids"]
        for part in parts:
            if part is not None:  # some decoders have no bias
                part[new] = part[old].mean(0)
