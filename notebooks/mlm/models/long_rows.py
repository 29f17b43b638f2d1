"""Attention for long rows, in memory that grows with their length, not with its square.

The scores of all pairs of tokens are never stored for rows of LONG_ROW or more tokens. Without a mask,
torch's fused attention already works like that. With a mask (or with dropout on a CPU), queries are processed
some at a time, and the backward pass computes their scores again. Layers with a local window (ModernBERT)
compute only the pairs of neighbouring blocks.

The mask of long rows is a tensor of sequence_ids, (B, 1, 1, T) int64: a token attends to the tokens with the
same number. `dense_mask` turns it into a (B, 1, T, T) bool mask.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

LONG_ROW = 1024  # tokens: from this length on, rows are long
SCORES_AT_ONCE = 2**24  # of all rows and heads: 64 MiB in float32
LONG_SDPA = "long_sdpa"  # torch's fused attention, and this module's for long rows
# Names of attention functions that take sequence_ids of long rows.
LONG_ATTENTION = LONG_SDPA, "matmul"


def is_long(num_tokens: int) -> bool:
    """Whether rows of this number of tokens are long."""
    return num_tokens >= LONG_ROW


def dense_mask(
    mask: torch.Tensor | None, start: int = 0, stop: int | None = None
) -> torch.Tensor | None:
    """The mask of all queries, or of those from `start` to `stop`: (B, 1, 1 or queries, T); None stays None.

    mask: sequence_ids (B, 1, 1, T) int64, for which the result is bool; or another mask (B, 1, 1 or T, T).
    """
    if mask is None:
        return None
    if mask.dtype == torch.long:
        return mask[..., start:stop].transpose(2, 3) == mask
    return mask if mask.shape[2] == 1 else mask[:, :, start:stop]


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    start: int,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """The attention of some queries of a row, from `start` on: (B, heads, queries, d)."""
    allowed = dense_mask(mask, start, start + query.shape[2])
    return F.scaled_dot_product_attention(query, key, value, allowed, dropout, scale=scaling)


def attention_in_parts(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Attention in which every token may see the whole row, some queries at a time: (B, heads, T, d)."""
    num_rows, heads, length, _ = query.shape
    at_once = max(16, SCORES_AT_ONCE // (num_rows * heads * length))
    parts = [
        checkpoint(
            attend, part, key, value, mask, number * at_once, dropout, scaling,
            use_reentrant=False, preserve_rng_state=dropout > 0,
        )
        for number, part in enumerate(query.split(at_once, dim=2))
    ]  # fmt: skip
    return torch.cat(parts, dim=2)


def windowed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    reach: int,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Attention to the `reach` tokens on each side: (B, heads, T, d).

    mask: sequence_ids (B, 1, 1, T). The row is cut into N blocks of S = 2 * reach queries; each block
    sees S + 2 * reach keys. The N blocks of each row become rows of their own.
    """
    num_rows, heads, length, size = query.shape
    block = max(16, 2 * reach)
    num_blocks = -(-length // block)
    after = num_blocks * block - length  # padding
    ids = mask[:, 0, 0]
    query_ids = F.pad(ids, (0, after), value=-1).unflatten(1, (num_blocks, block))
    key_ids = F.pad(ids, (reach, after + reach), value=-1).unfold(1, block + 2 * reach, block)
    first, second = torch.arange(block), torch.arange(block + 2 * reach)
    is_near = (first[:, None] + reach - second).abs() <= reach  # (S, S + 2 * reach)
    allowed = (query_ids[..., None] == key_ids[:, :, None]) & is_near.to(query.device)

    def key_blocks(x: torch.Tensor) -> torch.Tensor:
        blocks = F.pad(x, (0, 0, reach, after + reach)).unfold(2, block + 2 * reach, block)
        return blocks.permute(0, 2, 1, 4, 3).flatten(0, 1)  # (B * N, heads, S + 2 * reach, d)

    blocks = F.pad(query, (0, 0, 0, after)).unflatten(2, (num_blocks, block))
    output = F.scaled_dot_product_attention(
        blocks.transpose(1, 2).flatten(0, 1),
        key_blocks(key),
        key_blocks(value),
        allowed.flatten(0, 1)[:, None],
        dropout,
        scale=scaling,
    )
    output = output.unflatten(0, (num_rows, num_blocks)).transpose(1, 2)
    return output.reshape(num_rows, heads, -1, size)[:, :, :length]


def long_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for long rows, in the form that transformers expects of attention functions.

    query, key, value: (B, heads, T, d). attention_mask: sequence_ids (B, 1, 1, T), or a mask of transformers,
    which already includes the window of a local layer. sliding_window: given by ModernBERT's local layers.
    Returns (B, T, heads, d) and None. With a bias of positions, or if heads share keys, it is transformers' "sdpa".
    """
    has_ids = attention_mask is not None and attention_mask.dtype == torch.long
    if kwargs.get("position_bias") is not None or query.shape[1] != key.shape[1]:
        return sdpa_attention_forward(
            module, query, key, value, dense_mask(attention_mask), dropout, scaling, **kwargs
        )
    if sliding_window is not None and has_ids:
        reach = module.config.sliding_window
        output = windowed_attention(query, key, value, attention_mask, reach, dropout, scaling)
    elif attention_mask is None and (dropout == 0 or query.device.type != "cpu"):
        output = F.scaled_dot_product_attention(query, key, value, None, dropout, scale=scaling)
    else:  # torch's fused attention for CPUs has no dropout
        output = attention_in_parts(query, key, value, attention_mask, dropout, scaling)
    return output.transpose(1, 2).contiguous(), None


def long_sdpa(
    module: torch.nn.Module, query: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """`long_attention` for long rows, transformers' "sdpa" for others."""
    attention = long_attention if is_long(query.shape[2]) else sdpa_attention_forward
    return attention(module, query, *args, **kwargs)


def needed_mask(
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_bidirectional_skip: bool = False,
    **options: Any,
) -> torch.Tensor | None:
    """transformers' mask for "sdpa", in the form that it expects; None if every token may attend to every token.

    Up to 5.17 at least, transformers makes a mask of ones then, if torch compiles the model or records a CUDA
    graph. With it, a step of 128 blocks of 512 tokens took 2.4 times as long on an H200.
    """
    is_wide = local_size is None or kv_length < local_size
    if attention_mask is None and allow_is_bidirectional_skip and is_wide:
        return None
    return sdpa_mask(
        kv_length=kv_length, attention_mask=attention_mask, local_size=local_size,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip, **options,
    )  # fmt: skip


AttentionInterface.register(LONG_SDPA, long_sdpa)
AttentionMaskInterface.register(LONG_SDPA, needed_mask)


def use_long_attention(model: Any) -> None:
    """Let a model compute long rows in little memory; one that computes its own attention keeps it."""
    if model._supports_attention_backend:
        model.set_attn_implementation(LONG_SDPA)
