"""What is fast on a CPU: memory that is kept, float32 by oneDNN, cheap dropout, plain attention.

None of it changes a weight or a name; 06_speed measures each. And torch.compile, where it pays.
"""

import ctypes
import sys

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask


def keep_freed_memory():
    """Ask glibc to keep freed memory instead of returning it: else each step pays for it anew.

    Returns whether it obeyed (Linux with glibc does). See mallopt(3).
    """
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(libc, "mallopt"):
        return False
    trim_threshold, mmap_max = -1, -4  # their numbers in malloc.h
    return bool(libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, -1))


def onednn_float32():
    """Let oneDNN multiply float32 matrices, where it does so in float32; returns whether it does.

    "medium" allows it to round to bfloat16 inside; only processors with AMX do, and there it is undone.
    """
    torch.set_float32_matmul_precision("medium")
    rows, columns = torch.randn(2, 256, 1024, generator=torch.Generator().manual_seed(0))
    exact = rows.double() @ columns.double().T
    rounded = bool((rows @ columns.T - exact).abs().max() > 1e-3)  # bfloat16 inside: about 0.1
    if rounded:
        torch.set_float32_matmul_precision("highest")
    return not rounded


def fast_dropout(x, p, training=True):
    """Dropout from 16 random bits an element; p is kept to 1 in 65,536.

    torch draws a Bernoulli number an element on the CPU, which costs a tenth of a training step.
    """
    if not training or p == 0:
        return x
    if torch.compiler.is_compiling():  # Inductor fuses torch's own, and cannot draw words in place
        return F.dropout(x, p)
    n, cut = x.numel(), min(round(p * 2**16), 2**16 - 1)
    words = torch.empty(-(-n // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    keep = torch.empty(n, dtype=x.dtype, device=x.device)
    torch.ge(words.view(torch.int16)[:n], cut - 2**15, out=keep)
    return x * keep.view(x.shape) * (2**16 / (2**16 - cut))


class FastDropout(torch.nn.Dropout):
    """torch.nn.Dropout by `fast_dropout`."""

    def forward(self, x):
        return fast_dropout(x, self.p, self.training)


def matmul_attention(module, q, k, v, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """softmax(q k') v as two matrix products; q, k, v (B, heads, T, d), mask None or bool (B, 1, T, T).

    At BERT's lengths they are several times faster on a CPU than the fused kernels of torch.
    """
    scores = torch.matmul(q * scaling, k.transpose(2, 3))  # (B, heads, T, T)
    if attention_mask is not None:
        hidden = torch.zeros_like(attention_mask, dtype=scores.dtype)
        scores = scores + hidden.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    weights = fast_dropout(F.softmax(scores, dim=-1), dropout, module.training)
    return torch.matmul(weights, v).transpose(1, 2).contiguous(), None  # (B, T, heads, d)


AttentionInterface.register("matmul", matmul_attention)
AttentionMaskInterface.register("matmul", sdpa_mask)
# Those that keep packed examples apart by a 4-dimensional bool mask, each held to it by a test. Not
# transformers' "eager" and "flex_attention", which add the mask's 0 and 1 to the scores; not flash
# attention and torch's varlen_attn, which need a GPU to be tried. A CPU takes the first, others "sdpa".
PACKED_ATTENTION = "matmul", "sdpa"


def use_fast_kernels(bert):
    """Give a model the dropout and attention that are fast on a CPU; no weight or name changes.

    A model whose attention is not one of transformers' own keeps it: DeBERTa.
    """
    if bert._supports_attention_backend:
        bert.set_attn_implementation("matmul")
    for module in bert.modules():
        if type(module) is torch.nn.Dropout:
            module.__class__ = FastDropout
    return bert


def use_default_kernels(bert):
    """Undo `use_fast_kernels`: torch's own dropout, and transformers' own attention where there is a choice."""
    if bert._supports_attention_backend:
        bert.set_attn_implementation("sdpa")
    for module in bert.modules():
        if type(module) is FastDropout:
            module.__class__ = torch.nn.Dropout


def tune_for_cpu(bert):
    """All of the above for a model that trains on this CPU; says which of it this machine obeys."""
    print(f"freed memory is kept: {keep_freed_memory()}, float32 by oneDNN: {onednn_float32()}")
    return use_fast_kernels(bert)


# torch.compile
