"""MaskedLMDataset: the lines or blocks of a text as examples. Taught in 03."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from mlm.data.epoch_examples import EpochExamples, example_sources, source_weights
from mlm.data.token_ids import encode_lines
from mlm.data.tokenization import provides_words
from mlm.data.unknown_text import check_unk_fraction, find_unk_fraction
from mlm.env.notebook import NotebookError

READ_STEP = 10**7  # tokens read from disk at once


# Ways to make examples of a text. Each function takes the end of each unit that was tokenized (units,),
# counted in tokens, and the maximum length of an example. A unit may have no tokens. It returns the first token of each example
# and its length, both (examples,).


def cut_off(ends: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Each unit is an example; the rest of a long one is cut off, as in the 2020 tutorial."""
    starts = np.concatenate([[0], ends[:-1]])
    has_tokens = ends > starts
    starts, ends = starts[has_tokens], ends[has_tokens]
    return starts, np.minimum(ends - starts, max_tokens)


def cut_into_blocks(ends: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Each unit is cut into blocks of max_tokens; its last block is shorter."""
    starts = np.concatenate([[0], ends[:-1]])
    num_blocks = -(-(ends - starts) // max_tokens)  # of each unit
    blocks_before = np.cumsum(num_blocks) - num_blocks
    block_in_unit = np.arange(num_blocks.sum()) - np.repeat(blocks_before, num_blocks)
    block_starts = np.repeat(starts, num_blocks) + block_in_unit * max_tokens
    return block_starts, np.minimum(np.repeat(ends, num_blocks) - block_starts, max_tokens)


EXAMPLES: dict[str, tuple[str, Callable]] = {
    # value of the parameter `examples`: the unit that is tokenized (`encode_lines`), and its examples
    "line": ("line", cut_off),
    "block": ("document", cut_into_blocks),
    "stream": ("text", cut_into_blocks),
}


def find_ids(ids: np.ndarray, wanted: list[int]) -> np.ndarray:
    """The positions in `ids` (tokens,) of all `wanted` ids, ascending; read from disk in pieces."""
    found = [
        start + np.flatnonzero(np.isin(ids[start : start + READ_STEP], wanted))
        for start in range(0, len(ids), READ_STEP)
    ]
    return np.concatenate(found)


def count_words(word_starts: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The number of words in each example, (examples,), including those that it has a part of."""
    edges = np.stack([starts, starts + lengths], axis=1).ravel()  # start, end, start, end, ...
    sums = np.add.reduceat(word_starts, edges[edges < len(word_starts)], dtype=np.int64)
    started = sums[::2]  # the sums in between are those between two examples
    return started + ~word_starts[starts]  # a block may start inside a word


def special_ids_around(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The special tokens that a tokenizer puts before and after a text: [CLS] and [SEP] in BERT.

    Raises NotebookError if it does not put exactly one before and one after.
    """
    options = dict(truncation=False, padding=False, verbose=False)
    text_ids = tokenizer("a", add_special_tokens=False, **options)["input_ids"]
    ids = tokenizer("a", **options)["input_ids"]
    if len(ids) < 2 or ids[1:-1] != text_ids:
        raise NotebookError(
            f"the tokenizer ({type(tokenizer).__name__}) must put one special token before a text and one "
            f"after it, as BERT does, got {tokenizer.convert_ids_to_tokens(ids)} for the text 'a': set "
            "its post_processor (tokenizers.processors.TemplateProcessing) and save it again"
        )
    return ids[0], ids[-1]


class MaskedLMDataset(Dataset):
    """The examples of a text file: `dataset[i]` is a 1-D int64 tensor, [CLS] tokens [SEP].

    examples="line": each line, truncated to max_len tokens. "block": the lines of each document, joined
    by a space and cut into blocks of max_len tokens. "stream": the whole text, cut into blocks. max_len
    includes [CLS] and [SEP].

    ids (tokens,), word_starts (tokens,): the text's token ids, and whether a word starts at each; own_ids:
    the ids without a text that is replayed;
    starts, lengths (examples,): the first token of each example and its length without special tokens;
    maskable, word_counts (examples,): tokens that may be masked (all but [UNK] and additional special
    tokens), and words of these, or None if the tokenizer does not provide words;
    epochs: the examples of each epoch; all of them, unless `mixture` from corpus.json gives weights, with
    which an example may be in the dataset several times;
    used_ids (ids,): the ids that have a token, ascending; vocab_size: the largest of them plus 1;
    unk_fraction: fraction of the text's characters (without spaces) that are in [UNK]; num_truncated:
    tokens beyond max_len, left out.
    """

    def __init__(
        self,
        text_file: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        max_len: int = 128,
        examples: str = "line",
        mixture: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.used_ids = np.unique([*tokenizer.get_vocab().values()])
        self.vocab_size = int(self.used_ids[-1]) + 1
        self.cls_id, self.sep_id = special_ids_around(tokenizer)
        self.special_ids = tokenizer.all_special_ids

        unit, make_examples = EXAMPLES[examples]
        self.ids, ends, self.word_starts = encode_lines(text_file, tokenizer, unit)
        self.starts, self.lengths = make_examples(ends, max_len - 2)  # [CLS] and [SEP]
        self.num_truncated = len(self.ids) - int(self.lengths.sum())

        special_positions = find_ids(self.ids, self.special_ids)  # [UNK] and additional ones
        has_unk = (self.ids[special_positions] == tokenizer.unk_token_id).any()
        self.unk_fraction = find_unk_fraction(text_file, tokenizer) if has_unk else 0.0
        learned = not tokenizer.name_or_path  # a loaded tokenizer has the name of its model
        check_unk_fraction(text_file, self.unk_fraction, learned)
        first, last = np.searchsorted(special_positions, [self.starts, self.starts + self.lengths])
        num_special = last - first
        self.maskable = self.lengths - num_special
        self.word_counts = None
        if provides_words(tokenizer):
            num_words = count_words(self.word_starts, self.starts, self.lengths)
            self.word_counts = num_words - num_special  # each special token is a word

        sources, weights = np.zeros(len(self.starts), np.int64), [1.0]
        self.own_ids = self.ids
        if mixture:
            sources = example_sources(mixture, unit, ends, self.starts)
            weights = source_weights(mixture, sources)
            num_own_units = sum(text[f"{unit}s"] for text in mixture if "fraction" not in text)
            self.own_ids = self.ids[: ends[num_own_units - 1]]
        self.epochs = EpochExamples(sources, weights)
        for name in ("starts", "lengths", "maskable", "word_counts"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name)[self.epochs.examples])

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def examples_per_epoch(self) -> int:
        """The number of examples that an epoch has; not len(self) if corpora are mixed by weight."""
        return len(self.epochs)

    def __getitem__(self, index: int) -> torch.Tensor:
        tokens = self.ids[self.starts[index] : self.starts[index] + self.lengths[index]]
        return torch.from_numpy(np.concatenate([[self.cls_id], tokens, [self.sep_id]]))
