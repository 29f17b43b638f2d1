"""A forked process is killed when it reads an example, as by the kernel of a full memory."""

import os
import signal
from typing import Any

import numpy as np
import torch

from mlm.data import batches

real = batches.padded_examples


def padded_examples(dataset: Any, indices: np.ndarray) -> Any:
    if torch.multiprocessing.parent_process() and 7 in indices:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(dataset, indices)


batches.padded_examples = padded_examples
