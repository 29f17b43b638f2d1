"""The words of a text that a tokenizer splits into several tokens."""

from pathlib import Path

import pandas as pd
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from mlm.data.normalization import is_word
from mlm.data.tokenizer import read_lines
from mlm.data.word_counts import count_words


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
    ids = tokenizer([f" {word}" for word in words], add_special_tokens=False, verbose=False)
    rows = [
        (word, counts[word], " ".join(tokenizer.convert_ids_to_tokens(row)), len(row) - 1)
        for word, row in zip(words, ids["input_ids"] if words else [])
        if len(row) > 1 and tokenizer.unk_token_id not in row and word not in vocabulary
    ]
    found = pd.DataFrame(rows, columns=["word", "count", "tokens", "saved"]).set_index("word")
    found["saved"] *= found["count"]
    return found.sort_values("saved", ascending=False, kind="stable")
