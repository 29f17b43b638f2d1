"""Training in float16: gradients are scaled so that they do not vanish, and unscaled before clipping.

T4, V100 and P100 GPUs train like this, with a GradScaler for CUDA; these tests use the one for the CPU.
"""

import copy

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision

from mlm.optim.optimizer import make_optimizer
from mlm.training.logging import TrainingLogger
from mlm.training.module import MaskedLM
from mlm.training.seeded_dropout import SeededDropout

STEPS, STOP = 12, 5
OPTIONS = dict(lr=1e-2, weight_decay=0.01, schedule="linear", total_steps=STEPS, clip=0.5)


def make_scaler(scale):
    """A GradScaler that grows so often that a short run sees it grow and shrink."""
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)


class StopAt(pl.Callback):
    """Saves a checkpoint after `step` steps and ends training."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(bert, data, optimizer, scale, callbacks=(), ckpt_path=None):
    """(weights, scaler's state, losses) after training a copy of the model in float16, as 04 does."""
    options = OPTIONS | {"optimizer": optimizer}
    module = MaskedLM(copy.deepcopy(bert), options, torch.float16).train()
    logger = TrainingLogger(data, 5.0)
    plugin = MixedPrecision("16-mixed", "cpu", make_scaler(scale))
    trainer = pl.Trainer(
        accelerator="cpu", plugins=[plugin], max_steps=STEPS, max_epochs=1, logger=False,
        callbacks=[logger, SeededDropout(0), *callbacks], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    losses = [row["train_loss"] for row in logger.state["history"] if "train_loss" in row]
    return module.state_dict(), plugin.state_dict(), losses


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_scale_changes_neither_clipping_nor_weights(bert, optimizer):
    """Powers of two: in float32, scaling and unscaling a gradient changes no bit."""
    found = []
    for scale in (1.0, 2.0**14):
        module, scaler = MaskedLM(copy.deepcopy(bert), {}), make_scaler(scale)
        made, _ = make_optimizer(module, optimizer, **OPTIONS)
        for seed in range(3):
            torch.manual_seed(seed)
            loss = sum((w * torch.randn_like(w)).sum() for w in module.parameters())
            scaler.scale(loss).backward()
            scaler.step(made)
            scaler.update()
            made.zero_grad()
        found.append((made.norm.item(), module.state_dict()))
    (norm, weights), (other_norm, other_weights) = found
    assert norm == other_norm > 10
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_with_gradients_that_are_not_finite_is_skipped(bert, optimizer):
    """Weights, momentum and norm stay as they were, and the scale is halved; the schedule continues."""
    module, scaler = MaskedLM(bert, {}), make_scaler(2.0**10)
    made, scheduler = make_optimizer(module, optimizer, **OPTIONS)
    learning_rates = []
    for step in range(3):
        for weight in module.parameters():
            weight.grad = torch.full_like(weight, 2.0**10 * 0.01)
        if step == 1:
            next(module.parameters()).grad[0, 0] = torch.inf
        before = copy.deepcopy((module.state_dict(), made.state_dict()["state"], made.norm))
        scaler.scale(torch.zeros(()))  # initializes the scaler
        scaler.step(made)
        scaler.update()
        scheduler.step()
        after = module.state_dict(), made.state_dict()["state"], made.norm
        if step == 1:
            torch.testing.assert_close(after, before, rtol=0, atol=0)
        else:
            assert not any(map(torch.equal, before[0].values(), after[0].values()))
        learning_rates.append(made.param_groups[0]["lr"])
    assert scaler.get_scale() == 2.0**9 and len(set(learning_rates)) == 3


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(bert, make_data, optimizer, tmp_path):
    """Bit by bit, with skipped steps and a scale that grows and shrinks on both sides of the stop."""
    path, data = tmp_path / "stopped.ckpt", make_data(total_steps=STEPS)
    weights, state, losses = fit(bert, data, optimizer, 2.0**18)
    fit(bert, data, optimizer, 2.0**18, [StopAt(STOP, path)])
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["MixedPrecision"]["scale"] < 2.0**18  # steps were skipped before the stop
    resumed, resumed_state, resumed_losses = fit(bert, data, optimizer, 1.0, ckpt_path=path)
    assert resumed_state == state and resumed_losses == losses
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    del checkpoint["MixedPrecision"]  # without the scaler's state the result is another one
    torch.save(checkpoint, path)
    other, _, _ = fit(bert, data, optimizer, 1.0, ckpt_path=path)
    assert not all(torch.equal(weights[name], other[name]) for name in weights)
