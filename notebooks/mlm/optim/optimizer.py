"""Parameter groups, optimizer and schedule for a MaskedLM."""

from functools import partial

import torch

from mlm.optim.muon import MuonAdamW
from mlm.optim.schedule import lr_factor

MUON_LR = 5.0  # times AdamW's: Muon's own learning rate, since it moves whole matrices


def hidden_matrices(module):
    """The matrices of a MaskedLM that turn hidden states into hidden states: all but the last layer's."""
    linear = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
    decoder = module.bert.get_output_embeddings()
    return {id(part.weight) for part in linear if part is not decoder}


def make_optimizer(module, optimizer, lr, weight_decay, schedule, total_steps, clip=0.0):
    """(optimizer, its schedule) for a MaskedLM. `optimizer`: "adamw" or "muon".

    As usual for BERT, biases and LayerNorm do not decay (Devlin et al.'s code); in the tutorial all
    did. AdamW is fused, one pass over the weights, where torch has it. Muon takes the matrices
    between hidden states, AdamW the rest: embeddings, vectors. `clip` is the largest norm of the gradient.
    """
    weights = list(module.parameters())
    hidden = hidden_matrices(module) if optimizer == "muon" else ()
    muons = [weight for weight in weights if id(weight) in hidden]
    others = [weight for weight in weights if id(weight) not in hidden]
    groups = [
        {"params": [w for w in others if w.ndim > 1]},
        {"params": [w for w in others if w.ndim == 1], "weight_decay": 0.0},
    ]
    if muons:
        groups.append({"params": muons, "muon": True, "lr": MUON_LR * lr})
    fused = weights[0].device.type in ("cpu", "cuda")
    made = MuonAdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused)
    made.clip = clip
    factor = partial(lr_factor, total_steps=total_steps, schedule=schedule)
    return made, torch.optim.lr_scheduler.LambdaLR(made, factor)
