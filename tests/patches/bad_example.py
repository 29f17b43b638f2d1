"""An example raises in one of the forked processes."""

import torch

from mlm.data.dataset import MaskedLMDataset

real = MaskedLMDataset.__getitem__


def getitem(self, index):
    if torch.multiprocessing.parent_process() and index == 7:
        raise ValueError("bad example 7")
    return real(self, index)


MaskedLMDataset.__getitem__ = getitem
