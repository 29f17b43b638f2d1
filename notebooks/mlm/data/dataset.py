"""MaskedLMDataset: the lines or blocks of a text as examples. Taught in 03."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from mlm.data.token_ids import encode_lines
from mlm.env.notebook import NotebookError

MAX_UNK_FRACTION = 0.5  # a text with more [UNK] tokens is refused
READ_STEP = 10**7  # tokens read from disk at once


# Ways to make examples of a text. Each function takes the end of each line (lines,), counted in
# tokens, and the maximum length of an example. It returns the first token of each example and its
# length, both (examples,). A blank line has no tokens.


def line_examples(line_ends: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Each line is an example; the rest of a long line is cut off, as in the 2020 tutorial."""
    line_starts = np.concatenate([[0], line_ends[:-1]])
    has_tokens = line_ends > line_starts
    starts, ends = line_starts[has_tokens], line_ends[has_tokens]
    return starts, np.minimum(ends - starts, max_tokens)


def block_examples(line_ends: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Each document is cut into blocks of max_tokens. Blank lines separate documents."""
    is_blank = np.diff(line_ends, prepend=0) == 0
    return cut_documents(np.append(line_ends[is_blank], line_ends[-1]), max_tokens)


def stream_examples(line_ends: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole text is cut into blocks of max_tokens, across documents."""
    return cut_documents(line_ends[-1:], max_tokens)


def cut_documents(ends: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of the blocks of documents with these ends; a document's last block is shorter."""
    ends = np.unique(ends[ends > 0])
    starts = np.concatenate([[0], ends[:-1]])
    num_blocks = -(-(ends - starts) // max_tokens)  # of each document
    blocks_before = np.cumsum(num_blocks) - num_blocks
    block_in_document = np.arange(num_blocks.sum()) - np.repeat(blocks_before, num_blocks)
    block_starts = np.repeat(starts, num_blocks) + block_in_document * max_tokens
    return block_starts, np.minimum(np.repeat(ends, num_blocks) - block_starts, max_tokens)


EXAMPLES = {  # values of the parameter `examples`
    "line": line_examples,
    "block": block_examples,
    "stream": stream_examples,
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


def check_unk_fraction(text_file: str | Path, unk_fraction: float) -> None:
    """Raise NotebookError if the tokenizer knows too little of a text to learn from it."""
    if unk_fraction > MAX_UNK_FRACTION:
        raise NotebookError(
            f"{text_file}: {unk_fraction:.0%} of its tokens are [UNK], not in the vocabulary (at most "
            f"{MAX_UNK_FRACTION:.0%} can be): put spaces between the words (a word of more than 100 "
            "letters is always [UNK]), or pass a model of this language, or "
            'model="scratch:tiny", which learns a vocabulary from the text'
        )


class MaskedLMDataset(Dataset):
    """The examples of a text file: `dataset[i]` is a 1-D int64 tensor, [CLS] tokens [SEP].

    examples="line": each line, truncated to max_len tokens. "block": each document, cut into blocks
    of max_len tokens. "stream": the whole text, cut into blocks. max_len includes [CLS] and [SEP].

    ids (tokens,), word_starts (tokens,): the text's token ids, and whether a word starts at each;
    starts, lengths (examples,): the first token of each example and its length without special tokens;
    maskable, word_counts (examples,): tokens that may be masked (all but [UNK]), and words of these;
    unk_fraction: fraction of [UNK] in the text; num_truncated: tokens beyond max_len, left out.
    """

    def __init__(
        self,
        text_file: str | Path,
        tokenizer: PreTrainedTokenizerFast,
        max_len: int = 128,
        examples: str = "line",
    ) -> None:
        self.tokenizer, self.vocab_size = tokenizer, len(tokenizer)
        self.cls_id, self.sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.special_ids = tokenizer.all_special_ids

        self.ids, line_ends, self.word_starts = encode_lines(text_file, tokenizer)
        make_examples = EXAMPLES[examples]
        self.starts, self.lengths = make_examples(line_ends, max_len - 2)  # [CLS] and [SEP]
        self.num_truncated = len(self.ids) - int(self.lengths.sum())

        unk_positions = find_ids(self.ids, self.special_ids)  # a text has no other special token
        self.unk_fraction = len(unk_positions) / len(self.ids)
        check_unk_fraction(text_file, self.unk_fraction)
        first, last = np.searchsorted(unk_positions, [self.starts, self.starts + self.lengths])
        num_unk = last - first
        self.maskable = self.lengths - num_unk
        self.word_counts = count_words(self.word_starts, self.starts, self.lengths) - num_unk

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> torch.Tensor:
        tokens = self.ids[self.starts[index] : self.starts[index] + self.lengths[index]]
        return torch.from_numpy(np.concatenate([[self.cls_id], tokens, [self.sep_id]]))
