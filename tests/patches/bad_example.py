"""Reading an example raises an error in a forked process."""

import torch

from mlm.data.dataset import MaskedLMDataset

real = MaskedLMDataset.__getitem__


def getitem(self: MaskedLMDataset, index: int) -> torch.Tensor:
    if torch.multiprocessing.parent_process() and index == 7:
        raise ValueError("bad example 7")
    return real(self, index)


MaskedLMDataset.__getitem__ = getitem
