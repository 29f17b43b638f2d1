"""torch.compile of the encoder: where it is chosen, that it is the same model, that it goes on exactly."""

import copy
import shutil
from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch

from helpers import masked_loss, refused
from mlm.env.devices import trainer_arguments
from mlm.env.hardware import SimulatedMachine
from mlm.models.compilation import (
    MIN_STEPS_TO_COMPILE,
    choose_compile,
    compile_counts,
    compile_encoder,
)
from mlm.models.cpu import use_fast_kernels
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM, reset_module
from mlm.training.seeded_dropout import SeededDropout

T4, P100 = ("Tesla T4", 16e9, (7, 5)), ("Tesla P100", 16e9, (6, 0))
CPU, GPU, OLD, TPU = (
    trainer_arguments(machine=machine)[1]
    for machine in (
        SimulatedMachine(), SimulatedMachine(gpus=1, card=T4), SimulatedMachine(gpus=1, card=P100), SimulatedMachine(tpu_cores=1)
    )
)  # fmt: skip


@pytest.fixture
def all_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: name)


@pytest.mark.parametrize(
    "asked, device, steps, chosen, words",
    [
        ("auto", CPU, 10**9, False, "on a CPU"),
        ("auto", GPU, MIN_STEPS_TO_COMPILE - 1, False, "fewer than"),
        ("auto", GPU, MIN_STEPS_TO_COMPILE, True, "enough"),
        ("auto", OLD, 10**9, False, "P100"),
        ("auto", TPU, 10**9, False, "XLA compiles"),
        (True, CPU, 1, True, "as asked"),
        (True, GPU, 1, True, "as asked"),
        (False, GPU, 10**9, False, "as asked"),
        (False, TPU, 10**9, False, "as asked"),
    ],
)
def test_where_it_pays(all_there, asked, device, steps, chosen, words):
    found, why = choose_compile(asked, device, steps)
    assert found is chosen and words in why


@pytest.mark.parametrize(
    "device, missing, words",
    [
        (TPU, None, "XLA compiles the whole step already"),
        (OLD, None, "knows no card as old as the Tesla P100"),
        (CPU, "which", "no C++ compiler"),
        (GPU, "find_spec", "Triton is not installed"),
    ],
)
@pytest.mark.fault
def test_where_it_cannot_be(all_there, monkeypatch, device, missing, words):
    if missing:
        place = shutil if missing == "which" else "importlib.util"
        name = (place, missing) if place is shutil else (f"{place}.{missing}",)
        monkeypatch.setattr(*name, lambda name: None)
    with refused("compile=True is impossible", words, '"auto" or False'):
        choose_compile(True, device, 10**9)
    assert choose_compile("auto", device, 10**9)[0] is False


@dataclass
class Kept(pl.Callback):
    """The checkpoint of a step, and what had been compiled when it was written."""

    step: int
    path: str

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            self.graphs = compile_counts()["graphs"]


@pytest.mark.slow
def test_compiled_it_is_the_same_model_and_goes_on_exactly(bert, dataset, tmp_path, capsys):
    """With dropout, in Inductor: loss and gradients to rounding, resumed bit by bit, two graphs."""
    for part in bert.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.1
    how = dict(optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="linear", total_steps=6)
    plain = MaskedLM(use_fast_kernels(copy.deepcopy(bert)), how)
    module, names = MaskedLM(use_fast_kernels(bert), how), list(bert.state_dict())
    assert compile_encoder(bert, True, CPU, 6)
    assert "the encoder is compiled: as asked" in capsys.readouterr().out
    assert list(bert.state_dict()) == names
    data = MaskedLMData(dataset, dataset, 8, 0.15, 0, 6)
    start, kept = copy.deepcopy(module.state_dict()), Kept(3, str(tmp_path / "kept.ckpt"))

    def fit(**resumed):
        reset_module(module, start)
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=6, max_epochs=1, logger=False, enable_checkpointing=False,
            callbacks=[SeededDropout(0), kept], enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, data, **resumed)
        return copy.deepcopy(module.state_dict())

    weights = fit()
    assert compile_counts() == {"graphs": kept.graphs, "breaks": 0}  # none came with the steps
    resumed = fit(ckpt_path=kept.path, weights_only=True)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    plain.load_state_dict(weights)
    batches = list(data.train_batches())[:2]
    assert evaluate(module, batches) == pytest.approx(evaluate(plain, batches), rel=1e-5)
    for one in (module, plain):
        one.eval().zero_grad()
        masked_loss(one, batches[0])[0].backward()
    for (name, mine), theirs in zip(module.named_parameters(), plain.parameters()):
        worst = (mine.grad - theirs.grad).abs().max()
        assert worst < 1e-4 + 1e-4 * theirs.grad.abs().max(), name
    assert compile_counts()["graphs"] <= 4
