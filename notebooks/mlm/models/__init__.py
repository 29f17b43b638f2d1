"""A masked language model: load it, run it, make it fast.

sizes        hidden size and layers of the "scratch:" models
encoders     one entry for each kind of encoder: its head, its positions, its attention when packed
probe        ask a model: the lengths it accepts, the weights it uses, what it computes
loading      from the Hub, from a folder, or with random weights
cpu          four optimizations for CPUs: memory, float32 products, dropout, attention
compilation  torch.compile, if the run is long enough to benefit
preparation  a loaded model made ready for training: checked, CPU kernels, torch.compile
flops        floating-point operations per token, and how many a device can do per second
"""
