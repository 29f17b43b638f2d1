"""Which weights a run keeps, how often it is measured, when it ends early; cut and resumed, the same."""

import copy
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_run import STEPS, Broken, Suite, fail_at, same

import mlm.training.logging
from helpers import refused
from mlm.inference.load import load_pred
from mlm.training.datamodule import MaskedLMData
from mlm.training.history import out_of_patience, selected_row
from mlm.training.lock import unlock_run
from mlm.training.logging import TrainingLogger
from soak import english, start

HOW = dict(keep="best", evaluations=8, patience=0)


@pytest.fixture
def suite(corpus_folder, tokenizer, bert):
    """A run of 8 steps with a learning rate so high that the loss goes up and down."""
    made = Suite(corpus_folder, tokenizer, bert)
    made.module.optimizer |= dict(lr=0.4, schedule="constant")
    return made


@pytest.fixture
def whole(suite, tmp_path):
    """A run that keeps its best weights and was left alone; its folder."""
    return suite(tmp_path / "whole", **HOW)


def keeper(folder):
    return torch.load(folder / "checkpoints/last.ckpt")["callbacks"]["Keeper"]


def held_out(folder):
    """{step: held-out loss} of a run, that before training left out."""
    rows = [row for row in keeper(folder)["history"] if "valid_loss" in row]
    return {row["step"]: row["valid_loss"] for row in rows if row["step"]}


# the rules


def history(*losses):
    """A history with a measurement at each step, from 0 on, and training losses between them."""
    kinds = "train_loss", "valid_loss"
    return [{"step": n, kind: loss} for n, loss in enumerate(losses) for kind in kinds]


@pytest.mark.parametrize(
    "losses, best, last, patient",
    [
        ((5.0,), None, None, 99),
        ((5.0, 4.0), 1, 1, 99),
        ((5.0, 6.0), 1, 1, 99),  # the weights that training began with are not its result
        ((5.0, 4.0, 3.0), 2, 2, 99),
        ((5.0, 4.0, 4.0), 1, 2, 1),
        ((5.0, 4.0, 3.0, 3.5, 3.2), 2, 4, 2),
        ((5.0, 4.0, 4.5, 3.0, 3.5), 3, 4, 1),
    ],
)
def test_the_best_and_the_patience_by_hand(losses, best, last, patient):
    """`patient`: the largest patience that is over by now; 99 where none is."""
    rows = history(*losses)
    assert (selected_row(rows, "best") or {}).get("step") == best
    assert (selected_row(rows, "last") or {}).get("step") == last
    over = [patience for patience in range(6) if out_of_patience(rows, patience)]
    assert over == ([] if patient == 99 else list(range(1, patient + 1)))


@pytest.mark.parametrize(
    "steps, evaluations, expected",
    [
        (8, 4, {2, 4, 6, 8}),
        (10, 4, {3, 5, 8, 10}),
        (8, 1, {8}),
        (9, 3, {3, 6, 9}),
        (3, 100, {1, 2, 3}),
    ],
)
def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(
    dataset, steps, evaluations, expected
):
    data = MaskedLMData(dataset, dataset, 8, 0.15, 0, steps)
    assert TrainingLogger(data, 5.0, evaluations).evaluations == expected


# what is saved


def test_all_that_is_saved_are_the_weights_of_the_best(suite, tmp_path, monkeypatch):
    true, seen = mlm.training.logging.evaluate, {}

    def evaluate(module, *how):
        seen[module.trainer.global_step] = copy.deepcopy(module.state_dict())
        return true(module, *how)

    monkeypatch.setattr(mlm.training.logging, "evaluate", evaluate)
    folder = suite(tmp_path, **HOW)
    losses = held_out(folder)
    best = min(losses, key=losses.get)
    assert 1 < best < STEPS and list(losses) == list(range(1, STEPS + 1))
    saved, last = torch.load(folder / "saved.bin"), torch.load(folder / "checkpoints/last.ckpt")
    of_checkpoint = load_pred(folder / "checkpoints/last.ckpt", folder / "model").state_dict()
    for name, weight in seen[best].items():
        assert torch.equal(saved[name], weight) and torch.equal(of_checkpoint[name], weight)
        assert torch.equal(last["state_dict"][name], seen[STEPS][name])  # to go on with
    for name, weight in load_file(folder / "model/model.safetensors").items():
        assert torch.equal(weight, seen[best][f"bert.{name}"])
    record = json.loads((folder / "run.json").read_text())
    assert record["kept"] == {"which": "best", "step": best, "loss": losses[best]}
    assert record["after"]["loss"] == losses[best] and record["training"]["steps"] == STEPS


def test_the_last_weights_are_kept_unless_asked(suite, whole, tmp_path):
    """Measuring more often and keeping the best change nothing that is trained."""
    folder = suite(tmp_path / "last")
    saved, last = torch.load(folder / "saved.bin"), torch.load(whole / "checkpoints/last.ckpt")
    assert all(torch.equal(saved[name], weight) for name, weight in last["state_dict"].items())
    assert "best" not in keeper(folder)
    assert json.loads((folder / "run.json").read_text())["kept"]["step"] == STEPS


def test_a_run_goes_on_as_it_began(suite, whole):
    for name, value in dict(keep="last", evaluations=4, patience=1).items():
        with refused(f"{name} was {HOW[name]!r}, is {value!r}", "another run_name"):
            suite(whole.parent, **HOW | {name: value})


# cut and resumed


@pytest.mark.parametrize("step", range(STEPS))
def test_an_error_at_any_step_then_a_resume_keeps_the_same(suite, whole, tmp_path, step):
    mend = fail_at(suite, step)
    with pytest.raises(Broken):
        suite(tmp_path / "cut", **HOW)
    mend()
    assert same(suite(tmp_path / "cut", **HOW), whole)


@pytest.mark.parametrize("patience, at", [(0, 1), (0, 7), (2, 1), (2, 3)])
def test_a_stop_in_a_measurement_then_a_resume_keeps_the_same(
    suite, tmp_path, monkeypatch, patience, at
):
    """Also in that of the best, at 1 or 7, and in that which uses the patience up, at 3."""
    how = HOW | dict(patience=patience)
    whole = suite(tmp_path / "whole", **how)
    assert max(held_out(whole)) == {0: STEPS, 2: 3}[patience]
    true, cut = MaskedLMData.held_out, []

    def held_out_batches(data, *share):
        if data.trainer.global_step == at and not cut:
            cut.append(at)
            os.kill(os.getpid(), 15)
        yield from true(data, *share)

    monkeypatch.setattr(MaskedLMData, "held_out", held_out_batches)
    with refused(f"stopped at step {at} of {STEPS}"):
        suite(tmp_path / "cut", **how)
    assert at not in held_out(tmp_path / "cut/run")
    assert same(suite(tmp_path / "cut", **how), whole)


def test_a_damaged_checkpoint_loses_no_best(suite, whole, tmp_path):
    shutil.copytree(whole.parent, tmp_path / "a")
    (tmp_path / "a/run/checkpoints/last.ckpt").write_bytes(b"nothing")
    (tmp_path / "a/run/run.json").unlink()
    assert same(suite(tmp_path / "a", **HOW), whole)


# patience


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_ends_a_run_where_it_is_over(suite, whole, tmp_path, patience, capsys):
    rows = [row for row in keeper(whole)["history"] if "valid_loss" in row]
    end = next(n for n in range(len(rows)) if out_of_patience(rows[: n + 1], patience))
    assert end < STEPS
    how = HOW | dict(patience=patience)
    folder = suite(tmp_path, **how)
    assert f"stopped early at step {end} of {STEPS}" in capsys.readouterr().out
    all_losses = held_out(whole)
    assert held_out(folder) == {step: all_losses[step] for step in range(1, end + 1)}
    record = json.loads((folder / "run.json").read_text())
    assert record["training"]["steps"] == end
    assert record["kept"]["step"] == min(held_out(folder), key=held_out(folder).get)
    saved = (folder / "saved.bin").read_bytes()
    run = suite.cell(tmp_path, **how)
    unlock_run(folder)
    assert run.finished and "nothing to train" in capsys.readouterr().out
    assert (folder / "saved.bin").read_bytes() == saved


@pytest.mark.slow
def test_two_processes_keep_and_end_alike(tmp_path):
    process = start(
        tmp_path, corpus=english(tmp_path), model="scratch:tiny", batch_size=8, max_steps=24,
        cpu_processes=2, keep="best", evaluations=12, patience=1, lr=0.3, optimizer="adamw",
    )  # fmt: skip
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "stopped early at step" in output, output[-3000:]
    folder = tmp_path / "bert-mlm/run"
    losses = held_out(folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["kept"]["step"] == min(losses, key=losses.get) == list(losses)[-2]
    best = keeper(folder)["best"]
    saved = torch.load(folder / "saved.bin")
    assert all(torch.equal(saved[name], weight) for name, weight in best.items())
