"""TrainingLogger: when it evaluates, and that a log line is the mean since the last one."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from helpers import masked_loss, refused
from mlm.training.datamodule import MaskedLMData
from mlm.training.logging import TrainingLogger
from mlm.training.module import MaskedLM
from small_runs import SmallRuns


@pytest.mark.parametrize(
    "steps, evaluations, expected",
    [
        (8, 4, {2, 4, 6, 8}),
        (10, 4, {3, 5, 8, 10}),
        (8, 1, {8}),
        (9, 3, {3, 6, 9}),
        (3, 100, {1, 2, 3}),
    ],
)
def test_evaluations_are_evenly_spread_and_the_last_is_at_the_end(
    dataset, steps, evaluations, expected
):
    data = MaskedLMData(dataset, dataset, 8, 0.15, 0, steps)
    assert TrainingLogger(data, 5.0, evaluations).evaluation_steps == expected


@pytest.mark.parametrize("steps, expected", [(1, 1), (60, 2), (1250, 50), (10**6, 50)])
def test_there_is_a_log_line_at_least_every_50_steps_and_25_in_a_short_run(
    dataset, steps, expected
):
    data = MaskedLMData(dataset, dataset, 8, 0.15, 0, steps)
    assert TrainingLogger(data, 5.0).log_every == expected


@pytest.fixture
def trainer():
    """The part of a Trainer that TrainingLogger uses."""
    return SimpleNamespace(
        global_step=0, is_global_zero=False, world_size=1, global_rank=0, loggers=[],
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
    )  # fmt: skip


def test_a_log_line_is_the_mean_loss_per_masked_token_since_the_last_one(
    module, make_data, trainer
):
    data = make_data(total_steps=100)  # a line every 4 steps
    logger, batches = TrainingLogger(data, 5.0), list(islice(data.train_batches(), 4))
    logger.on_train_start(trainer, module)
    (before,) = logger.state["history"]
    assert before["step"] == 0 and before["valid_loss"] > 1
    for batch in batches:
        trainer.global_step += 1
        module.training_step(batch, 0)
        assert not module.loss_sums.requires_grad
        logger.on_after_backward(trainer, module)
        logger.on_train_batch_end(trainer, module, None, batch, 0)
    loss = sum(masked_loss(module, batch)[0].item() for batch in batches)
    count = sum(int(batch["num_masked"]) for batch in batches)
    assert logger.state["history"][1]["train_loss"] == pytest.approx(loss / count, rel=1e-5)
    assert logger.state["history"][1]["step"] == 4 and logger.sums.tolist() == [0, 0]
    assert logger.state["tokens"] == sum(batch["num_tokens"] for batch in batches)


@pytest.mark.fault
def test_a_training_loss_that_is_not_finite_ends_training(module, make_data, trainer):
    logger = TrainingLogger(make_data(), 5.0)
    logger.on_train_start(trainer, module)
    logger.sums = torch.tensor([float("nan"), 7.0])
    with refused("the training loss is nan at step 0", "kept; try a lower lr"):
        logger.log_training(trainer, module)


@pytest.mark.fault
def test_a_loss_that_is_not_finite_may_be_the_fault_of_an_edit(bert, make_data, trainer):
    class Edited(MaskedLM):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx).log()

    logger, module = TrainingLogger(make_data(), 5.0), Edited(bert, {})
    logger.on_train_start(trainer, module)
    logger.sums = torch.tensor([float("nan"), 7.0])
    with refused("the training loss is nan", "check your edit of MaskedLM, or try a lower lr"):
        logger.log_training(trainer, module)


@pytest.mark.fault
@pytest.mark.parametrize("sums", [None, torch.tensor(7.0), [7.0, 3]])
def test_an_edited_training_step_must_set_the_sums_of_the_losses(module, make_data, trainer, sums):
    """One number for both would be logged as a training loss of 1."""
    logger = TrainingLogger(make_data(), 5.0)
    logger.on_train_start(trainer, module)
    if sums is not None:
        module.loss_sums = sums
    with refused("must set self.loss_sums", "two numbers"):
        logger.on_after_backward(trainer, module)


@pytest.mark.fault
@pytest.mark.parametrize("skipped", [{0, 1, 2, 3, 4, 5, 6, 7}, {2, 3}])
def test_a_training_step_that_never_returns_a_loss_ends_training(
    corpus_folder, tokenizer, bert, tmp_path, skipped
):
    """Lightning skips a batch if the training step returns None; a forgotten `return` skips all of them."""
    runs = SmallRuns(corpus_folder, tokenizer, bert)
    original = runs.module.training_step

    def training_step(batch, batch_idx):
        return None if batch_idx in skipped else original(batch, batch_idx)

    runs.module.training_step = training_step
    if 0 in skipped:
        with refused("training_step returned None for every batch up to step 1", "`return`"):
            runs(tmp_path)
    else:
        runs(tmp_path)
