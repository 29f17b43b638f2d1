"""Masked language modelling with BERT: the library that the notebooks share.

Each subpackage has one subject. Imports run in this order: no module imports one from a later line.

env         where a notebook runs: packages, files, devices, the Hugging Face Hub
data        a text: download, split, tokenize, mask, pack into batches
models      a masked language model: load it, run its encoder and head, make it fast
optim       the recipe: optimizer, learning rate, schedule
parameters  every parameter of the notebooks: name, type, default, range, meaning; the check
plots       figures
training    a run: train, evaluate, log, checkpoint, resume, write the results
inference   a trained model: load, predict, export, upload
benchmark   speed and learning compared with transformers.Trainer
"""
