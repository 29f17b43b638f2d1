"""Evaluation equals a plain loop, for any batches and processes; the unigram baseline by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import refused
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.packing import VALIDATION_EPOCH
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate, training_unigram_loss, unigram_loss
from mlm.training.module import MaskedLM
from small_runs import FEW_EXAMPLES, OPTIMIZER, batch_of


def test_evaluate_equals_a_plain_loop(module, dataset):
    keys = [(VALIDATION_EPOCH, np.arange(i, i + 16)) for i in range(0, 352, 16)]
    batches = list(MaskedBatches(dataset, keys, 0.15, 0))
    loss = correct = count = 0
    with torch.no_grad():
        for batch in batches:
            logits = module.bert(batch["input_ids"], batch.get("sequence_ids")).logits
            for row, label in zip(logits.flatten(0, 1).double(), batch["labels"].flatten()):
                if label != -100:
                    loss -= row.log_softmax(0)[label].item()
                    correct += int(row.argmax() == label)
                    count += 1
    assert count > 500 and correct > 0
    found = evaluate(module, batches)
    assert found["loss"] == pytest.approx(loss / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-4)
    assert found["perplexity"] == math.exp(found["loss"])  # its definition
    assert found["accuracy"] == pytest.approx(correct / count, abs=1e-6)


def test_evaluate_is_the_same_for_any_batch_size_and_number_of_processes(module, dataset):
    def metrics(batch_size, rank=0, world_size=1, add_up=lambda sums: sums):
        data = MaskedLMData(dataset, dataset, batch_size, 0.15, 0, 0)
        return evaluate(module, data.validation_batches(rank, world_size), add_up)

    keys = [(VALIDATION_EPOCH, np.arange(360))]
    expected = evaluate(module, MaskedBatches(dataset, keys, 0.15, 0))
    for found in (metrics(1), metrics(16), metrics(500)):
        assert found == pytest.approx(expected, rel=1e-5)
    sums = []
    for rank in range(3):
        metrics(5, rank, 3, add_up=lambda part: sums.append(part) or part)
    assert metrics(5, 0, 3, add_up=lambda part: sum(sums)) == pytest.approx(expected, rel=1e-5)


def test_evaluate_uses_no_dropout_and_restores_the_mode(bert, dataset):
    for layer in bert.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.5
    module = MaskedLM(bert, OPTIMIZER)
    batches = [batch_of(dataset, FEW_EXAMPLES)]
    for mode in (True, False):
        module.train(mode)
        assert evaluate(module, batches) == evaluate(module, batches)
        assert module.training == module.bert.training == mode
    evaluate(module, batches, lambda sums: sums if not sums.requires_grad else None)
    assert all(p.grad is None for p in module.parameters())


def test_evaluate_without_masked_tokens_has_loss_zero(module, dataset):
    expected = {"loss": 0, "perplexity": 1, "accuracy": 0}
    assert evaluate(module, []) == expected
    assert evaluate(module, [batch_of(dataset, [1], mlm_probability=1e-9)]) == expected


@pytest.mark.fault
def test_the_perplexity_of_a_huge_loss_is_finite(module, dataset):
    bias = module.bert.cls.predictions.bias
    with torch.no_grad():
        bias[:] = torch.arange(len(bias)) * 1e4
    found = evaluate(module, [batch_of(dataset, FEW_EXAMPLES)])
    assert found["loss"] > 1000 and math.isfinite(found["perplexity"])
    with torch.no_grad():
        bias[:] = math.nan
    assert math.isnan(evaluate(module, [batch_of(dataset, FEW_EXAMPLES)])["loss"])


def test_unigram_loss_by_hand():
    """Without [UNK], here 4, which is never a target: counts + 1 are 4, 2, 1, 2 and 1, of 10."""
    train = SimpleNamespace(
        own_ids=np.array([0, 4, 0, 0, 1, 4, 3, 4]), vocab_size=5, special_ids=[4], num_truncated=0,
        starts=np.array([0]), lengths=np.array([8]),
    )  # fmt: skip
    labels = torch.tensor([[-100, 0, 1], [2, -100, 0]])
    expected = -(2 * math.log(4 / 10) + math.log(2 / 10) + math.log(1 / 10)) / 4
    batches = [{"labels": labels[:1]}, {"labels": labels[1:]}]
    assert unigram_loss(train, batches) == pytest.approx(expected, rel=1e-12)
    entropy = -sum(p * math.log(p) for p in (0.4, 0.2, 0.1, 0.2, 0.1))
    assert training_unigram_loss(train) == pytest.approx(entropy, rel=1e-12)


def test_the_unigram_loss_is_below_the_uniform_loss(dataset):
    data = MaskedLMData(dataset, dataset, 16, 0.15, 0, 0)
    assert 1 < unigram_loss(dataset, data.validation_batches()) < math.log(dataset.vocab_size)


@pytest.mark.fault
def test_a_validation_set_without_masked_tokens_is_refused(tmp_path, tokenizer):
    """Instead of a loss of 0."""
    (tmp_path / "a.txt").write_text("a\n")
    data = MaskedLMDataset(tmp_path / "a.txt", tokenizer)
    batches = MaskedBatches(data, [(0, np.arange(1))], 1e-9, 0)
    with refused("no token of the validation set (held-out lines) is masked", "pass a corpus"):
        unigram_loss(data, batches)
