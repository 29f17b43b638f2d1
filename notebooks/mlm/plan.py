"""Which examples meet in a batch and which of them share a row: planned ahead, so that all batches have one shape."""

import functools

import numpy as np

from .masking import choices_of, masked_counts, uniform

HELD_OUT = 2**40  # the "epoch" of the held-out masks, which no training reaches
ROW_TOKENS = 128  # rows that examples share are at most so wide, if no example is longer
WIDTH_STEP = 8  # their width is a multiple of it, and K of POSITION_STEP: kernels like that
POSITION_STEP = 16
LOOKED_AT = 16  # examples of a bin among which a swap is sought
TURNS = 8  # ways to pair bins that are tried where one finds no swap
ATTEMPTS = 4  # orders of a batch's examples that are tried where they do not fit its rows
MIXED = 20  # times that batches that do not fit are mixed with others
HOPELESS = 0.3  # share of the batches that do not fit above which there is no use in trying on
TRIED = 64  # batches on which a number of rows is tried


def round_up(number, step):
    """The next multiple of `step`."""
    return -(-int(number) // step) * step


def even_out(bins, sizes, most):
    """Swap examples between the bins of each group until none holds more than `most` tokens.

    bins (groups, bins, slots): numbers of examples, -1 where a slot is empty, changed in place; sizes
    (examples + 1,): tokens of each example, and 0 for the empty slot. In each round the fullest bin is
    paired with the emptiest, the next with the next, and each pair swaps what leaves them most alike.
    It ends where no swap helps: then some may hold more.
    """
    half, turn = bins.shape[1] // 2, 0
    while turn < min(half, TURNS):
        loads = sizes[bins].sum(2)
        order = loads.argsort(1, kind="stable")
        low, high = order[:, :half], np.roll(order[:, ::-1][:, :half], turn, 1)
        gaps = np.take_along_axis(loads, high, 1) - np.take_along_axis(loads, low, 1)
        group, pair = np.nonzero((gaps > 1) & (np.take_along_axis(loads, high, 1) > most))
        if not len(group):
            return
        full, empty, gap = (found[group, pair] for found in (high, low, gaps))
        ours, theirs = (sizes[bins[group, which, :LOOKED_AT]] for which in (full, empty))
        given = (ours[:, :, None] - theirs[:, None, :]).reshape(len(group), -1)
        left = np.abs(gap[:, None] - 2 * given)
        swap = left.argmin(1)
        helps = left[np.arange(len(swap)), swap] < gap
        turn = 0 if helps.any() else turn + 1
        group, full, empty = group[helps], full[helps], empty[helps]
        i, j = np.divmod(swap[helps], theirs.shape[1])
        bins[group, full, i], bins[group, empty, j] = bins[group, empty, j], bins[group, full, i]


def deal(groups, bins, slots, sizes, most):
    """Deal the examples of each group (groups, examples) out to its bins in turn, and even these out.

    Returns numbers of examples, (groups, bins, slots), -1 where a slot is empty.
    """
    dealt = np.full((len(groups), slots * bins), -1)
    dealt[:, : groups.shape[1]] = groups
    dealt = dealt.reshape(len(groups), slots, bins)
    dealt[:, 1::2] = dealt[:, 1::2, ::-1]
    dealt = dealt.swapaxes(1, 2).copy()
    even_out(dealt, sizes, most)
    return dealt


def share_rows(batches, rows, width, sizes):
    """Lay the examples of each batch (batches, G) into so many rows, of `width` tokens if they fit.

    The longest are dealt out first; where that does not fit, another order is tried. Returns (examples,
    rows, tokens): the same numbers row by row, the row of each, both (batches, G) with what is empty at
    the end, and the tokens of the fullest row of each batch, (batches,).
    """
    slots = 2 * -(-batches.shape[1] // rows)
    found = np.empty_like(batches), np.empty_like(batches), np.full(len(batches), width + 1)
    for attempt in range(ATTEMPTS):
        stuck = np.flatnonzero(found[2] > width)
        if attempt and not 0 < len(stuck) / len(batches) < HOPELESS:
            break
        left = batches[stuck]
        order = uniform(left, attempt, 5) if attempt else -sizes[left]
        left = np.take_along_axis(left, order.argsort(1, kind="stable"), 1)
        dealt = deal(left, rows, slots, sizes, width)
        flat = dealt.reshape(len(left), rows * slots)
        filled = (flat < 0).argsort(1, kind="stable")[:, : left.shape[1]]
        tokens = sizes[dealt].sum(2).max(1)
        better = (tokens < found[2][stuck]) | (attempt == 0)
        new = np.take_along_axis(flat, filled, 1), filled // slots, tokens
        for old, one in zip(found, new):
            old[stuck[better]] = one[better]
    return found


def deal_batches(numbers, count, rows, width, sizes, seed, epoch):
    """The examples `numbers` in `count` random batches, equally full, in rows as of `share_rows`.

    They are shuffled and dealt out, and the batches evened out by a few swaps. Those whose rows are
    still too full are mixed with others and tried again.
    """
    shuffled = numbers[uniform(seed, epoch, numbers, 4).argsort(kind="stable")]
    slots, most = -(-len(numbers) // count), -(-sizes[numbers].sum() // count)
    found = share_rows(deal(shuffled[None], count, slots, sizes, most)[0], rows, width, sizes)
    for time in range(MIXED):
        stuck = found[2] > width
        again = np.flatnonzero(np.any([np.roll(stuck, time + n) for n in range(3)] + [stuck], 0))
        if not 0 < stuck.mean() < HOPELESS:
            break
        mixed = found[0][again].ravel()
        mixed = mixed[uniform(seed, epoch, mixed, time, 5).argsort(kind="stable")]
        batches = deal(mixed[None], len(again), slots, sizes, most)[0]
        for old, new in zip(found, share_rows(batches, rows, width, sizes)):
            old[again] = new
    return found


class Plan:
    """The batches of these epochs: each example once an epoch, all batches of one shape, hardly padded.

    A batch of all `world` processes is a random sample of at most batch_size * world examples, but for
    the few that are swapped to make all equally full; others meet in each epoch. Examples share rows
    (Krell et al. 2021, arXiv:2107.02027). All follows from the examples' lengths, the seed and the
    epoch, and who meets whom from batch_size * world, however many processes share a batch.

    `steps` batches an epoch; `shape` is that of each process's batches: B rows, T tokens, K questions,
    where K is enough for all masks that `count` (as `masked_counts`) puts into any of them, on tokens or
    whole words: `masking`. Unless `shared` each example has a row: all count as the longest does.
    """

    def __init__(
        self, dataset, batch_size, mlm_probability, seed, epochs, world=1, count=masked_counts,
        masking="token", shared=True,
    ):  # fmt: skip
        lengths = dataset.lengths if shared else np.full(len(dataset), dataset.lengths.max())
        self.row_tokens = ROW_TOKENS if shared else 0
        self.sizes, self.seed, self.world = np.append(lengths + 2, 0), seed, world
        self.numbers = np.arange(len(dataset))
        self.steps = -(-len(dataset) // (batch_size * world))
        self.whole = self.fit(1, self.deal_some)  # the rows of a batch, and their width
        self.own = self.whole
        if world > 1:  # as many rows each
            *some, _ = self.deal_some(*self.whole)
            self.own = self.fit(world, lambda *fit: share_rows(some[0], *fit, self.sizes))
        width, asked, choices = 0, 0, choices_of(dataset, masking)
        for epoch in epochs:
            examples, rows, tokens = self.batches(epoch)
            masks = (
                count(choices, seed, epoch, self.numbers, mlm_probability) + dataset.known - choices
            )
            process = np.arange(self.steps)[:, None] * world + rows // self.own[0]
            questions = np.bincount(process.ravel(), np.append(masks, 0)[examples].ravel())
            width, asked = max(width, tokens.max()), max(asked, questions.max())
        self.shape = (
            self.own[0],
            self.round_width(self.own[0] * world, width),
            round_up(asked, POSITION_STEP),
        )

    def round_width(self, rows, tokens):
        """T for so many rows; where each example has its own it is as wide as the longest."""
        own = rows * self.steps >= len(self.numbers)
        return int(tokens) if own else round_up(tokens, WIDTH_STEP)

    def deal_some(self, rows, width):
        """A few batches, of lines from everywhere in the text, to try out a number of rows."""
        batches = min(self.steps, TRIED)
        some = np.linspace(0, len(self.numbers) - 1, len(self.numbers) * batches // self.steps)
        how = batches, rows, width, self.sizes, self.seed, 0
        return deal_batches(some.astype(int), *how)

    def fit(self, world, lay):
        """(rows of a process, width) of the fewest cells, of those about ROW_TOKENS wide at most.

        `lay`, a function of (rows of all processes, width), lays some batches out so.
        """
        longest = int(self.sizes.max())
        share = -(-int(self.sizes.sum()) // (self.steps * world))  # tokens of a process's batch
        fewest, best = -(-share // max(self.row_tokens, longest)), None
        tried = []
        for rows in range(fewest, 2 * fewest + 1):
            width = self.round_width(rows * world, max(-(-share // rows), longest))
            tried.append((rows * width, rows, width))
        for cells, rows, width in sorted(tried):
            if best and best[0] <= cells:
                break
            fullest = lay(rows * world, width)[2].max()
            width = max(width, self.round_width(rows * world, fullest))
            best = min(best or (rows * width, rows, width), (rows * width, rows, width))
        return best[1:]

    def batches(self, epoch):
        """An epoch's batches as `share_rows` returns them, in as many rows as all processes have."""
        how = *self.whole, self.sizes
        found = deal_batches(self.numbers, self.steps, *how, self.seed, epoch)
        if self.world == 1:
            return found
        return share_rows(found[0], self.own[0] * self.world, self.own[1], self.sizes)

    def keys(self, epoch):
        """The keys (epoch, indices, rows) of an epoch's batches: which examples, and the row of each."""
        examples, rows, _ = self.batches(epoch)
        return [(epoch, e[e >= 0], r[e >= 0]) for e, r in zip(examples, rows)]


planned = functools.lru_cache(maxsize=8)(Plan)  # a run asks again and again for the same two
