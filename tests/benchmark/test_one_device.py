"""No function mixes devices: everything that 06 does on a GPU, with a device of torch that a CPU has."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mlm.benchmark.limits import (
    activation_bytes,
    attention_seconds,
    product_rates,
    step_breakdown,
    step_seconds,
)
from mlm.benchmark.race import Contender, race, recipe_settings
from mlm.benchmark.speed import Bench, Variant, loop_seconds, speed
from mlm.models.loading import load_model
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM
from one_device import OneDevice, no_autocast

MODEL = "scratch:tiny"
PLAIN = Variant("plain", batch_size=16, order="random")
OURS = replace(PLAIN, name="this suite", masked_only=True, pack=True)


@pytest.fixture(scope="module")
def other_bench(bench):
    """The bench of the other tests on the device "meta"."""
    with OneDevice():
        model = load_model(MODEL, bench.data["line"].tokenizer, max_len=64, seed=0)
        return Bench(
            model, MODEL, bench.data, bench.validation_batches, mlm_probability=0.15, seed=0,
            device="meta",
        )  # fmt: skip


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(torch, "autocast", no_autocast)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: SimpleNamespace(
        scale=lambda loss: loss, step=lambda optimizer: optimizer.step(), update=lambda: None
    ))  # fmt: skip
    with OneDevice():
        yield


def test_the_mode_finds_a_mixture_of_devices():
    with pytest.raises(RuntimeError, match="one device"):
        torch.ones(2) + torch.ones(2, device="meta")
    assert (torch.ones(2, device="meta") * torch.tensor(2.0)).is_meta  # a number may be anywhere


@pytest.mark.parametrize("recipe", ["tutorial", "fast"])
def test_a_race(other_bench, recipe):
    settings = recipe_settings(recipe, MODEL, 16)
    curve = race(other_bench, Contender(recipe, OURS, settings, epochs=1))
    assert len(curve) > 1 and other_bench.model.device.type == "meta"


def test_a_module_that_was_not_moved_itself(other_bench):
    """Lightning's `device` only changes when the module itself is moved, not its model."""
    module = MaskedLM(other_bench.model, {})
    assert module.device.type == "cpu"
    assert set(evaluate(module, other_bench.validation_batches)) == {
        "loss",
        "perplexity",
        "accuracy",
    }


@pytest.mark.parametrize("variant", [PLAIN, OURS])
@pytest.mark.parametrize(
    "measure",
    [
        speed,
        Bench.first_loss,
        lambda bench, variant: step_breakdown(bench, variant, 2),
        lambda bench, variant: activation_bytes(bench, variant, next(bench.batches(variant))),
        lambda bench, variant: step_seconds(bench, variant, next(bench.batches(variant)), 1),
        lambda bench, variant: loop_seconds(bench, variant, bench.batches(variant, 2)),
        lambda bench, variant: attention_seconds(bench, torch.float32, 32, 64),
        lambda bench, variant: product_rates(bench, {"a": (2, 3, 4, 1)}, torch.float32),
        lambda bench, variant: bench.valid_loss(),
    ],
)
def test_each_measurement(other_bench, variant, measure):
    measure(other_bench, variant)
