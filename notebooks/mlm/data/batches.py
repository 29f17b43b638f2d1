"""Masked batches: the examples of a plan, laid out in rows, each batch a pure function of its key."""

import numpy as np
import torch
from torch.utils.data import IterableDataset

from mlm.data.masking import candidate_counts, mask_tokens, masked_counts


class TrainingOrder:
    """The keys (epoch, indices, rows) of a Plan's batches of steps `start` to `stop` - 1.

    To resume is to start later. With `share`, a function of the step, the share of the tokens that is
    predicted follows in the key.
    """

    def __init__(self, plan, start, stop, share=None):
        self.plan, self.start, self.stop, self.share = plan, start, stop, share

    def __iter__(self):
        epoch = keys = None
        for step in range(self.start, self.stop):
            now, number = divmod(step, self.plan.steps)
            if now != epoch:
                epoch, keys = now, self.plan.keys(now)
            yield *keys[number], *([self.share(step)] if self.share else [])


def lay_out_rows(rows, sizes, ids, labels, shape, pad_token_id):
    """Lay examples out in the rows of a batch, one after the other.

    rows, sizes (n,): the row of each example, in ascending order, and its tokens; ids, labels (n, T'):
    its own, from the left; shape: that of the batch, (B, T).
    Returns input_ids, labels, sequence_ids and position_ids as {name: (B, T) int64}.
    """
    first = np.searchsorted(rows, rows)  # of each example's row
    before = np.cumsum(sizes) - sizes
    place = np.arange(ids.shape[1])
    real = place < sizes[:, None]
    cells = ((rows * shape[1] + before - before[first])[:, None] + place)[real]
    number = 1 + np.arange(len(rows)) - first  # of the example in its row
    filling = {
        "input_ids": (pad_token_id, ids),
        "labels": (-100, labels),
        "sequence_ids": (0, np.broadcast_to(number[:, None], ids.shape)),
        "position_ids": (0, np.broadcast_to(place, ids.shape)),
    }
    laid = {name: np.full(shape, empty) for name, (empty, _) in filling.items()}
    for name, (_, values) in filling.items():
        laid[name].reshape(-1)[cells] = values[real]
    return laid


class MaskedBatches(IterableDataset):
    """The masked batches of `keys`, each a pure function of its key (epoch, indices, rows).

    `indices` are numbers of examples, `rows` (as long) the row of each, in ascending order; without rows
    each example has its own. A batch is a dict of input_ids, labels (B, T) int64, labels -100 where
    nothing is predicted; positions (K,) int64, the predicted tokens as indices into the flattened
    (B*T,) batch, some of label -100 where there are fewer; num_masked, a float, how many tokens all
    processes predict together; num_tokens and num_examples, ints, how many all of them see. Unless all its
    examples are as wide as a row: sequence_ids (B, T) int64, a token's example in its row
    (1, 2, ...; 0 is padding), which alone it may attend to, and position_ids (B, T) int64.

    `shape` is (B, T, K) for all batches, that of the Plan; of `world` processes number `rank` takes the
    B rows from rank * B on. Without it a batch has the shape that it needs. masking="word" asks about
    whole words. `count` and `mask` say how it is masked: functions with the arguments of
    `masked_counts` and `mask_tokens`, whose `replace` says what becomes of the tokens asked about.
    """

    def __init__(
        self, dataset, keys, mlm_probability, seed,
        shape=None, rank=0, count=masked_counts, mask=mask_tokens, masking="token", replace="80/10/10",
    ):  # fmt: skip
        self.dataset, self.keys, self.mlm_probability = dataset, keys, mlm_probability
        self.seed, self.shape, self.rank, self.count, self.mask = seed, shape, rank, count, mask
        self.masking, self.replace = masking, replace

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
                begins[row, 2 : sizes[row] - 1] = data.word_starts[inner]
        mask_id, drawn_from = data.tokenizer.mask_token_id, data.vocab_size
        where = counts, self.seed, epoch, indices
        how = dict(words=begins.cumsum(1) - 1, replace=self.replace)
        return self.mask(tokens, data.special, *where, mask_id, drawn_from, **how)

    def batch(self, epoch, indices, rows=None, mlm_probability=None):
        """The batch of these examples with the masks of this epoch; of another share, if not larger."""
        data, share = self.dataset, mlm_probability or self.mlm_probability
        rows = np.arange(len(indices)) if rows is None else rows
        sizes, choices = data.lengths[indices] + 2, candidate_counts(data, self.masking)[indices]
        counts = self.count(choices, self.seed, epoch, indices, share)
        most = counts.sum() + (data.maskable[indices] - choices).sum()
        needed = rows[-1] + 1, int(np.bincount(rows, sizes).max()), int(most)
        height, width, room = self.shape or needed
        mine = rows // height == self.rank
        if self.masking == "word":  # how many tokens these are shows only in the words chosen
            ids, answers = self.masked_examples(epoch, indices, counts)
            asked, ids, answers = (answers != -100).sum(), ids[mine], answers[mine]
        else:
            ids, answers = self.masked_examples(epoch, indices[mine], counts[mine])
            asked = counts.sum()
        pad = data.tokenizer.pad_token_id
        laid = lay_out_rows(rows[mine] % height, sizes[mine], ids, answers, (height, width), pad)
        positions = np.flatnonzero(laid["labels"] != -100)
        positions = np.pad(positions, (0, room - len(positions)))  # 0 is never asked about
        if (sizes == width).all():
            del laid["sequence_ids"], laid["position_ids"]  # they say nothing: nothing to compute
        batch = {name: torch.from_numpy(array) for name, array in laid.items()}
        batch["positions"] = torch.from_numpy(positions)
        batch["num_masked"] = torch.tensor(float(asked))
        return batch | {
            "num_tokens": int(data.lengths[indices].sum()),
            "num_examples": len(indices),
        }
