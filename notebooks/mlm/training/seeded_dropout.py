"""Dropout as a function of seed and step, so that a resumed run repeats it exactly."""

import pytorch_lightning as pl
import torch

from mlm.data.masking import uniform


class SeededDropout(pl.Callback):
    """Dropout as a function of seed, step, process and batch of a step: a resumed run repeats it exactly."""

    def __init__(self, seed):
        self.seed, self.step, self.share = seed, None, 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        step = trainer.global_step
        again = step == self.step  # one more of the batches of a step
        self.step, self.share = step, self.share + trainer.world_size if again else 0
        number = int(uniform(self.seed, step, trainer.global_rank + self.share, 6) * 2**53)
        torch.default_generator.manual_seed(number)  # torch.manual_seed asks each kind of device
        if module.device.type == "cuda":
            torch.cuda.manual_seed(number)
        if module.device.type == "xla":
            import torch_xla

            torch_xla.manual_seed(number)
