"""Batches: no example or mask is lost, and masks depend on nothing but seed, epoch and example."""

import functools
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from helpers import refused, unpack_examples
from mlm.data.batches import (
    MaskedBatches,
    padded_examples,
    split_into_examples,
)
from mlm.data.dataset import MaskedLMDataset
from mlm.data.masking import mask_tokens, masked_counts, max_masked_tokens
from mlm.data.packing import VALIDATION_EPOCH, PackingPlan, TrainingOrder

P = 0.15


def make_batches(dataset, keys, p=P, seed=0, **options):
    """The batches of these keys, as a list."""
    return list(MaskedBatches(dataset, keys, p, seed, **options))


def packed_batches(
    dataset, batch_size, rank=0, world_size=1, p=P, seed=0, epochs=(0,), masking="token"
):
    """The batches that process `rank` gets in these epochs."""
    plan = PackingPlan(dataset, batch_size, p, seed, epochs, world_size, masking=masking)
    keys = [key for epoch in epochs for key in plan.keys(epoch)]
    return make_batches(dataset, keys, p, seed, shape=plan.shape, rank=rank, masking=masking)


def batches_of_processes(dataset, batch_size, world_size, **options):
    """For each process, the list of its batches."""
    return [
        packed_batches(dataset, batch_size, rank, world_size, **options)
        for rank in range(world_size)
    ]


def unpacked_keys(dataset, batch_size, epoch=0):
    """The keys of an epoch without rows: every example gets a row of its own."""
    return [key[:2] for key in PackingPlan(dataset, batch_size, P, 0, (epoch,)).keys(epoch)]


@functools.cache
def numbers_of(dataset):
    """{the tokens of an example: its number}."""
    found = {tuple(dataset[i].tolist()): i for i in range(len(dataset))}
    assert len(found) == len(dataset)
    return found


def numbered_examples(dataset, batches):
    """{number of an example: its (input_ids, labels)} in these batches; no example occurs twice."""
    examples = [example for batch in batches for example in unpack_examples(batch)]
    found = {}
    for input_ids, labels in examples:
        original = [t if label == -100 else label for t, label in zip(input_ids, labels)]
        found[numbers_of(dataset)[tuple(original)]] = input_ids, labels
    assert len(found) == len(examples)
    return found


def assert_same_batch(one, other):
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


# what a batch contains


@pytest.mark.parametrize(
    "batch_size, world_size",
    [(1, 1), (7, 1), (32, 2), (359, 3), (360, 1), (360, 8), (1000, 2), (7, 8)],
)
def test_every_example_occurs_once_with_its_own_masks(dataset, batch_size, world_size):
    """Whatever the batch size and the number of processes: as if every example had its own row."""
    expected = numbered_examples(dataset, make_batches(dataset, unpacked_keys(dataset, 8)))
    processes = batches_of_processes(dataset, batch_size, world_size)
    assert len(expected) == len(dataset) == 360
    together = [batch for batches in processes for batch in batches]
    assert numbered_examples(dataset, together) == expected
    for step in zip(*processes, strict=True):
        num_masked = sum(int((batch["labels"] != -100).sum()) for batch in step)
        lengths = [len(ids) - 2 for batch in step for ids, _ in unpack_examples(batch)]
        for batch in step:  # each process has the totals
            assert batch["num_masked"] == num_masked and batch["num_masked"].dtype == torch.float32
            assert batch["num_examples"] == len(lengths) <= batch_size * world_size
            assert batch["num_tokens"] == sum(lengths)


@pytest.mark.parametrize("p", [0.15, 0.5, 0.999])
@pytest.mark.parametrize("world_size", [1, 2])
def test_all_batches_have_one_shape_and_room_for_every_mask(dataset, p, world_size):
    shapes = set()
    for batches in batches_of_processes(dataset, 7, world_size, p=p, epochs=(0, 1)):
        for batch in batches:
            tensors = {name: value for name, value in batch.items() if torch.is_tensor(value)}
            shapes.add(tuple((name, *value.shape) for name, value in sorted(tensors.items())))
            for name in ("input_ids", "labels", "sequence_ids", "position_ids", "positions"):
                assert batch[name].dtype == torch.int64
            labels, positions = batch["labels"].flatten(), batch["positions"]
            (masked,) = torch.where(labels != -100)
            assert (positions[: len(masked)] == masked).all()
            assert (labels[positions[len(masked) :]] == -100).all()
    assert len(shapes) == 1


def test_without_packing_a_batch_is_as_wide_as_its_longest_example(dataset):
    keys = unpacked_keys(dataset, 4)
    for (_, indices), batch in zip(keys, make_batches(dataset, keys)):
        assert batch["input_ids"].shape == (len(indices), dataset.lengths[indices].max() + 2)
        assert (batch["labels"].flatten()[batch["positions"]] != -100).all()


@pytest.mark.parametrize("max_len", [32, 128])
def test_sequence_ids_are_left_out_if_every_example_fills_a_row(corpus_folder, tokenizer, max_len):
    """True for blocks, except in the batch with the last block."""
    data = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, max_len, "block")
    unpacked = make_batches(data, unpacked_keys(data, 8))
    assert sum("sequence_ids" in batch for batch in unpacked) == 1
    assert sum("position_ids" in batch for batch in unpacked) == 1
    packed = packed_batches(data, 8)
    expected = 1 if max_len == 128 else len(packed)  # four short blocks share a row
    assert sum("sequence_ids" in batch for batch in packed) == expected
    assert sum(len(unpack_examples(batch)) for batch in packed) == len(data)


def test_other_functions_can_replace_masking(dataset):
    """Notebook 03 passes its own functions: batches contain their masks and have room for them."""

    def mask_all(*arguments, **options):
        masked_ids, labels = mask_tokens(*arguments, **options)
        return np.where(labels != -100, dataset.tokenizer.mask_token_id, masked_ids), labels

    def count_all(lengths, seed, epoch, indices, mlm_probability):
        return lengths

    plan = PackingPlan(dataset, 8, P, 0, (0,), count_fn=count_all)
    options = dict(shape=plan.shape, mask_fn=mask_all, count_fn=count_all)
    for batch in make_batches(dataset, plan.keys(0), **options):
        is_masked = batch["labels"] != -100
        assert int(is_masked.sum()) == batch["num_masked"] == batch["num_tokens"]
        assert (batch["input_ids"][is_masked] == dataset.tokenizer.mask_token_id).all()


@pytest.mark.parametrize("masking", ["token", "word"])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_function_may_mask_other_numbers_of_tokens(dataset, masking, more):
    """An edit in notebook 03: the batch says how many targets it has and where, not how many were expected."""

    def mask_others(input_ids, special_ids, counts, *arguments, **options):
        return mask_tokens(input_ids, special_ids, counts + more, *arguments, **options)

    options = dict(mask_fn=mask_others, masking=masking)
    for batch in make_batches(dataset, unpacked_keys(dataset, 8)[:3], **options):
        (masked,) = torch.where(batch["labels"].flatten() != -100)
        assert torch.equal(batch["positions"], masked)
        assert batch["num_masked"] == len(masked)


def test_more_targets_than_places_are_refused(dataset):
    """Fixed shapes are planned before anything is masked."""

    def mask_all(input_ids, special_ids, counts, *arguments, **options):
        return mask_tokens(input_ids, special_ids, counts + 99, *arguments, **options)

    plan = PackingPlan(dataset, 8, P, 0, (0,))
    with refused("prediction targets", f"has {plan.shape[2]} places", "counts"):
        make_batches(dataset, plan.keys(0), shape=plan.shape, mask_fn=mask_all)


@pytest.mark.parametrize("examples", ["line", "block"])
def test_unknown_words_are_never_masked(tmp_path, tokenizer, examples):
    """In training and validation; all other words are still masked with the same probability."""
    generator = np.random.default_rng(0)
    words = np.array(["power", "truth", "good", "\u8a9e", "x" * 101])
    frequencies = [0.3, 0.3, 0.2, 0.18, 0.02]  # a text that is mostly [UNK] is refused
    lines = [
        " ".join(generator.choice(words, generator.integers(1, 30), p=frequencies))
        for _ in range(400)
    ]
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf-8")
    data = MaskedLMDataset(tmp_path / "a.txt", tokenizer, 32, examples)
    for epoch in (0, VALIDATION_EPOCH):
        batches = packed_batches(data, 8, epochs=(epoch,))
        labels = torch.cat([batch["labels"].flatten() for batch in batches])
        assert tokenizer.unk_token_id not in labels
        num_masked, maskable = int((labels != -100).sum()), int(data.maskable.sum())
        assert num_masked == sum(batch["num_masked"] for batch in batches)
        assert abs(num_masked / maskable - P) < 5 * np.sqrt(P * (1 - P) / maskable)


# what masks and order depend on


def test_seed_and_epoch_change_masks_and_order(dataset):
    def run(seed, epoch):
        keys = PackingPlan(dataset, 8, P, seed, (epoch,)).keys(epoch)
        examples = numbered_examples(dataset, make_batches(dataset, keys, seed=seed))
        order = [tuple(indices) for _, indices, _ in keys]
        return order, [[label != -100 for label in examples[i][1]] for i in range(360)]

    (order, masks), again = run(0, 0), run(0, 0)
    assert (order, masks) == again
    for other_order, other_masks in (run(0, 1), run(1, 0)):
        same_batches = set(map(frozenset, order)) & set(map(frozenset, other_order))
        assert len(same_batches) < 5
        both = sum(a and b for x, y in zip(masks, other_masks) for a, b in zip(x, y))
        assert 0 < both / int(dataset.lengths.sum()) < 3 * P * P  # by chance: P * P


def test_a_batch_does_not_depend_on_earlier_batches(dataset):
    plan = PackingPlan(dataset, 8, P, 0, (0,))
    batches = MaskedBatches(dataset, plan.keys(0), P, 0, plan.shape)
    in_order, loaded = list(batches), list(DataLoader(batches, batch_size=None))
    backwards = make_batches(dataset, plan.keys(0)[::-1], shape=plan.shape)[::-1]
    for one, *others in zip(in_order, loaded, backwards, strict=True):
        for other in others:
            assert_same_batch(one, other)


@pytest.mark.parametrize("accumulate, rank", [(1, 0), (2, 1)])
@pytest.mark.parametrize("masking", ["token", "word"])
def test_batches_do_not_depend_on_how_many_are_made_at_once(
    dataset, monkeypatch, masking, accumulate, rank
):
    """Nor on which examples are masked together."""
    plan = PackingPlan(dataset, 4, P, 0, (0, 1), 4, masking=masking)
    keys = [key for epoch in (0, 1) for key in plan.keys(epoch)]
    options = dict(shape=plan.shape, masking=masking, accumulate=accumulate, rank=rank)
    expected = [batch for key in keys for batch in make_batches(dataset, [key], **options)]
    assert len(expected) == len(keys) * accumulate
    for cells, examples in ((1, 256), (1000, 1), (3000, 7), (2**20, 2**20)):
        monkeypatch.setattr("mlm.data.batches.CELLS_AT_ONCE", cells)
        monkeypatch.setattr("mlm.data.batches.EXAMPLES_AT_ONCE", examples)
        for one, other in zip(expected, make_batches(dataset, keys, **options), strict=True):
            assert_same_batch(one, other)


@pytest.mark.parametrize("examples", ["line", "block"])
def test_padded_examples_are_the_examples_of_the_dataset(long_words, examples):
    data = MaskedLMDataset(*long_words, 16, examples)
    indices = np.random.default_rng(0).permutation(len(data))[:50]
    input_ids, starts_word, is_token = padded_examples(data, indices)
    for row, index in enumerate(indices):
        size = data.lengths[index] + 2
        assert input_ids[row, :size].tolist() == data[index].tolist()
        assert (input_ids[row, size:] == data.tokenizer.pad_token_id).all()
        assert is_token[row].tolist() == [True] * size + [False] * (len(is_token[row]) - size)
        start = data.starts[index]
        in_text = data.word_starts[start + 1 : start + data.lengths[index]]
        assert starts_word[row, 2 : size - 1].tolist() == in_text.tolist()
        assert starts_word[row, :2].all() and starts_word[row, size - 1 :].all()


@pytest.mark.parametrize("batch_size", [32, 256])
def test_a_core_prepares_more_than_1_500_000_tokens_per_second(tmp_path, tokenizer, batch_size):
    """In the best of several attempts: lines of about 15 tokens, packed, with their masks."""
    generator = np.random.default_rng(0)
    words = np.array(["power", "truth", "good", "evil", "will", "the", "of", "and"])
    lines = [" ".join(generator.choice(words, generator.integers(5, 25))) for _ in range(8192)]
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf-8")
    data = MaskedLMDataset(tmp_path / "a.txt", tokenizer)
    plan = PackingPlan(data, batch_size, P, 0, (0,))
    rates = []
    for _ in range(3):
        order = TrainingOrder(plan, 0, plan.steps_per_epoch)
        start = time.process_time()
        batches = MaskedBatches(data, order, P, 0, plan.shape)
        num_tokens = sum(batch["num_tokens"] for batch in batches)
        rates.append(num_tokens / (time.process_time() - start))
    assert max(rates) > 1.5e6


@pytest.mark.parametrize("start", [0, 1, 17, 44, 45, 46, 100, 134, 135])
def test_a_resumed_order_is_the_rest_of_the_whole_order(dataset, start):
    plan = PackingPlan(dataset, 8, P, 0, range(3))
    whole = list(TrainingOrder(plan, 0, 135))
    assert [epoch for epoch, *_ in whole] == [0] * 45 + [1] * 45 + [2] * 45
    rest = list(TrainingOrder(plan, start, 135))
    for key, expected in zip(rest, whole[start:], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(key, expected))


def test_a_thread_lays_out_each_epoch_before_it_is_needed(dataset, monkeypatch):
    """Once, and only the epochs that are left."""
    plan, keys = PackingPlan(dataset, 8, P, 0, range(4)), PackingPlan.keys
    laid_out = []  # (epoch, thread)

    def record_keys(plan, epoch):
        laid_out.append((epoch, threading.current_thread()))
        return keys(plan, epoch)

    monkeypatch.setattr(PackingPlan, "keys", record_keys)
    assert not list(TrainingOrder(plan, 180, 180)) and not laid_out
    order = iter(TrainingOrder(plan, 46, 180))
    for upcoming, steps in ((2, 44), (3, 45)):
        epoch = [next(order)[0] for _ in range(steps)]
        assert set(epoch) == {upcoming - 1}
        end = time.monotonic() + 20
        while laid_out[-1][0] != upcoming:  # no step of that epoch has been asked for
            assert time.monotonic() < end
            time.sleep(0.001)
    assert {epoch for epoch, *_ in order} == {3}
    assert [epoch for epoch, _ in laid_out] == [1, 2, 3]
    assert threading.main_thread() not in {thread for _, thread in laid_out}


def test_a_thread_that_lays_out_an_epoch_ends_with_the_loop_and_reports_errors(
    dataset, monkeypatch
):
    plan, earlier = PackingPlan(dataset, 8, P, 0, range(3)), set(threading.enumerate())
    order = iter(TrainingOrder(plan, 0, 135))
    next(order)
    order.close()
    del order
    assert not set(threading.enumerate()) - earlier

    def broken(plan, epoch):
        raise MemoryError(f"epoch {epoch}")

    keys = PackingPlan.keys
    monkeypatch.setattr(
        PackingPlan, "keys", lambda plan, epoch: (broken if epoch else keys)(plan, epoch)
    )
    seen = []
    with pytest.raises(MemoryError, match="epoch 1"):
        for key in TrainingOrder(plan, 0, 135):
            seen.append(key)
    assert len(seen) == 45


def test_validation_masks_do_not_depend_on_the_batches(corpus_folder, tokenizer):
    data = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)
    expected = None
    for batch_size, world_size in ((8, 1), (1, 1), (64, 1), (3, 4)):
        processes = batches_of_processes(data, batch_size, world_size, epochs=(VALIDATION_EPOCH,))
        found = numbered_examples(data, [batch for batches in processes for batch in batches])
        expected = expected or found
        assert found == expected
    assert len(expected) == len(data) == 40
    assert numbered_examples(data, packed_batches(data, 8)) != expected  # training masks differ


# whole-word masking


@pytest.mark.parametrize("examples", ["line", "block"])
def test_a_word_is_masked_as_a_whole_and_each_with_the_same_probability(long_words, examples):
    """However long the word, however short the line; the mean number of masked tokens is exact."""
    data, p, epochs = MaskedLMDataset(*long_words, 16, examples), 0.3, 12
    every = np.arange(len(data))
    example = np.repeat(every, data.lengths)  # of each token
    position = np.arange(len(example)) - np.repeat(
        np.cumsum(data.lengths) - data.lengths, data.lengths
    )
    token = np.repeat(data.starts, data.lengths) + position  # its position in the text
    (word_starts,) = np.nonzero(data.word_starts[token] | (position == 0))
    sizes = np.diff(word_starts, append=len(token))  # tokens of each word
    is_unk = data.ids[token[word_starts]] == data.tokenizer.unk_token_id
    words_per_example = np.bincount(example[word_starts], minlength=len(data))
    in_short_example = words_per_example[example[word_starts]] < 4

    masked = np.zeros(len(word_starts), int)  # how often each word is masked
    for epoch in range(epochs):
        (batch,) = make_batches(data, [(epoch, every)], p, masking="word")
        is_masked = (batch["labels"] != -100).numpy()
        assert is_masked.sum() == is_masked[example, position + 1].sum()  # no special token
        masked_tokens = np.add.reduceat(is_masked[example, position + 1].astype(int), word_starts)
        assert ((masked_tokens == 0) | (masked_tokens == sizes)).all()
        masked += masked_tokens > 0
    assert not masked[is_unk].any()

    num_cases = 0
    for size in np.unique(sizes):
        for short in (False, True):
            case = masked[~is_unk & (sizes == size) & (in_short_example == short)]
            if len(case):
                draws = len(case) * epochs
                error = abs(case.sum() / draws - p)
                assert error < 5 * np.sqrt(p * (1 - p) / draws), (size, short)
                num_cases += 1
    assert num_cases >= 4  # each token of the longest words is a word
    variance = (sizes[~is_unk] ** 2).sum() * epochs * p * (1 - p)
    error = abs((masked * sizes).sum() - p * epochs * data.maskable.sum())
    assert error < 5 * np.sqrt(variance)


@pytest.mark.parametrize("world_size", [1, 3])
def test_whole_word_masks_do_not_depend_on_rows_and_processes(long_words, world_size):
    """There is room for every mask, and each process knows the total."""
    data = MaskedLMDataset(*long_words, 16)
    (unpacked,) = make_batches(data, [(0, np.arange(len(data)))], masking="word")
    processes = batches_of_processes(data, 20, world_size, masking="word")
    found = [part for batches in processes for batch in batches for part in unpack_examples(batch)]
    assert sorted(found) == sorted(unpack_examples(unpacked))
    for step in zip(*processes, strict=True):
        labels = [batch["labels"].flatten() for batch in step]
        for batch, own_labels in zip(step, labels):
            at_positions = own_labels[batch["positions"]]
            assert (at_positions != -100).sum() == (own_labels != -100).sum()
            assert batch["num_masked"] == sum((each != -100).sum() for each in labels)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_masked_words_never_have_more_tokens_than_the_upper_bound(long_words, p):
    data = MaskedLMDataset(*long_words, 16, "block")
    every = np.arange(len(data))
    keys = [(epoch, every) for epoch in range(10)]
    for (epoch, _), batch in zip(keys, make_batches(data, keys, p, masking="word"), strict=True):
        counts = masked_counts(data.word_counts, 0, epoch, every, p)
        limits = max_masked_tokens(data, "word", every, counts)
        assert ((batch["labels"] != -100).numpy().sum(axis=1) <= limits).all()


@pytest.mark.parametrize("packed", [True, False])
def test_a_batch_splits_into_its_examples(dataset, packed):
    """Without padding, packed or one example per row: the original tokens, in the order of the rows."""
    keys = unpacked_keys(dataset, 8)
    batch = packed_batches(dataset, 8)[0] if packed else make_batches(dataset, keys[:1])[0]
    examples = [(ids.tolist(), labels.tolist()) for ids, labels in split_into_examples(batch)]
    assert examples == unpack_examples(batch)
    assert len(examples) == batch["num_examples"] > 1
    assert len(numbered_examples(dataset, [batch])) == len(examples)
