"""The tenth training loss is not a number."""

import torch
import torch.nn.functional as F

real, calls = F.cross_entropy, []


def cross_entropy(*args, **kwargs):
    loss = real(*args, **kwargs)
    if not torch.is_grad_enabled():
        return loss
    calls.append(loss)
    return loss * (float("nan") if len(calls) == 10 else 1)


F.cross_entropy = cross_entropy
