"""Masks and batches: the laws of chance, and that nothing is lost or depends on what it should not."""

import functools
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from conftest import parts_of, refused
from mlm.batches import (
    POSITION_STEP,
    ROW_TOKENS,
    WIDTH_STEP,
    MaskedBatches,
    TrainingOrder,
    epoch_batches,
    held_out_keys,
    pack,
    round_up,
)
from mlm.masking import mask_tokens, masked_counts, uniform
from mlm.tokens import MaskedLMDataset, word_begins

P = 0.15
SPECIAL = 5  # [PAD] [UNK] [CLS] [SEP] [MASK] are the first of the learned vocabulary


# uniform


def test_uniform_is_uniform():
    drawn = uniform(3, 1, np.arange(500)[:, None], np.arange(400), 2).ravel()
    n, bins = len(drawn), 64
    assert drawn.dtype == np.float64
    assert drawn.min() >= 0 and drawn.max() < 1
    assert len(np.unique(drawn)) == n
    assert abs(drawn.mean() - 0.5) < 5 / np.sqrt(12 * n)
    expected = n / bins
    chi2 = ((np.histogram(drawn, bins, (0, 1))[0] - expected) ** 2).sum() / expected
    assert abs(chi2 - (bins - 1)) < 5 * np.sqrt(2 * (bins - 1))


@pytest.mark.parametrize("key", range(5), ids=["seed", "epoch", "example", "position", "purpose"])
def test_neighbouring_keys_give_unrelated_numbers(key):
    keys = np.indices((3, 4, 50, 60, 4)) + np.array([7, 2, 9, 1, 0]).reshape(5, 1, 1, 1, 1, 1)
    moved = keys.copy()
    moved[key] += keys[key].max() - keys[key].min() + 1
    here, there = uniform(*keys).ravel(), uniform(*moved).ravel()
    assert not np.isin(here, there).any()
    for lag in (0, 1, 4, 240):
        a, b = here[: len(here) - lag], there[lag:]
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


def test_uniform_depends_on_its_keys_alone():
    examples = np.array([5, 0, 2**33, 17])
    together = uniform(2**32 - 1, 2**40, examples[:, None], np.arange(9), 1)
    for row, example in enumerate(examples):
        for position in range(9):
            alone = uniform(2**32 - 1, 2**40, int(example), position, 1)
            assert alone == together[row, position]
    assert together.shape == (4, 9)


def test_uniform_is_splitmix64():
    """The same numbers on every machine: a resumed run may be on another one."""
    assert uniform(0) == (0xE220A8397B1DCDAF >> 11) / 2**53  # its first output for seed 0
    state = 0
    for key in (2**32 - 1, 2**40, 3, 126, 1):
        state = (state ^ key) + 0x9E3779B97F4A7C15 & 2**64 - 1
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 2**64 - 1
        state ^= state >> 31
    assert uniform(2**32 - 1, 2**40, 3, 126, 1) == (state >> 11) / 2**53


# how many


@pytest.mark.parametrize("p", [1e-9, 0.15, 0.3, 1 / 3, 0.999])
def test_masked_counts_are_the_share_rounded_at_random(p):
    examples = 100_000
    for length in (1, 2, 6, 7, 20, 126):
        lengths = np.full(examples, length)
        counts = masked_counts(lengths, 1, 2, np.arange(examples), p)
        assert counts.dtype == np.int64
        assert set(counts) <= {int(np.floor(p * length)), int(np.ceil(p * length))}
        assert counts.max() <= length
        spread = np.sqrt(0.25 / examples)
        assert abs(counts.mean() - p * length) < 5 * spread


def test_masked_counts_are_drawn_for_each_epoch_and_seed():
    epochs = np.arange(10_000)
    for seed, epoch in ((1, epochs), (epochs, 1)):
        counts = masked_counts(7, seed, epoch, 3, P)
        assert abs(counts.mean() - P * 7) < 5 * 0.5 / np.sqrt(len(epochs))


# mask_tokens


@pytest.fixture(scope="module")
def drawn():
    """The tokens of 30,000 examples before and after: (input_ids, masked, labels, is_token)."""
    n, width, vocab = 30_000, 24, 1000
    chance = np.random.default_rng(0)
    lengths = chance.integers(1, width - 1, n)
    position = np.arange(width)
    is_token = (position >= 1) & (position <= lengths[:, None])
    input_ids = np.where(is_token, chance.integers(SPECIAL, vocab, (n, width)), 0)
    input_ids[:, 0] = 2
    input_ids[np.arange(n), lengths + 1] = 3
    before = input_ids.copy()
    counts = masked_counts(lengths, 4, 0, np.arange(n), P)
    masked, labels = mask_tokens(input_ids, range(SPECIAL), counts, 4, 0, np.arange(n), 4, vocab)
    assert (input_ids == before).all()  # not changed in place
    assert ((labels != -100).sum(1) == counts).all()
    return input_ids, masked, labels, is_token


def test_15_percent_are_chosen_wherever_they_stand(drawn):
    input_ids, _, labels, is_token = drawn
    chosen = labels != -100
    for part in (slice(None), *range(1, input_ids.shape[1] - 1)):
        n = is_token[:, part].sum()
        assert abs(chosen[:, part].sum() / n - P) < 5 * np.sqrt(P * (1 - P) / n)


def test_of_these_80_10_10(drawn):
    input_ids, masked, labels, _ = drawn
    chosen = labels != -100
    n = chosen.sum()
    to_mask = (masked[chosen] == 4).mean()
    kept = (masked[chosen] == input_ids[chosen]).mean()
    other = 1 - to_mask - kept
    # a random token may be [MASK] or the very same: 1 in 1000 of the 10%
    for found, theory in ((to_mask, 0.8001), (kept, 0.1001), (other, 0.0998)):
        assert abs(found - theory) < 5 * np.sqrt(theory * (1 - theory) / n)


def test_random_tokens_are_of_the_whole_vocabulary(drawn):
    input_ids, masked, labels, _ = drawn
    found = masked[(labels != -100) & (masked != 4) & (masked != input_ids)]
    assert found.min() < 20 and found.max() >= 980 and found.max() < 1000
    assert abs(found.mean() - 499.5) < 5 * 1000 / np.sqrt(12 * len(found))


def test_labels_are_the_tokens_that_were_there(drawn):
    input_ids, masked, labels, is_token = drawn
    chosen = labels != -100
    assert (labels[chosen] == input_ids[chosen]).all()
    assert (masked[~chosen] == input_ids[~chosen]).all()
    assert not chosen[~is_token].any()  # neither special tokens nor padding
    assert labels.dtype == masked.dtype == np.int64


# batches


def make(dataset, keys, batch_size=8, p=P, seed=0, **options):
    """The batches of these keys, as a list."""
    return list(MaskedBatches(dataset, keys, batch_size, p, seed, **options))


def order(dataset, batch_size=8, seed=0, start=0, stop=None):
    """The keys of the steps start to stop; of one epoch where no stop is given."""
    stop = -(-len(dataset) // batch_size) if stop is None else stop
    return TrainingOrder(dataset.lengths, batch_size, seed, start, stop)


@functools.cache
def numbers(dataset):
    """{an example as a tuple: its number}."""
    found = {tuple(dataset[i].tolist()): i for i in range(len(dataset))}
    assert len(found) == len(dataset)
    return found


def unmasked(ids, labels):
    """An example before it was masked."""
    return [token if label == -100 else label for token, label in zip(ids, labels)]


def examples_of(dataset, keys, made, rank=0, world=1):
    """{(epoch, number of an example): its (input_ids, labels)}, each seen once, in its batch."""
    seen = {}
    for (epoch, indices), batch in zip(keys, made, strict=True):
        found = {numbers(dataset)[tuple(unmasked(*part))]: part for part in parts_of(batch)}
        assert found.keys() == set(indices[rank::world])
        assert not {(epoch, number) for number in found} & seen.keys()
        seen |= {(epoch, number): part for number, part in found.items()}
    return seen


# a row for each example, shared rows, one shape
HOW = {rows: {"rows": rows} for rows in ("own", "shared", "static")}
how = pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())


@how
@pytest.mark.parametrize("batch_size", [1, 7, 32, 359, 360, 1000])
def test_each_example_once_an_epoch(dataset, batch_size, how):
    keys = list(order(dataset, batch_size))
    seen = examples_of(dataset, keys, make(dataset, keys, batch_size, **how))
    assert seen.keys() == {(0, i) for i in range(360)}
    assert len(dataset) == 360
    assert sorted(len(indices) for _, indices in keys)[1:] == [batch_size] * (len(keys) - 1)


@how
def test_what_a_batch_says_of_itself(dataset, how):
    keys = list(order(dataset))
    for (_, indices), batch in zip(keys, make(dataset, keys, **how)):
        shape = batch["input_ids"].shape
        for name in batch.keys() & {"input_ids", "labels", "attention_mask", "position_ids"}:
            assert (batch[name].shape, batch[name].dtype) == (shape, torch.int64)
        labels = batch["labels"].flatten()
        found = labels[batch["positions"]]
        assert batch["positions"].dtype == torch.int64
        assert (found[found != -100] == labels[labels != -100]).all()
        if how["rows"] == "shared":  # few shapes
            assert len(found) % POSITION_STEP == 0
            assert (found == -100).sum() < POSITION_STEP
            assert shape[1] % WIDTH_STEP == 0 or shape[1] == dataset.lengths.max() + 2
        elif how["rows"] == "own":
            assert (found != -100).all()
        assert batch["masked"] == (labels != -100).sum()
        assert batch["masked"].dtype == torch.float32
        assert batch["tokens"] == dataset.lengths[indices].sum()
        assert batch["examples"] == len(indices)


def test_masks_are_left_out_where_nothing_is_padded_or_shared(corpus_folder, tokenizer):
    for width, rows in ((32, "own"), (128, "shared")):  # a block of 128 fills its row
        path = corpus_folder / "train.txt"
        data = MaskedLMDataset(path, tokenizer, width, "block")
        made = make(data, order(data, 8), rows=rows)
        masked = [batch for batch in made if "attention_mask" in batch]
        assert len(made) > 3 and len(masked) <= 1  # the one with the last block
        assert all("position_ids" in batch for batch in masked)
        whole = {batch["input_ids"].shape for batch in made if "attention_mask" not in batch}
        assert whole <= {(n, width) for n in range(1, 9)}


@pytest.mark.parametrize(
    "sizes", [[5], [130, 3, 3], [300, 300, 20], [128] * 4, range(3, 33), [30] * 100, [2] * 7]
)
def test_pack_puts_each_example_in_one_row(sizes):
    sizes, width = np.array(sizes), ROW_TOKENS
    rows = pack(sizes)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    fewest, most = (-(-sizes.sum() // max(w, sizes.max())) for w in (width, width // 2))
    assert fewest <= len(rows) <= most + 1
    loads = [sizes[row].sum() for row in rows]
    assert max(loads) - min(loads) <= sizes.max()
    assert max(loads) * len(rows) <= fewest * (sizes.sum() / fewest + sizes.max())
    assert pack(sizes) == rows


def cells_of(rows, sizes):
    """Cells of a batch of such rows, padding included."""
    widest = max(sizes[row].sum() for row in rows)
    return len(rows) * round_up(widest, WIDTH_STEP)


def test_pack_takes_the_number_of_rows_that_pads_least():
    """Of equals the smallest; held against all numbers there are."""
    for sizes in (np.full(100, 30), np.full(8, 32)):
        rows, best = pack(sizes), None
        for count in range(1, len(sizes) + 1):
            dealt = [list(range(row, len(sizes), count)) for row in range(count)]  # all are alike
            wide = sizes[dealt[0]].sum()
            if ROW_TOKENS / 2 <= wide <= ROW_TOKENS:
                best = min(best or (1e9, 0), (cells_of(dealt, sizes), count))
        assert (cells_of(rows, sizes), len(rows)) == best


def test_pack_is_fast_and_tight_at_any_size():
    """A cubic way took 3.4 s for 2,048 examples; what is padded becomes less with more of them."""
    chance = np.random.default_rng(0)
    padding, seconds = [], []
    for examples in (32, 512, 2048):
        sizes = chance.integers(3, 40, examples)
        began = time.process_time()
        rows = pack(sizes)
        seconds.append(time.process_time() - began)
        padding.append(1 - sizes.sum() / cells_of(rows, sizes))
    assert max(seconds) < 0.3
    assert padding[0] < 0.08 and padding[1] < 0.03 and padding[2] < 0.02


def test_an_edited_mask_reaches_the_batches(dataset):
    """03 hands its own functions over: what they return is in the batch."""

    def all_masked(*rows, **how):
        masked, labels = mask_tokens(*rows, **how)
        return np.where(labels != -100, dataset.tokenizer.mask_token_id, masked), labels

    def one_each(lengths, seed, epoch, indices, mlm_probability):
        return np.ones(len(indices), np.int64)

    keys = list(order(dataset))
    for batch in make(dataset, keys, mask=all_masked, count=one_each):
        asked = batch["labels"] != -100
        assert int(asked.sum()) == batch["masked"] == batch["examples"]
        assert (batch["input_ids"][asked] == dataset.tokenizer.mask_token_id).all()


@pytest.mark.fault
def test_more_masks_than_a_static_batch_has_room_for(dataset):
    def all_of_them(lengths, seed, epoch, indices, mlm_probability):
        return lengths

    with refused("masks", "room"):
        make(dataset, list(order(dataset)), rows="static", count=all_of_them)


def test_packed_batches_are_hardly_padded(dataset):
    def padding(**how):
        made = make(dataset, keys, 32, **how)
        room = sum(batch["input_ids"].numel() for batch in made)
        return 1 - (dataset.lengths + 2).sum() / room

    keys = list(order(dataset, 32))
    assert padding() < 0.05 < 0.2 < padding(rows="own") < padding(rows="static")


def test_same_example_same_masks_in_any_batch(dataset):
    expected = None
    every = [(1, {}), (8, {}), (50, {}), *((8, options) for options in HOW.values())]
    for batch_size, options in every:
        keys = list(order(dataset, batch_size, stop=-(-360 // batch_size)))
        seen = examples_of(dataset, keys, make(dataset, keys, batch_size, **options))
        expected = expected or seen
        assert seen == expected


def test_seed_and_epoch_change_masks_and_order(dataset):
    def run(seed, epoch):
        keys = list(order(dataset, seed=seed, start=45 * epoch, stop=45 * (epoch + 1)))
        assert {key for key, _ in keys} == {epoch}
        seen = examples_of(dataset, keys, make(dataset, keys, seed=seed))
        return [tuple(indices) for _, indices in keys], [
            [label != -100 for label in seen[epoch, i][1]] for i in range(360)
        ]

    (order1, masks1), (order2, masks2) = run(0, 0), run(0, 0)
    assert (order1, masks1) == (order2, masks2)
    for other in (run(0, 1), run(1, 0)):
        together = [set(map(frozenset, made)) for made in (order1, other[0])]
        assert len(together[0] & together[1]) < 5  # other examples meet, in another order
        both = sum(a and b for x, y in zip(masks1, other[1]) for a, b in zip(x, y))
        n = int(dataset.lengths.sum())
        assert both / n < 3 * P * P  # as many in common as chance has it
        assert both > 0


def test_batches_do_not_depend_on_what_was_drawn_before(dataset):
    made = MaskedBatches(dataset, list(order(dataset)), 8, P, 0)
    first, second = list(made), list(made)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("start", [0, 1, 17, 44, 45, 46, 100, 134, 135])
def test_a_resumed_order_is_the_tail_of_the_whole(dataset, start):
    whole = list(order(dataset, stop=135))
    assert [epoch for epoch, _ in whole] == [0] * 45 + [1] * 45 + [2] * 45
    tail = list(order(dataset, start=start, stop=135))
    assert len(tail) == 135 - start
    for (epoch, indices), (other, expected) in zip(tail, whole[start:]):
        assert epoch == other and (indices == expected).all()


@how
@pytest.mark.parametrize("world", [2, 3, 8])
def test_shares_of_several_processes_are_the_batch_of_one(dataset, world, how):
    """Each takes every world-th example of the batch that one process would see."""
    keys = list(order(dataset, 3 * world))
    whole = make(dataset, keys, 3 * world)
    shares = [make(dataset, keys, 3, rank=rank, world=world, **how) for rank in range(world)]
    seen = {}
    for rank, share in enumerate(shares):
        mine = examples_of(dataset, keys, share, rank, world)
        assert not mine.keys() & seen.keys()
        seen |= mine
    assert seen == examples_of(dataset, keys, whole)
    for step, batch in enumerate(whole):
        theirs = [share[step] for share in shares]
        assert {float(part["masked"]) for part in theirs} == {float(batch["masked"])}
        for name in ("tokens", "examples"):  # of all of them
            assert {part[name] for part in theirs} == {batch[name]}
        assert sum((part["labels"] != -100).sum() for part in theirs) == batch["masked"]
    assert len({len(share) for share in shares}) == 1  # as many steps each


@pytest.mark.parametrize("p", [0.15, 0.5, 0.999])
@pytest.mark.parametrize("world", [1, 2])
def test_static_batches_have_one_shape_and_lose_no_mask(dataset, p, world):
    keys = list(order(dataset, 7 * world))
    assert min(len(indices) for _, indices in keys) < 7 * world  # one batch is not full
    shapes = set()
    for rank in range(world):
        options = {"p": p, "rank": rank, "world": world}
        dynamic = make(dataset, keys, 7, **options)
        for batch, other in zip(make(dataset, keys, 7, rows="static", **options), dynamic):
            tensors = {name: value for name, value in batch.items() if torch.is_tensor(value)}
            shapes.add(tuple((name, *value.shape) for name, value in sorted(tensors.items())))
            labels = batch["labels"].flatten()
            (where,) = torch.where(labels != -100)
            positions = batch["positions"]
            assert (positions[: len(where)] == where).all()
            assert (labels[positions[len(where) :]] == -100).all()
            assert len(where) == (other["labels"] != -100).sum()
    assert len(shapes) == 1


def test_a_process_without_an_example_has_an_empty_row(dataset):
    keys = [(0, np.array([4, 9]))]
    for how in HOW.values():
        (batch,) = make(dataset, keys, 2, rank=2, world=3, **how)
        assert len(batch["input_ids"]) >= 1
        assert (batch["labels"] == -100).all()
        assert batch["masked"] > 0
        assert (batch["attention_mask"] == 0).all()
        assert (batch["labels"].flatten()[batch["positions"]] == -100).all()


def test_rows_are_as_wide_as_their_longest_example(dataset):
    keys = list(order(dataset, 4))
    for (_, indices), batch in zip(keys, make(dataset, keys, 4, rows="own")):
        assert batch["input_ids"].shape == (len(indices), dataset.lengths[indices].max() + 2)
    shapes = {batch["input_ids"].shape for batch in make(dataset, keys, 4, rows="static")}
    assert shapes == {(4, dataset.lengths.max() + 2)}


def test_lines_of_like_length_go_together(dataset):
    """Little is padded, yet batches come in random order."""

    def padding(grouped):
        made = epoch_batches(dataset.lengths, 8, 0, 0, grouped)
        longest = [dataset.lengths[indices].max() for indices in made]
        return 1 - dataset.lengths.sum() / sum(n * len(i) for n, i in zip(longest, made)), longest

    (grouped, longest), (random, _) = padding(True), padding(False)
    assert grouped < 0.1 < 0.2 < random
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5


def test_held_out_masks_are_the_same_whatever_the_batches(corpus_folder, tokenizer):
    data = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)
    expected = None
    ways = (8, 1, "shared"), (1, 1, "static"), (64, 1, "static"), (3, 4, "shared")
    for batch_size, world, rows in ways:
        keys = held_out_keys(data.lengths, batch_size * world, seed=0)
        seen = {}
        for rank in range(world):
            options = {"rank": rank, "world": world, "rows": rows}
            made = make(data, keys, batch_size, **options)
            seen |= examples_of(data, keys, made, rank, world)
        expected = expected or seen
        assert seen == expected
    assert len(expected) == len(data) == 40
    first = examples_of(data, keys := list(order(data, 8)), make(data, keys))
    train_masks = [labels for _, (_, labels) in sorted(first.items())]
    assert train_masks != [labels for _, (_, labels) in sorted(expected.items())]


def test_a_loader_hands_batches_on_as_they_are(dataset):
    keys = list(order(dataset))[:3]
    whole = MaskedBatches(dataset, keys, 8, P, 0)
    for batch, loaded in zip(whole, DataLoader(whole, batch_size=None), strict=True):
        assert all(np.array_equal(batch[name], loaded[name]) for name in batch)


def test_no_batches_of_an_order_that_is_over(dataset):
    assert make(dataset, order(dataset, start=45)) == []


def test_an_epoch_smaller_than_a_batch(dataset):
    keys = list(order(dataset, 1000, stop=3))
    assert [(epoch, len(indices)) for epoch, indices in keys] == [(0, 360), (1, 360), (2, 360)]
    assert [batch["examples"] for batch in make(dataset, keys, 1000)] == [360] * 3


# [UNK]


@how
@pytest.mark.parametrize("examples", ["line", "block"])
def test_unknown_words_are_never_asked_about(tmp_path, tokenizer, how, examples):
    """Held out or not; all other words keep their chance, and its share is told."""
    chance = np.random.default_rng(0)
    words = np.array(["power", "truth", "good", "\u8a9e", "x" * 101])
    lines = [" ".join(chance.choice(words, chance.integers(1, 30))) for _ in range(900)]
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf-8")
    data, unknown = (
        MaskedLMDataset(tmp_path / "a.txt", tokenizer, 32, examples),
        tokenizer.unk_token_id,
    )
    for keys in (list(order(data, 8)), held_out_keys(data.lengths, 8, 0)):
        made = make(data, keys, **how)
        labels = torch.cat([batch["labels"].flatten() for batch in made])
        assert unknown not in labels
        asked, known = int((labels != -100).sum()), int(data.known.sum())
        assert asked == sum(batch["masked"] for batch in made)
        assert abs(asked / known - P) < 5 * np.sqrt(P * (1 - P) / known)
    assert data.unknown == (data.ids[:] == unknown).mean() > 0.1
    assert len(data.ids) - data.truncated > known


# whole words


def pieces_of(dataset, indices):
    """The words of these examples as lists of ids, each in a list of its example's."""
    return [
        np.split(ids, np.flatnonzero(begins[1:]) + 1)
        for ids, begins in (
            (dataset[i].numpy()[1:-1], dataset.begins[start : start + dataset.lengths[i]])
            for i, start in zip(indices, dataset.starts[indices])
        )
    ]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Short lines of words of 1 to 12 pieces, and [UNK]; their tokenizer knows letters and "word"."""
    from transformers import BertTokenizer

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word", ",", *"abcd"]
    names += [f"##{letter}" for letter in "abcd"]
    tokenizer = BertTokenizer(vocab={name: number for number, name in enumerate(names)})
    chance = np.random.default_rng(0)
    words = np.array(["word", "abc", "b", "dcba", "abcdabcdabcd", "unknown"])
    share = [0.3, 0.25, 0.15, 0.15, 0.05, 0.1]
    lines = [" ".join(chance.choice(words, chance.integers(1, 12), p=share)) for _ in range(2000)]
    path = tmp_path_factory.mktemp("words") / "a.txt"
    path.write_text("\n".join(line.replace(" b", ", b") for line in lines), "utf-8")
    return path, tokenizer


def test_words_are_the_tokenizers(broken):
    """But [UNK] is a word by itself, and so is what goes beyond ten pieces of one."""
    path, tokenizer = broken
    data = MaskedLMDataset(path, tokenizer, 512)
    for i, line in enumerate(path.read_text().splitlines()):
        found = data.begins[data.starts[i] : data.starts[i] + data.lengths[i]]
        encoded = tokenizer(line, add_special_tokens=False)
        within = np.array(
            [encoded.word_ids()[:k].count(w) for k, w in enumerate(encoded.word_ids())]
        )
        assert (found == (within % 10 == 0)).all()
        ids = np.array(encoded["input_ids"])
        assert data.words[i] == found.sum() - (ids == tokenizer.unk_token_id).sum()
    assert data.begins.dtype == bool and len(data.begins) == len(data.ids)


@pytest.mark.parametrize("pieces", [["a", "b"], ["a b", "c", "d ab"], ["abc", "", "b a"]])
def test_a_word_begins_where_a_text_does(broken, pieces):
    encoded = broken[1](pieces, add_special_tokens=False).encodings
    expected = [
        n == 0 or a != b
        for t in encoded
        for n, (a, b) in enumerate(zip(t.word_ids, [None, *t.word_ids]))
    ]
    assert word_begins(encoded, 1).tolist() == expected


@pytest.mark.parametrize("examples", ["line", "block"])
def test_a_word_is_asked_as_a_whole_and_each_with_the_same_chance(broken, examples):
    """However long it is and however short its line: of tokens and of words the share is exact."""
    data = MaskedLMDataset(*broken, 16, examples)
    words, p = pieces_of(data, np.arange(len(data))), 0.3
    cases = {}  # (pieces of a word, whether it stands in a short example): (asked, of so many)
    for epoch in range(12):
        (batch,) = make(
            data, [(epoch, np.arange(len(data)))], len(data), p, rows="own", masking="word"
        )
        labels = (batch["labels"] != -100).numpy()
        for row, those in enumerate(words):
            place = 1
            for word in those:
                asked = labels[row, place : place + len(word)]
                assert asked.all() or not asked.any()
                if word[0] == data.tokenizer.unk_token_id:
                    assert not asked.any()
                else:
                    case = cases.setdefault((len(word), len(those) < 4), [0, 0])
                    case[0] += asked[0]
                    case[1] += 1
                place += len(word)
            assert not labels[row, place:].any()
    assert len(cases) > 5
    for case, (asked, of) in cases.items():
        assert abs(asked / of - p) < 5 * np.sqrt(p * (1 - p) / of), case
    tokens = sum(size * asked for (size, _), (asked, _) in cases.items())
    variance = sum(size**2 * of for (size, _), (_, of) in cases.items()) * p * (1 - p)
    assert abs(tokens - p * 12 * data.known.sum()) < 5 * np.sqrt(variance)


def test_words_of_one_token_are_masked_as_tokens_are(drawn):
    input_ids, *_ = drawn
    rest = range(SPECIAL), np.full(len(input_ids), 3), 4, 0, np.arange(len(input_ids)), 4, 1000
    words = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
    for one, other in zip(mask_tokens(input_ids, *rest), mask_tokens(input_ids, *rest, words)):
        assert np.array_equal(one, other)


@how
@pytest.mark.parametrize("world", [1, 3])
def test_whole_words_keep_the_laws_of_batches(broken, how, world):
    """Same example, same masks, in any layout and share; there is room for all, and they are counted."""
    data = MaskedLMDataset(*broken, 16)
    keys = list(order(data, 20 * world, stop=5))
    (whole,) = make(data, [(0, np.arange(len(data)))], len(data), rows="own", masking="word")
    expected = dict(enumerate(parts_of(whole)))
    for rank in range(world):
        made = make(data, keys, 20, rank=rank, world=world, masking="word", **how)
        for (_, indices), batch in zip(keys, made, strict=True):
            assert sorted(parts_of(batch)) == sorted(expected[i] for i in indices[rank::world])
            asked = batch["labels"].flatten()
            assert (asked[batch["positions"]] != -100).sum() == (asked != -100).sum()
            everyone = [label for i in indices for label in expected[i][1]]
            assert batch["masked"] == len(everyone) - everyone.count(-100)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_no_draw_asks_for_more_than_there_is_static_room(broken, p):
    data = MaskedLMDataset(*broken, 16, "block")
    batches = MaskedBatches(data, [], 1, p, 0, rows="static", masking="word")
    every = np.arange(len(data))
    for epoch in range(10):
        counts = masked_counts(data.words, 0, epoch, every, p)
        _, labels = batches.masked_examples(epoch, every, counts)
        assert (labels != -100).sum(1).max() <= batches.room(0) <= data.known.max()
    assert MaskedBatches(data, [], 1, p, 0, rows="static").room(0) == np.ceil(p * data.known.max())


@pytest.mark.parametrize("replace", ["100/0/0", "0/100/0", "0/0/100", "50/30/20"])
def test_shares_of_what_becomes_of_a_token(drawn, replace):
    input_ids, n = drawn[0], len(drawn[0])
    rest = range(SPECIAL), np.full(n, 3), 4, 0, np.arange(n), 4, 1000
    masked, labels = mask_tokens(input_ids, *rest, replace=replace)
    chosen = labels != -100
    kinds = (masked == 4), (masked != 4) & (masked != input_ids), (masked == input_ids)
    for kind, share in zip(kinds, replace.split("/")):
        theory = int(share) / 100
        chance = 5 * np.sqrt(theory * (1 - theory) / chosen.sum()) + 0.004  # the very same, [MASK]
        assert abs(kind[chosen].mean() - theory) < chance
