"""Figures of masked batches: the state of each token, and one box per token."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mlm.data.batches import MaskedBatches
from mlm.data.packing import PackingPlan
from mlm.plots.token_boxes import (
    TOKEN_STATES,
    draw_attention,
    draw_batch,
    draw_rows,
    draw_tokens,
    token_states,
)


@pytest.fixture
def batch(dataset):
    """A packed batch with masks of all kinds."""
    plan = PackingPlan(dataset, 32, 0.3, 0, (0,))
    return next(iter(MaskedBatches(dataset, plan.keys(0), 0.3, 0, plan.shape)))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_states_of_tokens(tokenizer):
    cls, sep, mask, pad = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[MASK]", "[PAD]"])
    input_ids = torch.tensor([[cls, 10, mask, 12, 13, sep, pad]])
    labels = torch.tensor([[-100, -100, 20, 21, 13, -100, -100]])
    names = [[*TOKEN_STATES][state] for state in token_states(input_ids, labels, tokenizer)[0]]
    assert names == [
        "[CLS] or [SEP]",
        "not masked",
        "target, now [MASK]",
        "target, now a random token",
        "target, left unchanged",
        "[CLS] or [SEP]",
        "padding",
    ]


def test_an_id_that_the_vocabulary_does_not_use_is_shown_as_a_number(tokenizer):
    unused = len(tokenizer) + 3
    draw_tokens({"input_ids": np.array([[unused]]), "labels": np.array([[10]])}, tokenizer)
    assert f"id {unused}" in [text.get_text() for text in plt.gcf().axes[0].texts]


def test_a_box_has_its_input_and_below_it_its_target(batch, tokenizer):
    draw_tokens(batch, tokenizer, max_tokens=10)
    (ax,) = plt.gcf().axes
    input_ids, labels = batch["input_ids"][:, :10], batch["labels"][:, :10]
    states = token_states(input_ids, labels, tokenizer)
    assert len(ax.patches) == input_ids.numel()
    differs = np.isin(states, [1, 2])  # [MASK] or a random token
    shown = [text.get_text() for text in ax.texts if text.get_style() == "italic"]
    targets = tokenizer.convert_ids_to_tokens(labels[torch.from_numpy(differs)].tolist())
    assert shown == [token[:16] for token in targets] and shown
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    drawn = [item for state, item in enumerate(TOKEN_STATES.items()) if (states == state).any()]
    signs = {name: sign for name, (_, sign) in drawn if name.startswith("target")}
    assert sorted(legend) == sorted(f"{signs.get(name, '')}  {name}".strip() for name, _ in drawn)


def test_a_batch_has_a_line_before_each_example(batch, tokenizer):
    draw_batch(batch, tokenizer)
    (ax,) = plt.gcf().axes
    starts = [lines for lines in ax.collections if lines.get_linewidth()[0] == 1.5]
    assert len(starts) == (batch["input_ids"][:12] == tokenizer.cls_token_id).sum()


def test_rows_and_their_padding():
    _, ax = plt.subplots()
    draw_rows(ax, np.array([4, 6, 5]), [[0, 1], [2]], width=10, title="packed")
    assert ax.get_title() == "packed: 25% padding"
    assert len(ax.patches) == 2 + 3
    assert ax.get_ylim() == (2, -1)


def test_attention_names_each_example():
    _, ax = plt.subplots()
    sequence_ids = np.array([1, 1, 2])
    draw_attention(ax, ["a", "b", "c"], sequence_ids[:, None] == sequence_ids, sequence_ids)
    assert [text.get_text() for text in ax.texts] == ["example 1", "example 2"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
