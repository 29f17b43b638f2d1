"""Attention for long rows: the same results as all pairs of tokens at once, in less memory."""

import copy
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from encoders import make_model
from helpers import json_output, refused, start_python
from mlm.models import long_rows
from mlm.models.cpu import use_attention_and_dropout
from mlm.models.encoders import ENCODERS, hidden_states, packed_attention_mask
from mlm.models.flops import flops_per_token
from mlm.models.loading import load_model
from mlm.models.long_rows import (
    LONG_ROW,
    attention_in_parts,
    dense_mask,
    long_attention,
    use_long_attention,
    windowed_attention,
)

ROWS = ["full", "padded", "packed"]


def sequence_ids_of(rows, num_rows, length):
    """sequence_ids (num_rows, length) of rows that are full, padded or packed with three examples."""
    column = torch.arange(length).expand(num_rows, -1)
    if rows == "packed":
        return (1 + (column > length // 3).long() + (column > length // 2)) * (column < length - 5)
    return (column < length - 7).long() if rows == "padded" else torch.ones_like(column)


def qkv(length, heads=2, size=8):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, heads, length, size, generator=generator, requires_grad=True)
        for _ in range(3)
    ]


def assert_same_with_gradients(output, expected, inputs):
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((output * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for gradient, other in zip(ours, theirs):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("length", [16, 61, 256])
def test_attention_in_parts_equals_attention_at_once(monkeypatch, rows, length):
    monkeypatch.setattr(long_rows, "SCORES_AT_ONCE", 1)  # 16 queries at a time
    inputs, ids = qkv(length), sequence_ids_of(rows, 2, length)[:, None, None]
    output = attention_in_parts(*inputs, ids, 0.0, None)
    expected = F.scaled_dot_product_attention(*inputs, dense_mask(ids))
    assert_same_with_gradients(output, expected, inputs)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("length, reach", [(16, 1), (61, 4), (61, 64), (256, 8), (257, 3)])
def test_windowed_attention_equals_a_mask_of_all_pairs(rows, length, reach):
    inputs = qkv(length)
    ids = sequence_ids_of(rows, 2, length)[:, None, None]
    position = torch.arange(length)
    allowed = ((position[:, None] - position).abs() <= reach) & dense_mask(ids)
    output = windowed_attention(*inputs, ids, reach, 0.0, None)
    assert_same_with_gradients(output, F.scaled_dot_product_attention(*inputs, allowed), inputs)


def test_dropout_in_parts_is_the_same_in_the_backward_pass(monkeypatch):
    """The gradient of a sum over `value` is the sum of the weights that the forward pass used."""
    monkeypatch.setattr(long_rows, "SCORES_AT_ONCE", 1)
    query, key, value = qkv(64, size=1)
    torch.manual_seed(0)
    output = attention_in_parts(query, key, value, None, 0.5, None)
    (gradient,) = torch.autograd.grad(output.sum(), value)
    torch.testing.assert_close((gradient * value).sum(), output.sum())  # linear in value


def small_model(kind, length, dropout=0.0):
    """A small random model of one of two kinds, for rows of this length."""
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=50, hidden_size=32, num_attention_heads=2, intermediate_size=32, pad_token_id=0,
        max_position_embeddings=length, initializer_range=0.3,
    )  # fmt: skip
    if kind == "bert":
        rates = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        return BertForMaskedLM(BertConfig(num_hidden_layers=2, **sizes, **rates))
    special = dict.fromkeys(("cls_token_id", "bos_token_id", "sep_token_id", "eos_token_id"), 1)
    config = ModernBertConfig(
        num_hidden_layers=3, global_attn_every_n_layers=2, local_attention=16,
        attention_dropout=dropout, **sizes, **special,
    )  # fmt: skip
    return ModernBertForMaskedLM(config)


@pytest.mark.parametrize(
    "use",
    [use_long_attention, partial(use_attention_and_dropout, attention="matmul", dropout="16bit")],
)
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
@torch.no_grad()
def test_a_packed_example_of_a_long_row_is_read_as_if_it_were_alone(kind, use):
    length = LONG_ROW + 100
    model = small_model(kind, length).eval()
    ids = torch.randint(2, 50, (1, length), generator=torch.Generator().manual_seed(0))
    sequence_ids = sequence_ids_of("packed", 1, length)
    position_ids = torch.cat([torch.arange(int((sequence_ids == n).sum())) for n in (1, 2, 3, 0)])
    alone = [model.base_model(ids[sequence_ids == n][None]).last_hidden_state for n in (1, 2, 3)]
    use(model)
    mask = packed_attention_mask(sequence_ids)
    assert mask.numel() == length  # no pairs
    packed = hidden_states(model, ids, mask, position_ids[None])
    for number, expected in enumerate(alone, start=1):
        torch.testing.assert_close(
            packed[sequence_ids == number][None], expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_long_rows_have_the_logits_and_gradients_of_plain_transformers(kind):
    length = LONG_ROW + 24
    plain = small_model(kind, length)
    ours = use_attention_and_dropout(copy.deepcopy(plain), "matmul", "16bit")
    ids = torch.randint(2, 50, (2, length), generator=torch.Generator().manual_seed(0))
    for sequence_ids in (None, sequence_ids_of("padded", 2, length)):
        padding = None if sequence_ids is None else sequence_ids
        expected = plain(ids, attention_mask=padding).logits
        hidden = hidden_states(ours, ids, packed_attention_mask(sequence_ids))
        logits = (ours.cls if kind == "bert" else lambda x: ours.decoder(ours.head(x)))(hidden)
        is_token = torch.ones_like(ids, dtype=torch.bool) if padding is None else padding > 0
        torch.testing.assert_close(logits[is_token], expected[is_token], rtol=1e-3, atol=1e-3)
        for model, scores in ((plain, expected), (ours, logits)):
            model.zero_grad()
            F.cross_entropy(scores[is_token], ids[is_token]).backward()
        for (name, weight), other in zip(ours.named_parameters(), plain.parameters()):
            if other.grad is not None:
                difference = (weight.grad - other.grad).abs().max()
                assert difference <= 1e-3 * other.grad.abs().max() + 1e-6, name


MEMORY = """
import torch
from helpers import peak_memory
from transformers import ModernBertConfig, ModernBertForMaskedLM
from mlm.models.cpu import use_attention_and_dropout
from mlm.models.encoders import hidden_states, packed_attention_mask
torch.set_num_threads(1)
special = dict.fromkeys(("cls_token_id", "bos_token_id", "sep_token_id", "eos_token_id"), 1)
model = ModernBertForMaskedLM(ModernBertConfig(
    vocab_size=50, hidden_size=64, num_attention_heads=1, intermediate_size=64, pad_token_id=0,
    num_hidden_layers=6, max_position_embeddings=8192, **special)).train()
ids = torch.randint(2, 50, (1, 4096))
if sys.argv[1] == "plain":
    hidden = model.base_model(ids).last_hidden_state
else:
    use_attention_and_dropout(model, "matmul", "16bit")
    sequence_ids = 1 + torch.arange(4096)[None] // 1500 if sys.argv[1] == "packed" else None
    hidden = hidden_states(model, ids, packed_attention_mask(sequence_ids))
hidden.sum().backward()
print(peak_memory())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("rows", ["full", "packed"])
def test_long_rows_take_less_memory_than_plain_transformers(rows):
    peak = {kind: json_output(start_python(MEMORY, kind)) for kind in (rows, "plain")}
    assert peak[rows] < peak["plain"]


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_the_operations_of_a_long_row_follow_from_shorter_rows(monkeypatch, kind):
    model = small_model(kind, 512)
    measured = flops_per_token(model, 512, 0.15)
    monkeypatch.setattr(long_rows, "LONG_ROW", 300)
    assert flops_per_token(model, 512, 0.15) == pytest.approx(measured, rel=1e-9)


def test_a_model_from_scratch_has_the_positions_that_max_len_needs(tokenizer):
    for max_len, positions in ((8, 512), (512, 512), (2000, 2000)):
        config = load_model("scratch:tiny", tokenizer, max_len).config
        assert config.max_position_embeddings == positions
    with refused("max_len", "65,536", "scratch:tiny"):
        load_model("scratch:tiny", tokenizer, 65_537)


@pytest.mark.parametrize("shared_keys", [False, True])
def test_a_bias_of_positions_and_shared_keys_are_those_of_transformers(shared_keys):
    """Kinds without an entry in ENCODERS may have them; the check before training has only short rows."""
    inputs = query, key, value = qkv(LONG_ROW)
    layer = SimpleNamespace(is_causal=False, num_key_value_groups=2 if shared_keys else 1)
    ids = sequence_ids_of("packed", 2, LONG_ROW)[:, None, None]
    bias = {} if shared_keys else {"position_bias": torch.randn(1, 2, LONG_ROW, LONG_ROW)}
    if shared_keys:
        key, value = key[:, :1], value[:, :1]
    output, _ = long_attention(layer, query, key, value, ids, scaling=0.3, **bias)
    expected, _ = sdpa_attention_forward(
        layer, query, key, value, dense_mask(ids), 0.0, 0.3, **bias
    )
    assert_same_with_gradients(output, expected, inputs)


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind != "deberta-v2"])
def test_no_mask_is_made_while_a_cuda_graph_is_recorded(monkeypatch, tokenizer, kind):
    """transformers 5.17 made masks of ones. DeBERTa computes its own attention."""
    model = use_attention_and_dropout(make_model(kind, tokenizer), "sdpa", "torch")
    ids = torch.randint(5, len(tokenizer), (2, 16))
    masks = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, *more, **options):
        masks.append(attn_mask)
        return attention(query, key, value, attn_mask, *more, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    expected = hidden_states(model, ids)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert torch.equal(hidden_states(model, ids), expected)
    windows = getattr(model.config, "layer_types", []).count("sliding_attention")
    assert masks and sum(mask is not None for mask in masks) == 2 * windows
