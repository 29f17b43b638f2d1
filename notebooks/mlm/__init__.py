"""Masked language modelling with BERT: the code that the notebooks share.

Text flows through the files in this order, and none imports one that comes after it:

notebook    one-line errors; what is missing is installed
files       files that are whole, and known to be as they were written
parameters  every setting of the notebooks, described once; their check
host        where a notebook runs; a TPU machine made ready
hardware    what this machine has -> arguments of Trainer; several TPU cores
hub         what a model's name stands for: a folder, or a masked language model on the Hub
documents   files become documents, and documents lines
own         files of your own: a path, a folder, a pattern
fetch       a text fetched: of the web, of the Hub, of Python
corpus      a text split: lines to learn from, lines held out
advice      what fits a text of which size
tokens      tokenizer, token ids on disk, MaskedLMDataset
words       words that a vocabulary breaks; a token of their own
masking     masks as a pure function of seed, epoch, example and position
plan        which examples meet, and who shares a row: all batches of one shape
batches     MaskedBatches: examples masked and laid out as planned
boxes       pictures of masks, rows and attention, every token a box
heads       each kind of model: its encoder, its head on some positions
model       a masked language model from the Hub, from a folder or from scratch
kernels     what is fast on a CPU: memory, dropout, attention; torch.compile where it pays
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
card        the card that goes with a model: from what, how, how good
record      what is left of a run: weights twice, run.json
predict     load a run, fill in words, score sentences
gaps        what models say of held-out lines
probe       what an encoder is good for besides: a linear probe
share       a model handed on: as ONNX, by the Hub
speed       recipes side by side, one saving at a time
race        recipes raced to a loss, against seconds
limits      the machine's limit, the pieces of a step, how they grow
"""
