"""The tenth call of `training_step` finds no memory."""

import sys
from typing import Any

import torch
import torch.nn.functional as F

real = F.cross_entropy
calls = []


def cross_entropy(*args: Any, **kwargs: Any) -> torch.Tensor:
    if sys._getframe(1).f_code.co_name == "training_step":  # the forecast makes steps, too
        calls.append(1)
        if len(calls) == 10:
            raise MemoryError
    return real(*args, **kwargs)


F.cross_entropy = cross_entropy
