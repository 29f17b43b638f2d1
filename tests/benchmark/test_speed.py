"""A recipe of 06 is faster because it does the same in less time, not because it does less."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlm.benchmark.limits import attention_seconds, bare_loop, kept_bytes, lightning, pieces
from mlm.benchmark.speed import (
    Bench,
    Variant,
    adamw_weights,
    build_ladder,
    draw_lines,
    interleave,
    loop_pass,
    speed,
    trainer_pass,
)
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import learn_wordpiece
from mlm.models.loading import load_model
from mlm.training.datamodule import MaskedLMData
from mlm.training.module import masked_labels

DENSE = Variant("dense head", batch=16, order="random")
SAVINGS = [
    ("head on masked tokens only", dict(masked_only=True)),
    ("lines share rows", dict(rows="shared")),
    ("cheap dropout and attention", dict(fast=True)),
    ("memory is kept", dict(steady=True)),
    ("fp32 by oneDNN", dict(onednn=True)),
    ("bf16", dict(dtype=torch.bfloat16)),
    ("blocks", dict(examples="block", batch=3)),
]
LADDER = build_ladder(DENSE, SAVINGS)
OURS = LADDER[-2]
LINES = 60


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A tiny model, 60 lines of a text, and held-out lines."""
    folder, random = tmp_path_factory.mktemp("speed"), np.random.default_rng(0)
    words = ["the", "a", "of", "dog", "cat", "tree", "sees", "hears", "old", "green", "and"]
    text = [" ".join(random.choice(words, random.integers(1, 40))) for _ in range(300)]
    (folder / "train.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    draw_lines(folder / "train.txt", folder / "lines.txt", LINES, 0)
    tokenizer = learn_wordpiece(folder / "train.txt")
    data = {
        kind: MaskedLMDataset(folder / "lines.txt", tokenizer, 64, kind)
        for kind in ("line", "block")
    }
    held_out = list(MaskedLMData(data["line"], data["line"], 32, 0.15, 0, 0).validation_batches())
    bert = load_model("scratch:tiny", tokenizer, 64, None, 0)
    return Bench(bert, "scratch:tiny", data, held_out, 0.15, 0, "cpu")


def test_lines_are_drawn_in_their_order_and_by_the_seed(tmp_path):
    (tmp_path / "all.txt").write_text("".join(f"{n:03}\n" for n in range(200)))
    drawn = []
    for seed in (0, 0, 1):
        draw_lines(tmp_path / "all.txt", tmp_path / "some.txt", 20, seed)
        drawn.append((tmp_path / "some.txt").read_text().split())
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(set(drawn[0])) and len(drawn[0]) == 20


def test_what_changes_nothing_is_no_rung():
    ladder = build_ladder(
        DENSE, [("a", dict(fused=True)), ("b", dict(fused=True)), ("c", dict(lr=1e-5))]
    )
    assert [rung.name for rung in ladder] == ["dense head", "a", "c"]
    assert ladder[-1] == replace(DENSE, name="c", fused=True, lr=1e-5)


@pytest.mark.parametrize("order, rows", [("text", "own"), ("random", "own"), ("random", "shared")])
@pytest.mark.parametrize("examples", ["line", "block"])
def test_every_rung_has_each_example_once(bench, order, rows, examples):
    rung = replace(OURS, order=order, rows=rows, examples=examples, batch=7)
    seen = np.sort(np.concatenate([group for _, group, *_ in bench.keys(rung)[0]]))
    assert np.array_equal(seen, np.arange(len(bench.data[examples])))
    batches = list(bench.batches(rung))
    assert len(batches) == bench.steps(rung)
    assert sum(batch["num_tokens"] for batch in batches) == bench.data[examples].lengths.sum()


def test_all_rungs_on_lines_ask_for_the_same_tokens(bench):
    asked = []
    for rung in (DENSE, OURS, replace(DENSE, batch=4, order="text")):
        labels = torch.cat([masked_labels(batch) for batch in bench.batches(rung)])
        asked.append(sorted(labels[labels != -100].tolist()))
    assert asked[0] and all(found == asked[0] for found in asked)


@pytest.mark.parametrize("rung", LADDER[1:-2], ids=lambda rung: rung.name)
def test_a_saving_changes_neither_loss_nor_gradients(bench, rung):
    found = []
    for one in (DENSE, rung):
        bench.switch(one)
        bench.module.eval()
        bench.bert.zero_grad()
        loss = bench.loss(one, next(bench.batches(one, 1)))
        loss.backward()
        grads = {name: p.grad.clone() for name, p in bench.bert.named_parameters()}
        found.append((loss.item(), grads))
    bench.bert.zero_grad()
    (dense, grads), (loss, saved) = found
    assert abs(loss - dense) < 1e-5
    for name, grad in grads.items():
        assert (saved[name] - grad).abs().max() <= 1e-5 + 1e-4 * grad.abs().max(), name


def test_shared_rows_are_the_same_for_a_dense_head(bench):
    losses = [bench.first_loss(replace(DENSE, rows=rows)) for rows in ("own", "shared")]
    assert abs(losses[0] - losses[1]) < 1e-5


def test_bf16_only_rounds(bench):
    exact, rounded = (bench.first_loss(rung) for rung in (DENSE, replace(OURS, name="bf16")))
    assert OURS.dtype == torch.bfloat16 and 0 < abs(exact - rounded) < 0.05


def test_both_adamw_make_the_same_weights():
    apart = adamw_weights(fused=True) - adamw_weights(fused=False, foreach=False)
    assert apart.abs().max() < 1e-6


def test_a_rung_starts_from_the_first_weights_and_repeats_itself(bench):
    losses = []
    for _ in range(2):
        assert speed(bench, OURS) > 0
        losses.append(bench.valid_loss())
    bench.switch(OURS)
    assert losses[0] == losses[1] < bench.valid_loss()


@pytest.mark.skipif(
    importlib.util.find_spec("torch_xla") is not None,
    reason="Trainer takes XLA's device, unless USE_TORCH_XLA=0 comes before transformers, as in 06",
)
@pytest.mark.parametrize("order", ["random", "length"])
def test_the_trainer_rung_trains(bench, order):
    rung = Variant("Trainer", batch=16, order=order, dtype=torch.bfloat16, by="Trainer")
    bench.switch(rung)
    before = bench.valid_loss()
    assert trainer_pass(bench, rung) > 0
    assert bench.valid_loss() < before - 0.05


def test_lightning_makes_the_weights_of_the_bare_loop(bench):
    """Dropout is off: Lightning's is seeded anew at each step."""
    rung, dropouts = replace(OURS, dtype=torch.float32, fused=True, lr=1e-3), []
    for layer in bench.bert.modules():
        if isinstance(layer, torch.nn.Dropout):
            dropouts.append((layer, layer.p))
            layer.p = 0.0
    try:
        batches, weights = list(bench.batches(rung)), []
        args = dict(accelerator="cpu", devices=1, precision="32-true")
        for train in (
            lambda: bare_loop(bench, rung, batches),
            lambda: lightning(bench, rung, batches, args),
        ):
            assert train() > 0
            weights.append(bench.bert.bert.embeddings.word_embeddings.weight.detach().clone())
    finally:
        for layer, p in dropouts:
            layer.p = p
    assert (weights[0] - weights[1]).abs().max() < 1e-6


def test_the_pieces_are_all_of_a_step(bench):
    found = pieces(bench, OURS, 2)
    assert list(found) == ["input", "encoder", "head", "loss", "backward", "optimizer"]
    assert all(milliseconds > 0 for milliseconds in found.values())
    assert not bench.bert.bert._forward_hooks and not bench.bert.cls._forward_hooks


def test_the_dense_head_keeps_more(bench):
    batch = next(bench.batches(OURS, 1))
    dense = replace(OURS, masked_only=False)
    assert kept_bytes(bench, dense, batch) > kept_bytes(bench, OURS, batch) > 0


def test_ways_run_forwards_and_backwards_in_turn():
    order = []
    ways = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    table = interleave(ways, 3)
    assert "".join(order) == "abccbaabc" and list(table) == list("abc")
    assert table.to_numpy().tolist() == [[1, 2, 3], [6, 5, 4], [7, 8, 9]]


def test_a_pass_stops_where_it_should(bench):
    bench.switch(OURS)
    assert len(list(bench.batches(OURS, 2))) == 2
    assert loop_pass(bench, OURS, 1) > 0


def test_each_way_of_attention_is_timed(bench):
    short, long = (attention_seconds(bench, torch.float32, width, 512) for width in (32, 512))
    assert short.keys() == long.keys() == {"matmul", "sdpa"} and min(short.values()) > 0
    assert long["matmul"] > short["matmul"]  # as many tokens, 16 times as many scores
