"""How frequent each token is in a text: the unigram model."""

from typing import Any

import numpy as np

COUNT_TOKENS = 10**7  # token ids that are read from disk at a time


def token_counts(train: Any) -> np.ndarray:
    """How often each token occurs in the text of a MaskedLMDataset, (V,).

    A text that is replayed does not count, nor do tokens beyond max_len, which no example has. Special
    tokens do not either: [UNK] is frequent in some texts, but never a prediction target.
    """
    counts = np.zeros(train.vocab_size, np.int64)
    starts, first = np.unique(train.starts, return_index=True)  # an example may occur several times
    stops = starts + train.lengths[first]
    for start in range(0, len(train.own_ids), COUNT_TOKENS):
        ids = train.own_ids[start : start + COUNT_TOKENS]
        if train.num_truncated:
            position = np.arange(start, start + len(ids))
            ids = ids[position < stops[np.searchsorted(starts, position, side="right") - 1]]
        counts += np.bincount(ids, minlength=train.vocab_size)
    counts[train.special_ids] = 0
    return counts


def log_frequencies(train: Any) -> np.ndarray:
    """The log of each token's relative frequency, (V,). Each count is raised by 1; see `token_counts`."""
    counts = 1 + token_counts(train)
    return np.log(counts / counts.sum())
