"""Masked language modelling with BERT: the code that the notebooks share.

Text flows through the files in this order, and none imports one that comes after it:

notebook    one-line errors; what is missing is installed
parameters  every setting of the notebooks, described once; their check
host        Colab, Kaggle, a TPU VM or none; versions; a TPU host's torch and torch_xla
hardware    what this machine has -> arguments of Trainer; several TPU cores
corpus      a text: fetched, verified, read by lines, split
tokens      tokenizer, token ids on disk, MaskedLMDataset
masking     masks as a pure function of seed, epoch, example and position
batches     the order of an epoch, rows that are shared, MaskedBatches
model       a BertForMaskedLM from the Hub, from a folder or from scratch
kernels     what is fast on a CPU: memory, dropout, attention
training    MaskedLM for Lightning, optimizer, learning rate, held-out loss, baseline
progress    what a person sees while training: bar and curve, or lines
run         a run's folder: opened, resumed, kept, its faults
record      what is left of a run: weights twice, run.json
predict     load a run, fill in words, score sentences
speed       recipes for the same training, measured beside each other
limits      matrix products, and where time and memory go
pictures    the plots of more than a few lines
"""
