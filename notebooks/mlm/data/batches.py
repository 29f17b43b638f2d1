"""Masked batches: each one is a pure function of its key (epoch, indices of examples, their rows)."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from mlm.data.dataset import MaskedLMDataset
from mlm.data.masking import candidate_counts, mask_tokens, masked_counts
from mlm.env.notebook import NotebookError

CELLS_AT_ONCE = 2**15  # tokens, with padding, of the batches that are made at once
EXAMPLES_AT_ONCE = 256  # examples of similar length that are masked at once


def padded_examples(
    data: MaskedLMDataset, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """These examples as the rows of an array, filled up with [PAD] on the right.

    Returns input_ids (n, T); whether a word starts at each token, (n, T) bool; and whether there is a
    token and no padding, (n, T) bool. An example starts with a word, even if it was cut out of one.
    """
    lengths = data.lengths[indices][:, None]
    column = np.arange(lengths.max() + 2)
    is_text = (column > 0) & (column <= lengths)
    position = np.where(is_text, data.starts[indices][:, None] + column - 1, 0)  # in the text
    input_ids = np.where(is_text, np.asarray(data.ids)[position], data.tokenizer.pad_token_id)
    input_ids[:, 0] = data.cls_id
    input_ids[column == lengths + 1] = data.sep_id
    starts_word = np.asarray(data.word_starts)[position] | ~is_text | (column == 1)
    return input_ids, starts_word, column <= lengths + 1


def lay_out_rows(
    rows: np.ndarray,
    sizes: np.ndarray,
    input_ids: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, int],
    pad_token_id: int,
) -> dict[str, np.ndarray]:
    """Put examples one after the other into rows.

    rows, sizes (n,): the row of each example, in ascending order, and its number of tokens;
    input_ids, labels (tokens,): the examples' tokens, one example after the other; shape: (R, T).
    Returns input_ids, labels, sequence_ids and position_ids, all (R, T) int64.
    """
    num_rows, width = shape
    first_in_row = np.searchsorted(rows, rows)  # of each example: the first example of its row
    tokens_before = np.cumsum(sizes) - sizes  # in all rows
    start_in_row = tokens_before - tokens_before[first_in_row]
    start = rows * width + start_in_row  # in the flattened rows
    sequence_ids = 1 + np.arange(len(rows)) - first_in_row  # 1, 2, ... in each row
    position_ids = np.arange(len(input_ids)) - np.repeat(tokens_before, sizes)
    cells = np.repeat(start, sizes) + position_ids

    def scatter(values: np.ndarray, padding: int) -> np.ndarray:
        flat = np.full(num_rows * width, padding)
        flat[cells] = values
        return flat.reshape(num_rows, width)

    return {
        "input_ids": scatter(input_ids, pad_token_id),
        "labels": scatter(labels, -100),
        "sequence_ids": scatter(np.repeat(sequence_ids, sizes), 0),
        "position_ids": scatter(position_ids, 0),
    }


def masked_positions(labels: np.ndarray, num_positions: int) -> np.ndarray:
    """The positions in each flattened batch where the labels (batches, B, T) are not -100.

    Returns (batches, num_positions) int64, filled up with 0. Raises NotebookError if there are more.
    """
    batch, position = np.nonzero(labels.reshape(len(labels), -1) != -100)
    number = np.arange(len(batch)) - np.searchsorted(batch, batch)  # 0, 1, ... in each batch
    if number.max(initial=-1) >= num_positions:
        raise NotebookError(
            f"a batch has {number.max() + 1:,} or more prediction targets, but its shape has {num_positions:,} places "
            "for them: mask_fn must not choose more tokens than its argument counts says"
        )
    positions = np.zeros((len(labels), num_positions), np.int64)
    positions[batch, number] = position
    return positions


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
    num_masked         float: the number of masked tokens of the whole key, in all processes together,
                       divided by `accumulate`: Lightning averages the loss over a step's batches
    num_tokens, num_examples  int: the numbers of tokens and examples of the whole key

    shape: (B, T, K) of all batches, from a PackingPlan; as small as possible if omitted. Each process
    gets `accumulate` batches per key, of B rows each; process `rank` gets those from row
    rank * accumulate * B on. masking: "token" or "word"; replace: see `mask_tokens`. count_fn and
    mask_fn have the arguments of `masked_counts` and `mask_tokens`.

    The batches of several keys of an epoch are made at once, because few calls of numpy with large arrays
    are faster than many with small ones. A batch depends only on its own key.
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
        accumulate: int = 1,
    ) -> None:
        self.dataset, self.keys = dataset, keys
        self.mlm_probability, self.seed = mlm_probability, seed
        self.shape, self.rank, self.accumulate = shape, rank, accumulate
        self.count_fn, self.mask_fn = count_fn, mask_fn
        self.masking, self.replace = masking, replace

    def __iter__(self) -> Iterator[dict[str, Any]]:
        keys_at_once = 1
        if self.shape:
            num_rows, width, _ = self.shape
            keys_at_once = max(1, CELLS_AT_ONCE // (self.accumulate * num_rows * width))
        for epoch, keys in groupby(self.keys, lambda key: key[0]):
            while some := list(islice(keys, keys_at_once)):
                yield from self.make(epoch, [key[1:] for key in some])

    def make(self, epoch: int, steps: list[tuple]) -> Iterator[dict[str, Any]]:
        """The batches of several steps, each (indices,) or (indices, rows), in this epoch."""
        data = self.dataset
        num_examples = [len(indices) for indices, *_ in steps]
        step = np.repeat(np.arange(len(steps)), num_examples)  # of each example
        indices = np.concatenate([indices for indices, *_ in steps])
        rows = np.concatenate([rows[0] if rows else np.arange(len(i)) for i, *rows in steps])
        sizes = data.lengths[indices] + 2  # [CLS] and [SEP]
        candidates = candidate_counts(data, self.masking)[indices]
        counts = self.count_fn(candidates, self.seed, epoch, indices, self.mlm_probability)
        num_rows, width = self.shape[:2] if self.shape else self.smallest_rows(indices, rows)

        rows_here = self.accumulate * num_rows  # of a step, in this process
        is_here = rows // rows_here == self.rank
        if self.masking == "word" or self.mask_fn is not mask_tokens:
            # how many tokens are masked is known once they are chosen
            input_ids, labels = self.masked_examples(epoch, indices, counts)
            num_masked = np.bincount(np.repeat(step, sizes)[labels != -100], minlength=len(steps))
            is_token_here = np.repeat(is_here, sizes)
            input_ids, labels = input_ids[is_token_here], labels[is_token_here]
        else:
            num_masked = np.bincount(step, counts)
            input_ids, labels = self.masked_examples(epoch, indices[is_here], counts[is_here])

        arrays = lay_out_rows(
            rows=(step * rows_here + rows % rows_here)[is_here],
            sizes=sizes[is_here],
            input_ids=input_ids,
            labels=labels,
            shape=(len(steps) * rows_here, width),
            pad_token_id=data.tokenizer.pad_token_id,
        )
        batch_shape = len(steps) * self.accumulate, num_rows, width
        arrays = {name: array.reshape(batch_shape) for name, array in arrays.items()}
        num_targets = (arrays["labels"] != -100).sum(axis=(1, 2))  # of each batch
        num_positions = self.shape[2] if self.shape else int(num_targets.max())
        arrays["positions"] = masked_positions(arrays["labels"], num_positions)
        num_masked = np.float32(num_masked) / np.float32(self.accumulate)
        arrays["num_masked"] = np.repeat(num_masked, self.accumulate)
        tensors = {name: torch.from_numpy(array).unbind() for name, array in arrays.items()}

        num_tokens = np.bincount(step, sizes - 2).astype(int).tolist()
        is_full = np.bincount(step, sizes < width) == 0  # neither packed nor padded
        for number, values in enumerate(zip(*tensors.values())):
            of_step = number // self.accumulate
            batch = dict(zip(tensors, values))
            if is_full[of_step]:  # models need no attention mask
                del batch["sequence_ids"], batch["position_ids"]
            batch["num_tokens"], batch["num_examples"] = num_tokens[of_step], num_examples[of_step]
            yield batch

    def smallest_rows(self, indices: np.ndarray, rows: np.ndarray) -> tuple[int, int]:
        """The smallest (B, T) that these examples need."""
        sizes = self.dataset.lengths[indices] + 2
        return int(rows[-1] + 1), int(np.bincount(rows, sizes).max())

    def masked_examples(
        self, epoch: int, indices: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The masked input_ids and the labels of these examples, one after the other: (tokens,) int64.

        Examples of similar length are masked together, so little time is spent on padding.
        """
        data = self.dataset
        sizes = data.lengths[indices] + 2
        starts = np.cumsum(sizes) - sizes
        masked_ids, labels = np.empty((2, sizes.sum()), np.int64)
        by_size = sizes.argsort()
        for start in range(0, len(indices), EXAMPLES_AT_ONCE):
            some = by_size[start : start + EXAMPLES_AT_ONCE]
            input_ids, starts_word, is_token = padded_examples(data, indices[some])
            some_masked_ids, some_labels = self.mask_fn(
                input_ids,
                special_ids=data.special_ids,
                counts=counts[some],
                seed=self.seed,
                epoch=epoch,
                indices=indices[some],
                mask_token_id=data.tokenizer.mask_token_id,
                vocab=data.used_ids,
                word_ids=starts_word.cumsum(axis=1) - 1 if self.masking == "word" else None,
                replace=self.replace,
            )
            cells = (starts[some][:, None] + np.arange(input_ids.shape[1]))[is_token]
            masked_ids[cells], labels[cells] = some_masked_ids[is_token], some_labels[is_token]
        return masked_ids, labels


def split_into_examples(batch: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(input_ids, labels) of every example of a batch, taken out of its packed rows; 1-D int64."""
    sequence_ids = batch.get("sequence_ids", torch.ones_like(batch["input_ids"]))
    examples = []
    for row, numbers in enumerate(sequence_ids):
        for number in range(1, int(numbers.max()) + 1):
            mine = numbers == number
            examples.append((batch["input_ids"][row, mine], batch["labels"][row, mine]))
    return examples
