"""Masked batches: each one is a pure function of its key (epoch, indices of examples, their rows)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from mlm.data.dataset import MaskedLMDataset
from mlm.data.masking import candidate_counts, mask_tokens, masked_counts, max_masked_tokens
from mlm.data.packing import BatchKey, PackingPlan


class TrainingOrder:
    """The keys of a plan's batches, from step `start` to step `stop` - 1.

    A resumed run starts at a later step: it needs no state of a sampler.
    """

    def __init__(self, plan: PackingPlan, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop

    def __iter__(self) -> Iterator[BatchKey]:
        current_epoch, keys = None, []
        for step in range(self.start, self.stop):
            epoch, batch_index = divmod(step, self.plan.steps_per_epoch)
            if epoch != current_epoch:
                current_epoch, keys = epoch, self.plan.keys(epoch)
            yield keys[batch_index]


def lay_out_rows(
    rows: np.ndarray,
    sizes: np.ndarray,
    input_ids: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, int],
    pad_token_id: int,
) -> dict[str, np.ndarray]:
    """Put examples one after the other into the rows of a batch.

    rows, sizes (n,): the row of each example, in ascending order, and its number of tokens;
    input_ids, labels (n, T'): one example per row, padded on the right; shape: (B, T) of the batch.
    Returns input_ids, labels, sequence_ids and position_ids, all (B, T) int64.
    """
    num_rows, width = shape
    first_in_row = np.searchsorted(rows, rows)  # of each example: the first example of its row
    tokens_before = np.cumsum(sizes) - sizes  # in all rows
    start_in_row = tokens_before - tokens_before[first_in_row]
    start = rows * width + start_in_row  # in the flattened batch
    sequence_ids = 1 + np.arange(len(rows)) - first_in_row  # 1, 2, ... in each row

    position_ids = np.arange(input_ids.shape[1])
    is_token = position_ids < sizes[:, None]  # (n, T')
    cells = (start[:, None] + position_ids)[is_token]

    def scatter(values: np.ndarray, padding: int) -> np.ndarray:
        flat = np.full(num_rows * width, padding)
        flat[cells] = np.broadcast_to(values, is_token.shape)[is_token]
        return flat.reshape(num_rows, width)

    return {
        "input_ids": scatter(input_ids, pad_token_id),
        "labels": scatter(labels, -100),
        "sequence_ids": scatter(sequence_ids[:, None], 0),
        "position_ids": scatter(position_ids, 0),
    }


class MaskedBatches(IterableDataset):
    """The masked batches of these keys: (epoch, indices) or (epoch, indices, rows).

    indices (n,): the examples; rows (n,): the row of each, ascending; without rows, each example has a
    row of its own. A batch is a dict:

    input_ids, labels  (B, T) int64; labels are -100 where nothing is predicted
    positions          (K,) int64: the masked positions in the flattened (B*T,) batch, filled up with 0,
                       where nothing is predicted
    sequence_ids       (B, T) int64: which example of its row a token belongs to (1, 2, ...; 0 is padding).
                       Tokens attend only to their own example
    position_ids       (B, T) int64: the position in the example. Both are left out if every example
                       fills a row
    num_masked         float: the number of masked tokens in the batches of all processes together
    num_tokens, num_examples  int: the numbers of tokens and examples in all of them

    shape: (B, T, K) of all batches, from a PackingPlan; as small as possible if omitted. rank: this
    process gets rows rank * B to (rank + 1) * B - 1. masking: "token" or "word"; replace: see
    `mask_tokens`. count_fn and mask_fn have the arguments of `masked_counts` and `mask_tokens`.
    """

    def __init__(
        self,
        dataset: MaskedLMDataset,
        keys: Iterable[tuple],
        mlm_probability: float,
        seed: int,
        shape: tuple[int, int, int] | None = None,
        rank: int = 0,
        count_fn: Callable[..., np.ndarray] = masked_counts,
        mask_fn: Callable[..., tuple[np.ndarray, np.ndarray]] = mask_tokens,
        masking: str = "token",
        replace: str = "80/10/10",
    ) -> None:
        self.dataset, self.keys = dataset, keys
        self.mlm_probability, self.seed = mlm_probability, seed
        self.shape, self.rank = shape, rank
        self.count_fn, self.mask_fn = count_fn, mask_fn
        self.masking, self.replace = masking, replace

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.batch(*key) for key in self.keys)

    def batch(
        self, epoch: int, indices: np.ndarray, rows: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The batch of these examples, with the masks of this epoch."""
        data = self.dataset
        if rows is None:
            rows = np.arange(len(indices))
        sizes = data.lengths[indices] + 2  # [CLS] and [SEP]
        candidates = candidate_counts(data, self.masking)[indices]
        counts = self.count_fn(candidates, self.seed, epoch, indices, self.mlm_probability)
        num_rows, width, num_positions = self.shape or self.smallest_shape(indices, rows, counts)

        on_this_rank = rows // num_rows == self.rank
        if self.masking == "word":  # the number of tokens is known once the words are chosen
            input_ids, labels = self.masked_examples(epoch, indices, counts)
            num_masked = (labels != -100).sum()
            input_ids, labels = input_ids[on_this_rank], labels[on_this_rank]
        else:
            num_masked = counts.sum()
            input_ids, labels = self.masked_examples(
                epoch, indices[on_this_rank], counts[on_this_rank]
            )

        arrays = lay_out_rows(
            rows=rows[on_this_rank] % num_rows,
            sizes=sizes[on_this_rank],
            input_ids=input_ids,
            labels=labels,
            shape=(num_rows, width),
            pad_token_id=data.tokenizer.pad_token_id,
        )
        if (sizes == width).all():  # neither packed nor padded: models need no attention mask
            del arrays["sequence_ids"], arrays["position_ids"]
        positions = np.flatnonzero(arrays["labels"] != -100)
        arrays["positions"] = np.pad(positions, (0, num_positions - len(positions)))
        return {name: torch.from_numpy(array) for name, array in arrays.items()} | {
            "num_masked": torch.tensor(float(num_masked)),
            "num_tokens": int(data.lengths[indices].sum()),
            "num_examples": len(indices),
        }

    def smallest_shape(
        self, indices: np.ndarray, rows: np.ndarray, counts: np.ndarray
    ) -> tuple[int, int, int]:
        """The smallest (B, T, K) that these examples need."""
        sizes = self.dataset.lengths[indices] + 2
        num_rows, width = rows[-1] + 1, np.bincount(rows, sizes).max()
        num_positions = max_masked_tokens(self.dataset, self.masking, indices, counts).sum()
        return int(num_rows), int(width), int(num_positions)

    def masked_examples(
        self, epoch: int, indices: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The masked input_ids and the labels of these examples, (n, T'), one example per row."""
        data = self.dataset
        sizes = data.lengths[indices] + 2
        input_ids = np.full((len(indices), sizes.max(initial=2)), data.tokenizer.pad_token_id)
        starts_word = np.ones(input_ids.shape, bool)  # masking="token": every token is a word
        for row, index in enumerate(indices):
            input_ids[row, : sizes[row]] = data[index].numpy()
            if self.masking == "word":  # an example starts with a word, even if cut out of one
                start, length = data.starts[index], data.lengths[index]
                starts_word[row, 2 : length + 1] = data.word_starts[start + 1 : start + length]
        return self.mask_fn(
            input_ids,
            special_ids=data.special_ids,
            counts=counts,
            seed=self.seed,
            epoch=epoch,
            indices=indices,
            mask_token_id=data.tokenizer.mask_token_id,
            vocab_size=data.vocab_size,
            word_ids=starts_word.cumsum(axis=1) - 1,
            replace=self.replace,
            used_ids=data.used_ids,
        )


def split_into_examples(batch: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(input_ids, labels) of every example of a batch, taken out of its packed rows; 1-D int64."""
    sequence_ids = batch.get("sequence_ids", torch.ones_like(batch["input_ids"]))
    examples = []
    for row, numbers in enumerate(sequence_ids):
        for number in range(1, int(numbers.max()) + 1):
            mine = numbers == number
            examples.append((batch["input_ids"][row, mine], batch["labels"][row, mine]))
    return examples
