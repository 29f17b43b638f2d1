"""A masked language model: load it, run it, make it fast.

long_rows    attention for rows of 1,024 tokens or more
encoders     one entry for each kind of encoder: its head, its positions, its attention when packed
probe        ask a model: the lengths it accepts, the weights it uses, what it computes
model_size   the number of weights by the config, and whether they fit into memory
configs      the config of a model: as saved, of a size, or fitted to another tokenizer
loading      from the Hub, from a folder, or with random weights
kernels      the names of the kernels for CPUs
cpu          kernels for CPUs: memory, float32 products, dropout, attention
kernel_choice  which of them are the fastest here, by timing
gpu          settings for GPUs: deterministic operations
compilation  torch.compile for the layers of the encoder, if the parameters ask for it
preparation  a loaded model made ready for training: checked, bias of a new head, kernels, torch.compile
flops        floating-point operations per token, and how many a device can do per second
"""
