"""A variant is faster because it computes the same in less time, not because it computes less."""

import importlib
import importlib.util
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from encoders import make_model
from helpers import refused
from mlm.benchmark.speed import (
    Bench,
    Variant,
    adamw_weights,
    build_variants,
    interleave,
    loop_seconds,
    sample_lines,
    speed,
    speed_ratios,
    trainer_seconds,
)
from mlm.training.module import masked_labels

DENSE = Variant("dense head", batch_size=16, order="random")
CHANGES = [
    ("head on masked tokens only", {"masked_only": True}),
    ("packed rows", {"pack": True}),
    ("fast dropout and attention", {"attention": "matmul", "dropout": "16bit"}),
    ("freed memory is kept", {"keep_memory": True}),
    ("float32 by oneDNN", {"products": "onednn"}),
    ("bfloat16", {"dtype": torch.bfloat16}),
    ("blocks", {"examples": "block", "batch_size": 3}),
]
VARIANTS = build_variants(DENSE, CHANGES)
OURS = VARIANTS[-2]  # bfloat16: all changes on lines


# lines and variants


def test_sampled_lines_are_in_text_order_and_depend_on_the_seed(tmp_path):
    (tmp_path / "all.txt").write_text("".join(f"{n:03}\n" for n in range(200)))
    samples = []
    for seed in (0, 0, 1):
        sample_lines(tmp_path / "all.txt", tmp_path / "some.txt", 20, seed)
        samples.append((tmp_path / "some.txt").read_text().split())
    assert samples[0] == samples[1] != samples[2]
    assert samples[0] == sorted(set(samples[0])) and len(samples[0]) == 20


def test_a_change_without_effect_adds_no_variant():
    changes = [("a", {"fused_adamw": True}), ("b", {"fused_adamw": True}), ("c", {"lr": 1e-5})]
    variants = build_variants(DENSE, changes)
    assert [variant.name for variant in variants] == ["dense head", "a", "c"]
    assert variants[-1] == replace(DENSE, name="c", fused_adamw=True, lr=1e-5)


@pytest.mark.fault
def test_two_variants_of_one_name_are_refused():
    with refused("different names, got 'a' twice"):
        build_variants(DENSE, [("a", {"fused_adamw": True}), ("a", {"lr": 1e-5})])


@pytest.mark.parametrize("field", ["order", "examples", "trainer"])
def test_an_unknown_option_is_an_error(bench, field):
    with pytest.raises(KeyError):
        speed(bench, replace(DENSE, **{field: "unknown"}))


@pytest.mark.fault
def test_a_model_that_cannot_be_packed_is_refused(bench):
    tokenizer = bench.data["line"].tokenizer
    with refused("model='roformer'", "does not support packing"):
        Bench(
            model=make_model("roformer", tokenizer),
            model_name="roformer",
            data=bench.data,
            validation_batches=[],
            mlm_probability=0.15,
            seed=0,
            device="cpu",
        )


# the same batches


@pytest.mark.parametrize("order, pack", [("text", False), ("random", False), ("random", True)])
@pytest.mark.parametrize("examples", ["line", "block"])
def test_every_variant_trains_on_each_example_once(bench, order, pack, examples):
    variant = replace(OURS, order=order, pack=pack, examples=examples, batch_size=7)
    keys, _ = bench.plan_keys(variant)
    seen = np.sort(np.concatenate([indices for _, indices, *_ in keys]))
    assert np.array_equal(seen, np.arange(len(bench.data[examples])))
    batches = list(bench.batches(variant))
    assert len(batches) == bench.num_steps(variant)
    assert sum(batch["num_tokens"] for batch in batches) == bench.data[examples].lengths.sum()


def test_all_variants_on_lines_predict_the_same_tokens(bench):
    targets = []
    for variant in (DENSE, OURS, replace(DENSE, batch_size=4, order="text")):
        labels = torch.cat([masked_labels(batch) for batch in bench.batches(variant)])
        targets.append(sorted(labels[labels != -100].tolist()))
    assert targets[0] and all(tokens == targets[0] for tokens in targets)


def test_max_steps_limits_an_epoch(bench):
    bench.switch(OURS)
    assert len(list(bench.batches(OURS, max_steps=2))) == 2
    assert loop_seconds(bench, OURS, bench.batches(OURS, max_steps=1)) > 0


# the same result


@pytest.mark.parametrize("variant", VARIANTS[1:-2], ids=lambda variant: variant.name)
def test_an_exact_optimization_changes_neither_loss_nor_gradients(bench, variant):
    results = []
    for one in (DENSE, variant):
        bench.switch(one)
        bench.module.eval()
        bench.model.zero_grad()
        loss = bench.loss(one, next(bench.batches(one, max_steps=1)))
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in bench.model.named_parameters()}
        results.append((loss.item(), gradients))
    bench.model.zero_grad()
    (dense_loss, dense_gradients), (loss, gradients) = results
    assert abs(loss - dense_loss) < 1e-5
    for name, dense in dense_gradients.items():
        assert (gradients[name] - dense).abs().max() <= 1e-5 + 1e-4 * dense.abs().max(), name


def test_packed_rows_give_a_dense_head_the_same_loss(bench):
    unpacked, packed = (bench.first_loss(replace(DENSE, pack=pack)) for pack in (False, True))
    assert abs(unpacked - packed) < 1e-5


def test_bfloat16_changes_the_loss_only_by_rounding(bench):
    exact, rounded = bench.first_loss(DENSE), bench.first_loss(OURS)
    assert OURS.dtype == torch.bfloat16 and 0 < abs(exact - rounded) < 0.05


@pytest.mark.parametrize("foreach", [False, True])  # torch's default on a CPU and on CUDA
def test_an_adamw_that_is_not_fused_is_the_default_of_torch(bench, monkeypatch, foreach):
    """On CUDA, that is one operation for all weights, not one weight at a time."""
    adam = importlib.import_module("torch.optim.adam")
    used = []
    monkeypatch.setattr(adam, "_default_to_fused_or_foreach", lambda *_, **__: (False, foreach))
    for name in ("_single_tensor_adam", "_multi_tensor_adam", "_fused_adam"):
        monkeypatch.setattr(adam, name, lambda *_, name=name, **__: used.append(name))
    bench.switch(DENSE)
    optimizer, _ = bench.make_optimizer(DENSE)
    bench.loss(DENSE, next(bench.batches(DENSE))).backward()
    optimizer.step()
    assert set(used) == {"_multi_tensor_adam" if foreach else "_single_tensor_adam"}
    used.clear()
    optimizer, _ = bench.make_optimizer(replace(DENSE, fused_adamw=True))
    optimizer.step()
    bench.model.zero_grad()
    assert set(used) == {"_fused_adam"}


def test_fused_and_plain_adamw_give_the_same_weights():
    difference = adamw_weights(fused=True) - adamw_weights(fused=False, foreach=False)
    assert difference.abs().max() < 1e-6


# the measurement


def test_each_measurement_starts_from_the_initial_weights_and_repeats_itself(bench):
    losses = []
    for _ in range(2):
        assert speed(bench, OURS) > 0
        losses.append(bench.valid_loss())
    bench.switch(OURS)
    assert losses[0] == losses[1] < bench.valid_loss()


@pytest.mark.skipif(
    importlib.util.find_spec("torch_xla") is not None,
    reason="Trainer uses XLA unless USE_TORCH_XLA=0 is set before transformers is imported, as in 06",
)
@pytest.mark.parametrize("order", ["random", "length"])
def test_transformers_trainer_trains_the_model_of_the_bench(bench, order):
    variant = replace(DENSE, order=order, dtype=torch.bfloat16, trainer="Trainer")
    bench.switch(variant)
    before = bench.valid_loss()
    assert trainer_seconds(bench, variant) > 0
    assert bench.valid_loss() < before - 0.05


def test_trainer_warms_up_in_the_first_tenth_of_all_its_steps(bench):
    """The first step has a rate of 0, and of 3 epochs, not the first tenth of one."""
    rates, variant = [], replace(DENSE, batch_size=4, trainer="Trainer")

    class Rates(TrainerCallback):
        def on_step_begin(self, args, state, control, lr_scheduler=None, **kwargs):
            rates.append(lr_scheduler.get_last_lr()[0])

    bench.switch(variant)
    trainer_seconds(bench, variant, callbacks=[Rates()], epochs=3)
    assert len(rates) == 3 * bench.num_steps(variant)
    assert rates.index(max(rates)) == len(rates) // 10 > 1 and rates[0] == 0


def test_functions_are_called_forwards_and_backwards_in_turn():
    order = []
    functions = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    table = interleave(functions, 3)
    assert "".join(order) == "abccbaabc" and list(table) == list("abc")
    assert table.to_numpy().tolist() == [[1, 2, 3], [6, 5, 4], [7, 8, 9]]


def test_ratios_are_taken_within_each_repeat():
    """The machine is four times as slow in the second repeat, which changes no ratio."""
    rates = pd.DataFrame({"plain": [100.0, 25.0, 100.0], "fused": [200.0, 50.0, 300.0]})
    ratios = speed_ratios(rates, {"fused / plain": ("fused", "plain")})
    assert ratios.loc["fused / plain"].to_dict() == {"ratio": 2, "lowest": 2, "highest": 3}


# as on a machine with GPUs


def test_trainer_uses_one_gpu_of_several(bench, monkeypatch):
    """Otherwise it splits batches among all of them, and trains on more lines per step."""
    seen = []

    def on_two_gpus(**options):
        arguments = TrainingArguments(**options)
        assert arguments.device.type == "cpu"
        arguments._n_gpu = 2  # what it finds on such a machine
        return arguments

    class TwoGpus(Trainer):
        def train(self):
            seen.append((self.args.n_gpu, self.args.train_batch_size))

    monkeypatch.setattr("mlm.benchmark.speed.TrainingArguments", on_two_gpus)
    monkeypatch.setattr("mlm.benchmark.speed.Trainer", TwoGpus)
    trainer_seconds(bench, replace(DENSE, trainer="Trainer"))
    assert seen == [(1, DENSE.batch_size)]


def test_a_gpu_gets_its_batches_from_pinned_memory(bench, monkeypatch):
    copies = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: copies.append("pinned") or self)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *_, **options: copies.append(options) or self
    )
    monkeypatch.setattr(bench, "device", "cuda")
    batch = {"a": torch.ones(2), "b": torch.ones(2), "num_tokens": 3}
    assert bench.on_device(batch) == batch
    assert copies == ["pinned", {"non_blocking": True}] * 2
