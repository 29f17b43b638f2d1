"""CheckpointingLogger: which weights a run keeps, early stopping, and stops during an evaluation."""

import copy
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

import mlm.training.logging
from encoders import BertPred
from helpers import refused
from mlm.inference.load import load_pred
from mlm.training.datamodule import MaskedLMData
from mlm.training.history import out_of_patience
from mlm.training.lock import unlock_run
from mlm.training.results import evidence_of
from mlm.training.run import Run
from processes import english_text, finish, start
from small_runs import (
    BASELINE,
    STEPS,
    Broken,
    SmallRuns,
    fail_at,
    logger_state,
    same,
    validation_losses,
)

BEST = dict(keep="best", evaluations=8, patience=0)


@pytest.fixture
def unsteady(corpus_folder, tokenizer, bert, quick_results):
    """Runs with a learning rate so high that the validation loss goes up and down."""
    runs = SmallRuns(corpus_folder, tokenizer, bert)
    runs.module.optimizer_options |= dict(lr=0.4, schedule="constant")
    return runs


@pytest.fixture(scope="module")
def unsteady_runs():
    """{parameters: folder} of uninterrupted runs, for all tests of this file."""
    return {}


@pytest.fixture
def uninterrupted(unsteady, unsteady_runs, tmp_path_factory):
    """A function that returns the folder of an uninterrupted run; tests only read it."""

    def train(**parameters):
        key = json.dumps(parameters, sort_keys=True)
        if key not in unsteady_runs:
            unsteady_runs[key] = unsteady(tmp_path_factory.mktemp("whole"), **parameters)
        return unsteady_runs[key]

    return train


@pytest.fixture
def best_run(uninterrupted):
    """The folder of an uninterrupted run that keeps its best weights."""
    return uninterrupted(**BEST)


# the best weights


def test_all_saved_files_have_the_weights_of_the_best_evaluation(unsteady, tmp_path, monkeypatch):
    original, weights_at = mlm.training.logging.evaluate, {}

    def evaluate(module, *arguments):
        weights_at[module.trainer.global_step] = copy.deepcopy(module.state_dict())
        return original(module, *arguments)

    monkeypatch.setattr(mlm.training.logging, "evaluate", evaluate)
    folder = unsteady(tmp_path, **BEST)
    losses = validation_losses(folder)
    best = min(losses, key=losses.get)
    assert 1 < best < STEPS and list(losses) == list(range(1, STEPS + 1))
    saved, last = torch.load(folder / "saved.bin"), torch.load(folder / "checkpoints/last.ckpt")
    loaded = load_pred(folder / "checkpoints/last.ckpt", folder / "model", BertPred).state_dict()
    for name, weight in weights_at[best].items():
        assert torch.equal(saved[name], weight) and torch.equal(loaded[name], weight)
        assert torch.equal(last["state_dict"][name], weights_at[STEPS][name])  # to resume with
    for name, weight in load_file(folder / "model/model.safetensors").items():
        assert torch.equal(weight, weights_at[best][f"bert.{name}"])
    results = json.loads((folder / "run.json").read_text())
    assert results["kept"] == {"which": "best", "step": best, "loss": losses[best]}
    assert results["after"]["loss"] == losses[best] and results["training"]["steps"] == STEPS


def test_keep_last_keeps_the_last_weights_and_keep_best_trains_the_same(
    unsteady, best_run, tmp_path
):
    folder = unsteady(tmp_path)
    saved, last = torch.load(folder / "saved.bin"), torch.load(best_run / "checkpoints/last.ckpt")
    assert all(torch.equal(saved[name], weight) for name, weight in last["state_dict"].items())
    assert "best" not in logger_state(folder)
    assert json.loads((folder / "run.json").read_text())["kept"]["step"] == STEPS


def test_a_run_resumes_only_with_the_same_keep_evaluations_and_patience(unsteady, best_run):
    for name, value in dict(keep="last", evaluations=4, patience=1).items():
        with refused(f"{name} was {BEST[name]!r}, is {value!r}", "another run_name"):
            unsteady.train_run(best_run.parent, **BEST | {name: value})


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7])
def test_an_error_at_any_step_and_a_resume_keep_the_same_weights(
    unsteady, best_run, tmp_path, step
):
    with fail_at(unsteady, step), pytest.raises(Broken):
        unsteady(tmp_path, **BEST)
    assert same(unsteady(tmp_path, **BEST), best_run)


def test_the_best_weights_survive_a_damaged_checkpoint(unsteady, best_run, tmp_path):
    shutil.copytree(best_run.parent, tmp_path / "copy")
    (tmp_path / "copy/run/checkpoints/last.ckpt").write_bytes(b"nothing")
    (tmp_path / "copy/run/run.json").unlink()
    assert same(unsteady(tmp_path / "copy", **BEST), best_run)


# stops during an evaluation


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("step", [0, 2, 6])
def test_a_stop_during_an_evaluation_ends_it_at_once_and_a_resume_repeats_it(
    runs, trained, tmp_path, monkeypatch, step, batch
):
    original, seen = MaskedLMData.validation_batches, []

    def validation_batches(data, *arguments):
        for number, made in enumerate(original(data, *arguments)):
            if data.trainer.global_step == step:
                seen.append(number)
            if seen and number == batch:
                os.kill(os.getpid(), signal.SIGTERM)
            yield made

    with monkeypatch.context() as patch:
        patch.setattr(MaskedLMData, "validation_batches", validation_batches)
        with refused(f"stopped at step {step} of {STEPS}", "to resume, run this cell"):
            runs(tmp_path)
    assert seen == list(range(batch + 1))  # no later batch was evaluated
    assert same(runs(tmp_path), trained)


@pytest.mark.parametrize("patience, step", [(0, 1), (0, 7), (2, 1), (2, 3)])
def test_a_stop_during_the_deciding_evaluation_and_a_resume_keep_the_same_weights(
    unsteady, uninterrupted, tmp_path, monkeypatch, patience, step
):
    """In the evaluation of the best weights (1, 7), and in the one that uses up the patience (3)."""
    parameters = BEST | dict(patience=patience)
    expected = uninterrupted(**parameters)
    assert max(validation_losses(expected)) == {0: STEPS, 2: 3}[patience]
    original, stopped = MaskedLMData.validation_batches, []

    def validation_batches(data, *arguments):
        if data.trainer.global_step == step and not stopped:
            stopped.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        yield from original(data, *arguments)

    monkeypatch.setattr(MaskedLMData, "validation_batches", validation_batches)
    with refused(f"stopped at step {step} of {STEPS}"):
        unsteady(tmp_path, **parameters)
    assert step not in validation_losses(tmp_path / "run")
    assert same(unsteady(tmp_path, **parameters), expected)


# early stopping


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_run_ends_when_the_validation_loss_no_longer_improves(
    unsteady, best_run, tmp_path, patience, capsys
):
    rows = [row for row in logger_state(best_run)["history"] if "valid_loss" in row]
    end = next(n for n in range(len(rows)) if out_of_patience(rows[: n + 1], patience))
    assert end < STEPS
    parameters = BEST | dict(patience=patience)
    folder = unsteady(tmp_path, **parameters)
    assert f"stopped early at step {end} of {STEPS}" in capsys.readouterr().out
    losses = validation_losses(best_run)
    assert validation_losses(folder) == {step: losses[step] for step in range(1, end + 1)}
    results = json.loads((folder / "run.json").read_text())
    assert results["training"]["steps"] == end
    assert results["kept"]["step"] == min(
        validation_losses(folder), key=validation_losses(folder).get
    )
    saved = (folder / "saved.bin").read_bytes()
    run = unsteady.train_run(tmp_path, **parameters)
    unlock_run(folder)
    assert run.finished and "nothing to train" in capsys.readouterr().out
    assert (folder / "saved.bin").read_bytes() == saved
    assert evidence_of(run, {}, unsteady.train, BASELINE).limit == "a larger patience"


@pytest.mark.parametrize("max_steps, limit", [(STEPS, "max_steps=-1"), (-1, ""), (STEPS + 1, "")])
def test_the_advice_to_train_longer_names_the_parameter_that_ended_the_run(
    best_run, unsteady, max_steps, limit
):
    run = Run(best_run, unsteady.settings(**BEST))
    evidence = evidence_of(run, {"max_steps": max_steps}, unsteady.train, BASELINE)
    assert evidence.limit == limit


@pytest.mark.slow
def test_two_processes_keep_the_same_weights_and_stop_early_together(tmp_path):
    process = start(
        tmp_path, corpus=english_text(tmp_path), model="scratch:tiny", batch_size=8, max_steps=24,
        cpu_processes=2, keep="best", evaluations=12, patience=1, lr=0.3, optimizer="adamw",
    )  # fmt: skip
    output = finish(process)
    assert "stopped early at step" in output
    folder = tmp_path / "bert-mlm/run"
    losses = validation_losses(folder)
    results = json.loads((folder / "run.json").read_text())
    assert results["kept"]["step"] == min(losses, key=losses.get) == list(losses)[-2]
    best = logger_state(folder)["best"]
    saved = torch.load(folder / "saved.bin")
    assert all(torch.equal(saved[name], weight) for name, weight in best.items())
