"""Sequence packing: which examples share a batch and a row, so that all batches have the same shape.

A compiler needs one shape for all batches, and padding wastes time. So several short examples share
a row (Krell et al. 2021, arXiv:2107.02027). The batches are fixed before the first step:

1. Shuffle the examples of an epoch and deal them out to its batches in turn, like cards.
2. Balance the batches: the fullest and the emptiest batch swap two examples, so do the second
   fullest and the second emptiest, and so on, until no batch has more tokens than the average.
3. Distribute the examples of each batch over its rows in the same way, the longest ones first.
4. If a row is too full, try other orders. Then mix the batch with other batches and start again.
5. Choose the number of rows that leaves the fewest cells (rows x width), tried on a few batches.
6. With several processes, distribute each batch once more, over a multiple of their number of rows.
7. Count the masked tokens in every batch of the run: the largest count is K.

"Bins" are the batches of an epoch in steps 1 and 2, and the rows of a batch in steps 3 to 6.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from mlm.data.dataset import MaskedLMDataset
from mlm.data.masking import candidate_counts, masked_counts, max_masked_tokens
from mlm.data.random_numbers import Purpose, uniform

VALIDATION_EPOCH = 2**40  # the "epoch" of the validation masks; training never reaches it
MAX_ROW_TOKENS = 128  # width of packed rows, unless an example is longer
WIDTH_STEP = 8  # T is a multiple of it, as kernels like it
POSITION_STEP = 16  # K is a multiple of it
EMPTY = -1  # the example index of an empty slot; its size is 0, the last one in `sizes`
SWAP_CANDIDATES = 32  # examples of a bin that a swap is chosen from
MAX_PAIRINGS = 8  # ways to pair the bins, tried one after the other while no swap helps
MAX_ROW_ORDERS = 4  # random orders in which the examples of an overfull batch are distributed
MAX_MIXES = 20  # how often overfull batches are mixed with others
MAX_OVERFULL = 0.3  # if a larger fraction of the batches is overfull, their rows become wider
TRIAL_BATCHES = 64  # batches on which a number of rows is tried

T = TypeVar("T")
BatchKey = tuple[int, np.ndarray, np.ndarray]  # epoch, indices of examples, the row of each


def divide_up(number: int, divisor: int) -> int:
    """number / divisor, rounded up."""
    return -(-int(number) // int(divisor))


def round_up(number: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `number`."""
    return divide_up(number, step) * step


# distribute examples over bins


def pair_bins(
    loads: np.ndarray, shift: int, max_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pair full bins with empty ones: arrays (pairs,) of group, full bin, empty bin, difference.

    loads (groups, bins): tokens in each bin. The fullest bin is paired with the emptiest, the second
    fullest with the second emptiest, and so on; `shift` rotates the fuller ones. Only pairs whose
    full bin exceeds max_tokens are returned.
    """
    num_pairs = loads.shape[1] // 2
    order = loads.argsort(axis=1, kind="stable")
    emptiest = order[:, :num_pairs]
    fullest = np.roll(order[:, ::-1][:, :num_pairs], shift, axis=1)
    full_loads = np.take_along_axis(loads, fullest, axis=1)
    differences = full_loads - np.take_along_axis(loads, emptiest, axis=1)
    group, pair = np.nonzero((differences > 1) & (full_loads > max_tokens))
    return group, fullest[group, pair], emptiest[group, pair], differences[group, pair]


def balance_bins(bins: np.ndarray, sizes: np.ndarray, max_tokens: int) -> None:
    """Swap examples between the bins of each group, in place, until no bin exceeds max_tokens.

    bins (groups, bins, slots): indices of examples, EMPTY where a slot is empty; sizes (examples + 1,):
    tokens of each example, then 0 for an empty slot. Each pair of bins makes the swap that leaves
    the smallest difference. Stops when no swap helps: then some bins may still exceed max_tokens.
    """
    num_pairs, shift = bins.shape[1] // 2, 0
    num_candidates = min(bins.shape[2], SWAP_CANDIDATES)  # of each bin
    loads = sizes[bins].sum(axis=2, dtype=sizes.dtype)
    unbalanced = np.arange(len(bins))  # the groups with a bin that exceeds max_tokens
    stuck = np.zeros((len(bins), MAX_PAIRINGS), bool)  # since a group's last swap, none helped here
    while shift < min(num_pairs, MAX_PAIRINGS):
        unbalanced = unbalanced[(loads[unbalanced] > max_tokens).any(axis=1)]
        tried = unbalanced[~stuck[unbalanced, shift]]
        group, full, empty, difference = pair_bins(loads[tried], shift, max_tokens)
        if not len(group) and len(tried) == len(unbalanced):  # no group has such a pair
            return
        group = tried[group]
        full_sizes = sizes[bins[group, full, :num_candidates]]  # (pairs, candidates)
        empty_sizes = sizes[bins[group, empty, :num_candidates]]
        moved = full_sizes[:, :, None] - empty_sizes[:, None, :]  # tokens that each swap moves
        remaining = np.abs(difference[:, None] - 2 * moved.reshape(len(group), num_candidates**2))
        best = remaining.argmin(axis=1)
        helps = remaining[np.arange(len(best)), best] < difference
        stuck[group, shift] = True
        stuck[group[helps]] = False
        shift = 0 if helps.any() else shift + 1

        group, full, empty = group[helps], full[helps], empty[helps]
        full_slot, empty_slot = np.divmod(best[helps], num_candidates)
        given, taken = bins[group, full, full_slot], bins[group, empty, empty_slot]
        bins[group, full, full_slot], bins[group, empty, empty_slot] = taken, given
        loads[group, full] += sizes[taken] - sizes[given]
        loads[group, empty] += sizes[given] - sizes[taken]


def fill_bins(
    groups: np.ndarray, num_bins: int, num_slots: int, sizes: np.ndarray, max_tokens: int
) -> np.ndarray:
    """Deal the examples of each group out to its bins and balance them.

    groups (groups, examples): indices of examples in the order in which they are dealt, every second
    round backwards. Returns (groups, num_bins, num_slots), EMPTY where a slot is empty.
    """
    dealt = np.full((len(groups), num_slots * num_bins), EMPTY)
    dealt[:, : groups.shape[1]] = groups
    rounds = dealt.reshape(len(groups), num_slots, num_bins)
    rounds[:, 1::2] = rounds[:, 1::2, ::-1]
    bins = rounds.swapaxes(1, 2).copy()
    balance_bins(bins, sizes, max_tokens)
    return bins


# distribute the examples of a batch over its rows


def fullest_rows(packed: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Tokens in the fullest row of each batch, (batches,)."""
    return sizes[packed].sum(axis=2).max(axis=1)


def overfull_batches(packed: np.ndarray, sizes: np.ndarray, width: int) -> np.ndarray:
    """Indices of the batches with a row of more than `width` tokens; none if there are too many."""
    is_overfull = fullest_rows(packed, sizes) > width
    if is_overfull.mean() >= MAX_OVERFULL:
        return np.array([], int)
    return np.flatnonzero(is_overfull)


def pack_rows(batches: np.ndarray, num_rows: int, width: int, sizes: np.ndarray) -> np.ndarray:
    """Distribute the examples of each batch over num_rows rows of `width` tokens, if they fit.

    batches (batches, G): indices of examples. Returns (batches, num_rows, slots), EMPTY where a slot
    is empty. Rows can be longer than `width` if no order of the examples fits.
    """
    num_slots = 2 * divide_up(batches.shape[1], num_rows)  # half are empty: a swap can move one

    def fill_rows(batches: np.ndarray, sort_keys: np.ndarray) -> np.ndarray:
        order = sort_keys.argsort(axis=1, kind="stable")
        groups = np.take_along_axis(batches, order, axis=1)
        return fill_bins(groups, num_rows, num_slots, sizes=sizes, max_tokens=width)

    packed = fill_rows(batches, -sizes[batches])  # the longest examples first
    for attempt in range(MAX_ROW_ORDERS):
        overfull = overfull_batches(packed, sizes, width)
        if not len(overfull):
            break
        random = uniform(batches[overfull], attempt, Purpose.ROW_ORDER)
        repacked = fill_rows(batches[overfull], random)
        better = fullest_rows(repacked, sizes) < fullest_rows(packed[overfull], sizes)
        packed[overfull[better]] = repacked[better]
    return packed


# distribute the examples of an epoch over its batches


def pack_batches(
    indices: np.ndarray,
    num_batches: int,
    num_rows: int,
    width: int,
    sizes: np.ndarray,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """Distribute examples over random, equally full batches, and over the rows of each.

    Returns indices of examples as `pack_rows` does: (num_batches, num_rows, slots).
    """
    num_slots = divide_up(len(indices), num_batches)
    max_tokens = divide_up(sizes[indices].sum(), num_batches)  # the average

    def shuffle_and_pack(indices: np.ndarray, num_batches: int, attempt: int) -> np.ndarray:
        order = uniform(seed, epoch, indices, attempt, Purpose.BATCH_ORDER).argsort(kind="stable")
        group = indices[order][None]
        (batches,) = fill_bins(group, num_batches, num_slots, sizes=sizes, max_tokens=max_tokens)
        return pack_rows(batches, num_rows, width, sizes)

    packed = shuffle_and_pack(indices, num_batches, 0)
    for attempt in range(1, MAX_MIXES):
        overfull = overfull_batches(packed, sizes, width)
        if not len(overfull):
            break
        partners = np.array([0, attempt, attempt + 1, attempt + 2])
        mixed = np.unique((overfull[:, None] + partners) % num_batches)
        examples = packed[mixed][packed[mixed] != EMPTY]
        packed[mixed] = shuffle_and_pack(examples, len(mixed), attempt)
    return packed


class PackingPlan:
    """The batches of these epochs: all examples of each epoch, all batches of one shape.

    A batch of all processes is a random sample of at most batch_size * world_size examples, except
    for the few that are swapped. It depends on the examples' lengths, the seed, the epoch and
    batch_size * world_size, not on how many processes split it. pack=False puts each example into a
    row of its own. count_fn: a function like `masked_counts`; masking: "token" or "word".

    steps_per_epoch: batches per epoch. shape: (B, T, K) of each process's batches, K masked positions.
    """

    def __init__(
        self,
        dataset: MaskedLMDataset,
        batch_size: int,
        mlm_probability: float,
        seed: int,
        epochs: Iterable[int],
        world_size: int = 1,
        count_fn: Callable[..., np.ndarray] = masked_counts,
        masking: str = "token",
        pack: bool = True,
    ) -> None:
        self.seed, self.world_size = seed, world_size
        self.epochs = dataset.epochs
        self.indices = np.arange(len(dataset))
        self.steps_per_epoch = divide_up(len(self.epochs), batch_size * world_size)
        sizes = dataset.lengths + 2  # [CLS] and [SEP]
        longest = int(sizes.max())
        if not pack:  # if all were as long as the longest, no two would fit into a row
            sizes = np.full(len(dataset), longest)
        self.sizes = np.append(sizes, 0).astype(np.int32)  # the last one is the size of EMPTY
        self.max_width = max(MAX_ROW_TOKENS, longest) if pack else longest

        # (rows, width) of a batch; with several processes, rows are a multiple of their number
        self.batch_layout = self.best_layout(1, self.sample_batches)
        if world_size > 1:
            sample = self.without_rows(self.sample_batches(*self.batch_layout))
            self.process_layout = self.best_layout(
                world_size, lambda num_rows, width: pack_rows(sample, num_rows, width, self.sizes)
            )

        self.shape = self.measure_shape(dataset, epochs, count_fn, masking, mlm_probability)

    def measure_shape(
        self,
        dataset: MaskedLMDataset,
        epochs: Iterable[int],
        count_fn: Callable[..., np.ndarray],
        masking: str,
        mlm_probability: float,
    ) -> tuple[int, int, int]:
        """(B, T, K) of each process's batches: large enough for every batch of these epochs."""
        width, num_positions = 0, 0
        candidates = candidate_counts(dataset, masking)
        for epoch in epochs:
            packed = self.packed_batches(epoch)
            width = max(width, fullest_rows(packed, self.sizes).max())
            counts = count_fn(candidates, self.seed, epoch, self.indices, mlm_probability)
            masked = np.append(max_masked_tokens(dataset, masking, self.indices, counts), 0)
            by_process = masked[packed].reshape(self.steps_per_epoch * self.world_size, -1)
            num_positions = max(num_positions, by_process.sum(axis=1).max())
        num_rows = packed.shape[1]
        return (
            num_rows // self.world_size,
            self.round_width(num_rows, width),
            round_up(num_positions, POSITION_STEP),
        )

    # the number of rows

    def round_width(self, num_rows: int, tokens: int) -> int:
        """T for rows of up to `tokens` tokens: exactly that if each example has a row of its own."""
        is_packed = num_rows * self.steps_per_epoch < len(self.epochs)
        return round_up(tokens, WIDTH_STEP) if is_packed else int(tokens)

    def sample_batches(self, num_rows: int, width: int) -> np.ndarray:
        """A few batches of examples from everywhere in the text, to try a number of rows."""
        num_batches = min(self.steps_per_epoch, TRIAL_BATCHES)
        num_examples = len(self.epochs) * num_batches // self.steps_per_epoch
        of_epoch = self.epochs.of_epoch(self.seed, 0)
        indices = of_epoch[np.linspace(0, len(of_epoch) - 1, num_examples).astype(int)]
        return pack_batches(indices, num_batches, num_rows, width, self.sizes, self.seed, epoch=0)

    def best_layout(
        self, world_size: int, pack_sample: Callable[[int, int], np.ndarray]
    ) -> tuple[int, int]:
        """(rows, width) of a batch with the fewest cells; rows are a multiple of world_size.

        pack_sample(rows, width) returns a few batches in that many rows, to measure the width needed.
        """
        of_epoch = self.epochs.of_epoch(self.seed, 0)
        tokens = divide_up(self.sizes[of_epoch].sum(), self.steps_per_epoch)  # of an average batch
        min_rows = divide_up(tokens, self.max_width * world_size)  # of each process
        candidates = []
        for rows_per_process in range(min_rows, 2 * min_rows + 1):
            num_rows = rows_per_process * world_size
            width = self.round_width(num_rows, max(divide_up(tokens, num_rows), self.sizes.max()))
            candidates.append((num_rows * width, num_rows, width))

        measured: list[tuple[int, int, int]] = []  # (cells, rows, width)
        for min_cells, num_rows, width in sorted(candidates):
            if measured and min(measured)[0] <= min_cells:
                break  # the other candidates cannot have fewer cells
            needed = fullest_rows(pack_sample(num_rows, width), self.sizes).max()
            width = max(width, self.round_width(num_rows, needed))
            measured.append((num_rows * width, num_rows, width))
        _, num_rows, width = min(measured)
        return num_rows, width

    # the batches

    def without_rows(self, packed: np.ndarray) -> np.ndarray:
        """The examples of each batch, (batches, G), EMPTY at the end where a batch has fewer than G."""
        flat = packed.reshape(len(packed), -1)
        max_examples = divide_up(len(self.epochs), self.steps_per_epoch)
        empty_last = (flat == EMPTY).argsort(axis=1, kind="stable")[:, :max_examples]
        return np.take_along_axis(flat, empty_last, axis=1)

    def packed_batches(self, epoch: int) -> np.ndarray:
        """An epoch's batches as `pack_rows` returns them, with the rows of all processes."""
        packed = pack_batches(
            self.epochs.of_epoch(self.seed, epoch),
            self.steps_per_epoch,
            *self.batch_layout,
            sizes=self.sizes,
            seed=self.seed,
            epoch=epoch,
        )
        if self.world_size == 1:
            return packed
        return pack_rows(self.without_rows(packed), *self.process_layout, sizes=self.sizes)

    def keys(self, epoch: int) -> list[BatchKey]:
        """The keys (epoch, indices, rows) of an epoch's batches: which examples, and the row of each."""
        is_example = (packed := self.packed_batches(epoch)) != EMPTY
        indices, (_, rows, _) = packed[is_example], np.nonzero(is_example)
        ends = is_example.sum(axis=(1, 2)).cumsum().tolist()  # of each batch
        return [(epoch, indices[i:j], rows[i:j]) for i, j in zip([0, *ends], ends)]


@functools.lru_cache(maxsize=8)
def cached_plan(*arguments: Any, **options: Any) -> PackingPlan:
    """A PackingPlan with these arguments; a run needs the same two again and again."""
    return PackingPlan(*arguments, **options)


# the order of a run


def one_ahead(function: Callable[[int], T], arguments: Iterable[int]) -> Iterator[T]:
    """function(argument) for each argument; a thread computes the next one while one is used."""
    with ThreadPoolExecutor(1, "one-ahead") as thread:
        tasks: deque[Future[T]] = deque()
        for argument in arguments:
            tasks.append(thread.submit(function, argument))
            if len(tasks) > 1:
                yield tasks.popleft().result()
        for task in tasks:
            yield task.result()


class TrainingOrder:
    """The keys of a plan's batches, from step `start` to step `stop` - 1.

    A resumed run starts at a later step: it needs no state of a sampler. A thread lays out the next
    epoch while the batches of an epoch are used, so there is no pause between epochs.
    """

    def __init__(self, plan: PackingPlan, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop

    def __iter__(self) -> Iterator[BatchKey]:
        length = self.plan.steps_per_epoch
        epochs = range(self.start // length, divide_up(self.stop, length))
        for epoch, keys in zip(epochs, one_ahead(self.plan.keys, epochs)):
            first_step = epoch * length
            yield from keys[max(0, self.start - first_step) : self.stop - first_step]
