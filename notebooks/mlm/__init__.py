"""Masked language modelling with BERT: the code that the notebooks share.

Text flows through the files in this order, and none imports one that comes after it:

notebook    one-line errors; what is missing is installed
files       files that are whole, and known to be as they were written
parameters  every setting of the notebooks, described once; their check
host        where a notebook runs; a TPU machine made ready
hardware    what this machine has -> arguments of Trainer; several TPU cores
corpus      a text: fetched, verified, read by lines, split
advice      what fits a text of which size
hub         what a model's name stands for: a folder, or a BERT on the Hub
tokens      tokenizer, token ids on disk, MaskedLMDataset
masking     masks as a pure function of seed, epoch, example and position
batches     the order of an epoch, rows that are shared, MaskedBatches
boxes       pictures of masks, rows and attention, every token a box
model       a BertForMaskedLM from the Hub, from a folder or from scratch
kernels     what is fast on a CPU: memory, dropout, attention
compiled    torch.compile of the encoder: where it pays, how often it compiled
peak        how near the limit: a token's operations, the device's most
muon        Muon for weight matrices, AdamW for the rest
optimizer   the recipe that fits a model: optimizer, learning rate, schedule, masks
training    MaskedLM for Lightning, its data, held-out loss, baseline
pictures    all other plots of more than a few lines
progress    what a person sees while training: bar and curve, or lines
journal     what is written down while training: losses, speed, held-out figures
faults      an error or a wish to stop reaches every process
checkpoint  those of a run: whole, and known to be as they were written
claim       one run, one trainer
run         a run's folder: opened, trained in, resumed
record      what is left of a run: weights twice, run.json
predict     load a run, fill in words, score sentences
gaps        what models say of held-out lines
speed       recipes side by side, one saving at a time
race        recipes raced to a loss, against seconds
limits      the machine's limit, the pieces of a step, how they grow
"""
