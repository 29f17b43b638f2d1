"""The settings that the parameters leave open: of a resumed run, or chosen."""

import nbformat
import numpy as np
import pytest
import torch

from helpers import ROOT, refused
from mlm.models.kernels import EARLIER_KERNELS
from mlm.training.config import complete_config, resumed_choices, steps_left
from small_runs import DEFAULTS, STEPS, stop_at


def choices(parameters):
    """(precision, kernels) that a notebook with these parameters would use."""
    found = resumed_choices(parameters)
    assert found.keys() == {"precision", "kernels", "lr"}
    return found["precision"], found["kernels"]


AUTO = {
    "run_name": "run", "resume": "auto", "precision": "auto", "kernels": "auto", "recipe": "fast"
}  # fmt: skip


def test_a_resumed_run_keeps_the_kernels_and_the_precision_that_it_began_with(runs, tmp_path):
    parameters = AUTO | {"workdir": str(tmp_path)}
    assert choices(parameters) == ("auto", "auto")  # there is no run yet
    stop_at(runs, tmp_path, 3, kernels="onednn-sdpa-torch")
    assert choices(parameters) == ("32", "onednn-sdpa-torch")
    assert choices(parameters | {"resume": "never"}) == ("auto", "auto")
    assert choices(parameters | {"run_name": "another"}) == ("auto", "auto")
    given = parameters | {"precision": "bf16", "kernels": "default-sdpa-torch"}
    assert choices(given) == ("bf16", "default-sdpa-torch")  # refused later, in one line
    with refused("kernels was 'onednn-sdpa-torch', is 'default-sdpa-torch'"):
        runs(tmp_path, kernels="default-sdpa-torch")
    runs(tmp_path, kernels="onednn-sdpa-torch")
    assert choices(parameters) == ("32", "onednn-sdpa-torch")  # also when it is finished


@pytest.mark.parametrize(
    "model, lr, batch_size, kept",
    [
        ("a folder", 4e-4, 32, True),
        ("a folder", 4e-4 * (64 / 32) ** 0.5, 64, True),
        ("a folder", 1e-3, 32, False),  # was set in the parameters: must be set again
        ("scratch:tiny", 4e-4, 32, False),
    ],
)
def test_a_run_whose_rate_an_earlier_version_chose_keeps_it(
    tmp_path, monkeypatch, model, lr, batch_size, kept
):
    stored = dict(model=model, lr=lr, batch_size=batch_size, processes=1, device="gpu")
    monkeypatch.setattr("mlm.training.config.recorded_settings", lambda folder: stored)
    parameters = AUTO | {"workdir": str(tmp_path)}
    assert resumed_choices(parameters)["lr"] == (lr if kept else None)
    assert resumed_choices(parameters | {"resume": "never"})["lr"] is None
    assert resumed_choices(parameters | {"recipe": "tutorial"})["lr"] is None
    stored.update(processes=2, accumulate=4)
    assert resumed_choices(parameters)["lr"] is None  # the rule followed the examples per step
    stored.update(lr=4e-4 * (8 * batch_size / 32) ** 0.5)
    assert resumed_choices(parameters)["lr"] == (stored["lr"] if model == "a folder" else None)


@pytest.mark.parametrize("damaged", [("last",), ("previous",), ("last", "previous")])
def test_the_choices_are_read_from_the_newest_readable_checkpoint(runs, tmp_path, damaged):
    folder = stop_at(runs, tmp_path, 6, kernels="onednn-sdpa-torch")
    for name in damaged:
        (folder / f"checkpoints/{name}.ckpt").write_bytes(b"damaged")
    chosen = choices(AUTO | {"workdir": tmp_path})
    assert chosen == (("auto", "auto") if len(damaged) == 2 else ("32", "onednn-sdpa-torch"))


def test_a_run_of_an_earlier_version_keeps_its_kernels(runs, tmp_path):
    path = stop_at(runs, tmp_path, 3) / "checkpoints/last.ckpt"
    content = torch.load(path)
    del content["callbacks"]["Keeper"]["settings"]["kernels"]
    torch.save(content, path)
    assert choices(AUTO | {"workdir": tmp_path}) == ("32", EARLIER_KERNELS)
    content["callbacks"]["Keeper"]["settings"]["device"] = "gpu"
    torch.save(content, path)
    assert choices(AUTO | {"workdir": tmp_path}) == ("auto", "auto")


# what is chosen for model, text and device


def test_every_setting_has_a_value_and_a_reason_and_the_parameters_stay(runs):
    parameters = DEFAULTS | {"model": "scratch:tiny", "accumulate": 2, "resume": "never"}
    before, device = dict(parameters), {"kind": "cpu", "processes": 3, "dtype": torch.float32}
    config, reasons = complete_config(parameters, runs.train, device)
    assert parameters == before
    assert all(config[name] is not None for name in reasons)
    assert config["examples_per_step"] == 32 * 2 * 3
    assert config["lr"] == pytest.approx(2e-3 * np.sqrt(2 * 3))
    again, _ = complete_config(parameters | {"lr": 1e-3, "batch_size": 8}, runs.train, device)
    assert (again["lr"], again["examples_per_step"]) == (1e-3, 8 * 2 * 3)


def test_the_learning_rate_is_that_of_the_examples_that_exist(runs):
    """A batch may be larger than the text, for example one that was chosen for the memory of a GPU."""
    parameters = DEFAULTS | {"model": "scratch:tiny", "resume": "never", "batch_size": 65_536}
    device = {"kind": "cpu", "processes": 1, "dtype": torch.float32}
    config, _ = complete_config(parameters, runs.train, device)
    assert config["examples_per_step"] == len(runs.train)
    assert config["lr"] == pytest.approx(2e-3 * np.sqrt(len(runs.train) / 32))


def test_the_steps_that_are_left_are_known_before_the_run_is_opened(runs, tmp_path):
    parameters = {"workdir": str(tmp_path), "run_name": "run", "resume": "auto", "patience": 0}
    assert steps_left(parameters, STEPS) == STEPS  # there is no run yet
    stop_at(runs, tmp_path, 3)
    assert steps_left(parameters, STEPS) == STEPS - 3
    assert steps_left(parameters | {"resume": "never"}, STEPS) == STEPS
    assert steps_left(parameters | {"run_name": "another"}, STEPS) == STEPS
    runs(tmp_path)
    assert steps_left(parameters, STEPS) == 0


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.fault
def test_a_step_has_no_more_batches_than_an_epoch(runs, processes):
    """Its other batches would be empty, and the learning rate would be chosen for examples that do not exist."""
    device = {"kind": "cpu", "processes": processes, "dtype": torch.float32}
    values = DEFAULTS | {"model": "scratch:tiny", "resume": "never", "batch_size": 4}
    most = -(-len(runs.train) // (4 * processes))
    for accumulate in (1, most):
        complete_config(values | {"accumulate": accumulate}, runs.train, device)
    with refused(f"accumulate must be at most {most} with this text, got {most + 1}:", "smaller"):
        complete_config(values | {"accumulate": most + 1}, runs.train, device)


@pytest.mark.parametrize(
    "evaluations, patience, effect", [(4, 0, True), (4, 2, True), (4, 3, False)]
)
def test_a_patience_without_effect_is_said(runs, capsys, evaluations, patience, effect):
    """With 4 evaluations, the 3 after the first one are over when training is."""
    (source,) = (
        c.source
        for c in nbformat.read(ROOT / "notebooks" / "04_train.ipynb", 4).cells
        if c.id == "steps"
    )
    config = {"examples_per_step": 1}
    names = dict(epochs=1, max_steps=-1, evaluations=evaluations, patience=patience)
    exec(source, {"train": runs.train, "config": config, **names})
    assert ("has no effect" not in capsys.readouterr().out) == effect
