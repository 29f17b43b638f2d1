"""The names of the kernels that a run on a CPU can use. This module imports no torch.

KERNELS lists all combinations, as "products-attention-dropout". The first one is what plain torch and
transformers use.
"""

from itertools import product

KERNEL_PRODUCTS = "default", "onednn"  # the library of float32 matrix products
KERNEL_ATTENTION = "sdpa", "matmul"  # torch's fused attention, or plain matrix products
KERNEL_DROPOUT = "torch", "16bit"  # torch's dropout, or one that needs 16 random bits per element

KERNELS = tuple(map("-".join, product(KERNEL_PRODUCTS, KERNEL_ATTENTION, KERNEL_DROPOUT)))
EARLIER_KERNELS = "onednn-matmul-16bit"  # of runs that began before kernels were timed
