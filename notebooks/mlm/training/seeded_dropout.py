"""Dropout as a function of seed and step, so that a resumed run repeats it exactly."""

from typing import Any

import pytorch_lightning as pl
import torch

from mlm.data.random_numbers import Purpose, uniform


class SeededDropout(pl.Callback):
    """Callback that reseeds dropout before each batch: a resumed run repeats it exactly.

    The seed is a function of the run's seed, the step, the process and the batch within the step
    (gradient accumulation). No two batches share it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step: int | None = None  # of the last batch
        self.batch_in_step = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        self.batch_in_step = self.batch_in_step + 1 if step == self.step else 0
        self.step = step
        number = self.batch_in_step * trainer.world_size + trainer.global_rank
        seed = int(uniform(self.seed, step, number, Purpose.DROPOUT) * 2**53)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed also seeds unused devices
        if module.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        if module.device.type == "xla":
            import torch_xla

            torch_xla.manual_seed(seed)
