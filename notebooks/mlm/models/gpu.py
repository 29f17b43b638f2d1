"""Settings for GPUs: operations that always give the same bits."""

import os

import torch


def use_deterministic_operations() -> None:
    """Make torch choose operations that give the same bits each time they run on a GPU; prints a line.

    Without this, gradients of attention and of embeddings differ in their last bits from run to run,
    because their sums are added up in an order that changes; a resumed run could not be bit-exact. See
    https://docs.pytorch.org/docs/stable/notes/randomness.html. Call it before CUDA starts: cuBLAS reads the
    environment variable then.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would only cost time
    # cuDNN's attention with masks gives NaN for some lengths: https://github.com/pytorch/pytorch/issues/196678
    torch.backends.cuda.enable_cudnn_sdp(False)
    print("GPU kernels: deterministic ones, which a resumed run needs to have the same bits")
