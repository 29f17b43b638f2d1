"""Parameter groups, optimizer and learning-rate scheduler for a MaskedLM."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from mlm.optim.muon import MuonAdamW
from mlm.optim.schedule import SCHEDULES

MUON_LR = 5.0  # Muon's learning rate relative to AdamW's


# Several matrices in one: the queries, keys and values, or the two inputs of a gated feed-forward layer.
# {name of a linear layer in ModernBERT: number of matrices, one below the other}
FUSED = {"Wqkv": 3, "Wi": 2}


def head_size(config: Any) -> int:
    """Hidden units of an attention head; 0 where the configuration does not tell."""
    hidden, heads = getattr(config, "hidden_size", 0), getattr(config, "num_attention_heads", 0)
    return hidden // heads if heads else 0


def hidden_matrices(module: Any) -> dict[int, int]:
    """{id of a weight: the number of blocks of rows in it} for the matrices between hidden states.

    They are the weights of all linear layers except the decoder. A block has as many rows as an attention
    head, so Muon orthogonalizes the queries, keys and values of each head by themselves. A matrix whose rows
    cannot be divided in this way is one block.
    """
    decoder = module.bert.get_output_embeddings()
    size = head_size(module.bert.config.get_text_config())
    blocks = {}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and layer is not decoder:
            matrices = FUSED.get(name.rpartition(".")[2], 1)
            rows = len(layer.weight) // matrices
            blocks[id(layer.weight)] = matrices * (rows // size if size and rows % size == 0 else 1)
    return blocks


# {name: a function of the MaskedLM that selects the weights for Muon}; AdamW updates the rest.
OPTIMIZERS: dict[str, Callable[[Any], dict[int, int]]] = {
    "adamw": lambda module: {},
    "muon": hidden_matrices,
}


def make_optimizer(
    module: Any,
    optimizer: str,
    lr: float,
    weight_decay: float,
    schedule: str,
    total_steps: int,
    clip: float = 0.0,
) -> tuple[MuonAdamW, Any]:
    """(optimizer, learning-rate scheduler) for a MaskedLM.

    optimizer: a name in OPTIMIZERS. schedule: a name in SCHEDULES. lr: AdamW's peak learning rate; Muon's
    is MUON_LR times as large. clip: the maximum norm of all gradients together, 0 = no clipping.
    Biases and LayerNorm have no weight decay, as is usual for BERT (Devlin et al. 2018). AdamW is fused
    where torch supports it: one pass over all weights. Raises KeyError for an unknown name.
    """
    parts = OPTIMIZERS[optimizer](module)
    weights = list(module.parameters())
    muon_weights = [weight for weight in weights if id(weight) in parts]
    adamw_weights = [weight for weight in weights if id(weight) not in parts]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in adamw_weights if weight.ndim > 1]},
        {"params": [weight for weight in adamw_weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    if muon_weights:
        numbers = [parts[id(weight)] for weight in muon_weights]
        groups.append({"params": muon_weights, "muon": True, "parts": numbers, "lr": MUON_LR * lr})
    is_fused = weights[0].device.type in ("cpu", "cuda")
    result = MuonAdamW(groups, lr=lr, weight_decay=weight_decay, fused=is_fused)
    result.max_norm = clip
    lr_factor = partial(SCHEDULES[schedule], total_steps=total_steps)
    return result, torch.optim.lr_scheduler.LambdaLR(result, lr_factor)
