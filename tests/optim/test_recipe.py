"""Which recipe and which batch size are chosen for a model and a device, and the reasons given."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import ROOT, refused
from mlm.env.devices import trainer_arguments
from mlm.env.hardware import SimulatedMachine
from mlm.env.scratch import MODERN, SIZES, WIDTHS
from mlm.optim.optimizer import OPTIMIZERS
from mlm.optim.recipe import RECIPE_SETTINGS, RECIPES, choose_batch_size, choose_recipe
from mlm.optim.schedule import SCHEDULES
from mlm.parameters.check import by_name, check_value
from mlm.parameters.train import PARAMETERS

NOTHING_SET = dict.fromkeys(RECIPE_SETTINGS) | {"recipe": "fast"}
SCRATCH = [f"scratch:{size}" for size in WIDTHS]
MODELS = [*SCRATCH, "bert-base-uncased"]
T4 = ("T4", 16e9, (7, 5))


def size_of(model):
    """(hidden size, layers) of a model in MODELS, BERT-base's for others."""
    size = SIZES.get(model.removeprefix("scratch:"), SIZES["base"])
    return size.hidden, size.layers


def recipe_of(model, batch_size=32, **parameters):
    """The values that are chosen if these parameters are set."""
    return choose_recipe(NOTHING_SET | parameters, model, batch_size, size_of(model))[0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_parameter_that_is_set_is_used_and_the_others_are_chosen(model, recipe):
    chosen, reasons = choose_recipe(NOTHING_SET | {"recipe": recipe}, model, 32, size_of(model))
    assert list(chosen) == list(reasons) == list(RECIPE_SETTINGS)
    for name, value in dict(lr=3e-4, schedule="linear", dropout=0.2, mlm_probability=0.5).items():
        parameters = NOTHING_SET | {"recipe": recipe, name: value}
        found, reasons = choose_recipe(parameters, model, 32, size_of(model))
        assert found == chosen | {name: value}
        assert [n for n, r in reasons.items() if r == "set in the parameters"] == [name]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("optimizer", [None, *OPTIMIZERS])
def test_each_setting_has_its_own_short_reason(model, recipe, optimizer):
    parameters = NOTHING_SET | {"recipe": recipe, "optimizer": optimizer}
    chosen, reasons = choose_recipe(parameters, model, 32, size_of(model))
    assert len({*reasons.values()}) == len(RECIPE_SETTINGS)
    for name, value in chosen.items():
        assert len(f"{name:>15}  {value!s:<10} {reasons[name]}") <= 80


def test_an_unknown_recipe_is_an_error():
    with pytest.raises(KeyError, match="slow"):
        choose_recipe(NOTHING_SET | {"recipe": "slow"}, "scratch:tiny", 32, (128, 2))


@pytest.mark.parametrize(
    "name, table", [("recipe", RECIPES), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)]
)
def test_the_parameters_accept_the_names_in_the_table_and_no_others(name, table):
    parameter = by_name(PARAMETERS)[name]
    for option in table:
        check_value(parameter, option)
    with refused(name, *(f'"{option}"' for option in table)):
        check_value(parameter, "another")


def test_every_recipe_uses_names_in_the_tables():
    for model in MODELS:
        for recipe in RECIPES:
            chosen = recipe_of(model, recipe=recipe)
            assert chosen["optimizer"] in OPTIMIZERS and chosen["schedule"] in SCHEDULES


def test_the_recipe_of_the_tutorial_is_the_same_for_all_models():
    tutorial = dict(
        optimizer="adamw", lr=1e-5, schedule="constant", weight_decay=0.01, dropout=None,
        mlm_probability=0.15, clip=0.0,
    )  # fmt: skip
    for model in MODELS:
        assert recipe_of(model, batch_size=4, recipe="tutorial") == tutorial


def test_the_fast_recipe_depends_on_the_model_only_in_optimizer_and_learning_rate():
    fast = dict(schedule="trapezoid", weight_decay=0.1, dropout=0.0, mlm_probability=0.3, clip=1.0)
    found = [recipe_of(model) for model in MODELS]
    assert all(recipe.items() >= fast.items() for recipe in found)
    assert [recipe["optimizer"] for recipe in found] == ["muon", "muon", "muon", "adamw", "adamw"]
    assert [recipe["lr"] for recipe in found] == pytest.approx([2e-3, 1e-3, 5e-4, 1 / 6000, 1e-4])


def test_the_recipe_is_the_same_for_bert_and_modernbert_of_a_size():
    for size in WIDTHS:
        assert recipe_of(f"scratch:{MODERN}{size}") == recipe_of(f"scratch:{size}")
    assert len(SIZES) == 2 * len(WIDTHS)


# the learning rate

BATCH_SIZES = 1, 32, 256, 4096  # examples per optimizer step: with accumulation, of all processes


@pytest.mark.parametrize("model", SCRATCH)
@pytest.mark.parametrize("optimizer", [None, *OPTIMIZERS])
def test_from_scratch_the_learning_rate_grows_with_the_square_root_of_the_batch(model, optimizer):
    rates = [recipe_of(model, size, optimizer=optimizer)["lr"] for size in BATCH_SIZES]
    at_32 = rates[1]
    assert rates == pytest.approx([at_32 * (size / 32) ** 0.5 for size in BATCH_SIZES])


def test_from_scratch_the_learning_rate_is_higher_for_narrow_models_and_with_muon():
    rates = [recipe_of(model)["lr"] for model in SCRATCH]
    assert sorted(rates, reverse=True) == rates
    adamw = recipe_of("scratch:tiny", optimizer="adamw")["lr"]
    assert rates[0] > adamw > recipe_of("bert-base-uncased")["lr"]


def fine_tuning_rate(hidden, layers, batch_size=32):
    """The learning rate for a pretrained model of this size."""
    return choose_recipe(NOTHING_SET, "a model", batch_size, (hidden, layers))[0]["lr"]


@pytest.mark.parametrize("size", [(128, 2), (384, 6), (384, 12), (768, 6), (768, 12), (1024, 24)])
def test_in_fine_tuning_the_learning_rate_is_the_same_for_all_batch_sizes(size):
    assert len({fine_tuning_rate(*size, batch_size) for batch_size in BATCH_SIZES}) == 1


def test_in_fine_tuning_wide_and_deep_models_have_lower_rates_within_published_practice():
    """2e-5 to 5e-5 (BERT, run_mlm.py) to 1e-4 (continued pretraining of RoBERTa-base with batches of 256)."""
    assert fine_tuning_rate(384, 6) == 4e-4  # measured
    assert fine_tuning_rate(128, 2) == 4e-4  # never above it
    assert fine_tuning_rate(768, 12) == 1e-4
    assert 2e-5 < fine_tuning_rate(1024, 24) < 5e-5
    for other in (1, 2, 4):
        widths = [fine_tuning_rate(width, 12 * other) for width in range(64, 4097, 64)]
        depths = [fine_tuning_rate(256 * other, layers) for layers in range(1, 49)]
        for rates in (widths, depths):
            assert sorted(rates, reverse=True) == rates and 0 < min(rates) <= max(rates) <= 4e-4


@pytest.mark.parametrize("size", [(384, 6), (768, 12), (1024, 24), (4096, 48)])
def test_the_reason_for_a_fine_tuning_rate_fits_into_a_line(size):
    values, reasons = choose_recipe(NOTHING_SET, "a model", 4096, size)
    assert len(f"{'lr':>15}  {values['lr']!s:<10} {reasons['lr']}") <= 80


def test_a_run_of_an_earlier_version_keeps_its_learning_rate():
    resumed = choose_recipe(NOTHING_SET, "a model", 256, (384, 6), 1.1e-3)
    assert resumed[0]["lr"] == 1.1e-3 and "earlier version" in resumed[1]["lr"]
    same = choose_recipe(NOTHING_SET, "a model", 32, (384, 6), 4e-4)  # both rules agree
    assert same == choose_recipe(NOTHING_SET, "a model", 32, (384, 6))
    given = choose_recipe(NOTHING_SET | {"lr": 1e-5}, "a model", 256, (384, 6), 1.1e-3)
    assert given[0]["lr"] == 1e-5  # refused later, in one line


def examples_of(*lengths, vocab_size=30_522):
    """What `choose_batch_size` reads of a dataset with examples of these lengths."""
    return SimpleNamespace(lengths=np.array(lengths) - 2, tokenizer=range(vocab_size))


def batch_size_of(machine, model, train, pack=False, **parameters):
    """The batch size that is chosen for a device."""
    device = trainer_arguments(machine=machine)[1]
    values = NOTHING_SET | {"batch_size": None, "model": model} | parameters
    return choose_batch_size(values, train, pack, device, size_of(model))[0]


ON_T4 = SimulatedMachine(gpus=1, card=T4)


@pytest.mark.parametrize(
    "machine, model, max_len, size",
    [
        (SimulatedMachine(), "scratch:tiny", 128, 32),
        (ON_T4, "scratch:tiny", 128, 128),
        (ON_T4, "bert-base-uncased", 128, 64),
        (ON_T4, "bert-base-uncased", 512, 16),
        (ON_T4, "./a-scratch:folder", 128, 64),
        (SimulatedMachine(gpus=1, card=("GTX 1080", 8e9, (6, 1))), "scratch:base", 128, 16),
        (SimulatedMachine(gpus=1, card=("H100", 80e9, (9, 0))), "bert-base-uncased", 128, 256),
        (SimulatedMachine(tpu_cores=1), "bert-base-uncased", 128, 64),
    ],
)
def test_the_batch_size_fits_the_memory_of_the_device(monkeypatch, machine, model, max_len, size):
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    train = examples_of(max_len, max_len)
    assert batch_size_of(machine, model, train) == size
    assert batch_size_of(machine, model, train, batch_size=7) == 7


def test_the_batch_size_depends_on_scores_and_on_the_text():
    """A tiny model's largest tensors are the scores of its vocabulary; packed lines take little room."""
    full = examples_of(512, 512)
    small = batch_size_of(ON_T4, "scratch:tiny", examples_of(512, vocab_size=1000))
    large = batch_size_of(ON_T4, "scratch:tiny", examples_of(512, vocab_size=250_000))
    assert small >= 8 * large
    more = batch_size_of(ON_T4, "scratch:tiny", full, mlm_probability=0.9)
    assert more < batch_size_of(ON_T4, "scratch:tiny", full, mlm_probability=0.1)
    lines = examples_of(8, 16, 512)
    packed = batch_size_of(ON_T4, "bert-base-uncased", lines, pack=True)
    assert packed > batch_size_of(ON_T4, "bert-base-uncased", lines)
    assert batch_size_of(ON_T4, "bert-base-uncased", lines) == batch_size_of(
        ON_T4, "bert-base-uncased", full
    )


def test_the_parameter_check_can_read_the_recipes_before_torch_is_installed():
    program = "import sys, mlm.optim.recipe; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT / "notebooks", check=True)
