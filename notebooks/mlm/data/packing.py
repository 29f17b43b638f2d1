"""Which examples meet in a batch and which share a row: planned ahead, so that all have one shape."""

import functools

import numpy as np

from mlm.data.masking import candidate_counts, masked_counts, uniform

VALIDATION_EPOCH = 2**40  # the "epoch" of the held-out masks, which no training reaches
MAX_ROW_TOKENS = 128  # rows that examples share are at most so wide, if no example is longer
WIDTH_STEP = 8  # their width is a multiple of it, and K of POSITION_STEP: kernels like that
POSITION_STEP = 16
LOOKED_AT = 32  # examples of a bin among which a swap is sought
TURNS = 8  # ways to pair bins that are tried where one finds no swap
ORDERS = 4  # orders in which a batch is dealt out to its rows, where it does not fit in one
MIXED = 20  # times that batches that do not fit are mixed with others
HOPELESS = 0.3  # share of the batches that do not fit, above which no more is tried
TRIED = 64  # batches on which a number of rows is tried


def round_up(number, step):
    """The next multiple of `step`."""
    return -(-int(number) // step) * step


def balance(bins, sizes, most):
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
    balance(dealt, sizes, most)
    return dealt


def fullest_rows(laid, sizes):
    """Tokens of the fullest row of each batch, (batches,)."""
    return sizes[laid].sum(2).max(1)


def overfull_batches(laid, sizes, width):
    """The numbers of the batches with a row above `width` tokens; none where most are: it is hopeless."""
    stuck = fullest_rows(laid, sizes) > width
    return np.flatnonzero(stuck & (stuck.mean() < HOPELESS))


def pack_rows(batches, rows, width, sizes):
    """Lay the examples of each batch (batches, G) into so many rows, of `width` tokens if they fit.

    The longest are dealt out first; where that does not fit, other orders are tried. Returns numbers of
    examples, (batches, rows, slots), -1 where a slot is empty.
    """
    slots = 2 * -(-batches.shape[1] // rows)

    def lay(batches, order):
        order = order.argsort(1, kind="stable")
        return deal(np.take_along_axis(batches, order, 1), rows, slots, sizes, width)

    laid = lay(batches, -sizes[batches])
    for order in range(ORDERS):
        stuck = overfull_batches(laid, sizes, width)
        other = lay(batches[stuck], uniform(batches[stuck], order, 5))
        better = fullest_rows(other, sizes) < fullest_rows(laid[stuck], sizes)
        laid[stuck[better]] = other[better]
    return laid


def deal_batches(numbers, count, rows, width, sizes, seed, epoch):
    """The examples `numbers` in `count` random batches, equally full, in rows as `pack_rows` has them.

    They are shuffled and dealt out, and the batches evened out by a few swaps. Those whose rows are
    still too full are mixed with others and dealt out again.
    """
    slots, most = -(-len(numbers) // count), -(-sizes[numbers].sum() // count)

    def shuffled(numbers, count, time):
        order = uniform(seed, epoch, numbers, time, 4).argsort(kind="stable")
        batches = deal(numbers[order][None], count, slots, sizes, most)[0]
        return pack_rows(batches, rows, width, sizes)

    laid = shuffled(numbers, count, 0)
    for time in range(1, MIXED):
        stuck = overfull_batches(laid, sizes, width)
        mixed = np.unique((stuck[:, None] + np.array([0, time, time + 1, time + 2])) % count)
        if not len(mixed):
            break
        laid[mixed] = shuffled(laid[mixed][laid[mixed] >= 0], len(mixed), time)
    return laid


class PackingPlan:
    """The batches of these epochs: each example once an epoch, all batches of one shape, hardly padded.

    A batch of all `world` processes is a random sample of at most batch_size * world examples, but for
    the few that are swapped to make all equally full; others meet in each epoch. Examples share rows
    (Krell et al. 2021, arXiv:2107.02027), unless `pack` is false: then each has its own. All follows
    from the examples' lengths, the seed and the epoch, and who meets whom from batch_size * world,
    however many processes share a batch.

    `steps` batches an epoch; `shape` is that of each process's batches: B rows, T tokens, K questions,
    where K is enough for all masks that `count` (as `masked_counts`) puts into any of them, on tokens or
    whole words: `masking`.
    """

    def __init__(
        self, dataset, batch_size, mlm_probability, seed, epochs, world=1, count=masked_counts,
        masking="token", pack=True,
    ):  # fmt: skip
        lengths = dataset.lengths if pack else np.full(len(dataset), dataset.lengths.max())
        self.sizes, self.seed, self.world = np.append(lengths + 2, 0), seed, world
        self.numbers = np.arange(len(dataset))
        self.steps = -(-len(dataset) // (batch_size * world))
        self.room = max(MAX_ROW_TOKENS, self.sizes.max()) if pack else self.sizes.max()
        self.whole = self.fit(1, self.deal_some)  # rows of a batch, and their width
        if world > 1:  # as many rows each
            some = self.examples(self.deal_some(*self.whole))
            self.own = self.fit(world, lambda *fit: pack_rows(some, *fit, self.sizes))
        width, asked, choices = 0, 0, candidate_counts(dataset, masking)
        for epoch in epochs:
            laid = self.batches(epoch)
            masks = count(choices, seed, epoch, self.numbers, mlm_probability)
            masks = np.append(masks + dataset.maskable - choices, 0)
            questions = masks[laid].reshape(self.steps * world, -1).sum(1)
            width = max(width, fullest_rows(laid, self.sizes).max())
            asked = max(asked, questions.max())
        rows = laid.shape[1] // world
        self.shape = rows, self.round_width(rows * world, width), round_up(asked, POSITION_STEP)

    def round_width(self, rows, tokens):
        """T for so many rows; where each example has its own it is as wide as the longest."""
        own = rows * self.steps >= len(self.numbers)
        return int(tokens) if own else round_up(tokens, WIDTH_STEP)

    def deal_some(self, rows, width):
        """A few batches, of examples from everywhere in the text, to try out a number of rows."""
        batches = min(self.steps, TRIED)
        some = np.linspace(0, len(self.numbers) - 1, len(self.numbers) * batches // self.steps)
        return deal_batches(some.astype(int), batches, rows, width, self.sizes, self.seed, 0)

    def fit(self, world, lay):
        """(rows, width) of the fewest cells, of those about ROW_TOKENS wide at most.

        The rows are those of all processes; `lay`, a function of both, lays some batches out so.
        """
        tokens = -(-int(self.sizes.sum()) // self.steps)  # of a batch
        fewest, longest = -(-tokens // (self.room * world)), self.sizes.max()
        found, tried = [], []
        for rows in range(fewest * world, (2 * fewest + 1) * world, world):
            width = self.round_width(rows, max(-(-tokens // rows), longest))
            tried.append((rows * width, rows, width))
        for cells, rows, width in sorted(tried):
            if found and min(found)[0] <= cells:
                break
            needed = self.round_width(rows, fullest_rows(lay(rows, width), self.sizes).max())
            width = max(width, needed)
            found.append((rows * width, rows, width))
        return min(found)[1:]

    def examples(self, laid):
        """The examples of each batch without their rows, (batches, G), -1 at the end where one has fewer."""
        flat, most = laid.reshape(len(laid), -1), -(-len(self.numbers) // self.steps)
        filled = (flat < 0).argsort(1, kind="stable")[:, :most]
        return np.take_along_axis(flat, filled, 1)

    def batches(self, epoch):
        """An epoch's batches as `pack_rows` returns them, in as many rows as all processes have."""
        how = self.steps, *self.whole, self.sizes, self.seed, epoch
        laid = deal_batches(self.numbers, *how)
        return laid if self.world == 1 else pack_rows(self.examples(laid), *self.own, self.sizes)

    def keys(self, epoch):
        """The keys (epoch, indices, rows) of an epoch's batches: which examples, and the row of each."""
        laid = self.batches(epoch)
        filled = [(rows, np.flatnonzero(rows >= 0) // laid.shape[2]) for rows in laid]
        return [(epoch, rows[rows >= 0], place) for rows, place in filled]


cached_plan = functools.lru_cache(maxsize=8)(
    PackingPlan
)  # a run asks again and again for the same two
