"""How long training takes: the forecast before it, and the time left, on a clock of the test's own."""

import copy
import re

import pytest
import torch

from helpers import refused
from mlm.training.datamodule import MaskedLMData
from mlm.training.forecast import (
    TimeLeft,
    forecast_training,
    format_seconds,
    part_of,
    step_seconds,
)
from mlm.training.logging import TrainingLogger
from small_runs import DEVICE


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a test adds to `clock.now`."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr("time.perf_counter", lambda: Clock.now)
    return Clock


def run(clock, time_left, steps, log_steps, first=0.0, step_seconds=2.0, evaluation=30.0, start=0):
    """{step: estimated seconds left} and {step: true seconds left} of a training on the clock."""
    estimates, times = {}, {}
    clock.now += first
    for step in range(start + 1, steps + 1):
        clock.now += step_seconds(step) if callable(step_seconds) else step_seconds
        if step in log_steps:
            estimates[step], times[step] = time_left.seconds(step), clock.now
        if step in time_left.evaluation_steps:
            clock.now += evaluation
            time_left.evaluated(evaluation)
    return estimates, {step: clock.now - then for step, then in times.items()}


def test_the_time_left_counts_later_evaluations_but_no_longer_the_slow_first_steps(clock):
    time_left = TimeLeft(0, 100, {25, 50, 75, 100})
    clock.now += 30  # the evaluation before training
    time_left.evaluated(30)
    estimates, true = run(clock, time_left, 100, {5, 20, 25, 50, 99, 100}, first=60)
    assert estimates[5] == pytest.approx(14 * 95 + 4 * 30)  # with 60 s of the first steps
    assert {step: estimates[step] for step in (20, 25, 50, 99)} == pytest.approx(
        {step: true[step] for step in (20, 25, 50, 99)}
    )
    assert estimates[100] is None


def test_a_resumed_training_counts_from_its_first_step(clock):
    time_left = TimeLeft(40, 100, {100})
    assert time_left.seconds(40) is None
    estimates, true = run(clock, time_left, 100, {50, 60}, evaluation=0, start=40)
    assert estimates == pytest.approx(true)


@pytest.mark.parametrize("evaluation", [0.0, 1.0, 200.0])
def test_after_20_steps_the_forecast_is_within_15_percent(clock, evaluation):
    """Steps vary by a third around their mean; the first ones take ten times as long."""
    random = torch.Generator().manual_seed(0)
    noise = (0.67 + 0.66 * torch.rand(301, generator=random)).tolist()
    time_left = TimeLeft(0, 300, {75, 150, 225, 300})
    clock.now += evaluation
    time_left.evaluated(evaluation)
    estimates, true = run(
        clock, time_left, 300, {5, 20},
        step_seconds=lambda step: noise[step] * (10 if step < 3 else 1), evaluation=evaluation,
    )  # fmt: skip
    assert estimates[20] == pytest.approx(true[20], rel=0.15)


@pytest.mark.parametrize("steps", [30, 600, 3000])
def test_there_are_log_lines_after_5_and_20_steps(dataset, steps):
    logger = TrainingLogger(MaskedLMData(dataset, dataset, 8, 0.15, 0, steps), 5.0)
    due = {n for n in range(1, 21) if n in logger.log_steps or n % logger.log_every == 0}
    assert {5, 20} <= due


def test_durations_are_rounded_for_people():
    assert [format_seconds(s) for s in (0.4, 99, 150, 5000, 7200)] == [
        "0 s", "99 s", "2 min", "83 min", "2.0 hours",
    ]  # fmt: skip


# before training


def test_a_part_of_a_batch_has_its_own_targets(make_data):
    batch = next(iter(make_data(total_steps=1).train_batches()))
    part = part_of(batch, 1, 8)
    assert part["input_ids"].shape == part["labels"].shape == (1, 8)
    targets = part["labels"].flatten()[part["positions"]]
    assert (targets != -100).all() or part["positions"].tolist() == [0]
    whole = part_of(batch, *batch["input_ids"].shape)
    assert len(whole["positions"]) == (batch["labels"] != -100).sum()


def test_the_forecast_changes_neither_weights_nor_random_numbers(module, make_data):
    data = make_data(total_steps=100)
    weights, state = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
    was_training = module.training
    text = forecast_training(module, data, 4, DEVICE)
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state) and module.training == was_training
    assert all(weight.grad is None for weight in module.parameters())
    assert re.match(r"On this CPU, an epoch takes about \d+ s \(\d+ steps of ", text)
    assert "Faster" not in text
    assert "the whole training with 5 evaluations" in text
    assert "with 4 evaluations" in forecast_training(module, make_data(total_steps=3), 1000, DEVICE)


@pytest.mark.fault
def test_too_little_memory_for_the_timed_steps_is_one_line(module, make_data, monkeypatch):
    def fail(*arguments):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("mlm.training.forecast.step_seconds", fail)
    with refused("out of memory with batch_size=", "pass batch_size="):
        forecast_training(module, make_data(total_steps=8), 5, DEVICE)


def test_a_long_training_is_told_what_would_be_faster(module, make_data, monkeypatch):
    data = make_data(total_steps=1000)
    monkeypatch.setattr("mlm.training.forecast.step_seconds", lambda *_: (9.0, 1.0))
    text = forecast_training(module, data, 4, DEVICE)
    steps = -(-len(data.train.epochs) // data.batch_size)
    assert f"an epoch takes about {format_seconds(10 * steps)} ({steps} steps of 10 s)" in text
    assert "2.8 hours" in text and 'Faster: a GPU or a TPU, model="scratch:tiny"' in text
    assert f"max_len below {data.train.lengths.max() + 2}," in text


def test_a_resumed_run_forecasts_the_rest(module, make_data, monkeypatch):
    data = make_data(total_steps=1000)
    monkeypatch.setattr("mlm.training.forecast.step_seconds", lambda *_: (9.0, 1.0))
    finished = "The run in this folder is finished: there is nothing left to train."
    assert forecast_training(module, data, 4, DEVICE, steps_left=0) == finished
    assert forecast_training(module, data, 4, DEVICE | {"kind": "gpu"}, steps_left=0) == finished
    text = forecast_training(module, data, 4, DEVICE, steps_left=30)
    assert "the 30 steps that are left with 1 evaluation about" in text and "hours" not in text
    assert forecast_training(module, data, 4, DEVICE, 1000) == forecast_training(
        module, data, 4, DEVICE
    )


@pytest.mark.parametrize("device", [{"kind": "gpu"}, {"kind": "tpu"}, {"processes": 2}])
def test_other_devices_are_not_timed_before_training(module, make_data, device):
    text = forecast_training(module, make_data(total_steps=9), 4, DEVICE | device)
    assert text == "How long training takes is estimated while it runs, after 20 steps."


def test_the_time_of_a_batch_follows_from_its_parts(module, make_data, monkeypatch):
    """The larger parts are not computed."""
    sizes = []

    def timed_step(trial, optimizer, batch):
        assert trial is not module
        sizes.append(batch["input_ids"].numel())
        return 0.01 * sizes[-1] + 0.05, 0.5

    monkeypatch.setattr("mlm.training.forecast.timed_step", timed_step)
    batch = next(iter(make_data(total_steps=1).train_batches()))
    tokens = batch["input_ids"].numel()
    assert step_seconds(module, batch) == pytest.approx((0.01 * tokens + 0.05, 0.5))
    assert max(sizes) < tokens
