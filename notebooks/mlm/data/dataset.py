"""MaskedLMDataset: the lines or blocks of a text as examples. Taught in 03."""

import numpy as np
import torch
from torch.utils.data import Dataset

from mlm.data.token_ids import encode_lines
from mlm.env.notebook import NotebookError

MAX_UNK_FRACTION = 0.5  # a text with a larger share of [UNK] is refused


# lines


# tokenizer


# ids on disk


# examples


def refuse_unknown(text_file, share):
    """Raise a NotebookError where so large a share of a text's tokens is [UNK]: nothing is learned."""
    if share > MAX_UNK_FRACTION:
        raise NotebookError(
            f"{text_file}: {share:.0%} of its tokens are [UNK], which the vocabulary lacks: put "
            "spaces between the words (one of more than 100 letters is always [UNK]), or pass a "
            'model of this language, or model="scratch:tiny", which learns its words'
        )


def find_ids(ids, wanted):
    """Where in `ids` (tokens,) one of the `wanted` stands, in order; read from disk in pieces."""
    step = 10**7
    cuts = range(0, len(ids), step)
    return np.concatenate([i + np.flatnonzero(np.isin(ids[i : i + step], wanted)) for i in cuts])


def count_words(begins, starts, lengths):
    """How many words each example has a token of, (examples,); `begins` is read from disk in order."""
    edges = np.stack([starts, starts + lengths], 1).ravel()
    begun = np.add.reduceat(begins, edges[edges < len(begins)], dtype=np.int64)[::2]
    return begun + ~begins[starts]  # a block may begin within a word


def cut_documents(ends, room):
    """(starts, lengths) of blocks of up to `room` tokens that fill documents with these ends."""
    ends = np.unique(ends[ends > 0])
    starts = np.concatenate([[0], ends[:-1]])
    counts = -(-(ends - starts) // room)  # blocks of each document
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(starts, counts) + number * room
    return first, np.minimum(np.repeat(ends, counts) - first, room)


class MaskedLMDataset(Dataset):
    """The examples of a text file: `dataset[i]` is a 1-D int64 tensor, [CLS] tokens [SEP].

    examples="line": each non-blank line, truncated to `max_len` tokens, as in the 2020 tutorial.
    examples="block": the lines of a document in a row, cut into blocks of `max_len` tokens (the last
    is shorter); a blank line parts two documents. "stream": all lines of all documents in a row.
    `lengths` (examples,) counts the tokens of each without the two special ones, `known` those of
    them that may be asked about: not [UNK], whose share of the text is `unknown`; `words` counts the
    words that these make. Raises NotebookError where more than half is [UNK].
    """

    def __init__(self, text_file, tokenizer, max_len=128, examples="line"):
        self.ids, ends, self.word_starts = encode_lines(text_file, tokenizer)
        starts, room = np.concatenate([[0], ends[:-1]]), max_len - 2
        if examples == "line":
            starts, ends = starts[ends > starts], ends[ends > starts]
            self.starts, self.lengths = starts, np.minimum(ends - starts, room)
        else:
            parted = ends[ends == starts] if examples == "block" else ends[:0]
            self.starts, self.lengths = cut_documents(np.append(parted, len(self.ids)), room)
        self.tokenizer, self.vocab_size = tokenizer, len(tokenizer)
        self.cls, self.sep = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
        self.num_truncated = len(self.ids) - int(self.lengths.sum())  # tokens beyond max_len
        self.special = tokenizer.all_special_ids
        never = find_ids(self.ids, self.special)  # only [UNK]: a text has no other
        first, last = np.searchsorted(never, [self.starts, self.starts + self.lengths])
        self.maskable, self.unk_fraction = self.lengths - (last - first), len(never) / len(self.ids)
        refuse_unknown(text_file, self.unk_fraction)
        self.word_counts = count_words(self.word_starts, self.starts, self.lengths) - (
            self.lengths - self.maskable
        )

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        tokens = self.ids[self.starts[index] : self.starts[index] + self.lengths[index]]
        return torch.from_numpy(np.concatenate([self.cls, tokens, self.sep]))
