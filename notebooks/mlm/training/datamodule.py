"""MaskedLMData: the LightningDataModule with training and validation batches."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from mlm.data.batches import MaskedBatches, TrainingOrder
from mlm.data.packing import VALIDATION_EPOCH, cached_plan

VALIDATION_MLM_PROBABILITY = (
    0.15  # the share of the held-out tokens that is asked about, in every run
)


class AccumulatedBatches(IterableDataset):
    """A batch of each of `shares` in turn, together a step: their gradients are added up.

    Lightning takes the mean over the batches of a step, so each is told the mean of its predicted tokens.
    """

    def __init__(self, shares):
        self.shares = shares

    def __iter__(self):
        for step in zip(*self.shares, strict=True):
            for batch in step:
                yield batch | {"num_masked": batch["num_masked"] / len(self.shares)}


class GuardedBatches(IterableDataset):
    """The same batches; an error in them is handed to `on_error` first: a loader may swallow it."""

    def __init__(self, batches, on_error):
        self.batches, self.on_error = batches, on_error

    def __iter__(self):
        try:
            yield from self.batches
        except Exception as error:
            self.on_error(error)
            raise


class PrefetchedBatches:
    """The same batches in pinned memory for a GPU, two of them made while it computes, by a thread.

    From pinned memory Lightning copies without waiting. No worker process: its batches come by shared
    memory, and that took longer than to make them. An error in them is raised where its batch is due.
    """

    def __init__(self, batches, device):
        self.batches, self.device = batches, device

    def __iter__(self):
        batches = iter(self.batches)

        def make():
            batch = next(batches, {})
            return {k: v.pin_memory() if torch.is_tensor(v) else v for k, v in batch.items()}

        with ThreadPoolExecutor(1, "ahead", torch.cuda.set_device, [self.device]) as thread:
            made = deque(thread.submit(make) for _ in range(2))
            while batch := made.popleft().result():
                made.append(thread.submit(make))
                yield batch


class MaskedLMData(pl.LightningDataModule):
    """The training batches up to step `stop` and the held-out ones; each process has its share.

    All training batches have one shape, and all held-out ones. A resumed Trainer gets those from its
    own step on. `on_error`, a function, is told of an error in them. `mlm_probability_end`: the share
    that is asked about falls to it, which spends the most questions early (arXiv:2305.15096).
    `pack`: examples may share a row. `masking` and `replace` are those of `MaskedBatches`, in
    training alone. `accumulate`: so many batches of a process are a step.
    """

    def __init__(
        self, train, valid, batch_size, mlm_probability, seed, stop, mlm_probability_end=None,
        pack=True, masking="token", replace="80/10/10", accumulate=1, on_error=None,
    ):  # fmt: skip
        super().__init__()
        self.accumulate = accumulate
        self.train, self.valid, self.batch_size, self.seed = train, valid, batch_size, seed
        self.mlm_probability, self.stop, self.on_error = mlm_probability, stop, on_error
        self.mlm_probability_end = mlm_probability_end
        self.pack, self.masking, self.replace = pack, masking, replace

    def share(self, step):
        """The share of the tokens that is asked about at a step: it falls in a line to the last one."""
        fall = self.mlm_probability - self.mlm_probability_end
        return self.mlm_probability - fall * step / max(1, self.stop - 1)

    def train_batches(self, start=0, rank=0, world=1):
        """The batches of steps `start` to the last; those of one are shares, as of so many processes."""
        shares = [rank * self.accumulate + number for number in range(self.accumulate)]
        world *= self.accumulate
        how = self.mlm_probability, self.seed
        steps = -(-len(self.train) // (self.batch_size * world))  # an epoch
        epochs = range(-(-self.stop // steps))
        rows = dict(masking=self.masking, pack=self.pack)
        plan = cached_plan(self.train, self.batch_size, *how, epochs, world, **rows)
        share = self.share if self.mlm_probability_end else None
        order = TrainingOrder(plan, start, self.stop, share)
        asked = dict(masking=self.masking, replace=self.replace)
        return AccumulatedBatches(
            [
                MaskedBatches(self.train, order, *how, plan.shape, number, **asked)
                for number in shares
            ]
        )

    def validation_batches(self, rank=0, world=1):
        """The held-out batches: their masks are drawn once from the seed, however training masks."""
        how = VALIDATION_MLM_PROBABILITY, self.seed
        plan = cached_plan(
            self.valid, self.batch_size, *how, (VALIDATION_EPOCH,), world, pack=self.pack
        )
        return MaskedBatches(self.valid, plan.keys(VALIDATION_EPOCH), *how, plan.shape, rank)

    def train_dataloader(self):
        where = self.trainer and dict(
            start=self.trainer.global_step,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        batches = self.train_batches(**(where or {}))
        if self.on_error:
            batches = GuardedBatches(batches, self.on_error)
        device = self.trainer and self.trainer.strategy.root_device
        if device and device.type == "cuda":  # XLA's loader makes them ahead by itself
            return PrefetchedBatches(batches, device)
        return DataLoader(batches, batch_size=None)
