"""A race is fair: all start from the same weights, only training counts as time, nothing is changed."""

from dataclasses import replace

import pytest
import torch
from transformers import DataCollatorForLanguageModeling

from mlm.benchmark.race import (
    Contender,
    best_of_search,
    contenders,
    final_losses,
    race,
    recipe_settings,
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


def test_the_table_shows_the_best_learning_rate_and_losses_that_are_never_reached(curves):
    named = {
        "Trainer, lr 1": curves["tutorial"],
        "Trainer, lr 2": curves["Trainer"],
        "Trainer, our dropout and masking, lr 1": curves["tutorial"],
        "suite": curves["suite"],
    }
    final = final_losses(named)
    kept = best_of_search(named)
    best_lr = min(("Trainer, lr 1", "Trainer, lr 2"), key=final.get)
    assert set(kept) == {"suite", best_lr, "Trainer, our dropout and masking, lr 1"}
    del kept["Trainer, our dropout and masking, lr 1"]
    table = seconds_table(kept)
    assert all(table.iloc[i, i] > 0 for i in range(2))  # each reaches its own final loss
    best = min(kept, key=final.get)
    (row,) = [row for row in table.index if row.endswith(f"final loss of {best}")]
    assert table.loc[row].count() == 1  # only the best itself; the other is NaN


@pytest.mark.parametrize("model", [MODEL, "bert-base-uncased"])
def test_every_recipe_takes_part_and_trainer_gets_what_this_suite_has(model, monkeypatch):
    monkeypatch.setattr("mlm.benchmark.race.encoder_size", lambda name: (768, 12))  # no network
    made = contenders(DENSE, TRAINER, OURS, model, 4)
    assert len(made) == len({contender.name for contender in made}) == 13
    ours = made[-1].settings
    assert made[0].settings["lr"] == 1e-5 and ours["mlm_probability"] == 0.3
    searched = [contender.settings for contender in made if ", lr" in contender.name]
    assert len(searched) == 10
    for settings in searched:
        assert settings["max_grad_norm"] == ours["clip"] == 1.0
    for settings, twin in zip(searched[:5], searched[5:]):
        same = {name: ours[name] for name in ("dropout", "mlm_probability")}
        assert twin == settings | same and same.items() > {"dropout": 0.0}.items()


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
