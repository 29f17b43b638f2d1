"""Masks and batches: the laws of chance, and that nothing is lost or depends on what it should not."""

import functools
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from helpers import parts_of
from mlm.data.batches import MaskedBatches, TrainingOrder
from mlm.data.dataset import MaskedLMDataset
from mlm.data.masking import mask_tokens, masked_counts, uniform
from mlm.data.packing import (
    MAX_ROW_TOKENS,
    POSITION_STEP,
    VALIDATION_EPOCH,
    WIDTH_STEP,
    PackingPlan,
)
from mlm.data.token_ids import word_starts

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


# the plan


def plan_of(lengths, batch_size=8, world=1, epochs=(0,), p=P):
    """The Plan of examples of these lengths, all of whose tokens may be asked about."""
    return PackingPlan(Lengths(np.asarray(lengths)), batch_size, p, 0, epochs, world)


class Lengths:
    """As much of a dataset as a plan asks for."""

    def __init__(self, lengths):
        self.lengths = self.maskable = self.word_counts = lengths

    def __len__(self):
        return len(self.lengths)


CHANCE = np.random.default_rng(0)
TEXTS = {
    "one": [5],
    "three": [5, 9, 130],
    "alike": [28] * 101,
    "blocks": [126] * 50 + [17],
    "lines": CHANCE.integers(1, 40, 1000),
    "a few long ones": np.append(CHANCE.integers(1, 20, 500), [93, 110, 126]),
    "mostly short": 1 + CHANCE.geometric(0.2, 700),
    "of all lengths": CHANCE.integers(1, 126, 300),
}


@pytest.mark.parametrize("batch_size, world", [(1, 1), (4, 1), (32, 1), (1000, 1), (8, 2), (3, 8)])
@pytest.mark.parametrize("lengths", TEXTS.values(), ids=TEXTS)
def test_every_batch_of_a_plan_fits_its_shape(lengths, batch_size, world):
    """Each example once an epoch; no row is too wide, no process has too many rows or masks."""
    plan, sizes = (
        plan_of(lengths, batch_size, world, (0, 1, VALIDATION_EPOCH)),
        np.asarray(lengths) + 2,
    )
    height, width, room = plan.shape
    assert plan.steps == -(-len(sizes) // (batch_size * world))
    assert width % WIDTH_STEP == 0 or width == sizes.max()
    assert room % POSITION_STEP == 0
    for epoch in (0, 1, VALIDATION_EPOCH):
        keys = plan.keys(epoch)
        assert len(keys) == plan.steps and {key[0] for key in keys} == {epoch}
        seen = np.concatenate([indices for _, indices, _ in keys])
        assert (np.sort(seen) == np.arange(len(sizes))).all()
        for _, indices, rows in keys:
            assert 0 < len(indices) == len(rows) <= batch_size * world
            assert rows.max() < height * world and (np.diff(rows) >= 0).all()
            assert np.bincount(rows, sizes[indices]).max() <= width
            masks = masked_counts(sizes[indices] - 2, 0, epoch, indices, P)
            assert np.bincount(rows // height, masks).max() <= room


@pytest.mark.parametrize("batch_size, world", [(32, 1), (32, 2), (8, 8), (256, 1)])
def test_a_plan_hardly_pads(batch_size, world):
    lines = np.random.default_rng(1).integers(1, 30, 8000)
    plan = plan_of(lines, batch_size, world, range(5))
    height, width, _ = plan.shape
    cells = plan.steps * world * height * width
    assert width <= MAX_ROW_TOKENS
    assert 1 - (lines + 2).sum() / cells < 0.08
    blocks = plan_of([126] * 5000 + [17], batch_size, world)
    assert blocks.shape[0] == -(-(5001) // (blocks.steps * world)) and blocks.shape[1] == 128


def test_a_batch_is_a_random_sample_and_another_in_each_epoch():
    """Who meets whom: as often again as chance has it; a batch's lengths are spread as all are."""
    lengths = np.random.default_rng(2).integers(1, 60, 2000)
    plan = plan_of(lengths, 20)
    met, spread = [], []
    for epoch in (0, 1):
        batches = [np.sort(indices) for _, indices, _ in plan.keys(epoch)]
        pairs = {(i, j) for batch in batches for n, i in enumerate(batch) for j in batch[n + 1 :]}
        met.append(pairs)
        spread += [lengths[batch].std() for batch in batches]
    expected = len(met[0]) ** 2 / (2000 * 1999 / 2)
    assert abs(len(met[0] & met[1]) - expected) < 5 * np.sqrt(expected)
    assert abs(np.mean(spread) / lengths.std() - 1) < 0.05
    sums = [lengths[indices].sum() for _, indices, _ in plan.keys(2)]
    assert max(sums) - min(sums) < 0.05 * np.mean(sums)  # by chance they would differ by a third


def test_a_plan_is_the_same_when_made_again():
    lengths = np.random.default_rng(3).integers(1, 60, 500)
    one, other = plan_of(lengths), plan_of(lengths, epochs=(0, 1, 2))
    for key, again in zip(one.keys(1), other.keys(1), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(key, again))


def test_a_plan_takes_little_time():
    lengths = np.random.default_rng(0).integers(1, 40, 100_000)
    began = time.process_time()
    plan_of(lengths, 32)
    assert time.process_time() - began < 5


# batches


def make(dataset, keys, p=P, seed=0, **options):
    """The batches of these keys, as a list."""
    return list(MaskedBatches(dataset, keys, p, seed, **options))


def planned(dataset, batch_size, rank=0, world=1, p=P, seed=0, epochs=(0,)):
    """The batches of process `rank` in these epochs as planned."""
    plan = PackingPlan(dataset, batch_size, p, seed, epochs, world)
    keys = [key for epoch in epochs for key in plan.keys(epoch)]
    return make(dataset, keys, p, seed, shape=plan.shape, rank=rank)


def own_rows(dataset, batch_size, epoch=0):
    """Keys of an epoch as planned, but each example with a row of its own."""
    return [key[:2] for key in PackingPlan(dataset, batch_size, P, 0, (epoch,)).keys(epoch)]


@functools.cache
def numbers(dataset):
    """{an example as a tuple: its number}."""
    found = {tuple(dataset[i].tolist()): i for i in range(len(dataset))}
    assert len(found) == len(dataset)
    return found


def unmasked(ids, labels):
    """An example before it was masked."""
    return [token if label == -100 else label for token, label in zip(ids, labels)]


def examples_of(dataset, made):
    """{number of an example: its (input_ids, labels)}, each seen once."""
    parts = [part for batch in made for part in parts_of(batch)]
    seen = {numbers(dataset)[tuple(unmasked(*part))]: part for part in parts}
    assert len(seen) == len(parts)
    return seen


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 359, 360, 1000])
def test_each_example_once_with_its_own_masks(dataset, batch_size, world):
    """In batches of any size, shared out over any processes: as with a row each."""
    expected = examples_of(dataset, make(dataset, own_rows(dataset, 8)))
    shares = [planned(dataset, batch_size, rank, world) for rank in range(world)]
    assert len(expected) == len(dataset) == 360
    assert examples_of(dataset, [batch for share in shares for batch in share]) == expected
    for parts in zip(*shares, strict=True):  # a step
        asked = sum(int((part["labels"] != -100).sum()) for part in parts)
        read = [ids for part in parts for ids, _ in parts_of(part)]
        for part in parts:  # each knows of all
            assert part["num_masked"] == asked and part["num_masked"].dtype == torch.float32
            assert part["num_examples"] == len(read) <= batch_size * world
            assert part["num_tokens"] == sum(len(ids) - 2 for ids in read)


@pytest.mark.parametrize("p", [0.15, 0.5, 0.999])
@pytest.mark.parametrize("world", [1, 2])
def test_all_batches_have_one_shape_and_lose_no_mask(dataset, p, world):
    shapes = set()
    for rank in range(world):
        for batch in planned(dataset, 7, rank, world, p, epochs=(0, 1)):
            tensors = {name: value for name, value in batch.items() if torch.is_tensor(value)}
            shapes.add(tuple((name, *value.shape) for name, value in sorted(tensors.items())))
            for name in ("input_ids", "labels", "sequence_ids", "position_ids", "positions"):
                assert batch[name].dtype == torch.int64
            labels, positions = batch["labels"].flatten(), batch["positions"]
            (where,) = torch.where(labels != -100)
            assert (positions[: len(where)] == where).all()
            assert (labels[positions[len(where) :]] == -100).all()
    assert len(shapes) == 1


@pytest.mark.parametrize("width", [32, 128])
def test_masks_are_left_out_where_nothing_is_padded_or_shared(corpus_folder, tokenizer, width):
    """With blocks that fill their rows: all batches but the one with the last block."""
    data = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, width, "block")
    own = make(data, own_rows(data, 8))
    made = planned(data, 8)
    masked = sum("sequence_ids" in batch for batch in own)
    assert masked == sum("position_ids" in batch for batch in own) == 1
    assert sum("sequence_ids" in batch for batch in made) == (1 if width == 128 else len(made))
    assert sum(len(parts_of(batch)) for batch in made) == len(data)


def test_an_edited_mask_reaches_the_batches(dataset):
    """03 hands its own functions over: what they return is in the batch, and room is made for it."""

    def all_masked(*rows, **how):
        masked, labels = mask_tokens(*rows, **how)
        return np.where(labels != -100, dataset.tokenizer.mask_token_id, masked), labels

    def all_of_them(lengths, seed, epoch, indices, mlm_probability):
        return lengths

    plan = PackingPlan(dataset, 8, P, 0, (0,), count=all_of_them)
    how = dict(shape=plan.shape, mask=all_masked, count=all_of_them)
    for batch in make(dataset, plan.keys(0), **how):
        asked = batch["labels"] != -100
        assert int(asked.sum()) == batch["num_masked"] == batch["num_tokens"]
        assert (batch["input_ids"][asked] == dataset.tokenizer.mask_token_id).all()


def test_seed_and_epoch_change_masks_and_order(dataset):
    def run(seed, epoch):
        keys = PackingPlan(dataset, 8, P, seed, (epoch,)).keys(epoch)
        seen = examples_of(dataset, make(dataset, keys, seed=seed))
        return [tuple(indices) for _, indices, _ in keys], [
            [label != -100 for label in seen[i][1]] for i in range(360)
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
    plan = PackingPlan(dataset, 8, P, 0, (0,))
    made = MaskedBatches(dataset, plan.keys(0), P, 0, plan.shape)
    whole, loaded = list(made), list(DataLoader(made, batch_size=None))
    alone = [made.batch(*key) for key in plan.keys(0)[::-1]][::-1]
    for one, *others in zip(whole, loaded, alone, strict=True):
        for other in others:
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("start", [0, 1, 17, 44, 45, 46, 100, 134, 135])
def test_a_resumed_order_is_the_tail_of_the_whole(dataset, start):
    plan = PackingPlan(dataset, 8, P, 0, range(3))
    whole = list(TrainingOrder(plan, 0, 135))
    assert [epoch for epoch, *_ in whole] == [0] * 45 + [1] * 45 + [2] * 45
    tail = list(TrainingOrder(plan, start, 135))
    assert len(tail) == 135 - start
    for key, expected in zip(tail, whole[start:]):
        assert all(np.array_equal(a, b) for a, b in zip(key, expected))


def test_rows_of_their_own_are_as_wide_as_their_longest_example(dataset):
    keys = own_rows(dataset, 4)
    for (_, indices), batch in zip(keys, make(dataset, keys)):
        assert batch["input_ids"].shape == (len(indices), dataset.lengths[indices].max() + 2)
        assert (batch["labels"].flatten()[batch["positions"]] != -100).all()


def test_held_out_masks_are_the_same_whatever_the_batches(corpus_folder, tokenizer):
    data = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)
    expected = None
    for batch_size, world in ((8, 1), (1, 1), (64, 1), (3, 4)):
        shares = [
            planned(data, batch_size, rank, world, epochs=(VALIDATION_EPOCH,))
            for rank in range(world)
        ]
        seen = examples_of(data, [batch for share in shares for batch in share])
        expected = expected or seen
        assert seen == expected
    assert len(expected) == len(data) == 40
    assert examples_of(data, planned(data, 8)) != expected


# [UNK]


@pytest.mark.parametrize("examples", ["line", "block"])
def test_unknown_words_are_never_asked_about(tmp_path, tokenizer, examples):
    """Held out or not; all other words keep their chance, and its share is told."""
    chance = np.random.default_rng(0)
    words = np.array(["power", "truth", "good", "\u8a9e", "x" * 101])
    lines = [" ".join(chance.choice(words, chance.integers(1, 30))) for _ in range(900)]
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf-8")
    data, unknown = (
        MaskedLMDataset(tmp_path / "a.txt", tokenizer, 32, examples),
        tokenizer.unk_token_id,
    )
    for epoch in (0, VALIDATION_EPOCH):
        made = planned(data, 8, epochs=(epoch,))
        labels = torch.cat([batch["labels"].flatten() for batch in made])
        assert unknown not in labels
        asked, known = int((labels != -100).sum()), int(data.maskable.sum())
        assert asked == sum(batch["num_masked"] for batch in made)
        assert abs(asked / known - P) < 5 * np.sqrt(P * (1 - P) / known)
    assert data.unk_fraction == (data.ids[:] == unknown).mean() > 0.1
    assert len(data.ids) - data.num_truncated > known


# whole words


def pieces_of(dataset, indices):
    """The words of these examples as lists of ids, each in a list of its example's."""
    return [
        np.split(ids, np.flatnonzero(begins[1:]) + 1)
        for ids, begins in (
            (dataset[i].numpy()[1:-1], dataset.word_starts[start : start + dataset.lengths[i]])
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
        found = data.word_starts[data.starts[i] : data.starts[i] + data.lengths[i]]
        encoded = tokenizer(line, add_special_tokens=False)
        within = np.array(
            [encoded.word_ids()[:k].count(w) for k, w in enumerate(encoded.word_ids())]
        )
        assert (found == (within % 10 == 0)).all()
        ids = np.array(encoded["input_ids"])
        assert data.word_counts[i] == found.sum() - (ids == tokenizer.unk_token_id).sum()
    assert data.word_starts.dtype == bool and len(data.word_starts) == len(data.ids)


@pytest.mark.parametrize("pieces", [["a", "b"], ["a b", "c", "d ab"], ["abc", "", "b a"]])
def test_a_word_begins_where_a_text_does(broken, pieces):
    encoded = broken[1](pieces, add_special_tokens=False).encodings
    expected = [
        n == 0 or a != b
        for t in encoded
        for n, (a, b) in enumerate(zip(t.word_ids, [None, *t.word_ids]))
    ]
    assert word_starts(encoded, 1).tolist() == expected


@pytest.mark.parametrize("examples", ["line", "block"])
def test_a_word_is_asked_as_a_whole_and_each_with_the_same_chance(broken, examples):
    """However long it is and however short its line: of tokens and of words the share is exact."""
    data = MaskedLMDataset(*broken, 16, examples)
    words, p = pieces_of(data, np.arange(len(data))), 0.3
    cases = {}  # (pieces of a word, whether it stands in a short example): (asked, of so many)
    for epoch in range(12):
        (batch,) = make(data, [(epoch, np.arange(len(data)))], p, masking="word")
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
    assert abs(tokens - p * 12 * data.maskable.sum()) < 5 * np.sqrt(variance)


def test_words_of_one_token_are_masked_as_tokens_are(drawn):
    input_ids, *_ = drawn
    rest = range(SPECIAL), np.full(len(input_ids), 3), 4, 0, np.arange(len(input_ids)), 4, 1000
    words = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
    for one, other in zip(mask_tokens(input_ids, *rest), mask_tokens(input_ids, *rest, words)):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("world", [1, 3])
def test_whole_words_keep_the_laws_of_batches(broken, world):
    """Same example, same masks, in any layout and share; there is room for all, and they are counted."""
    data = MaskedLMDataset(*broken, 16)
    (whole,) = make(data, [(0, np.arange(len(data)))], masking="word")
    expected = sorted(parts_of(whole))
    plan = PackingPlan(data, 20, P, 0, (0,), world, masking="word")
    shares = [
        make(data, plan.keys(0), shape=plan.shape, rank=rank, masking="word")
        for rank in range(world)
    ]
    assert (
        sorted(part for share in shares for batch in share for part in parts_of(batch)) == expected
    )
    for step in zip(*shares, strict=True):
        asked = [batch["labels"].flatten() for batch in step]
        for batch, labels in zip(step, asked):
            assert (labels[batch["positions"]] != -100).sum() == (labels != -100).sum()
            assert batch["num_masked"] == sum((labels != -100).sum() for labels in asked)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_no_draw_asks_for_more_tokens_than_its_words_may_have(broken, p):
    data = MaskedLMDataset(*broken, 16, "block")
    batches, every = MaskedBatches(data, [], p, 0, masking="word"), np.arange(len(data))
    for epoch in range(10):
        counts = masked_counts(data.word_counts, 0, epoch, every, p)
        _, labels = batches.masked_examples(epoch, every, counts)
        assert ((labels != -100).sum(1) <= counts + data.maskable - data.word_counts).all()


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
