"""Masking: how many tokens, which ones, and what replaces them, all with the right probability."""

from types import SimpleNamespace

import numpy as np
import pytest

from mlm.data.masking import candidate_counts, mask_tokens, masked_counts, max_masked_tokens

P = 0.15
NUM_SPECIAL = 5  # [PAD] [UNK] [CLS] [SEP] [MASK] are the first tokens of the vocabulary
CLS, SEP, MASK = 2, 3, 4
VOCAB_SIZE = 1000


# the number of masked tokens


@pytest.mark.parametrize("p", [1e-9, 0.15, 0.3, 1 / 3, 0.999])
def test_the_number_of_masked_tokens_is_the_product_randomly_rounded(p):
    examples = 100_000
    for length in (1, 2, 6, 7, 20, 126):
        lengths = np.full(examples, length)
        counts = masked_counts(lengths, 1, 2, np.arange(examples), p)
        assert counts.dtype == np.int64
        assert set(counts) <= {int(np.floor(p * length)), int(np.ceil(p * length))}
        assert counts.max() <= length
        standard_error = np.sqrt(0.25 / examples)
        assert abs(counts.mean() - p * length) < 5 * standard_error


def test_the_number_is_drawn_again_for_each_epoch_and_seed():
    numbers = np.arange(10_000)
    for seed, epoch in ((1, numbers), (numbers, 1)):
        counts = masked_counts(7, seed, epoch, 3, P)
        assert abs(counts.mean() - P * 7) < 5 * 0.5 / np.sqrt(len(numbers))


def test_the_candidates_are_tokens_or_words():
    data = SimpleNamespace(maskable=np.array([5, 9]), word_counts=np.array([4, 6]))
    assert candidate_counts(data, "token") is data.maskable
    assert candidate_counts(data, "word") is data.word_counts
    with pytest.raises(KeyError, match="sentence"):
        candidate_counts(data, "sentence")


def test_each_word_that_is_not_masked_keeps_a_token():
    """Of 6 words with 9 tokens, 2 masked words have at most 5 tokens."""
    data = SimpleNamespace(maskable=np.array([5, 9]), word_counts=np.array([4, 6]))
    (limit,) = max_masked_tokens(data, "word", np.array([1]), np.array([2]))
    assert limit == 5
    assert max_masked_tokens(data, "token", np.array([1, 0]), np.array([2, 1])).tolist() == [2, 1]


# which tokens, and what replaces them


@pytest.fixture(scope="module")
def masked_batch():
    """30,000 examples before and after masking: (input_ids, masked_ids, labels, is_token)."""
    n, width = 30_000, 24
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, width - 1, n)
    position = np.arange(width)
    is_token = (position >= 1) & (position <= lengths[:, None])
    random_ids = generator.integers(NUM_SPECIAL, VOCAB_SIZE, (n, width))
    input_ids = np.where(is_token, random_ids, 0)
    input_ids[:, 0] = CLS
    input_ids[np.arange(n), lengths + 1] = SEP
    before = input_ids.copy()
    counts = masked_counts(lengths, 4, 0, np.arange(n), P)
    masked_ids, labels = mask(input_ids, counts)
    assert (input_ids == before).all()  # not changed in place
    assert ((labels != -100).sum(1) == counts).all()
    return input_ids, masked_ids, labels, is_token


def mask(input_ids, counts, **options):
    """These rows after masking `counts` tokens of each, with fixed seed and epoch."""
    return mask_tokens(
        input_ids,
        special_ids=range(NUM_SPECIAL),
        counts=counts,
        seed=4,
        epoch=0,
        indices=np.arange(len(input_ids)),
        mask_token_id=MASK,
        vocab=np.arange(VOCAB_SIZE),
        **options,
    )


def assert_fraction(is_case, theory, tolerance=0.0):
    """The fraction of cases agrees with theory to five standard errors."""
    standard_error = np.sqrt(theory * (1 - theory) / is_case.size)
    assert abs(is_case.mean() - theory) < 5 * standard_error + tolerance


def test_every_position_is_masked_with_the_same_probability(masked_batch):
    input_ids, _, labels, is_token = masked_batch
    is_masked = labels != -100
    for part in (slice(None), *range(1, input_ids.shape[1] - 1)):
        assert_fraction(is_masked[:, part][is_token[:, part]], P)


def test_masked_tokens_are_replaced_80_10_10(masked_batch):
    input_ids, masked_ids, labels, _ = masked_batch
    is_masked = labels != -100
    original, replaced = input_ids[is_masked], masked_ids[is_masked]
    # a random token is [MASK] or the original one in 1 of 1000 cases each
    assert_fraction(replaced == MASK, 0.8001)
    assert_fraction(replaced == original, 0.1001)
    assert_fraction((replaced != MASK) & (replaced != original), 0.0998)


@pytest.mark.parametrize("replace", ["100/0/0", "0/100/0", "0/0/100", "50/30/20"])
def test_other_percentages_for_the_replacements(masked_batch, replace):
    input_ids = masked_batch[0][:10_000]
    masked_ids, labels = mask(input_ids, np.full(len(input_ids), 3), replace=replace)
    is_masked = labels != -100
    original, replaced = input_ids[is_masked], masked_ids[is_masked]
    kinds = replaced == MASK, (replaced != MASK) & (replaced != original), replaced == original
    for is_case, percent in zip(kinds, replace.split("/")):
        assert_fraction(is_case, int(percent) / 100, tolerance=0.004)  # random, but the same token


def test_random_tokens_come_from_the_whole_vocabulary(masked_batch):
    input_ids, masked_ids, labels, _ = masked_batch
    is_random = (labels != -100) & (masked_ids != MASK) & (masked_ids != input_ids)
    found = masked_ids[is_random]
    assert found.min() < 20 and 980 <= found.max() < VOCAB_SIZE
    assert abs(found.mean() - 499.5) < 5 * VOCAB_SIZE / np.sqrt(12 * len(found))


def test_labels_are_the_original_tokens(masked_batch):
    input_ids, masked_ids, labels, is_token = masked_batch
    is_masked = labels != -100
    assert (labels[is_masked] == input_ids[is_masked]).all()
    assert (masked_ids[~is_masked] == input_ids[~is_masked]).all()
    assert not is_masked[~is_token].any()  # neither special tokens nor padding
    assert labels.dtype == masked_ids.dtype == np.int64


def test_words_of_one_token_are_masked_like_tokens(masked_batch):
    input_ids = masked_batch[0][:10_000]
    counts = np.full(len(input_ids), 3)
    word_ids = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
    for one, other in zip(mask(input_ids, counts), mask(input_ids, counts, word_ids=word_ids)):
        assert np.array_equal(one, other)
