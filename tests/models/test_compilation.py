"""torch.compile of the encoder: when it is chosen, that the model stays the same, that runs resume exactly."""

import copy
import shutil
from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch

from encoders import make_model
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
CPU, GPU, OLD_GPU, TPU = (
    trainer_arguments(machine=machine)[1]
    for machine in (
        SimulatedMachine(),
        SimulatedMachine(gpus=1, card=T4),
        SimulatedMachine(gpus=1, card=P100),
        SimulatedMachine(tpu_cores=1),
    )
)


@pytest.fixture
def all_tools_installed(monkeypatch):
    """A C++ compiler and Triton."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: name)


@pytest.mark.parametrize(
    "compile, device, steps, is_compiled, words",
    [
        ("auto", CPU, 10**9, False, "on a CPU"),
        ("auto", GPU, MIN_STEPS_TO_COMPILE - 1, False, "below 5,000 steps"),
        ("auto", GPU, MIN_STEPS_TO_COMPILE, True, "enough"),
        ("auto", OLD_GPU, 10**9, False, "P100"),
        ("auto", TPU, 10**9, False, "XLA already compiles"),
        (True, CPU, 1, True, "set in the parameters"),
        (True, GPU, 1, True, "set in the parameters"),
        (False, GPU, 10**9, False, "set in the parameters"),
        (False, TPU, 10**9, False, "set in the parameters"),
    ],
)
@pytest.mark.usefixtures("all_tools_installed")
def test_auto_compiles_long_runs_on_a_gpu(compile, device, steps, is_compiled, words):
    found, reason = choose_compile(compile, device, steps)
    assert found is is_compiled and words in reason


@pytest.mark.parametrize(
    "device, missing, words",
    [
        (TPU, None, "XLA already compiles the whole step"),
        (OLD_GPU, None, "does not support the Tesla P100"),
        (CPU, "shutil.which", "C++ compiler"),
        (GPU, "importlib.util.find_spec", "needs Triton on a GPU, and it is not installed"),
    ],
)
@pytest.mark.usefixtures("all_tools_installed")
@pytest.mark.fault
def test_compile_true_is_refused_where_it_cannot_work(monkeypatch, device, missing, words):
    if missing:
        monkeypatch.setattr(missing, lambda name: None)
    with refused('compile must be "auto" or False', "got True", words):
        choose_compile(True, device, 10**9)
    assert choose_compile("auto", device, 10**9)[0] is False


@dataclass
class SaveCheckpoint(pl.Callback):
    """Save a checkpoint after a step, and the number of graphs that were compiled until then."""

    step: int
    path: str

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            self.graphs = compile_counts()["graphs"]


@pytest.mark.slow
def test_a_compiled_model_is_the_same_model_and_resumes_exactly(
    tokenizer, dataset, tmp_path, capsys
):
    """With dropout, by Inductor: equal loss and gradients up to rounding, exact resume, few graphs."""
    torch.set_num_threads(1)
    model = make_model(
        "bert", tokenizer, num_hidden_layers=1, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
    )  # fmt: skip
    options = dict(optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="linear", total_steps=6)
    plain = MaskedLM(use_fast_kernels(copy.deepcopy(model)), options)
    module, names = MaskedLM(use_fast_kernels(model), options), list(model.state_dict())
    assert compile_encoder(model, True, CPU, 6)
    assert "torch.compile is on: set in the parameters" in capsys.readouterr().out
    assert list(model.state_dict()) == names
    data = MaskedLMData(dataset, dataset, 8, 0.15, 0, 6)
    start = copy.deepcopy(module.state_dict())
    checkpoint = SaveCheckpoint(3, str(tmp_path / "step3.ckpt"))

    def fit(**resume):
        reset_module(module, start)
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=6, max_epochs=1, logger=False, enable_checkpointing=False,
            callbacks=[SeededDropout(0), checkpoint], enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, data, **resume)
        return copy.deepcopy(module.state_dict())

    weights = fit()
    assert compile_counts() == {"graphs": checkpoint.graphs, "breaks": 0}  # none in later steps
    resumed = fit(ckpt_path=checkpoint.path, weights_only=True)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)

    plain.load_state_dict(weights)
    batches = list(data.train_batches())[:2]
    assert evaluate(module, batches) == pytest.approx(evaluate(plain, batches), rel=1e-5)
    for either in (module, plain):
        either.eval().zero_grad()
        masked_loss(either, batches[0])[0].backward()
    for (name, weight), plain_weight in zip(module.named_parameters(), plain.parameters()):
        difference = (weight.grad - plain_weight.grad).abs().max()
        assert difference < 1e-4 + 1e-4 * plain_weight.grad.abs().max(), name
    assert compile_counts()["graphs"] <= 4
