"""Small training runs for tests: notebook 04 from its training cell on, with a tiny model."""

import copy
import os
import signal

import numpy as np
import pytorch_lightning as pl
import torch

from helpers import refused
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.models.encoders import supports_packing
from mlm.parameters import train
from mlm.parameters.check import by_name
from mlm.training.checkpoint_callback import CheckpointingLogger
from mlm.training.datamodule import MaskedLMData
from mlm.training.failures import FailureMonitor
from mlm.training.module import MaskedLM, reset_module
from mlm.training.results import run_results, save_model, write_results
from mlm.training.run import open_run
from mlm.training.run_files import CALLBACK_STATE, check_files
from mlm.training.seeded_dropout import SeededDropout
from mlm.training.settings import run_settings

STEPS = 8
FEW_EXAMPLES = [0, 5, 9, 77, 200, 359]
BASELINE = 5.0
RECIPE = dict(
    optimizer="adamw", lr=1e-2, schedule="linear", weight_decay=0.01, dropout=0.1, mlm_probability=0.15,
    clip=0.0,
)  # fmt: skip
DEFAULTS = {name: parameter.default for name, parameter in by_name(train.PARAMETERS).items()}
PARAMETERS = dict(
    model="a folder", max_len=32, examples="line", batch_size=8, accumulate=1, seed=0, num_nodes=1,
    masking="token", replace="80/10/10", add_words=0, keep="last", evaluations=4, patience=0,
    kernels="default-matmul-16bit", compile=False, logger="tensorboard",
)  # fmt: skip
OPTIMIZER = dict(optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="linear", total_steps=20)
DEVICE = dict(kind="cpu", processes=1, dtype=torch.float32)


class SmallRuns:
    """Runs of STEPS steps with one tiny model, one after the other, like a kernel that stays open."""

    def __init__(self, corpus_folder, tokenizer, bert):
        self.tokenizer = tokenizer
        self.train, valid = (
            MaskedLMDataset(corpus_folder / f"{name}.txt", tokenizer, 32)
            for name in ("train", "valid")
        )
        pack = supports_packing(bert.config)
        self.data = MaskedLMData(self.train, valid, 8, 0.15, 0, STEPS, pack=pack)
        options = {name: RECIPE[name] for name in ("optimizer", "lr", "schedule", "weight_decay")}
        self.module = MaskedLM(bert, options | {"total_steps": STEPS})
        self.start = copy.deepcopy(self.module.state_dict())
        num_lines = len(self.train)
        split = dict(
            train=num_lines, valid=num_lines, removed=0, rule="a text is the validation set"
        )
        self.about_corpus = dict(
            source="a test",
            sha256="0" * 64,
            text_sha256="1" * 64,
            bytes=40_000,
            lines=num_lines,
            split=split,
        )

    def settings(self, **parameters):
        """The settings of a run with some other parameters."""
        config = DEFAULTS | PARAMETERS | RECIPE | parameters | {"total_steps": STEPS}
        return run_settings(config, self.about_corpus, self.tokenizer, DEVICE)

    def train_run(self, workdir, resume="auto", logger="tensorboard", **parameters):
        """The training cell of 04; returns the Run."""
        run = open_run(workdir, "run", resume, self.settings(**parameters))
        reset_module(self.module, self.start)
        checkpoints = CheckpointingLogger(
            run, self.data, BASELINE, checkpoint_steps=2, checkpoint_minutes=10
        )
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=STEPS, max_epochs=1, logger=run.loggers(BASELINE, logger),
            accumulate_grad_batches=self.data.accumulate,
            callbacks=[checkpoints, SeededDropout(0), FailureMonitor(run.folder)],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        if not run.finished:
            with run.training():
                trainer.fit(self.module, self.data, ckpt_path=run.checkpoint, weights_only=True)
        run.load(self.module)
        return run

    def results(self, run):
        """The content of run.json."""
        return run_results(
            run, PARAMETERS, self.about_corpus, self.train, self.module.bert, BASELINE
        )

    def __call__(self, workdir, **parameters):
        """The training cell and all cells below; returns the run's folder."""
        run = self.train_run(workdir, **parameters)
        results = self.results(run)
        assert save_model(self.module, self.tokenizer, run)
        write_results(results, run)
        check_files(run.folder)
        return run.folder


def batch_of(dataset, indices, mlm_probability=0.15, rows=3, rank=0, world_size=1, shape=None):
    """The batch of these examples, packed into `rows` rows per process; rows=None: one example per row."""
    indices = np.array(indices)
    if rows:
        row_of = np.sort(np.arange(len(indices)) % (rows * world_size))
        width = max(dataset.lengths[indices[row_of == row]].sum() + 40 for row in row_of)
        shape = shape or (rows, int(width), 16 * len(indices))
    key = (0, indices, row_of) if rows else (0, indices)
    (batch,) = MaskedBatches(dataset, [key], mlm_probability, 0, shape, rank)
    return batch


def same_batches(some, others):
    """Whether these are the same batches, bit by bit."""
    return all(
        one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
        for one, other in zip(some, others, strict=True)
    )


def logger_state(folder):
    """The logger's state in a run's last checkpoint."""
    return torch.load(folder / "checkpoints/last.ckpt")["callbacks"][CALLBACK_STATE]


def validation_losses(folder):
    """{step: validation loss} of a run, without the evaluation before training."""
    rows = [row for row in logger_state(folder)["history"] if "valid_loss" in row]
    return {row["step"]: row["valid_loss"] for row in rows if row["step"]}


def result(folder):
    """(weights, losses) of a finished run."""
    losses = [
        (row["step"], name, row[name])
        for row in logger_state(folder)["history"]
        for name in row
        if name.endswith(("loss", "accuracy"))
    ]
    return torch.load(folder / "saved.bin"), losses


def same(one, other):
    """Whether two finished runs have the same weights and losses, bit by bit."""
    (weights, losses), (other_weights, other_losses) = result(one), result(other)
    same_weights = all(torch.equal(weights[name], other_weights[name]) for name in weights)
    return losses == other_losses and same_weights


class Broken(Exception):
    """An error that a test puts into training."""


class Patch:
    """Context manager: `before(step)` is called in each training step of a SmallRuns."""

    def __init__(self, runs, before):
        self.module, self.before, self.original = runs.module, before, runs.module.training_step

    def __enter__(self):
        def training_step(*arguments):
            self.before(self.module.trainer.global_step)
            return self.original(*arguments)

        self.module.training_step = training_step

    def __exit__(self, *_):
        self.module.training_step = self.original


def fail_at(runs, step):
    """Context manager: the training step `step` raises Broken."""

    def before(now):
        if now == step:
            raise Broken

    return Patch(runs, before)


def stop_at(runs, workdir, step, **parameters):
    """Start a run and stop it by SIGINT after `step` steps; returns its folder."""

    def before(now):
        if now == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    with (
        Patch(runs, before),
        refused(f"stopped at step {step} of {STEPS}, saved: to resume, run this cell"),
    ):
        runs(workdir, **parameters)
    return workdir / "run"


def files_in(folder):
    """{name: bytes} of a run's folder, without TensorBoard's files."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if "tensorboard" not in str(path)
    }


def replace_file(path, content):
    """Write a file, or delete it if the content is None."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
