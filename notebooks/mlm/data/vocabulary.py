"""Words that the vocabulary of a pretrained model breaks, and a token of their own for the most telling."""

import copy
import json
from collections import Counter

import numpy as np
import pandas as pd
import torch
from tokenizers import AddedToken

from mlm.data.token_ids import MAX_WORD_TOKENS, encode_lines
from mlm.env.notebook import NotebookError

STEP = 10**6  # tokens that are read from disk at once


def split_words(text_file, tokenizer):
    """The words of a text that its tokenizer breaks into pieces: a DataFrame, a row a word.

    `times` it stands in the text, its `pieces`, and the tokens that are `saved` if it becomes one, most
    first. Only words of letters: no numbers, no words that hold [UNK].
    """
    ids, _, begins = encode_lines(text_file, tokenizer)
    times = Counter()
    for first in range(0, len(ids), STEP):
        edges = first + np.flatnonzero(begins[first : first + STEP + MAX_WORD_TOKENS])
        starts = edges[edges < first + STEP]
        stops = np.append(edges[1:], len(ids))[: len(starts)]
        broken = stops - starts > 1
        times.update(ids[a:b].tobytes() for a, b in zip(starts[broken], stops[broken]))
    pieces = [np.frombuffer(those, np.int32) for those in times]
    found = pd.DataFrame(
        {"times": times.values()}, pd.Index(map(tokenizer.decode, pieces), name="word")
    )
    found.index = found.index.str.strip()
    found["pieces"] = [" ".join(tokenizer.convert_ids_to_tokens(those)) for those in pieces]
    found["saved"] = found["times"] * [len(those) - 1 for those in pieces]
    found = found[found.index.str.isalpha()].sort_index()
    return found.sort_values("saved", ascending=False, kind="stable")


def add_frequent_words(tokenizer, text_file, number, model):
    """A tokenizer that has, besides, a token for each of the `number` words that save the most tokens.

    Raises NotebookError where `model` learns its vocabulary from the text or has no WordPieces, or fewer
    words are broken.
    """
    if not number:
        return tokenizer
    if model.startswith("scratch:"):
        raise NotebookError(
            f"add_words={number}: {model!r} learns its vocabulary from the text, whose frequent words "
            "are in it; pass add_words=0, or a pretrained model"
        )
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"]
    if kind != "WordPiece":  # elsewhere the space before a word is a part of its first piece
        raise NotebookError(
            f"add_words={number}: the tokenizer of {model!r} is a {kind}, and only WordPiece, as BERT's, "
            "can be given own words here; pass add_words=0"
        )
    words = split_words(text_file, tokenizer).index[:number]
    if len(words) < number:
        raise NotebookError(
            f"add_words={number}: the vocabulary of {model!r} breaks only {len(words)} words of the "
            "text; pass no more than that"
        )
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    return larger


@torch.no_grad()
def init_added_embeddings(bert, tokenizer, larger):
    """Resize a masked LM for the tokens that `larger` has more: each begins as its pieces' mean.

    That is the usual start (Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html), for
    embedding, decoder and bias; decoder and embedding stay one where they are.
    """
    added = range(len(tokenizer), len(larger))
    if not added:
        return
    bert.resize_token_embeddings(max(len(larger), bert.config.vocab_size), mean_resizing=False)
    decoder = bert.get_output_embeddings()
    parts = [bert.get_input_embeddings().weight, decoder.weight, decoder.bias]
    for new in added:
        pieces = tokenizer(larger.convert_ids_to_tokens(new), add_special_tokens=False)["input_ids"]
        for part in (part for part in parts if part is not None):  # not all decoders have a bias
            part[new] = part[pieces].mean(0)
