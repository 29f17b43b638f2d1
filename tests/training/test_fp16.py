"""Gradients in float16: scaled so that they do not vanish, unscaled before they are clipped.

A T4, V100 or P100 trains like this, with a GradScaler of CUDA; here it is that of the CPU.
"""

import copy

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision

from mlm.data.dataset import MaskedLMDataset
from mlm.optim.optimizer import make_optimizer
from mlm.training.datamodule import MaskedLMData
from mlm.training.logging import TrainingLogger
from mlm.training.module import MaskedLM
from mlm.training.seeded_dropout import SeededDropout

STEPS, CUT = 12, 5
HOW = dict(lr=1e-2, weight_decay=0.01, schedule="linear", total_steps=STEPS, clip=0.5)


@pytest.fixture
def data(dataset, corpus_folder, tokenizer):
    valid = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)
    return MaskedLMData(dataset, valid, 8, 0.15, 0, STEPS)


def scaler(scale):
    """A GradScaler that grows so soon that a short run sees it grow and shrink."""
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)


class Until(pl.Callback):
    """Saves after so many steps, and ends there."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(bert, data, optimizer, scale, more=(), ckpt_path=None):
    """(weights, scaler's state, losses of the steps) after training a copy in float16, as 04 does."""
    module = MaskedLM(copy.deepcopy(bert), HOW | {"optimizer": optimizer}, torch.float16).train()
    journal, plugin = TrainingLogger(data, 5.0), MixedPrecision("16-mixed", "cpu", scaler(scale))
    trainer = pl.Trainer(
        accelerator="cpu", plugins=[plugin], max_steps=STEPS, max_epochs=1, logger=False,
        callbacks=[journal, SeededDropout(0), *more], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    rows = journal.state["history"]
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    return module.state_dict(), plugin.state_dict(), losses


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_scale_changes_neither_clipping_nor_weights(bert, data, optimizer):
    """Powers of two: in float32 a gradient that was scaled and unscaled is the same, bit by bit."""
    found = []
    for scale in (1.0, 2.0**14):
        module, scaled = MaskedLM(copy.deepcopy(bert), {}), scaler(scale)
        made, _ = make_optimizer(module, optimizer, **HOW)
        for seed in range(3):
            torch.manual_seed(seed)
            loss = sum((w * torch.randn_like(w)).sum() for w in module.parameters())
            scaled.scale(loss).backward()
            scaled.step(made)
            scaled.update()
            made.zero_grad()
        found.append((made.norm.item(), module.state_dict()))
    (norm, weights), (other, others) = found
    assert norm == other > 10
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_with_gradients_that_are_not_finite_is_left_out(bert, optimizer):
    """Weights, momentum and norm stay as they were, the scale is halved; the schedule goes on."""
    module, scaled = MaskedLM(bert, {}), scaler(2.0**10)
    made, schedule = make_optimizer(module, optimizer, **HOW)
    lr = []
    for step in range(3):
        for weight in module.parameters():
            weight.grad = torch.full_like(weight, 2.0**10 * 0.01)
        if step == 1:
            next(module.parameters()).grad[0, 0] = torch.inf
        before = copy.deepcopy((module.state_dict(), made.state_dict()["state"], made.norm))
        scaled.scale(torch.zeros(()))  # a scaler wants to have scaled something
        scaled.step(made)
        scaled.update()
        schedule.step()
        after = module.state_dict(), made.state_dict()["state"], made.norm
        if step == 1:
            torch.testing.assert_close(after, before, rtol=0, atol=0)
        else:
            assert not any(map(torch.equal, before[0].values(), after[0].values()))
        lr.append(made.param_groups[0]["lr"])
    assert scaled.get_scale() == 2.0**9 and len(set(lr)) == 3


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_stopped_and_resumed_is_uncut(bert, data, optimizer, tmp_path):
    """Bit by bit, with steps left out and a scale that grows and shrinks on both sides of the cut."""
    kept = tmp_path / "kept.ckpt"
    weights, state, losses = fit(bert, data, optimizer, 2.0**18)
    fit(bert, data, optimizer, 2.0**18, [Until(CUT, kept)])
    checkpoint = torch.load(kept, weights_only=True)
    assert checkpoint["MixedPrecision"]["scale"] < 2.0**18  # steps were left out before the cut
    resumed, its_state, its_losses = fit(bert, data, optimizer, 1.0, ckpt_path=kept)
    assert its_state == state and its_losses == losses
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    del checkpoint["MixedPrecision"]  # without the scaler's state it is another run
    torch.save(checkpoint, kept)
    other, _, _ = fit(bert, data, optimizer, 1.0, ckpt_path=kept)
    assert not all(torch.equal(weights[name], other[name]) for name in weights)
