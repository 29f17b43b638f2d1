"""The tenth training loss is NaN."""

from typing import Any

import torch
import torch.nn.functional as F

real = F.cross_entropy
training_losses = []


def cross_entropy(*args: Any, **kwargs: Any) -> torch.Tensor:
    loss = real(*args, **kwargs)
    if not torch.is_grad_enabled():
        return loss
    training_losses.append(loss.detach())
    return loss * (float("nan") if len(training_losses) == 10 else 1)


F.cross_entropy = cross_entropy
