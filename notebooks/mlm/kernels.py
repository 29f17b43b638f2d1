"""What is fast on a CPU: memory that is kept, float32 by oneDNN, cheap dropout, plain attention.

None of it changes a weight or a name; 06_speed measures each. And torch.compile, where it pays.
"""

import ctypes
import importlib.util
import os
import shutil
import sys

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from .notebook import NotebookError


def steady_memory():
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
ATTENTION = "matmul", "sdpa"


def fast_on_cpu(bert):
    """Give a model the dropout and attention that are fast on a CPU; no weight or name changes.

    A model whose attention is not one of transformers' own keeps it: DeBERTa.
    """
    if bert._supports_attention_backend:
        bert.set_attn_implementation("matmul")
    for module in bert.modules():
        if type(module) is torch.nn.Dropout:
            module.__class__ = FastDropout
    return bert


def plain_again(bert):
    """Undo `fast_on_cpu`: torch's own dropout, and transformers' own attention where there is a choice."""
    if bert._supports_attention_backend:
        bert.set_attn_implementation("sdpa")
    for module in bert.modules():
        if type(module) is FastDropout:
            module.__class__ = torch.nn.Dropout


def tune_for_cpu(bert):
    """All of the above for a model that trains on this CPU; says which of it this machine obeys."""
    print(f"freed memory is kept: {steady_memory()}, float32 by oneDNN: {onednn_float32()}")
    return fast_on_cpu(bert)


# torch.compile

PAYS = 5000  # steps from which a GPU may win back what compiling takes: estimated, never measured


def cannot_compile(device):
    """Why torch.compile cannot be used on a device, in words; None where nothing speaks against it."""
    if device["kind"] == "tpu":
        return "XLA compiles the whole step already"
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
    if not any(map(shutil.which, compilers)):
        return "there is no C++ compiler here (g++ or clang++), which Inductor needs"
    if device["kind"] == "gpu" and not importlib.util.find_spec("triton"):
        return "Triton is not installed, which Inductor needs on a GPU"
    if device["kind"] == "gpu" and device["card"][2][0] < 7:
        return f"Triton, which Inductor needs, knows no card as old as the {device['card'][0]}"
    return None


def choose_compile(asked, device, total_steps):
    """(whether to compile, why); `asked` is "auto", True or False, `device` that of `trainer_arguments`.

    Raises NotebookError where it is asked for and cannot be.
    """
    why_not = cannot_compile(device)
    if asked is True and why_not:
        raise NotebookError(f'compile=True is impossible: {why_not}; pass "auto" or False')
    if asked != "auto":
        return asked, "as asked"
    if device["kind"] == "cpu":
        return False, "on a CPU it takes minutes and gains a twentieth, as measured"
    if why_not or total_steps >= PAYS:
        return not why_not, why_not or f"{total_steps:,} steps are enough to win its minutes back"
    return False, f"fewer than {PAYS:,} steps hardly win back the minutes that it takes"


def compile_encoder(bert, asked, device, total_steps):
    """Compile the encoder of a model in place, where that was chosen; returns whether it was.

    No weight and no name changes. The LightningModule around it stays as it is: in a compiled one
    `self.log` fails (Lightning#21836). Each shape of a batch is compiled once for training and once
    for measuring. What was compiled in this process before is forgotten.
    """
    chosen, why = choose_compile(asked, device, total_steps)
    print(f"the encoder is {'' if chosen else 'not '}compiled: {why}")
    if chosen:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        bert.base_model.compile(dynamic=False)
    return chosen


def compile_counts():
    """How many graphs torch.compile has made of the encoder, and how often it had to break off."""
    counters = torch._dynamo.utils.counters
    return dict(
        graphs=counters["stats"]["unique_graphs"], breaks=sum(counters["graph_break"].values())
    )
