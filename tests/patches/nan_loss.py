"""The tenth loss of `training_step` is NaN."""

import sys
from typing import Any

import torch
import torch.nn.functional as F

real = F.cross_entropy
training_losses = []


def cross_entropy(*args: Any, **kwargs: Any) -> torch.Tensor:
    loss = real(*args, **kwargs)
    if sys._getframe(1).f_code.co_name != "training_step":  # the forecast makes steps, too
        return loss
    training_losses.append(loss.detach())
    return loss * (float("nan") if len(training_losses) == 10 else 1)


F.cross_entropy = cross_entropy
