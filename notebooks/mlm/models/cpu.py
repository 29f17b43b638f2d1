"""Four optimizations for CPUs: reused memory, float32 products by oneDNN, cheap dropout, plain attention.

None of them changes a weight or its name. 06 measures each one.
"""

import ctypes
import sys
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from mlm.models.long_rows import is_long, long_attention

precisions_before: list[str] = []  # torch's setting, while `onednn_float32` has changed it

# 1. Memory and 2. float32 products: settings of the process.


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


def onednn_float32() -> bool:
    """Let oneDNN compute float32 matrix products if it keeps their precision; returns whether it does.

    torch uses oneDNN with the setting "medium", which also permits it to round to bfloat16. Processors
    with AMX do round. There the setting is undone. `reset_float32` undoes it, too.
    """
    if not precisions_before:
        precisions_before.append(torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("medium")
    rows, columns = torch.randn(2, 256, 1024, generator=torch.Generator().manual_seed(0))
    exact = rows.double() @ columns.double().T
    is_rounded = bool((rows @ columns.T - exact).abs().max() > 1e-3)  # about 0.1 in bfloat16
    if is_rounded:
        torch.set_float32_matmul_precision("highest")
    return not is_rounded


def reset_float32() -> None:
    """Undo `onednn_float32`, if it was called: on a GPU, "medium" would round float32 products."""
    if precisions_before:
        torch.set_float32_matmul_precision(precisions_before.pop())


# 3. Dropout and 4. attention: parts of the model.


def fast_dropout(x: torch.Tensor, p: float, training: bool = True) -> torch.Tensor:
    """Dropout that needs 16 random bits per element; p is accurate to 1/65,536.

    torch's dropout draws a Bernoulli number per element, which takes a tenth of a training step on a CPU.
    """
    if not training or p == 0:
        return x
    if (
        torch.compiler.is_compiling()
    ):  # Inductor fuses torch's dropout but cannot use `random_` below
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
    and None. For BERT's lengths this is several times faster on a CPU than torch's fused kernels. Long rows
    are left to `long_attention`: their scores would fill the memory.
    """
    if is_long(query.shape[2]):
        return long_attention(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scores = torch.matmul(query * scaling, key.transpose(2, 3))  # (B, heads, T, T)
    if attention_mask is not None:
        bias = torch.zeros_like(attention_mask, dtype=scores.dtype)
        scores = scores + bias.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    weights = fast_dropout(F.softmax(scores, dim=-1), dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


AttentionInterface.register("matmul", matmul_attention)
AttentionMaskInterface.register("matmul", sdpa_mask)

# The attention implementations that keep packed examples apart, given a (B, 1, T, T) bool mask. A test
# checks each of them. CPUs use "matmul", other devices "sdpa". Not in the list: transformers' "eager" and
# "flex_attention" add the mask's 0 and 1 to the scores. Flash attention and torch's varlen_attn need a GPU.
PACKED_ATTENTION = "matmul", "sdpa"


def use_fast_kernels(model: Any) -> Any:
    """Switch a model to the dropout and the attention of this module; returns the model.

    A model that computes its own attention (DeBERTa) keeps it.
    """
    if model._supports_attention_backend:
        model.set_attn_implementation("matmul")
    for module in model.modules():
        if type(module) is torch.nn.Dropout:
            module.__class__ = FastDropout
    return model


def use_default_kernels(model: Any) -> None:
    """Undo `use_fast_kernels`: back to the dropout of torch and the default attention of transformers."""
    if model._supports_attention_backend:
        model.set_attn_implementation("sdpa")
    for module in model.modules():
        if type(module) is FastDropout:
            module.__class__ = torch.nn.Dropout


def tune_for_cpu(model: Any) -> Any:
    """Apply all four optimizations to this process and a model; prints which; returns the model."""
    memory = "is reused" if keep_freed_memory() else "is returned to the system (no glibc)"
    products = "by oneDNN" if onednn_float32() else "by torch's default library"
    attention = "plain" if model._supports_attention_backend else "the model's own"
    print(
        f"CPU kernels: freed memory {memory}, float32 products {products}, "
        f"{attention} attention, 16-bit dropout"
    )
    return use_fast_kernels(model)


def undo_cpu_tuning(model: Any) -> None:
    """Undo what `tune_for_cpu` has done to this process and a model, except for the memory."""
    reset_float32()
    if any(type(module) is FastDropout for module in model.modules()) or (
        model.config._attn_implementation == "matmul"
    ):
        use_default_kernels(model)
