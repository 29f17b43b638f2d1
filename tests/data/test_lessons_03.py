"""The cells of 03 and 03b: the toy steps, the check of the rates, and the first packing function.

Each test executes the cells by their ids, so it tests what a class reads. Properties of the library's
masks and batches are tested in test_masking.py, test_batches.py and test_packing.py.
"""

from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from helpers import ROOT
from mlm.data.batches import MaskedBatches
from mlm.data.masking import mask_tokens
from mlm.data.packing import PackingPlan


def run_cells(notebook: str, *ids: str, **names: Any) -> dict[str, Any]:
    """The names that these cells define, executed in this order with the given names defined before."""
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4).cells
    sources = {cell.id: cell.source for cell in cells}
    namespace = {"np": np, "pd": pd, "torch": torch} | names
    for cell in ids:
        exec(sources[cell], namespace)
    return namespace


# 03: the toy sentence

STEPS = ("choice", "replacements", "combine")


@pytest.fixture
def toy() -> dict[str, Any]:
    """The names of the toy sentence before the first step."""
    return run_cells("03_dataset", "toy", "naive", "uniform")


def targets(names: dict[str, Any], labels: np.ndarray) -> list[str]:
    """The tokens of the toy sentence that are prediction targets."""
    return [token for token, label in zip(names["tokens"], labels) if label != -100]


def test_the_text_names_the_targets_of_the_naive_function(toy):
    assert targets(toy, toy["labels"]) == ["[CLS]", "won", "[SEP]"]


def test_the_text_names_what_the_steps_do_to_the_toy_sentence(toy):
    names = run_cells("03_dataset", *STEPS, **toy)
    assert targets(toy, names["labels"]) == ["play", "won", "match", "today"]
    masked = dict(zip(names["tokens"], names["masked_tokens"]))
    replaced = {"play": "[MASK]", "won": "[MASK]", "match": "match", "today": "final"}
    assert masked == {token: token for token in names["tokens"]} | replaced


def test_the_steps_equal_mask_tokens_for_any_example(toy):
    for index in range(200):
        names = run_cells("03_dataset", *STEPS, "words", **toy | {"example_key": (0, 1, index)})
        ids, word_ids = names["ids"], names["word_ids"]
        options = {
            "special_ids": list(names["special_ids"]),
            "counts": [4],
            "seed": 0,
            "epoch": 1,
            "indices": [index],
            "mask_token_id": 4,
            "vocab": np.arange(len(names["toy_vocab"])),
        }
        (masked_ids,), (labels,) = mask_tokens(ids[None], **options)
        assert masked_ids.tolist() == names["masked_ids"].tolist()
        assert labels.tolist() == names["labels"].tolist()
        _, (labels,) = mask_tokens(ids[None], **options, word_ids=word_ids[None])
        assert ((labels != -100) == (names["word_rank"] <= 4)).all()


def test_a_tokenizer_without_words_draws_no_whole_words():
    train = SimpleNamespace(lengths=[5], word_counts=None)  # as with the tokenizer of ESM-2
    assert "masked" not in run_cells("03_dataset", "whole-words", train=train, few=[0])


# 03: the check of the masking rates


@pytest.mark.parametrize(
    "replace, probability, wrong",
    [
        ("80/10/10", 0.15, []),
        ("100/0/0", 0.15, ["[MASK]", "random token", "unchanged"]),
        ("80/20/0", 0.15, ["random token", "unchanged"]),
        ("80/10/10", 0.17, ["targets"]),
    ],
)
def test_the_rates_of_wrong_masks_are_beyond_five_standard_errors(
    dataset, replace, probability, wrong
):
    indices = np.arange(len(dataset))
    keys = [(epoch, indices) for epoch in range(30)]
    batches = list(MaskedBatches(dataset, keys, probability, seed=0, replace=replace))
    names = {"train": dataset, "tokenizer": dataset.tokenizer, "keys": keys, "batches": batches}
    names = run_cells("03_dataset", "token-table", **names)
    table = pd.concat([names["token_table"](indices, batch) for batch in batches])
    names |= {"tables": {"library": table}, "mlm_probability": 0.15}
    distances = run_cells("03_dataset", "cases", "rates", **names)["rates"].loc["library"][
        "distance"
    ]
    found = distances.index[distances.abs() > 5]
    assert [name.split(",")[0] for name in found] == wrong


# 03b: packing


def test_first_fit_uses_the_first_row_with_enough_space():
    pack = run_cells("03b_packing", "first-fit")["pack_first_fit"]
    sizes, width = np.random.default_rng(0).integers(1, 100, 300), 128
    rows = pack(sizes, width)
    assert sorted(example for row in rows for example in row) == list(range(len(sizes)))
    for number, row in enumerate(rows):
        assert row == sorted(row) and sizes[row].sum() <= width
        for earlier in rows[:number]:  # no example fitted into an earlier row when it was placed
            for example in row:
                placed = [other for other in earlier if other < example]
                assert sizes[placed].sum() + sizes[example] > width


@pytest.mark.parametrize("masking", ["token", "word"])
def test_the_plan_has_a_place_for_every_target(dataset, masking):
    names = {"train": dataset, "batch_size": 8, "mlm_probability": 0.15, "seed": 0}
    plan = run_cells("03b_packing", "plan", sizes=dataset.lengths + 2, masking=masking, **names)[
        "plan"
    ]
    for epoch in range(10):
        batches = MaskedBatches(dataset, plan.keys(epoch), 0.15, 0, plan.shape, masking=masking)
        for batch in batches:
            assert (batch["labels"] != -100).sum() == batch["num_masked"]


def test_unpacked_batches_contain_the_examples_with_their_masks(dataset):
    plan = PackingPlan(dataset, batch_size=8, mlm_probability=0.15, seed=0, epochs=[0])
    names = run_cells(
        "03b_packing",
        "unpack",
        MaskedBatches=MaskedBatches,
        plan=plan,
        train=dataset,
        options={"mlm_probability": 0.15, "seed": 0},
        get_sequence_ids=lambda batch: batch["sequence_ids"],
    )
    (_, indices, _), packed = plan.keys(epoch=0)[0], names["packed"][0]
    originals = [
        [label if label != -100 else token for token, label in zip(*example)]
        for example in names["unpack"](packed)
    ]
    assert sorted(originals) == sorted(dataset[index].tolist() for index in indices)
    labels = packed["labels"].clone()
    labels[labels != -100] += 1
    assert names["unpack"](packed) != names["unpack"](packed | {"labels": labels})
