"""A race is fair: all start from the same weights, only training counts as time, nothing is changed."""

from dataclasses import replace

import pytest
import torch
from transformers import DataCollatorForLanguageModeling

from mlm.benchmark.race import (
    EPOCHS,
    LR_FACTORS,
    SEARCHES,
    Contender,
    best_of_search,
    contenders,
    final_losses,
    race,
    recipe_settings,
    searched,
    seconds_table,
    seconds_to,
    set_dropout,
)
from mlm.benchmark.speed import Variant

MODEL = "scratch:tiny"
DENSE = Variant("dense head", batch_size=16, order="random")
OURS = replace(
    DENSE, name="this suite", masked_only=True, pack=True, attention="matmul", dropout="16bit"
)
TRAINER = replace(DENSE, name="Trainer", trainer="Trainer")
CONTENDERS = [
    Contender("tutorial", DENSE, recipe_settings("tutorial", MODEL, 4), 1),
    Contender("suite", OURS, recipe_settings("fast", MODEL, 16), 4),
    Contender("Trainer", TRAINER, {"learning_rate": 1e-3}, 2),
]


def dropout_layers(bench):
    return [layer for layer in bench.model.modules() if isinstance(layer, torch.nn.Dropout)]


@pytest.fixture(scope="module")
def curves(bench):
    before = [layer.p for layer in dropout_layers(bench)]
    curves = {contender.name: race(bench, contender) for contender in CONTENDERS}
    assert before == [layer.p for layer in dropout_layers(bench)] and max(before) > 0
    return curves


def test_all_start_from_the_same_loss_and_do_all_their_steps(bench, curves):
    assert len({round(curve["loss"].iloc[0], 4) for curve in curves.values()}) == 1
    for contender in CONTENDERS:
        curve = curves[contender.name]
        total_steps = contender.epochs * bench.num_steps(contender.variant)
        assert (curve["step"].iloc[0], curve["step"].iloc[-1]) == (0, total_steps)
        assert curve["seconds"].is_monotonic_increasing


def test_a_search_evaluates_only_before_and_after_training(bench, curves):
    for contender in CONTENDERS[1:]:
        curve, found = curves[contender.name], race(bench, contender, evaluations=1)
        assert list(found["step"]) == [0, curve["step"].iloc[-1]] and len(curve) > 2
        assert found["loss"].iloc[-1] == pytest.approx(curve["loss"].iloc[-1], abs=1e-5)


def test_the_better_recipe_ends_lower_and_reaches_a_loss_first(curves):
    final = final_losses(curves)
    assert final["suite"] < final["tutorial"]
    assert seconds_to(curves["suite"], final["suite"]) > 0
    assert seconds_to(curves["suite"], 100.0) == curves["suite"]["seconds"].iloc[0]
    assert not seconds_to(curves["tutorial"], final["suite"]) > 0  # NaN: never reached


def test_evaluation_does_not_count_as_training_time(bench, monkeypatch):
    """Each evaluation takes an hour here."""
    now = [0.0]

    def slow_evaluate(*_):
        now[0] += 3600
        return {"loss": 1.0}

    monkeypatch.setattr(bench, "clock", lambda: now[0])
    monkeypatch.setattr("mlm.benchmark.race.evaluate", slow_evaluate)
    assert race(bench, CONTENDERS[0])["seconds"].max() == 0


def test_dropout_is_set_and_restored(bench):
    layers = dropout_layers(bench)
    with set_dropout(bench.model, 0.25):
        assert {layer.p for layer in layers} == {0.25}
    assert 0.25 not in {layer.p for layer in layers}
    with set_dropout(bench.model, None):
        assert max(layer.p for layer in layers) > 0


def test_the_table_has_a_row_for_each_final_loss_and_for_the_baseline(curves):
    final = final_losses(curves)
    table = seconds_table(curves, baseline=100.0)
    losses = [float(row.split(",")[0]) for row in table.index]
    assert losses == sorted(losses, reverse=True) and table.index[0] == "100.00, unigram baseline"
    for name in curves:
        (row,) = [row for row in table.index if row.endswith(f"final loss of {name}")]
        assert table.loc[row, name] > 0  # each reaches its own final loss
    assert table.iloc[-1].count() == 1  # only the best reaches the lowest; the others are NaN
    assert table.iloc[-1].idxmax() == min(final, key=final.get)


@pytest.mark.parametrize("model", [MODEL, "bert-base-uncased"])
def test_every_recipe_takes_part_and_trainer_gets_what_this_suite_has(model, monkeypatch):
    monkeypatch.setattr("mlm.benchmark.race.encoder_size", lambda name: (768, 12))  # no network
    tried = searched(TRAINER, OURS, model, lr=1e-3)
    assert len({contender.name for contender in tried}) == len(SEARCHES) * len(LR_FACTORS)
    lrs = [contender.settings["learning_rate"] for contender in tried]
    assert lrs == [5e-4, 1e-3, 2e-3, 4e-3] * 2
    losses = {contender.name: abs(lr - 2e-3) for contender, lr in zip(tried, lrs)}
    made = contenders(DENSE, OURS, best_of_search(tried, losses), model, "race")
    assert {contender.variant.examples for contender in made} == {"race"}
    tutorial, run_mlm, best, twin, suite = made
    ours = suite.settings
    assert tutorial.settings["lr"] == 1e-5 and ours["mlm_probability"] == 0.3
    assert run_mlm.variant.trainer == "Trainer" and run_mlm.variant.batch_size == 8
    assert {contender.epochs for contender in made[1:]} == {EPOCHS}
    assert best.settings == {"learning_rate": 2e-3, "max_grad_norm": ours["clip"]}
    same = {name: ours[name] for name in ("dropout", "mlm_probability")}
    assert twin.settings == best.settings | same and same.items() > {"dropout": 0.0}.items()


def test_trainer_trains_with_the_dropout_and_the_masking_rate_of_its_contender(bench, monkeypatch):
    rates, masked = set(), []

    class Collator(DataCollatorForLanguageModeling):
        def __call__(self, *arguments, **options):
            batch = super().__call__(*arguments, **options)
            masked.append((batch["labels"] != -100).sum() / batch["attention_mask"].sum())
            return batch

    def step(curve, step, model):
        rates.update(layer.p for layer in model.modules() if isinstance(layer, torch.nn.Dropout))

    monkeypatch.setattr("mlm.benchmark.speed.DataCollatorForLanguageModeling", Collator)
    monkeypatch.setattr("mlm.benchmark.race.ValidationCurve.after_step", step)
    race(bench, Contender("Trainer", TRAINER, {"dropout": 0.0, "mlm_probability": 0.6}, 1))
    assert rates == {0.0} and min(masked) > 0.4
    assert max(layer.p for layer in dropout_layers(bench)) > 0
