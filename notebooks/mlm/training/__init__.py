"""A run: train, evaluate, log, checkpoint, resume, write the results.

module          MaskedLM, the LightningModule
evaluation      validation loss and accuracy, the unigram baseline
datamodule      MaskedLMData, the LightningDataModule
seeded_dropout  dropout that a resumed run repeats exactly
history         the rows of metrics of a run: best row, early stopping, metrics.csv
progress        what is shown during training: a bar and a curve, or lines
logging         the callback that logs and evaluates
failures        an error or an interrupt reaches every process
checkpoint      checkpoints: atomic, verified, the previous one kept
lock            one process at a time trains in a run's folder
run             a run's folder: open, train, resume
verdict         what the losses of a run mean, in one sentence
model_card      the model card
results         the saved model and run.json
"""
