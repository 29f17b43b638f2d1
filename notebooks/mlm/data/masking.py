"""BERT's masks as a pure function of seed, epoch, example and position.

No random generator has a state, so a mask does not depend on the batch, the process or earlier draws.
"""

from typing import Literal

import numpy as np

from mlm.data.dataset import MaskedLMDataset
from mlm.data.random_numbers import Purpose, uniform
from mlm.env.notebook import NotebookError

# value of the parameter `masking`: the attribute of MaskedLMDataset that counts what may be masked
CANDIDATES: dict[str, Literal["maskable", "word_counts"]] = {
    "token": "maskable",
    "word": "word_counts",
}


def candidate_counts(dataset: MaskedLMDataset, masking: str) -> np.ndarray:
    """How many tokens (masking="token") or words ("word") of each example may be masked, (examples,).

    Raises NotebookError if the tokenizer does not provide words.
    """
    counts: np.ndarray | None = getattr(dataset, CANDIDATES[masking])
    if counts is None:
        raise NotebookError(
            f'masking must be "token" with this tokenizer, got {masking!r}: '
            f'{type(dataset.tokenizer).__name__} does not say where words start; pass masking="token"'
        )
    return counts


def max_masked_tokens(
    dataset: MaskedLMDataset, masking: str, indices: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Upper bound for the number of masked tokens of each example in `indices`, (B,).

    counts (B,) are masked tokens, or words. Each word that is not masked keeps at least one token.
    """
    candidates = candidate_counts(dataset, masking)[indices]
    return dataset.maskable[indices] - (candidates - counts)


def masked_counts(
    lengths: np.ndarray, seed: int, epoch: int, indices: np.ndarray, mlm_probability: float
) -> np.ndarray:
    """How many tokens of each example are masked: mlm_probability * lengths, rounded at random.

    lengths (B,): how many tokens of each example may be masked; indices (B,): which examples. Rounding
    up or down at random keeps the mean exact: every token is masked with mlm_probability. No example
    gets more than the product rounded up, so the number of targets hardly varies from batch to batch.
    It depends only on seed, epoch and index, so it is known before training. For whole-word masking,
    lengths and the result count words.
    """
    random = uniform(seed, epoch, indices, Purpose.NUM_MASKED)
    return np.floor(mlm_probability * lengths + random).astype(np.int64)


def mask_tokens(
    input_ids: np.ndarray,
    special_ids: list[int],
    counts: np.ndarray,
    seed: int,
    epoch: int,
    indices: np.ndarray,
    mask_token_id: int,
    vocab_size: int,
    word_ids: np.ndarray | None = None,
    replace: str = "80/10/10",
    used_ids: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mask tokens as BERT does (Devlin et al. 2018, arXiv:1810.04805, appendix A.1).

    input_ids (B, T): rows [CLS] tokens [SEP] padding. special_ids are never masked: [CLS], [SEP],
    [PAD] and also [UNK], which may be any word. counts, indices (B,): how many tokens of each
    example are masked, and the examples' indices. With word_ids (B, T), the index of each token's
    word, counts are words, and a chosen word is masked as a whole (whole-word masking, Devlin 2019).
    replace: percentages of masked tokens that become [MASK], a random token, or stay unchanged.
    used_ids (ids,): the ids in use, if the vocabulary has gaps.
    Returns the masked input_ids and the labels, both (B, T); labels are -100 where nothing is predicted.
    """
    if word_ids is None:
        word_ids = np.arange(input_ids.shape[1])  # every token is a word
    indices, counts = np.asarray(indices)[:, None], np.asarray(counts)[:, None]

    # Draw a number for each word: its tokens share it. Special tokens get a larger one than all words.
    is_special = np.isin(input_ids, special_ids)
    word_draws = np.where(is_special, 2.0, uniform(seed, epoch, indices, word_ids, Purpose.CHOICE))

    # Choose the `counts` words of each row that have the smallest numbers.
    sorted_draws = np.sort(word_draws, axis=1)
    is_new = np.diff(sorted_draws, prepend=-1.0) != 0  # equal draws have equal ranks
    word_rank = is_new.cumsum(axis=1)
    last_chosen = np.where(word_rank <= counts, sorted_draws, -1.0).max(axis=1, keepdims=True)
    row, column = np.nonzero(word_draws <= last_chosen)

    # Draw what replaces each of them. By default: below 0.8 [MASK], from 0.8 to 0.9 a random token.
    to_mask, to_random, _ = np.cumsum([int(percent) for percent in replace.split("/")]) / 100
    key = seed, epoch, indices[row, 0], column
    replacement_draws = uniform(*key, Purpose.REPLACEMENT)
    random_draws = uniform(*key, Purpose.RANDOM_TOKEN)
    if used_ids is None:
        used_ids = np.arange(vocab_size)
    random_ids = used_ids[(random_draws * len(used_ids)).astype(np.int64)]
    original_ids = input_ids[row, column]
    replacements = np.where(replacement_draws < to_random, random_ids, original_ids)
    replacements = np.where(replacement_draws < to_mask, mask_token_id, replacements)

    masked_ids, labels = input_ids.copy(), np.full_like(input_ids, -100)
    masked_ids[row, column], labels[row, column] = replacements, original_ids
    return masked_ids, labels
