"""The order of an epoch, rows that examples share, and the masked batches made of both."""

import heapq

import numpy as np
import torch
from torch.utils.data import IterableDataset

from .masking import mask_tokens, masked_counts, uniform
from .notebook import NotebookError

HELD_OUT = 2**40  # the "epoch" of the held-out masks, which no training reaches
ROW_TOKENS = 128  # examples share rows of half as many to so many tokens
WIDTH_STEP = 8  # widths of shared rows are multiples of it: kernels are built for each new shape
POSITION_STEP = 16  # the number of predicted positions is a multiple of it, for the same reason


def epoch_batches(lengths, batch_size, seed, epoch, grouped=False):
    """The examples of one epoch in random batches: a list of index arrays, each example once.

    With `grouped`, pools of 100 batches are sorted by length before they are cut: little is padded,
    but a batch of only short or only long lines is no random sample of the text.
    """
    order = uniform(seed, epoch, np.arange(len(lengths)), 4).argsort(kind="stable")
    if grouped:
        pool = 100 * batch_size
        pools = [order[i : i + pool] for i in range(0, len(order), pool)]
        order = np.concatenate([p[np.argsort(lengths[p], kind="stable")] for p in pools])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    shuffled = uniform(seed, epoch, np.arange(len(batches)), 5).argsort(kind="stable")
    return [batches[i] for i in shuffled]


class TrainingOrder:
    """The keys (epoch, indices) of the batches of steps `start` to `stop` - 1.

    To resume is to start later. `lengths` (examples,); an epoch's last batch may be short. With
    `share`, a function of the step, the share of the tokens that is predicted follows in the key.
    """

    def __init__(self, lengths, batch_size, seed, start, stop, share=None):
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.start, self.stop, self.share = start, stop, share

    def __iter__(self):
        epoch = batches = None
        for step in range(self.start, self.stop):
            now, number = divmod(step, -(-len(self.lengths) // self.batch_size))
            if now != epoch:
                epoch, batches = now, epoch_batches(self.lengths, self.batch_size, self.seed, now)
            yield epoch, batches[number], *([self.share(step)] if self.share else [])


def held_out_keys(lengths, batch_size, seed):
    """The keys of the held-out batches: the same masks in every run, on every device."""
    return [(HELD_OUT, group) for group in epoch_batches(lengths, batch_size, seed, HELD_OUT)]


# rows


def round_up(number, step):
    """The next multiple of `step`."""
    return -(-int(number) // step) * step


def pack(sizes, width=ROW_TOKENS):
    """Which examples share a row of a batch: lists of numbers, in rows of width / 2 to `width` tokens.

    Longest first, each into the emptiest row (Graham 1969): the rows come out almost equally full.
    Of the numbers of rows that make them a multiple of WIDTH_STEP wide, the one that pads least is
    taken, of equals the smallest. So little is padded, and the batches stay random (Krell et al.
    2021, arXiv:2107.02027). n examples take n log n time.
    """
    total, longest = int(sizes.sum()), int(sizes.max(initial=1))
    order, sizes = np.argsort(-sizes, kind="stable").tolist(), sizes.tolist()

    def fill(count):
        """(cells of the batch, rows) for so many rows."""
        rows, emptiest = [[] for _ in range(count)], [(0, row) for row in range(count)]  # a heap
        for example in order:
            tokens, row = emptiest[0]
            rows[row].append(example)
            heapq.heapreplace(emptiest, (tokens + sizes[example], row))
        return count * round_up(max(emptiest)[0], WIDTH_STEP), rows

    widths = range(width // 2, width + 1, WIDTH_STEP)
    slack = (0, 1, 2)  # tokens by which the fullest row may exceed the mean of all
    counts = {-(-total // max(wide - less, longest)) for wide in widths for less in slack}
    return min(map(fill, sorted(counts)), key=lambda found: found[0])[1]


def row_width(rows, sizes, full):
    """Tokens in the fullest of shared rows, rounded up; rows of one whole block (`full`) stay it."""
    width = max((int(sizes[row].sum()) for row in rows), default=0)
    return full if width == full else round_up(max(width, 1), WIDTH_STEP)


def lay_rows(rows, sizes, ids, labels, width, pad_token_id):
    """Lay examples out in the rows of a batch, one after the other.

    rows: lists of example numbers; sizes (n,): tokens of each; ids, labels (n, T): theirs.
    Returns input_ids, labels, attention_mask and position_ids as {name: (rows, width) int64}.
    """
    shape = len(rows), width
    laid = {
        "input_ids": np.full(shape, pad_token_id),
        "labels": np.full(shape, -100),
        "attention_mask": np.zeros(shape, np.int64),
        "position_ids": np.zeros(shape, np.int64),
    }
    for row, members in enumerate(rows):
        end = np.cumsum(sizes[members], dtype=int)
        for number, (i, stop) in enumerate(zip(members, end), 1):
            place, size = (row, slice(stop - sizes[i], stop)), sizes[i]
            laid["input_ids"][place], laid["labels"][place] = ids[i, :size], labels[i, :size]
            laid["attention_mask"][place], laid["position_ids"][place] = number, np.arange(size)
    return laid


class MaskedBatches(IterableDataset):
    """The masked batches of `keys`, each a pure function of its key (epoch, indices).

    A batch is a dict of input_ids, labels (B, T) int64, labels -100 where nothing is predicted;
    positions (K,) int64, the predicted tokens as indices into the flattened (B*T,) batch; masked, a
    float, how many tokens all processes predict together; tokens and examples, ints, how many all of
    them see. Where a row is padded or shared: attention_mask (B, T) int64, a token's example in its
    row (1, 2, ...; 0 is padding), which alone it may attend to, and position_ids (B, T) int64.

    `rows` says how examples are laid out. "shared": short ones share a row; B, T and K follow from
    the examples. "own": a row each, as wide as the longest. "static": a row each and one shape for
    all batches, for compilers: T that of the longest example of all, rows left empty, K filled up
    with positions of label -100. No example and no mask is ever left out.

    Process `rank` of `world` takes every world-th example. masking="word" asks about whole words.
    `count` and `mask` say how it is masked: functions with the arguments of `masked_counts` and
    `mask_tokens`, whose `replace` says what becomes of the tokens that are asked about.
    """

    def __init__(
        self, dataset, keys, batch_size, mlm_probability, seed,
        rank=0, world=1, rows="shared", count=masked_counts, mask=mask_tokens,
        masking="token", replace="80/10/10",
    ):  # fmt: skip
        self.dataset, self.keys, self.batch_size = dataset, keys, batch_size
        self.mlm_probability, self.seed, self.rank, self.world = mlm_probability, seed, rank, world
        self.rows, self.count, self.mask = rows, count, mask
        self.masking, self.replace = masking, replace
        self.longest = int(dataset.lengths.max())  # tokens, without [CLS] and [SEP]
        self.choices = dataset.words if masking == "word" else dataset.known

    def __iter__(self):
        return (self.batch(*key) for key in self.keys)

    def masked_examples(self, epoch, indices, counts):
        """Masked ids and labels (n, T) of these examples, a row each."""
        data, sizes = self.dataset, self.dataset.lengths[indices] + 2
        tokens = np.full((len(indices), sizes.max(initial=2)), data.tokenizer.pad_token_id)
        begins = np.ones(tokens.shape, bool)
        for row, index in enumerate(indices):
            tokens[row, : sizes[row]] = data[index].numpy()
            if self.masking == "word":
                inner = slice(data.starts[index] + 1, data.starts[index] + data.lengths[index])
                begins[row, 2 : sizes[row] - 1] = data.begins[inner]
        mask_id, drawn_from = data.tokenizer.mask_token_id, data.vocab_size
        where = counts, self.seed, epoch, indices
        how = dict(words=begins.cumsum(1) - 1, replace=self.replace)
        return self.mask(tokens, data.special, *where, mask_id, drawn_from, **how)

    def layout(self, sizes):
        """(rows, width): which examples, of these sizes in tokens, lie in which row; B and T."""
        own = [[i] for i in range(len(sizes))]
        full = self.longest + 2
        if self.rows == "static":
            return own + [[] for _ in range(self.batch_size - len(own))], full
        if self.rows == "own":
            return own or [[]], int(sizes.max(initial=2))
        rows = pack(sizes) if len(sizes) else [[]]
        return rows, row_width(rows, sizes, full)

    def most_asked(self):
        """The most tokens of one example that may be asked about: each word left out has one or more."""
        chosen = np.ceil(self.mlm_probability * self.choices)
        return int((self.dataset.known - self.choices + chosen).max())

    def room(self, masks):
        """K for so many masks of this process."""
        if self.rows == "static":
            most = self.most_asked()
            if masks > self.batch_size * most:
                raise NotebookError(
                    f"{masks} masks in a static batch of {self.batch_size} examples: there is room "
                    f"for {most} an example, its share rounded up; count no more of them"
                )
            return self.batch_size * most
        return round_up(masks, POSITION_STEP if self.rows == "shared" else 1)

    def batch(self, epoch, indices, mlm_probability=None):
        """The batch of these examples with the masks of this epoch; of another share, if not larger."""
        share = mlm_probability or self.mlm_probability
        lengths = self.dataset.lengths
        counts = self.count(self.choices[indices], self.seed, epoch, indices, share)
        mine = slice(self.rank, None, self.world)
        if self.masking == "word":  # how many tokens these are shows only in the words chosen
            ids, answers = self.masked_examples(epoch, indices, counts)
            asked, ids, answers = (answers != -100).sum(), ids[mine], answers[mine]
        else:
            ids, answers = self.masked_examples(epoch, indices[mine], counts[mine])
            asked = counts.sum()
        sizes = lengths[indices[mine]] + 2
        rows, width = self.layout(sizes)
        laid = lay_rows(rows, sizes, ids, answers, width, self.dataset.tokenizer.pad_token_id)
        positions = np.flatnonzero(laid["labels"] != -100)
        fill = self.room(len(positions)) - len(positions)
        positions = np.pad(positions, (0, fill))  # 0 is a [CLS], of label -100
        if self.rows != "static" and (laid["attention_mask"] == 1).all():
            del laid["attention_mask"], laid["position_ids"]  # they say nothing: nothing to compute
        batch = {name: torch.from_numpy(array) for name, array in laid.items()}
        batch["positions"] = torch.from_numpy(positions)
        batch["masked"] = torch.tensor(float(asked))
        return batch | {"tokens": int(lengths[indices].sum()), "examples": len(indices)}
