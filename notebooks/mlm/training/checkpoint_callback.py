"""CheckpointingLogger: the callback that logs, evaluates and saves checkpoints."""

import time
from typing import Any

import pytorch_lightning as pl
import torch

from mlm.models.compilation import compile_counts
from mlm.training.checkpoint import check_hyperparameters, save_checkpoint
from mlm.training.datamodule import MaskedLMData
from mlm.training.failures import stop_requested
from mlm.training.history import out_of_patience, selected_row, write_metrics
from mlm.training.logging import TrainingLogger, xla_counts
from mlm.training.module import MaskedLM
from mlm.training.run import Run
from mlm.training.run_files import CALLBACK_STATE


class CheckpointingLogger(TrainingLogger):
    """Callback that logs, evaluates and saves checkpoints.

    It saves every `checkpoint_steps` steps, every `checkpoint_minutes` minutes, at the end, and when a
    stop is requested. A checkpoint has everything that is needed to resume and, if the run keeps its
    best weights, a copy of them: they are in one file, so no stop and no damage can separate them.
    """

    state_key = CALLBACK_STATE

    def __init__(
        self,
        run: Run,
        data: MaskedLMData,
        baseline: float,
        checkpoint_steps: int,
        checkpoint_minutes: float,
    ) -> None:
        super().__init__(data, baseline, run.settings["evaluations"])
        self.folder, self.settings, self.stored = run.folder, run.settings, run.stored
        self.checkpoint_steps, self.checkpoint_minutes = checkpoint_steps, checkpoint_minutes
        self.state["settings"] = run.settings
        self.state["threads"] = torch.get_num_threads()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.state["settings"] = self.settings  # equal, but without settings of an earlier version

    def on_train_start(self, trainer: pl.Trainer, module: MaskedLM) -> None:
        check_hyperparameters(module)
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()
        super().on_train_start(trainer, module)
        if self.stops_early():  # after an evaluation that was given up before
            self.save(trainer, module)
            trainer.should_stop = True

    def stops_early(self) -> bool:
        """Whether early stopping ends the run. All processes have the same history."""
        return out_of_patience(self.state["history"], self.settings["patience"])

    def log_validation(self, trainer: pl.Trainer, module: MaskedLM) -> None:
        super().log_validation(trainer, module)
        best = selected_row(self.state["history"], "best")
        if self.settings["keep"] == "best" and best and best["step"] == trainer.global_step:
            weights = trainer.strategy.lightning_module_state_dict()
            self.state["best"] = {
                name: weight.to("cpu", copy=True) for name, weight in weights.items()
            }

    def stop_requested(self) -> bool:
        return stop_requested(self.folder)

    def own_requests(self) -> list[float]:
        """[1 if this process requests a stop, 1 if it requests a checkpoint because of the time]."""
        late = time.monotonic() - self.saved_time > 60 * self.checkpoint_minutes
        return [float(self.stop_requested()), float(late)]

    def after_step(self, trainer: pl.Trainer, module: MaskedLM, batch: dict[str, Any]) -> None:
        self.requests = None  # several processes only agree on requests when they log
        super().after_step(trainer, module, batch)
        if trainer.world_size == 1:
            self.requests = self.own_requests()
        early = self.stops_early()
        if self.requests is None and not early:
            return
        stop, late = self.requests or (0, 0)
        steps_are_due = trainer.global_step - self.saved_step >= self.checkpoint_steps
        at_end = trainer.global_step == self.data.total_steps
        if stop or late or early or steps_are_due or at_end:
            self.save(trainer, module)
        trainer.should_stop = trainer.should_stop or early or stop > 0

    def save(self, trainer: pl.Trainer, module: MaskedLM) -> None:
        """Save everything that is needed to resume in last.ckpt, and the history in metrics.csv."""
        began = self.count_seconds()
        self.state["sums"] = self.sums.cpu().tolist()
        if module.device.type == "xla":
            self.state["xla"] = xla_counts()
        if self.settings["compile"]:
            self.state["compile"] = compile_counts()
        self.stored = save_checkpoint(trainer, self.folder / "checkpoints", self.stored)
        if trainer.is_global_zero:
            write_metrics(self.folder, self.state["history"])
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()
        self.exclude_time_since(began)
