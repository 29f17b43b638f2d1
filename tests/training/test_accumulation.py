"""Gradients added up over several batches: the step of one large batch, cut and resumed to the same bits."""

import copy
import functools
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from test_run import STEPS, Broken, Suite, result, same

from helpers import unpack_examples
from mlm.training.datamodule import MaskedLMData
from mlm.training.seeded_dropout import SeededDropout


@pytest.fixture
def accumulating(corpus_folder, tokenizer, bert, monkeypatch):
    """A function that makes 8 steps of so many batches of such a size; dropout only where asked."""

    def make(batch_size, accumulate, dropout=0.0):
        for part in bert.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = dropout
        suite = Suite(corpus_folder, tokenizer, copy.deepcopy(bert))
        suite.data = MaskedLMData(
            suite.train, suite.data.valid, batch_size, 0.15, 0, STEPS, accumulate=accumulate
        )
        trainer = functools.partial(TRAINER, accumulate_grad_batches=accumulate)
        monkeypatch.setattr(pl, "Trainer", trainer)
        return suite

    return make


TRAINER = pl.Trainer


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("start", [0, 3, 12])
def test_the_batches_of_a_step_are_the_shares_of_a_large_one(dataset, world, start):
    """Also the last one of an epoch, of 8 examples: some shares have one, or none."""
    made = MaskedLMData(dataset, dataset, 4, 0.15, 0, 14, accumulate=4 // world)
    whole = list(MaskedLMData(dataset, dataset, 16, 0.15, 0, 14).train_batches(start))
    shares = [list(made.train_batches(start, rank, world)) for rank in range(world)]
    assert {len(share) for share in shares} == {4 // world * len(whole)}
    for number, large in enumerate(whole):
        mine = slice(number * (4 // world), (number + 1) * (4 // world))
        small = [batch for share in shares for batch in share[mine]]
        parts = [part for batch in small for part in unpack_examples(batch)]
        assert sorted(parts) == sorted(unpack_examples(large))
        masked = torch.stack([batch["num_masked"] for batch in small])
        assert (masked * (4 // world) == large["num_masked"]).all()
        assert {(b["num_tokens"], b["num_examples"]) for b in small} == {
            (large["num_tokens"], large["num_examples"])
        }


@pytest.mark.parametrize("batch_size, accumulate", [(8, 4), (2, 16)])
def test_a_step_of_several_batches_is_that_of_a_large_one(
    accumulating, tmp_path, batch_size, accumulate
):
    """Losses and weights but for rounding; what is counted, exactly. Twelve steps are an epoch."""
    large = accumulating(32, 1)(tmp_path / "large")
    small = accumulating(batch_size, accumulate)(tmp_path / "small")
    (weights, losses), (others, theirs) = result(small), result(large)
    assert [row[:2] for row in losses] == [row[:2] for row in theirs] and len(losses) > STEPS
    assert [row[2] for row in losses] == pytest.approx([row[2] for row in theirs], abs=1e-3)
    for name, weight in others.items():
        if not name.endswith("key.bias"):  # its gradient is rounding alone, which Adam makes large
            assert (weights[name] - weight).abs().max() < 2e-3, name
    counts = [keeper_state(folder) for folder in (small, large)]
    assert counts[0] == counts[1]


def keeper_state(folder):
    state = torch.load(folder / "checkpoints/last.ckpt")["callbacks"]["Keeper"]
    return state["tokens"], state["examples"]


@pytest.mark.parametrize("batch", [1, 9, 11])
def test_cut_at_any_batch_of_a_step_and_resumed(accumulating, tmp_path, batch):
    """With dropout, by an error in the batch of this number: the step begins anew, to the same bits."""
    suite = accumulating(4, 3, dropout=0.1)
    whole = suite(tmp_path / "whole")
    true, seen = suite.module.training_step, []

    def training_step(*arguments):
        seen.append(0)
        if len(seen) == batch + 1:
            raise Broken
        return true(*arguments)

    suite.module.training_step = training_step
    with pytest.raises(Broken):
        suite(tmp_path / "cut")
    suite.module.training_step = true
    assert same(suite(tmp_path / "cut"), whole)
    assert torch.load(whole / "checkpoints/last.ckpt")["global_step"] == STEPS


def test_each_batch_of_a_step_has_a_dropout_of_its_own(bert):
    trainer, drawn = SimpleNamespace(global_step=0, global_rank=0, world_size=2), []
    module, callback = SimpleNamespace(device=torch.device("cpu")), SeededDropout(0)
    for step in (0, 0, 0, 1, 1, 1):
        trainer.global_step = step
        for trainer.global_rank in (0, 1):
            if trainer.global_rank == 0:
                callback.on_train_batch_start(trainer, module, None, 0)
                drawn.append(torch.rand(1).item())
    assert len(set(drawn)) == 6
