"""Kernels for CPUs: reused memory, the library of float32 products, attention, dropout.

None of them changes a weight or its name. 06 measures each one; `kernel_choice` chooses by timing.
"""

import ctypes
import sys
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from mlm.env.products import PRODUCTS, reset_float32
from mlm.models.long_rows import LONG_SDPA, is_long, long_attention, needed_mask

# Memory: a setting of the process.


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for reuse: otherwise every step requests it from the system again.

    Returns whether it worked, as on Linux with glibc. See mallopt(3).
    """
    is_linux = sys.platform.startswith("linux")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if is_linux else None
    if mallopt is None:
        return False
    trim_threshold, mmap_max = -1, -4  # the constants of malloc.h
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, -1))


# Dropout and attention: parts of the model.


def fast_dropout(x: torch.Tensor, p: float, training: bool = True) -> torch.Tensor:
    """Dropout that needs 16 random bits per element; p is accurate to 1/65,536.

    torch's dropout draws a Bernoulli number per element, which takes a tenth of a training step on a CPU.
    """
    if not training or p == 0:
        return x
    if torch.compiler.is_compiling():  # Inductor fuses torch's dropout, and has no `random_`
        return F.dropout(x, p)
    n, cut = x.numel(), min(round(p * 2**16), 2**16 - 1)
    bits = torch.empty(-(-n // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    keep = torch.empty(n, dtype=x.dtype, device=x.device)
    torch.ge(bits.view(torch.int16)[:n], cut - 2**15, out=keep)
    return x * keep.view(x.shape) * (2**16 / (2**16 - cut))


class FastDropout(torch.nn.Dropout):
    """torch.nn.Dropout, computed by `fast_dropout`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fast_dropout(x, self.p, self.training)


def matmul_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as two matrix products, in the form that transformers expects of attention functions.

    query, key, value: (B, heads, T, d). attention_mask: bool (B, 1, T, T), or None. Returns (B, T, heads, d)
    and None. For BERT's lengths this is faster on some CPUs than torch's fused kernels. Long rows are left to
    `long_attention`, because their scores would fill the memory, and so are heads that share keys and values.
    """
    if is_long(query.shape[2]) or query.shape[1] != key.shape[1]:
        return long_attention(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scores = torch.matmul(query * scaling, key.transpose(2, 3))  # (B, heads, T, T)
    if attention_mask is not None:
        bias = torch.zeros_like(attention_mask, dtype=scores.dtype)
        scores = scores + bias.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    weights = fast_dropout(F.softmax(scores, dim=-1), dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


AttentionInterface.register("matmul", matmul_attention)
AttentionMaskInterface.register("matmul", needed_mask)

# The attention implementations that keep packed examples apart, given a (B, 1, T, T) bool mask. A test
# checks each of them. GPUs and TPUs use "sdpa", CPUs the faster one. Not in the list: transformers' "eager" and
# "flex_attention" add the mask's 0 and 1 to the scores. Flash attention and torch's varlen_attn need a GPU.
PACKED_ATTENTION = "matmul", "sdpa"


# all of them

DROPOUT_CLASSES = {"torch": torch.nn.Dropout, "16bit": FastDropout}
WORDS = {  # for the line that is printed
    "default": "torch's default library",
    "onednn": "oneDNN",
    "sdpa": "fused",
    "matmul": "plain",
    "torch": "torch's",
    "16bit": "16-bit",
}


def use_attention_and_dropout(model: Any, attention: str, dropout: str) -> Any:
    """Switch a model to an attention in PACKED_ATTENTION and a dropout; returns the model.

    dropout: a name in DROPOUT_CLASSES. A model that computes its own attention (DeBERTa) keeps it.
    """
    if model._supports_attention_backend:
        model.set_attn_implementation(LONG_SDPA if attention == "sdpa" else attention)
    for module in model.modules():
        if type(module) in DROPOUT_CLASSES.values():
            module.__class__ = DROPOUT_CLASSES[dropout]
    return model


def use_kernels(model: Any, kernels: str) -> Any:
    """Use kernels, a name in KERNELS, for this process and a model; prints which; returns the model.

    Freed memory is reused in any case. Where oneDNN would round float32, torch's default library is used.
    """
    products, attention, dropout = kernels.split("-")
    memory = "is reused" if keep_freed_memory() else "is returned to the system (no glibc)"
    if not PRODUCTS[products]():
        products = "default"
    own = "" if model._supports_attention_backend else "the model's own"
    print(
        f"CPU kernels: freed memory {memory}, float32 products by {WORDS[products]}, "
        f"{own or WORDS[attention]} attention, {WORDS[dropout]} dropout"
    )
    return use_attention_and_dropout(model, attention, dropout)


def undo_kernels(model: Any) -> None:
    """Undo what `use_kernels` has done to this process and a model, except for the memory."""
    reset_float32()
    if any(type(module) is FastDropout for module in model.modules()) or (
        model.config._attn_implementation == "matmul"
    ):
        use_attention_and_dropout(model, "sdpa", "torch")
