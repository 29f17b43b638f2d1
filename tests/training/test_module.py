"""MaskedLM: loss and gradients equal BertForMaskedLM, for any layout of a batch and any processes."""

import copy

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from helpers import masked_loss
from mlm.data.dataset import MaskedLMDataset
from mlm.optim.schedule import linear
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM, reset_module
from small_runs import FEW_EXAMPLES, OPTIMIZER, batch_of


@pytest.fixture
def blocks(corpus_folder, tokenizer):
    return MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32, "block")


def gradients(model):
    """{name: gradient} of all weights; zeros where there is none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def reference(bert, dataset, indices, mlm_probability=0.15):
    """Loss and gradients of BertForMaskedLM for these examples, one per row."""
    bert, batch = copy.deepcopy(bert), batch_of(dataset, indices, mlm_probability, rows=None)
    mask = batch.get("sequence_ids")
    loss = bert(batch["input_ids"], attention_mask=mask, labels=batch["labels"]).loss
    loss.backward()
    return loss.item(), gradients(bert)


def training_step(module, batch):
    """Loss and gradients of a training step."""
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()
    return loss.item(), gradients(module.bert)


def assert_close(found, expected, tolerance=2e-6):
    """Gradients agree, relative to the largest of each weight."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (found[name] - gradient).abs().max()
        assert error <= tolerance + tolerance * gradient.abs().max(), name


MANY = list(range(100, 140))


@pytest.mark.parametrize(
    "indices, options",
    [
        (FEW_EXAMPLES, {"rows": None}),
        (FEW_EXAMPLES, {"rows": 1}),
        (MANY, {"rows": 7}),
        (FEW_EXAMPLES, {"rows": 9}),
        (FEW_EXAMPLES, {"mlm_probability": 0.6}),
        ([3], {"mlm_probability": 0.999, "rows": None}),
    ],
    ids=["one per row", "one row", "packed", "empty rows", "60% masked", "one example"],
)
def test_the_training_step_has_the_loss_and_gradients_of_bert(module, dataset, indices, options):
    batch = batch_of(dataset, indices, **options)
    assert ("sequence_ids" in batch) == (len(indices) > 1)
    loss, grads = training_step(module, batch)
    expected, expected_grads = reference(
        module.bert, dataset, indices, options.get("mlm_probability", 0.15)
    )
    assert loss == pytest.approx(expected, rel=1e-6) and loss > 1
    assert_close(grads, expected_grads)
    assert grads["cls.predictions.bias"].abs().sum() > 0


@pytest.mark.parametrize("rows", [None, 2])
def test_the_training_step_on_blocks_has_the_loss_and_gradients_of_bert(module, blocks, rows):
    batch = batch_of(blocks, [0, 1, 2, 3], rows=rows)
    assert ("sequence_ids" in batch) == (rows == 2)
    loss, grads = training_step(module, batch)
    expected, expected_grads = reference(module.bert, blocks, [0, 1, 2, 3])
    assert loss == pytest.approx(expected, rel=1e-6)
    assert_close(grads, expected_grads)


def test_padding_does_not_change_the_loss(module, dataset):
    """The same examples in batches of several shapes."""
    sums = [
        masked_loss(module, batch_of(dataset, [4, 5, 6], **options))[0].item()
        for options in ({"rows": 1}, {"rows": None}, {"rows": 2}, {"shape": (3, 128, 99)})
    ]
    alone = sum(masked_loss(module, batch_of(dataset, [i]))[0].item() for i in (4, 5, 6))
    assert sums == pytest.approx([alone] * 4, rel=1e-5)


@pytest.mark.parametrize("rows", [None, 3])
def test_a_batch_without_masked_tokens_has_loss_and_gradients_zero(module, dataset, rows):
    batch = batch_of(dataset, FEW_EXAMPLES, mlm_probability=1e-9, rows=rows)
    assert batch["num_masked"] == 0
    loss, grads = training_step(module, batch)
    assert loss == 0
    assert all((grad == 0).all() for grad in grads.values())
    assert all(p.grad is not None for p in module.parameters())  # DDP waits for each of them


def test_logits_are_those_of_bert_at_the_masked_positions(module, dataset):
    batch = batch_of(dataset, FEW_EXAMPLES, rows=None)
    loss, logits, labels = masked_loss(module, batch)
    with torch.no_grad():
        all_logits = module.bert(batch["input_ids"], batch["sequence_ids"]).logits
    masked = batch["labels"] != -100
    assert logits.shape == (int(batch["num_masked"]), all_logits.shape[2])
    torch.testing.assert_close(logits, all_logits[masked], rtol=1e-5, atol=1e-5)
    assert (labels == batch["labels"][masked]).all()
    expected = F.cross_entropy(all_logits[masked], batch["labels"][masked], reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_averaged_over_processes_it_is_the_loss_and_gradient_of_the_whole_batch(
    module, dataset, world_size
):
    """DDP averages the gradients."""
    expected, expected_grads = training_step(module, batch_of(dataset, FEW_EXAMPLES))
    module.trainer.world_size = world_size
    parts = [
        training_step(
            module, batch_of(dataset, FEW_EXAMPLES, rows=2, rank=rank, world_size=world_size)
        )
        for rank in range(world_size)
    ]
    assert sum(loss for loss, _ in parts) / world_size == pytest.approx(expected, rel=1e-5)
    mean = {name: sum(grads[name] for _, grads in parts) / world_size for name in expected_grads}
    assert_close(mean, expected_grads)


def test_another_training_loss_does_not_change_the_validation_loss(module, dataset):
    """Notebook 04 invites readers to edit the training step and to compare validation losses."""

    class Edited(MaskedLM):
        def training_step(self, batch, batch_idx):
            return 7 * super().training_step(batch, batch_idx)

    batches = [batch_of(dataset, FEW_EXAMPLES)]
    assert evaluate(Edited(module.bert, OPTIMIZER), batches) == evaluate(module, batches)


def test_bfloat16_is_close_to_float32(bert, dataset):
    module = MaskedLM(bert, OPTIMIZER, torch.bfloat16)
    batch = batch_of(dataset, FEW_EXAMPLES)
    loss, logits, _ = masked_loss(module, batch)
    module.matmul_dtype = torch.float32
    exact = masked_loss(module, batch)[0].item()
    assert logits.dtype == torch.float32  # the loss is computed in full precision
    assert loss.item() == pytest.approx(exact, rel=0.02)
    assert loss.item() != exact
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_lightning_updates_the_learning_rate_after_each_step(module, make_data, tmp_path):
    class LearningRates(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates = LearningRates()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=5, callbacks=[rates], default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=make_data())
    assert rates.seen == pytest.approx([1e-3 * linear(step, 20) for step in range(5)])


def test_reset_restores_weights_train_mode_and_tied_embeddings(module):
    start = {name: weight.clone() for name, weight in module.state_dict().items()}
    module.eval()
    predictions = module.bert.cls.predictions
    predictions.decoder.weight = torch.nn.Parameter(predictions.decoder.weight + 1)  # as on XLA
    reset_module(module, start)
    assert module.training and module.bert.training
    assert predictions.decoder.weight is module.bert.bert.embeddings.word_embeddings.weight
    assert all(torch.equal(weight, start[name]) for name, weight in module.state_dict().items())
