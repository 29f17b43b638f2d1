"""Packing: every example once per epoch, in batches of one shape with little padding."""

import time
from collections.abc import Iterable

import numpy as np
import pytest

from mlm.data.epoch_examples import EpochExamples
from mlm.data.masking import masked_counts
from mlm.data.packing import (
    EMPTY,
    MAX_PAIRINGS,
    MAX_ROW_TOKENS,
    POSITION_STEP,
    SWAP_CANDIDATES,
    VALIDATION_EPOCH,
    WIDTH_STEP,
    PackingPlan,
    balance_bins,
    cached_plan,
    fill_bins,
    pair_bins,
)

P = 0.15


class Lengths:
    """The part of a MaskedLMDataset that packing needs."""

    def __init__(self, lengths: Iterable[int]) -> None:
        self.lengths = self.maskable = self.word_counts = np.asarray(lengths)
        self.epochs = EpochExamples(np.zeros(len(self.lengths), int), [1])  # no weights

    def __len__(self) -> int:
        return len(self.lengths)


def plan_of(
    lengths: Iterable[int], batch_size: int = 8, world_size: int = 1, epochs: Iterable[int] = (0,)
) -> PackingPlan:
    """The plan of examples of these lengths; all of their tokens may be masked."""
    return PackingPlan(Lengths(lengths), batch_size, P, 0, epochs, world_size)


GENERATOR = np.random.default_rng(0)
TEXTS = {
    "one example": [5],
    "three examples": [5, 9, 130],
    "equal lengths": [28] * 101,
    "blocks": [126] * 50 + [17],
    "lines": GENERATOR.integers(1, 40, 1000),
    "few long examples": np.append(GENERATOR.integers(1, 20, 500), [93, 110, 126]),
    "many short examples": 1 + GENERATOR.geometric(0.2, 700),
    "all lengths": GENERATOR.integers(1, 126, 300),
}


@pytest.mark.parametrize(
    "batch_size, world_size", [(1, 1), (4, 1), (32, 1), (1000, 1), (8, 2), (3, 8)]
)
@pytest.mark.parametrize("lengths", TEXTS.values(), ids=TEXTS)
def test_every_batch_fits_the_shape(lengths, batch_size, world_size):
    """Each example once per epoch; no row is too wide, no process has too many rows or masks."""
    epochs = 0, 1, VALIDATION_EPOCH
    plan = plan_of(lengths, batch_size, world_size, epochs)
    sizes = np.asarray(lengths) + 2
    num_rows, width, num_positions = plan.shape
    assert plan.steps_per_epoch == -(-len(sizes) // (batch_size * world_size))
    assert width % WIDTH_STEP == 0 or width == sizes.max()
    assert num_positions % POSITION_STEP == 0
    for epoch in epochs:
        keys = plan.keys(epoch)
        assert len(keys) == plan.steps_per_epoch and {key[0] for key in keys} == {epoch}
        seen = np.concatenate([indices for _, indices, _ in keys])
        assert (np.sort(seen) == np.arange(len(sizes))).all()
        for _, indices, rows in keys:
            assert 0 < len(indices) == len(rows) <= batch_size * world_size
            assert rows.max() < num_rows * world_size and (np.diff(rows) >= 0).all()
            assert np.bincount(rows, sizes[indices]).max() <= width
            counts = masked_counts(sizes[indices] - 2, 0, epoch, indices, P)
            assert np.bincount(rows // num_rows, counts).max() <= num_positions


@pytest.mark.parametrize("batch_size, world_size", [(32, 1), (32, 2), (8, 8), (256, 1)])
def test_there_is_little_padding(batch_size, world_size):
    lengths = np.random.default_rng(1).integers(1, 30, 8000)
    plan = plan_of(lengths, batch_size, world_size, range(5))
    num_rows, width, _ = plan.shape
    cells = plan.steps_per_epoch * world_size * num_rows * width
    assert width <= MAX_ROW_TOKENS
    assert 1 - (lengths + 2).sum() / cells < 0.08
    blocks = plan_of([126] * 5000 + [17], batch_size, world_size)
    rows_needed = -(-5001 // (blocks.steps_per_epoch * world_size))
    assert blocks.shape[:2] == (rows_needed, 128)


def test_without_packing_each_example_has_its_own_row():
    lengths = TEXTS["lines"]
    plan = PackingPlan(Lengths(lengths), 8, P, 0, (0,), pack=False)
    assert plan.shape[:2] == (8, lengths.max() + 2)
    for _, indices, rows in plan.keys(0):
        assert rows.tolist() == list(range(len(indices)))


def test_batches_are_random_samples_and_differ_between_epochs():
    """Two examples share a batch again as rarely as by chance; batches are as varied as the text."""
    lengths = np.random.default_rng(2).integers(1, 60, 2000)
    plan = plan_of(lengths, 20)
    pairs, spread = [], []
    for epoch in (0, 1):
        batches = [np.sort(indices) for _, indices, _ in plan.keys(epoch)]
        pairs.append(
            {(i, j) for batch in batches for n, i in enumerate(batch) for j in batch[n + 1 :]}
        )
        spread += [lengths[batch].std() for batch in batches]
    expected = len(pairs[0]) ** 2 / (2000 * 1999 / 2)
    assert abs(len(pairs[0] & pairs[1]) - expected) < 5 * np.sqrt(expected)
    assert abs(np.mean(spread) / lengths.std() - 1) < 0.05
    sums = [lengths[indices].sum() for _, indices, _ in plan.keys(2)]
    assert max(sums) - min(sums) < 0.05 * np.mean(sums)  # without balancing: a third


def test_a_batch_does_not_depend_on_the_number_of_processes():
    lengths = TEXTS["lines"]
    one, four = plan_of(lengths, 16), plan_of(lengths, 4, world_size=4)
    for (_, indices, _), (_, others, _) in zip(one.keys(0), four.keys(0), strict=True):
        assert sorted(indices) == sorted(others)


def test_a_plan_is_reproducible_whatever_epochs_it_covers():
    lengths = np.random.default_rng(3).integers(1, 60, 500)
    one, other = plan_of(lengths), plan_of(lengths, epochs=(0, 1, 2))
    for key, again in zip(one.keys(1), other.keys(1), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(key, again))


def test_the_same_arguments_give_the_cached_plan():
    data = Lengths(TEXTS["lines"])
    plan = cached_plan(data, 8, P, 0, range(2))
    assert cached_plan(data, 8, P, 0, range(2)) is plan
    assert cached_plan(data, 8, P, 1, range(2)) is not plan


def test_swaps_balance_the_bins():
    sizes = np.array([50, 30, 70, 20, 90, 60, 0])  # the last one is the size of an empty slot
    for max_tokens, expected in ((1000, [110, 120, 90]), (112, [110, 110, 100])):
        (bins,) = fill_bins(np.arange(6)[None], 3, 3, sizes=sizes, max_tokens=max_tokens)
        assert sorted(bins[bins != EMPTY]) == list(range(6))
        assert sizes[bins].sum(axis=1).tolist() == expected


def plain_balance(bins, sizes, max_tokens):
    """`balance_bins`, but each round counts all tokens again and tries all groups."""
    num_pairs, shift = bins.shape[1] // 2, 0
    while shift < min(num_pairs, MAX_PAIRINGS):
        group, full, empty, difference = pair_bins(sizes[bins].sum(axis=2), shift, max_tokens)
        if not len(group):
            return
        swapped = False
        for g, one, other, before in zip(group, full, empty, difference):
            moved = sizes[bins[g, one]][:SWAP_CANDIDATES, None] - sizes[bins[g, other]][None]
            after = np.abs(before - 2 * moved[:, :SWAP_CANDIDATES])
            i, j = np.unravel_index(after.argmin(), after.shape)
            if after[i, j] < before:
                bins[g, one, i], bins[g, other, j] = bins[g, other, j], bins[g, one, i]
                swapped = True
        shift = 0 if swapped else shift + 1


@pytest.mark.parametrize("num_groups, num_bins, num_slots", [(1, 40, 12), (30, 7, 6), (5, 2, 40)])
@pytest.mark.parametrize("spare", [0, 1, 4])
def test_balancing_makes_the_same_swaps_as_a_plain_version(num_groups, num_bins, num_slots, spare):
    """Otherwise a run resumed from an older checkpoint would see other batches."""
    generator = np.random.default_rng(num_bins)
    for largest in (3, 40, 120):
        sizes = np.append(generator.integers(1, largest, num_groups * num_bins * num_slots), 0)
        bins = np.arange(len(sizes) - 1).reshape(num_groups, num_bins, num_slots)
        bins[:, :, -2:] = EMPTY
        max_tokens = int(sizes[bins].sum(axis=2).mean()) + spare
        expected, found = bins.copy(), bins.copy()
        plain_balance(expected, sizes, max_tokens)
        balance_bins(found, sizes, max_tokens)
        assert (found == expected).all()
        assert (found != bins).any() or spare


def test_planning_300_000_examples_takes_less_than_2_seconds():
    lengths = np.random.default_rng(0).integers(1, 40, 300_000)
    for batch_size in (32, 256):
        start = time.process_time()
        plan_of(lengths, batch_size)
        assert time.process_time() - start < 2
