"""The parts of a step and the overhead of Lightning are measured on the training that 06 compares."""

from dataclasses import replace

import pytest
import torch

from encoders import make_model
from mlm.benchmark.limits import (
    STEP_PARTS,
    activation_bytes,
    attention_seconds,
    encode_seconds,
    full_batch,
    layer_shapes,
    lightning_loop,
    lightning_overhead,
    step_breakdown,
)
from mlm.benchmark.speed import Variant, loop_seconds
from mlm.data.corpus import load_corpus

OURS = Variant(
    "this suite",
    batch_size=16,
    order="random",
    pack=True,
    masked_only=True,
    attention="matmul",
    dropout="16bit",
    keep_memory=True,
)
TRAINER_ARGS = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}


def test_lightning_trains_the_same_weights_as_the_bare_loop(bench):
    """Without dropout: 04 seeds it at each step, the bare loop does not."""
    variant = replace(OURS, fused_adamw=True, lr=1e-3)
    dropouts = [m for m in bench.model.modules() if isinstance(m, torch.nn.Dropout)]
    rates = [layer.p for layer in dropouts]
    weights = []
    try:
        for layer in dropouts:
            layer.p = 0.0
        batches = list(bench.batches(variant))
        for loop, arguments in (loop_seconds, ()), (lightning_loop, (TRAINER_ARGS,)):
            assert loop(bench, variant, batches, *arguments) > 0
            weights.append(bench.model.get_input_embeddings().weight.detach().clone())
    finally:
        for layer, p in zip(dropouts, rates):
            layer.p = p
    assert (weights[0] - weights[1]).abs().max() < 1e-6


def test_the_breakdown_has_all_parts_of_a_step_and_removes_its_hooks(bench):
    breakdown = step_breakdown(bench, OURS, max_steps=2)
    assert tuple(breakdown) == STEP_PARTS
    assert all(milliseconds > 0 for milliseconds in breakdown.values())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in bench.model.modules())


def test_slow_first_steps_do_not_count_in_the_breakdown(bench, monkeypatch):
    """The first steps allocate memory: with few steps, they would be most of the time."""
    now, steps, loss = [0.0], [0], bench.loss

    def slow_at_first(variant, batch):
        steps[0] += 1
        now[0] += 1.0 if steps[0] > 2 else 1000.0
        return loss(variant, batch)

    monkeypatch.setattr(bench, "clock", lambda: now[0])
    monkeypatch.setattr(bench, "loss", slow_at_first)
    tokens = sum(batch["num_tokens"] for batch in bench.batches(OURS, max_steps=2))
    total = sum(step_breakdown(bench, OURS, max_steps=2).values())
    assert total == pytest.approx(2.0 * 1e6 / tokens)


def test_lightning_is_compared_with_the_bare_loop_in_each_repeat(bench, monkeypatch):
    monkeypatch.setattr("mlm.benchmark.limits.LIGHTNING_SECONDS", 0)  # one epoch
    loops = {"loop_seconds": 0.5, "lightning_loop": 0.6}
    for name, seconds in loops.items():
        monkeypatch.setattr(f"mlm.benchmark.limits.{name}", lambda *_, s=seconds: s)
    milliseconds, times = lightning_overhead(bench, OURS, TRAINER_ARGS, 2)
    assert milliseconds == pytest.approx(500 / bench.num_steps(OURS))
    assert len(times) == 2 and times.to_numpy() == pytest.approx(1.2)


def test_a_dense_head_keeps_more_memory_than_one_on_masked_tokens(bench):
    batch = next(bench.batches(OURS, max_steps=1))
    dense = replace(OURS, masked_only=False)
    assert activation_bytes(bench, dense, batch) > activation_bytes(bench, OURS, batch) > 0


def test_attention_takes_longer_in_long_rows_with_as_many_tokens(bench):
    short, long = (attention_seconds(bench, torch.float32, width, 512) for width in (32, 512))
    assert short.keys() == long.keys() == {"matmul", "sdpa"} and min(short.values()) > 0
    assert long["matmul"] > short["matmul"]  # 16 times as many scores


def test_full_blocks_are_full_also_if_documents_are_short(bench, tmp_path):
    rows = "".join(f"{number} the dog sees an old green tree\n" for number in range(80))
    (tmp_path / "a.csv").write_text("text\n" + rows)
    train = load_corpus(str(tmp_path / "a.csv"), tmp_path / "work") / "train.txt"
    for width in (16, 32):
        batch = full_batch(bench, train, 2, width)
        assert batch["num_tokens"] == 2 * (width - 2)


def test_copies_of_a_text_are_deleted(bench, tmp_path):
    (tmp_path / "a.txt").write_text("the dog sees a tree\n" * 20)
    (tmp_path / "copies").mkdir()
    tokenizer = bench.data["line"].tokenizer
    assert encode_seconds(tmp_path / "a.txt", tokenizer, tmp_path / "copies", 3) > 0
    assert not [*(tmp_path / "copies").iterdir()]


@pytest.mark.parametrize("kind", ["bert", "albert", "electra", "distilbert"])
def test_the_matrix_products_are_those_of_the_model(kind, tokenizer):
    model = make_model(kind, tokenizer)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    found = {(layer.in_features, layer.out_features) for layer in layers}
    shapes = layer_shapes(model.config, tokens=64, masked=8)
    assert {(inner, columns) for _, inner, columns, _ in shapes.values()} <= found
