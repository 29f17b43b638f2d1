"""Frequent words that a pretrained vocabulary splits into pieces, added as tokens of their own."""

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mlm.data.normalization import is_word
from mlm.data.tokenizer import read_lines
from mlm.data.word_counts import count_words
from mlm.env.notebook import NotebookError

KINDS_WITH_WORDS = "WordPiece", "BPE", "Unigram"  # that can get new words


def find_split_words(text_file: Path, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """The words of a text that the tokenizer splits into several tokens, one row per word.

    Columns: `count`, the number of occurrences; `tokens`, the tokens of the word after a space; `saved`,
    the number of tokens that the text is shorter by if the word becomes one token. Sorted by `saved`, the
    largest first. Words are as normalized by the tokenizer. Only words of letters (with their accents,
    vowel signs and joiners) count: no numbers, no words with [UNK], and no words that are a token already
    (without the space before them, in BPE).
    """
    normalizer = tokenizer.backend_tokenizer.normalizer or normalizers.Sequence([])
    counts = count_words(read_lines(text_file), normalizer, pre_tokenizers.BertPreTokenizer())
    vocabulary = tokenizer.get_vocab()
    words = sorted(filter(is_word, counts))
    texts = [f" {word}" for word in words]  # a tokenizer refuses an empty list
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if words else []
    rows = [
        (word, counts[word], " ".join(tokenizer.convert_ids_to_tokens(row)), len(row) - 1)
        for word, row in zip(words, ids)
        if len(row) > 1 and tokenizer.unk_token_id not in row and word not in vocabulary
    ]
    found = pd.DataFrame(rows, columns=["word", "count", "tokens", "saved"]).set_index("word")
    found["saved"] *= found["count"]
    return found.sort_values("saved", ascending=False, kind="stable")


def check_can_get_words(tokenizer: PreTrainedTokenizerBase, number: int, model: str) -> None:
    """Raise NotebookError if a tokenizer cannot get new words."""
    problem = None
    if not tokenizer.is_fast:
        problem = f"its tokenizer, {type(tokenizer).__name__}, has no fast version (tokenizer.json)"
    else:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        kind = content["model"]["type"]
        if kind not in KINDS_WITH_WORDS:
            problem = f"its tokenizer is of the kind {kind}, not {', '.join(KINDS_WITH_WORDS)}"
        elif any(step.get("add_prefix_space") for step in steps_of(content["pre_tokenizer"])):
            problem = "its tokenizer puts a space before each part of a text (add_prefix_space)"
        elif unused := max(tokenizer.get_vocab().values()) + 1 - len(tokenizer):
            # The tokenizers library numbers new tokens from the number of tokens on.
            problem = f"{unused} id(s) of its vocabulary are unused, so a new word would get another token's id"
    if problem:
        raise NotebookError(
            f"add_words must be 0 with model={model!r}, got {number}: {problem}; pass add_words=0"
        )


def steps_of(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer, as tokenizer.json has them; spaces are a step of their own kind."""
    if not pre_tokenizer:
        return []
    steps: list[dict[str, Any]] = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return steps


def with_space_before_words(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """A copy of a BPE or Unigram tokenizer in which an added word does not change the tokens after it.

    Its ids are the same. A SentencePiece tokenizer puts a space before each part of a text that an
    added word separates; in the copy, only before the whole text. All of it is in tokenizer.json.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = steps_of(content["pre_tokenizer"])
    for step in steps:
        if step["type"] == "Metaspace" and step["prepend_scheme"] == "always":
            step["prepend_scheme"] = "first"
    backend = Tokenizer.from_str(json.dumps(content))
    if [step["type"] for step in steps] == ["WhitespaceSplit", "Metaspace"]:
        one_space = normalizers.Replace(Regex(r"\s+"), " ")
        before = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([*before, one_space])
        backend.pre_tokenizer = backend.pre_tokenizer[1]
    tokens, roles = tokenizer.added_tokens_decoder, tokenizer.special_tokens_map
    own = {role: token for role, token in roles.items() if isinstance(token, str)}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{role: tokens[tokenizer.convert_tokens_to_ids(token)] for role, token in own.items()},
        extra_special_tokens=tokenizer.extra_special_tokens,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        clean_up_tokenization_spaces=False,
    )


def add_frequent_words(
    tokenizer: PreTrainedTokenizerBase, text_file: Path, number: int, model: str
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with a token for each of the `number` words that save the most tokens.

    With 0, the tokenizer itself. Raises NotebookError if `model` is trained from scratch, if
    the tokenizer cannot get words, or if it splits fewer words.
    """
    if not number:
        return tokenizer
    if model.startswith("scratch:"):
        raise NotebookError(
            f"add_words must be 0 with model={model!r}, got {number}: a vocabulary that is learned from "
            "the text (parameter vocabulary) contains the frequent words; pass add_words=0 or a pretrained model"
        )
    check_can_get_words(tokenizer, number, model)
    words = find_split_words(text_file, tokenizer).index[:number]
    if len(words) < number:
        raise NotebookError(
            f"add_words must be at most {len(words)}, got {number}: the vocabulary of {model!r} splits "
            f"only {len(words)} words of the text"
        )
    is_wordpiece = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"] == "WordPiece"
    extended = copy.deepcopy(tokenizer) if is_wordpiece else with_space_before_words(tokenizer)
    # In BPE and Unigram, the token of a word includes the space before it (lstrip).
    options = dict(single_word=True, normalized=True, lstrip=not is_wordpiece)
    extended.add_tokens([AddedToken(word, **options) for word in words])
    extended.name_or_path = tokenizer.name_or_path  # its vocabulary was not learned here
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
        old = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        for part in parts:
            if part is not None:  # some decoders have no bias
                part[new] = part[old].mean(0)
