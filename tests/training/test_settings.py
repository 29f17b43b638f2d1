"""Which settings make two runs the same run: all, except a short list."""

import dataclasses
import re

import pytest
import torch
from transformers import BertConfig

from helpers import refused
from mlm.models.kernels import KERNELS
from mlm.optim.recipe import RECIPE_SETTINGS
from mlm.parameters.check import by_name
from mlm.parameters.train import PARAMETERS
from mlm.training.history import RENAMED_METRICS
from mlm.training.settings import (
    CHANGED_CONTENT,
    MAY_DIFFER,
    READ_LATER,
    check_unchanged,
    run_settings,
    setting_differences,
)
from small_runs import logger_state, same, stop_at

DEFAULTS = {name: parameter.default for name, parameter in by_name(PARAMETERS).items()}
DEVICE = dict(kind="cpu", processes=1, dtype=torch.bfloat16)
CHOSEN = dict(
    optimizer="muon", lr=0.002, schedule="trapezoid", weight_decay=0.1, dropout=0.0,
    mlm_probability=0.3, clip=1.0,
)  # fmt: skip
OLD_SETTINGS = {  # of a checkpoint of the first version, made with the default parameters of 04
    "model": "scratch:tiny", "add_words": 0, "max_len": 128, "examples": "line", "batch_size": 32,
    "accumulate": 1, "masking": "token", "replace": "80/10/10", "seed": 0, "keep": "last",
    "evaluations": 4, "patience": 0, "compile": False, "optimizer": "muon", "lr": 0.002,
    "schedule": "trapezoid", "weight_decay": 0.1, "dropout": 0.0, "mlm_probability": 0.3,
    "mlm_probability_end": None, "clip": 1.0, "processes": 1, "total_steps": 60, "device": "cpu",
    "dtype": "torch.bfloat16", "vocab_size": 300,
}  # fmt: skip


def settings_of(tokenizer, device=DEVICE, chosen=CHOSEN, total_steps=60, **parameters):
    """Settings with the defaults of 04, except some parameters."""
    resolved = {"model": "scratch:tiny", "kernels": KERNELS[0], "compile": False}
    defaults = {name: parameter.default for name, parameter in by_name(PARAMETERS).items()}
    config = defaults | resolved | chosen | {"total_steps": total_steps} | parameters
    return run_settings(config, {"sha256": "0" * 64}, tokenizer, device)


def old_settings(tokenizer, **changes):
    """Settings in a checkpoint of the first version."""
    known = {name: settings_of(tokenizer)[name] for name in ("tokenizer_sha256", "corpus_sha256")}
    return OLD_SETTINGS | known | {"vocab_size": len(tokenizer)} | changes


def test_every_parameter_is_compared_unless_it_may_differ(tokenizer):
    assert set(MAY_DIFFER) <= DEFAULTS.keys()
    assert settings_of(tokenizer).keys() >= DEFAULTS.keys() - set(MAY_DIFFER)
    assert set(RECIPE_SETTINGS) <= settings_of(tokenizer).keys()


@pytest.mark.parametrize("name", sorted(MAY_DIFFER))
def test_these_parameters_may_differ(tokenizer, name):
    settings = settings_of(tokenizer)
    value = 1 if name == "num_nodes" else "another"  # compared as `processes`
    assert setting_differences(settings, settings_of(tokenizer, **{name: value})) == []


@pytest.mark.parametrize(
    "name, change",
    [
        ("seed", {"seed": 1}),
        ("max_len", {"max_len": 64}),
        ("keep", {"keep": "best"}),
        ("lr", {"chosen": CHOSEN | {"lr": 0.1}}),
        ("total_steps", {"total_steps": 61}),
        ("dtype", {"device": DEVICE | {"dtype": torch.float32}}),
        ("device", {"device": DEVICE | {"kind": "gpu"}}),
        ("processes", {"num_nodes": 2}),
        ("processes", {"device": DEVICE | {"processes": 2}}),
    ],
)
def test_other_values_make_another_run(tokenizer, name, change):
    (difference,) = setting_differences(settings_of(tokenizer), settings_of(tokenizer, **change))
    assert difference.startswith(f"{name} was")


def test_every_difference_names_a_parameter(tokenizer):
    """A setting that is no parameter comes with the parameters that it is computed from."""
    settings = settings_of(tokenizer)
    for name in settings.keys() - CHANGED_CONTENT.keys() - DEFAULTS.keys():
        (difference,) = setting_differences(settings, settings | {name: "another"})
        assert {*re.findall(r"\w+", difference)} & DEFAULTS.keys(), difference


def is_sum(value):
    """Whether a setting is a SHA-256 sum."""
    return bool(re.fullmatch("[0-9a-f]{64}", str(value)))


def test_a_changed_text_or_tokenizer_is_said_in_words(tokenizer):
    """A reader cannot compare SHA-256 sums."""
    settings = settings_of(tokenizer)
    assert {name for name, value in settings.items() if is_sum(value)} <= CHANGED_CONTENT.keys()
    for name in CHANGED_CONTENT:
        (difference,) = setting_differences(settings, settings | {name: "1" * 64})
        assert (
            " changed since the checkpoint was written" in difference and "1111" not in difference
        )


def test_the_recipe_is_compared_by_its_values(tokenizer):
    """The same value, chosen by the recipe or passed as a parameter, makes the same run."""
    assert setting_differences(settings_of(tokenizer), settings_of(tokenizer, lr=0.002)) == []


def test_another_configuration_makes_another_run(tokenizer, tmp_path):
    """Of a model from scratch; the weights in a checkpoint may have the same shapes."""
    config = BertConfig(num_attention_heads=4)
    config.save_pretrained(tmp_path)
    settings = settings_of(tokenizer, model=f"scratch:{tmp_path}")
    assert setting_differences(settings, settings_of(tokenizer, model=f"scratch:{tmp_path}")) == []
    config.num_attention_heads = 6
    config.save_pretrained(tmp_path)
    changed = settings_of(tokenizer, model=f"scratch:{tmp_path}")
    (difference,) = setting_differences(settings, changed)
    assert difference.startswith("the config.json of model changed")
    assert not settings_of(tokenizer).keys() & {"config_sha256"}


@pytest.fixture
def toy_parameter(monkeypatch):
    """Parameter "toy" of notebook 04 with the default 1, as a later version may add it."""
    toy = dataclasses.replace(by_name(PARAMETERS)["seed"], name="toy", default=1)
    monkeypatch.setitem(PARAMETERS, "Toys", [toy])


def test_a_new_parameter_is_compared_without_further_code(runs, tmp_path, toy_parameter):
    stop_at(runs, tmp_path, 2, toy=1)
    with refused("holds another run (toy was 1, is 2)", "restore what changed to resume it"):
        runs(tmp_path, toy=2)
    runs.train_run(tmp_path, toy=1)


# checkpoints of earlier versions


def test_settings_of_the_first_version_equal_todays(tokenizer):
    assert setting_differences(old_settings(tokenizer), settings_of(tokenizer)) == []


def test_a_setting_that_a_checkpoint_lacks_is_compared_with_the_default(tokenizer, toy_parameter):
    old = old_settings(tokenizer)
    assert setting_differences(old, settings_of(tokenizer, toy=1)) == []
    assert setting_differences(old, settings_of(tokenizer, toy=2)) == ["toy was 1, is 2"]


def test_a_choice_that_a_checkpoint_lacks_is_not_compared(tokenizer):
    """Its default is "auto": what an earlier version chose is unknown."""
    old = old_settings(tokenizer)
    assert "kernels" not in old
    for name in KERNELS:
        assert setting_differences(old, settings_of(tokenizer, kernels=name)) == []
    new = settings_of(tokenizer, kernels=KERNELS[1])
    (difference,) = setting_differences(settings_of(tokenizer), new)
    assert difference.startswith("kernels was")


def test_a_setting_that_no_longer_exists_must_have_been_none(tokenizer):
    old = old_settings(tokenizer, mlm_probability_end=0.1)
    differences = setting_differences(old, settings_of(tokenizer))
    assert differences == ["mlm_probability_end was 0.1, is None"]


def test_a_checkpoint_of_the_first_version_resumes_to_the_same_bits(runs, trained, tmp_path):
    """With its metric names, and its settings, which are then brought up to date."""
    folder = stop_at(runs, tmp_path, 3)
    path = folder / "checkpoints/last.ckpt"
    content = torch.load(path)
    state = content["callbacks"]["Keeper"]
    state["settings"]["mlm_probability_end"] = None
    old_names = {new: old for old, new in RENAMED_METRICS.items()}
    state["history"] = [
        {old_names.get(name, name): value for name, value in row.items()}
        for row in state["history"]
    ]
    assert "held_out_loss" in state["history"][0] and "training_loss" in state["history"][1]
    torch.save(content, path)
    (folder / "checkpoints/sha256.json").unlink()
    assert same(runs(tmp_path), trained)
    assert "mlm_probability_end" not in logger_state(folder)["settings"]


def test_a_model_in_a_folder_is_compared_by_its_path_which_is_not_stored(tokenizer, tmp_path):
    """A checkpoint of an earlier version has the path itself."""
    mine, other = (str(tmp_path / name / "mine") for name in ("a", "b"))
    settings = settings_of(tokenizer, model=mine)
    assert str(tmp_path) not in str(settings)
    assert setting_differences(settings | {"model": mine}, settings) == []
    for stored in (settings_of(tokenizer, model=other), settings | {"model": other}):
        (difference,) = setting_differences(stored, settings)
        assert difference.startswith("model was 'mine (folder ") and str(tmp_path) not in difference


# parameters that are edited in a kernel


@pytest.mark.fault
def test_a_parameter_that_changed_after_it_was_used_is_refused():
    """Otherwise a run trains with the old value, and run.json has the new one."""
    for name in DEFAULTS.keys() - set(READ_LATER):
        with refused("the cells above", f"{name} was {DEFAULTS[name]!r}, is 'new'", "restore"):
            check_unchanged({**DEFAULTS, "x": 1, name: "new"}, DEFAULTS)
    with refused("corpus was") as message:
        check_unchanged({**DEFAULTS, "corpus": "https://me:secret@host/a.txt"}, DEFAULTS)
    assert "secret" not in message()
    check_unchanged(DEFAULTS | dict.fromkeys(READ_LATER, "new"), DEFAULTS)
