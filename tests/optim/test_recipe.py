"""Which recipe is chosen, how the learning rate goes, and that the optimizers are what they say."""

import copy

import numpy as np
import pytest
import torch

from mlm.env.devices import trainer_arguments
from mlm.env.hardware import Pretended
from mlm.env.notebook import NotebookError
from mlm.models.loading import load_model
from mlm.optim.muon import MuonAdamW, orthogonalize
from mlm.optim.optimizer import MUON_LR, make_optimizer
from mlm.optim.recipe import FAST, RECIPE_SETTINGS, TUTORIAL, choose_batch_size, choose_recipe
from mlm.optim.schedule import lr_factor
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate, init_head_bias, unigram_loss
from mlm.training.module import MaskedLM

NOTHING = dict.fromkeys(RECIPE_SETTINGS) | {"recipe": "fast"}
OPTIONS = dict(lr=1e-3, weight_decay=0.01, schedule="linear", total_steps=20)


# the recipe


@pytest.mark.parametrize("model", ["bert-base-uncased", "scratch:tiny", "scratch:base"])
@pytest.mark.parametrize("recipe", ["fast", "tutorial"])
def test_what_is_asked_for_is_taken_and_the_rest_is_chosen(model, recipe):
    free, reasons = choose_recipe(NOTHING | {"recipe": recipe}, model, 32)
    assert list(free) == list(reasons) == list(RECIPE_SETTINGS)
    assert "as asked" not in reasons.values()
    for name, value in dict(lr=3e-4, schedule="linear", dropout=0.2, mlm_probability=0.5).items():
        found, reasons = choose_recipe(NOTHING | {"recipe": recipe, name: value}, model, 32)
        assert found == free | {name: value}
        assert [n for n, reason in reasons.items() if reason == "as asked"] == [name]


def test_the_tutorials_recipe_is_one_parameter_away():
    for model in ("bert-base-uncased", "scratch:tiny"):
        assert choose_recipe(NOTHING | {"recipe": "tutorial"}, model, 4)[0] == TUTORIAL
    assert (TUTORIAL["lr"], TUTORIAL["schedule"], TUTORIAL["dropout"]) == (1e-5, "constant", None)


def test_random_weights_narrow_models_and_large_batches_bear_more():
    def lr(model, batch=32, **asked):
        return choose_recipe(NOTHING | asked, model, batch)[0]["lr"]

    sizes = [f"scratch:{size}" for size in ("tiny", "mini", "small", "base")]
    assert sorted(map(lr, sizes), reverse=True) == list(map(lr, sizes))
    assert lr("scratch:tiny") > lr("scratch:tiny", optimizer="adamw") > lr("bert-base-uncased")
    for model in (*sizes, "bert-base-uncased"):
        assert lr(model, 128) == pytest.approx(2 * lr(model, 32))


def test_muon_is_for_narrow_models_from_scratch():
    models = ["scratch:tiny", "scratch:mini", "scratch:small", "scratch:base", "bert-base-uncased"]
    found = [choose_recipe(NOTHING, model, 32)[0] for model in models]
    assert [recipe["optimizer"] for recipe in found] == ["muon", "muon", "adamw", "adamw", "adamw"]
    assert all(recipe.items() >= FAST.items() for recipe in found)


@pytest.mark.parametrize(
    "machine, model, max_len, size",
    [
        (Pretended(), "scratch:tiny", 128, 32),
        (Pretended(gpus=1, card=("T4", 16e9, (7, 5))), "scratch:tiny", 128, 256),
        (Pretended(gpus=1, card=("T4", 16e9, (7, 5))), "bert-base-uncased", 128, 64),
        (Pretended(gpus=1, card=("T4", 16e9, (7, 5))), "bert-base-uncased", 512, 16),
        (Pretended(gpus=1, card=("GTX 1080", 8e9, (6, 1))), "scratch:base", 128, 16),
        (Pretended(gpus=1, card=("H100", 80e9, (9, 0))), "bert-base-uncased", 128, 256),
        (Pretended(tpu_cores=1), "bert-base-uncased", 128, 64),
    ],
)
def test_a_batch_that_suits_the_device(monkeypatch, machine, model, max_len, size):
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    device = trainer_arguments(machine=machine)[1]
    assert choose_batch_size(None, model, max_len, device)[0] == size
    assert choose_batch_size(7, model, max_len, device) == (7, "as asked")


# the learning rate


@pytest.mark.parametrize("schedule", ["linear", "trapezoid"])
@pytest.mark.parametrize("total", [1, 2, 7, 10, 100, 1000])
def test_lr_rises_to_its_peak_and_falls(schedule, total):
    factors = np.array([lr_factor(step, total, schedule) for step in range(total + 1)])
    assert factors.max() == 1 and factors.min() > 0  # never 0
    (peak,) = np.where(factors == 1)
    assert (np.diff(factors[: peak[0] + 1]) > 0).all() and (np.diff(factors[peak[-1] :]) < 0).all()
    if total >= 100:
        assert 0.04 < peak[0] / total < 0.11 and factors[-1] < 0.04
        stays = len(peak) / total
        assert stays < 0.02 if schedule == "linear" else 0.6 < stays < 0.7


def test_a_constant_lr():
    assert {lr_factor(step, 9, "constant") for step in range(20)} == {1.0}


# AdamW


@pytest.fixture
def module(bert):
    return MaskedLM(bert, {})


def give_gradients(module, seed=0):
    """The same random gradients for every weight."""
    random = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.grad = torch.randn(weight.shape, generator=random)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("schedule", ["linear", "trapezoid", "constant"])
def test_the_schedule_holds_from_the_first_step(module, kind, schedule):
    optimizer, scheduler = make_optimizer(module, kind, **OPTIONS | {"schedule": schedule})
    peaks = [1e-3, 1e-3, MUON_LR * 1e-3][: len(optimizer.param_groups)]
    for step in range(20):
        expected = [peak * lr_factor(step, 20, schedule) for peak in peaks]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_biases_and_layernorm_do_not_decay_and_each_weight_is_in_one_group(module, kind):
    options = OPTIONS | {"schedule": "constant", "lr": 0.1, "weight_decay": 0.5}
    optimizer, _ = make_optimizer(module, kind, **options)
    group_of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    named = dict(module.named_parameters())
    assert len(group_of) == sum(len(g["params"]) for g in optimizer.param_groups) == len(named)
    before = {name: weight.detach().clone() for name, weight in named.items()}
    for weight in named.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()  # without a gradient only the decay moves a weight
    for name, weight in named.items():
        vector, group = name.endswith("bias") or "LayerNorm" in name, group_of[id(weight)]
        factor = 1 if vector else 1 - group["lr"] * 0.5
        torch.testing.assert_close(weight.detach(), before[name] * factor, msg=name)
        hidden = ".encoder." in name or ".transform." in name
        between_hidden_states = kind == "muon" and not vector and hidden
        assert bool(group.get("muon")) == between_hidden_states, name


def test_adamw_is_that_of_torch(module):
    """Five steps of the fused optimizer against torch's plain one."""
    other = copy.deepcopy(module)
    optimizer, scheduler = make_optimizer(module, "adamw", **OPTIONS)
    assert all(group["fused"] for group in optimizer.param_groups)
    plain = torch.optim.AdamW(
        [
            {"params": [p for p in other.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in other.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        foreach=False,
        fused=False,
    )
    for step in range(5):
        for group in plain.param_groups:
            group["lr"] = 1e-3 * lr_factor(step, 20, "linear")
        give_gradients(module, step), give_gradients(other, step)
        optimizer.step(), scheduler.step(), plain.step()
    for (name, mine), theirs in zip(module.named_parameters(), other.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, msg=name)


# Muon


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16), (128, 128)])
def test_orthogonalized_keeps_directions_and_evens_out_their_sizes(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(matrices)
    u, before, vt = torch.linalg.svd(matrices, full_matrices=False)
    turned = u.mT @ found @ vt.mT  # diagonal: no direction was turned
    after = turned.diagonal(dim1=1, dim2=2)
    assert after.max() < 1.3
    assert after[before > 0.02 * before.max()].min() > 0.5  # what is nearly nothing stays small
    assert (turned - torch.diag_embed(after)).abs().max() < 1e-3
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(orthogonalize(1000 * matrices), found, rtol=1e-4, atol=1e-4)


def test_a_gradient_of_nothing_moves_nothing():
    assert (orthogonalize(torch.zeros(2, 8, 4)) == 0).all()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_is_that_of_torch():
    """Which takes one matrix at a time, and multiplies in bfloat16: equal but for its rounding."""
    random = torch.Generator().manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(s, generator=random)) for s in [(32, 32), (64, 32)] * 2]
    theirs = copy.deepcopy(mine)
    ours = MuonAdamW([{"params": mine, "muon": True}], lr=0.01, weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1)
    before = [weight.detach().clone() for weight in mine]
    for _ in range(5):
        for one, two in zip(mine, theirs):
            one.grad = torch.randn(one.shape, generator=random)
            two.grad = one.grad.clone()
        ours.step(), other.step()
    for one, two, was in zip(mine, theirs, before):
        moved, expected = one.detach() - was, two.detach() - was
        assert (moved - expected).norm() < 0.02 * expected.norm()


def test_what_was_saved_goes_on_bit_by_bit(module):
    """Momentum and all: five steps, saved, loaded elsewhere, five more."""
    other = copy.deepcopy(module)
    runs = []
    for model in (module, other):
        optimizer, scheduler = make_optimizer(model, "muon", **OPTIONS)
        for step in range(10):
            if step == 5 and model is other:
                kept = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
                optimizer, scheduler = make_optimizer(model, "muon", **OPTIONS)
                optimizer.load_state_dict(kept[0]), scheduler.load_state_dict(kept[1])
            give_gradients(model, step)
            optimizer.step(), scheduler.step()
        runs.append(model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_a_closure_sees_all_groups(module):
    """Lightning zeroes gradients and goes backward inside the step: of Muon's matrices too."""
    optimizer, _ = make_optimizer(module, "muon", **OPTIONS)
    give_gradients(module)

    def closure():
        optimizer.zero_grad()
        assert torch.is_grad_enabled() and all(w.grad is None for w in module.parameters())
        give_gradients(module)
        return torch.tensor(7.0)

    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    assert optimizer.step(closure) == 7
    for name, weight in module.named_parameters():
        assert not torch.equal(weight, before[name]), name


# clipping


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_clipped_gradients_have_the_norm_that_was_asked_for(bert, optimizer):
    """Above the limit gradients are scaled to it, below it they stay bit by bit; the norm is kept."""
    for clip, grows in ((0.5, True), (1e9, False), (0.0, False)):
        module = MaskedLM(copy.deepcopy(bert), {})
        made, _ = make_optimizer(module, optimizer, **OPTIONS, clip=clip)
        random = torch.Generator().manual_seed(0)
        for weight in module.parameters():
            weight.grad = torch.randn(weight.shape, generator=random)
        before = [weight.grad.clone() for weight in module.parameters()]
        norm = torch.stack([grad.norm() for grad in before]).norm()
        made.step()
        after = [weight.grad for weight in module.parameters()]
        if grows:
            now = torch.stack([grad.norm() for grad in after]).norm()
            assert now.item() == pytest.approx(clip, rel=1e-3)
        else:
            assert all(map(torch.equal, before, after))
        assert made.norm is None if clip == 0 else made.norm.item() == pytest.approx(norm.item())


# a share of questions that falls


def test_the_share_of_questions_falls_to_its_end(dataset):
    """From the first share to the last in a line, whatever step one resumes at; the first by itself stays."""
    steps = 40

    def data(end):
        return MaskedLMData(dataset, dataset, 16, 0.4, 0, steps, mlm_probability_end=end)

    falling, constant = data(0.1), data(None)
    made = list(falling.train_batches())
    shares = np.array([batch["num_masked"].item() / batch["num_tokens"] for batch in made])
    expected = np.linspace(0.4, 0.1, steps)
    assert abs(shares - expected).max() < 0.05 and abs((shares - expected).mean()) < 0.005
    for batch, again in zip(made[25:], falling.train_batches(start=25), strict=True):
        assert torch.equal(batch["labels"], again["labels"])
    first = next(iter(constant.train_batches()))
    assert torch.equal(made[0]["labels"], first["labels"])
    shapes = {batch["positions"].shape for batch in made}
    assert len(shapes) == 1


def test_a_share_that_rises_is_refused():
    with pytest.raises(
        NotebookError, match=r"mlm_probability_end=0\.5 .* at most mlm_probability=0.3"
    ):
        choose_recipe(NOTHING | {"mlm_probability_end": 0.5}, "scratch:tiny", 32)


# where a new head starts


def test_a_new_head_starts_at_word_frequencies(tokenizer, dataset):
    """Before any training its loss is near that of a guesser by frequency, not that of chance."""
    data = MaskedLMData(dataset, dataset, 16, 0.15, 0, 1)
    bert = load_model("scratch:tiny", tokenizer)
    module, baseline = MaskedLM(bert, {}), unigram_loss(dataset, data.validation_batches())
    chance = evaluate(module, data.validation_batches())["loss"]
    init_head_bias(bert, dataset)
    assert (
        abs(evaluate(module, data.validation_batches())["loss"] - baseline)
        < 0.3
        < chance - baseline
    )
