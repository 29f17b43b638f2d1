"""A masked language model: load it, run it, make it fast.

sizes        hidden size and layers of the "scratch:" models
encoders     one entry for each kind of encoder: its head, its positions, whether it can be packed
loading      from the Hub, from a folder, or with random weights
cpu          kernels that are fast on a CPU: memory, dropout, attention, float32 products
compilation  torch.compile, where it pays
flops        floating-point operations per token, and the most that a device can do
"""
