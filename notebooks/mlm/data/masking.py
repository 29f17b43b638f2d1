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
    up or down at random keeps the mean exact. No example gets more than the product rounded up, so the
    fraction of targets varies little from batch to batch. The result depends only on seed, epoch and
    index, so it is known before training. For whole-word masking, lengths and the result count words.
    """
    random = uniform(seed, epoch, indices, Purpose.NUM_MASKED)
    return np.floor(mlm_probability * lengths + random).astype(np.int64)


def choose_tokens(draws: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """True for the tokens of the words with the smallest numbers in each row, (B, T) bool.

    draws (B, T): a random number for each word, which its tokens share; 2.0 for special tokens.
    counts (B,): how many words of each row are chosen.
    """
    sorted_draws = np.sort(draws, axis=1)
    is_new = np.diff(sorted_draws, prepend=-1.0) != 0  # equal numbers have equal ranks
    rank = is_new.cumsum(axis=1)
    is_small = rank <= np.asarray(counts)[:, None]
    largest_chosen = np.where(is_small, sorted_draws, -1.0).max(axis=1, keepdims=True)
    return draws <= largest_chosen


def draw_replacements(
    original_ids: np.ndarray,
    token_key: tuple,
    mask_token_id: int,
    vocab: np.ndarray,
    replace: str = "80/10/10",
) -> np.ndarray:
    """What the model reads at masked tokens, (N,): [MASK], a random token of vocab, or the token itself.

    original_ids (N,): the masked tokens. token_key: seed, epoch, example and position of each.
    vocab (ids,): all token ids in use. replace: the percentages of the three cases.
    """
    to_mask, to_random, _ = np.cumsum([int(percent) for percent in replace.split("/")]) / 100
    draws = uniform(*token_key, Purpose.REPLACEMENT)
    random_ids = vocab[(uniform(*token_key, Purpose.RANDOM_TOKEN) * len(vocab)).astype(np.int64)]
    replacements = np.where(draws < to_random, random_ids, original_ids)
    return np.where(draws < to_mask, mask_token_id, replacements)


def mask_tokens(
    input_ids: np.ndarray,
    special_ids: list[int],
    counts: np.ndarray,
    seed: int,
    epoch: int,
    indices: np.ndarray,
    mask_token_id: int,
    vocab: np.ndarray,
    word_ids: np.ndarray | None = None,
    replace: str = "80/10/10",
) -> tuple[np.ndarray, np.ndarray]:
    """Mask tokens as BERT does (Devlin et al. 2018, arXiv:1810.04805, appendix A.1).

    input_ids (B, T): rows [CLS] tokens [SEP] padding. special_ids are never masked: [CLS], [SEP],
    [PAD] and also [UNK], which may be any word. counts, indices (B,): how many tokens of each
    example are masked, and the examples' indices. With word_ids (B, T), the index of each token's
    word, counts are words, and a chosen word is masked as a whole (whole-word masking, Devlin 2019).
    Returns the masked input_ids and the labels, both (B, T); labels are -100 where nothing is predicted.
    """
    if word_ids is None:
        word_ids = np.arange(input_ids.shape[1])  # every token is a word
    indices = np.asarray(indices)[:, None]
    draws = uniform(seed, epoch, indices, word_ids, Purpose.CHOICE)
    draws = np.where(np.isin(input_ids, special_ids), 2.0, draws)  # never chosen

    row, column = np.nonzero(choose_tokens(draws, counts))
    original_ids, token_key = input_ids[row, column], (seed, epoch, indices[row, 0], column)
    masked_ids, labels = input_ids.copy(), np.full_like(input_ids, -100)
    masked_ids[row, column] = draw_replacements(
        original_ids, token_key, mask_token_id, vocab, replace
    )
    labels[row, column] = original_ids
    return masked_ids, labels
