"""MaskedLMData: the LightningDataModule with training and validation batches."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.packing import TrainingOrder, cached_plan
from mlm.training.evaluation import validation_batches

PREFETCHED_BATCHES = 8  # batches that are prepared while a GPU computes: several are made at once

Batch = dict[str, Any]


class GuardedBatches(IterableDataset):
    """The same batches. An error in them is first reported to `on_error`: a loader may swallow it."""

    def __init__(self, batches: Iterable[Batch], on_error: Callable[[Exception], None]) -> None:
        self.batches = batches
        self.on_error = on_error

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self.batches
        except Exception as error:
            self.on_error(error)
            raise


class PrefetchedBatches:
    """The same batches in pinned memory for a GPU. A thread prepares the next ones while it computes.

    Lightning copies from pinned memory without waiting. There is no worker process: it would pass
    batches through shared memory, which took longer than preparing them. An error is raised where
    its batch is due.
    """

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self.batches = batches
        self.device = device

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.batches)

        def prepare() -> Batch:
            batch = next(batches, {})  # empty: there are no more
            return {k: v.pin_memory() if torch.is_tensor(v) else v for k, v in batch.items()}

        with ThreadPoolExecutor(1, "prefetch", torch.cuda.set_device, (self.device,)) as thread:
            prepared = deque(thread.submit(prepare) for _ in range(PREFETCHED_BATCHES))
            while batch := prepared.popleft().result():
                prepared.append(thread.submit(prepare))
                yield batch


def ignore(error: Exception) -> None:
    """Nobody is told about an error: `FailureMonitor` sets another function."""


class MaskedLMData(pl.LightningDataModule):
    """Training batches for `total_steps` optimizer steps, and validation batches.

    All training batches have one shape, and so have all validation batches. Each process gets its part
    of a batch. A resumed Trainer gets the batches from its step on.

    `batch_size` counts examples per process and batch. A step has `accumulate` batches per process
    (gradient accumulation). `pack`: several short examples share a row. `masking` and `replace` are
    the options of MaskedBatches, for training only. `on_error`, an attribute, is called with an error in a
    training batch.
    """

    def __init__(
        self,
        train: MaskedLMDataset,
        valid: MaskedLMDataset,
        batch_size: int,
        mlm_probability: float,
        seed: int,
        total_steps: int,
        pack: bool = True,
        masking: str = "token",
        replace: str = "80/10/10",
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.train, self.valid = train, valid
        self.batch_size, self.accumulate = batch_size, accumulate
        self.mlm_probability, self.seed, self.total_steps = mlm_probability, seed, total_steps
        self.pack, self.masking, self.replace = pack, masking, replace
        self.on_error: Callable[[Exception], None] = ignore  # no lambda: XLA's launcher pickles it

    def train_batches(self, start: int = 0, rank: int = 0, world_size: int = 1) -> MaskedBatches:
        """The training batches of process `rank` from step `start` to the last step.

        With gradient accumulation, a step is split like the step of `accumulate` times as many processes.
        """
        parts = world_size * self.accumulate  # of a step
        steps_per_epoch = math.ceil(self.train.examples_per_epoch / (self.batch_size * parts))
        plan = cached_plan(
            self.train,
            self.batch_size,
            self.mlm_probability,
            self.seed,
            range(-(-self.total_steps // steps_per_epoch)),
            parts,
            masking=self.masking,
            pack=self.pack,
        )
        return MaskedBatches(
            self.train,
            TrainingOrder(plan, start, self.total_steps),
            self.mlm_probability,
            self.seed,
            shape=plan.shape,
            rank=rank,
            masking=self.masking,
            replace=self.replace,
            accumulate=self.accumulate,
        )

    def validation_batches(self, rank: int = 0, world_size: int = 1) -> MaskedBatches:
        """The validation batches of process `rank`."""
        return validation_batches(
            self.valid, self.seed, self.pack, self.batch_size, rank, world_size
        )

    def train_dataloader(self) -> Any:
        """The training batches of this process from the Trainer's step on; see also `on_error`."""
        trainer = self.trainer
        batches = GuardedBatches(
            self.train_batches(trainer.global_step, trainer.global_rank, trainer.world_size),
            self.on_error,
        )
        device = trainer.strategy.root_device
        if device.type == "cuda":  # on XLA, Lightning's loader prefetches
            return PrefetchedBatches(batches, device)
        return DataLoader(batches, batch_size=None)
