"""Parameter groups, optimizer and learning-rate scheduler for a MaskedLM."""

from functools import partial
from typing import Any

import torch

from mlm.optim.muon import MuonAdamW
from mlm.optim.schedule import SCHEDULES

MUON_LR = 5.0  # Muon's learning rate relative to AdamW's: it updates matrices as a whole


def no_matrices(module: Any) -> set[int]:
    """No weights: AdamW updates everything."""
    return set()


def hidden_matrices(module: Any) -> set[int]:
    """The ids of the matrices between hidden states: all linear layers except the decoder."""
    decoder = module.bert.get_output_embeddings()
    linear = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    return {id(layer.weight) for layer in linear if layer is not decoder}


# Several matrices in one: the queries, keys and values, or the two inputs of a gated feed-forward layer.
FUSED = {
    "Wqkv": 3,
    "Wi": 2,
}  # {name of a linear layer in ModernBERT: number of matrices, one below the other}


def fused_matrices(module: Any) -> dict[int, int]:
    """{id of a weight: the number of matrices in it} for the linear layers in FUSED.

    Muon orthogonalizes each matrix by itself, as it does in BERT, where they are separate weights.
    """
    layers = [(name.rpartition(".")[2], layer) for name, layer in module.named_modules()]
    return {
        id(layer.weight): FUSED[name]
        for name, layer in layers
        if name in FUSED and isinstance(layer, torch.nn.Linear)
    }


OPTIMIZERS = {  # name: a function of the MaskedLM that selects the weights for Muon; AdamW updates the rest
    "adamw": no_matrices,
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
    muon_ids = OPTIMIZERS[optimizer](module)
    weights = list(module.parameters())
    muon_weights = [weight for weight in weights if id(weight) in muon_ids]
    adamw_weights = [weight for weight in weights if id(weight) not in muon_ids]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in adamw_weights if weight.ndim > 1]},
        {"params": [weight for weight in adamw_weights if weight.ndim == 1], "weight_decay": 0.0},
    ]
    if muon_weights:
        fused = fused_matrices(module)
        parts = [fused.get(id(weight), 1) for weight in muon_weights]
        groups.append({"params": muon_weights, "muon": True, "parts": parts, "lr": MUON_LR * lr})
    is_fused = weights[0].device.type in ("cpu", "cuda")
    result = MuonAdamW(groups, lr=lr, weight_decay=weight_decay, fused=is_fused)
    result.max_norm = clip
    lr_factor = partial(SCHEDULES[schedule], total_steps=total_steps)
    return result, torch.optim.lr_scheduler.LambdaLR(result, lr_factor)
