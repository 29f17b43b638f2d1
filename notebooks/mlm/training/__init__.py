"""A run: train, evaluate, log, checkpoint, resume, write the results.

module               MaskedLM, the LightningModule
causes               the cause of an error in one line: memory, or the model or the data
strategies           Lightning's strategies for one GPU (a recorded step is replayed) and for TPU cores
evaluation           validation loss and accuracy, the unigram baseline
datamodule           MaskedLMData, the LightningDataModule
seeded_dropout       dropout that a resumed run repeats exactly
history              the rows of metrics of a run: best row, early stopping, metrics.csv
forecast             how long training takes: before it begins, and while it runs
progress             what is shown during training: a bar and a learning curve, or lines
logging              TrainingLogger, the callback that logs and evaluates
gradient_checkpointing  less memory for more time: whether a batch needs it
failures             an error in one process ends all of them; an interrupt reaches all of them
run_files            the files of a run: names, and whether they are as they were written
checkpoint           checkpoint files: atomic, verified, the previous one kept
lock                 one process at a time trains in a run's folder
settings             which settings make two runs the same run
tracking             the history of a run -> TensorBoard, Weights & Biases, MLflow, Trackio
run                  a run's folder: open, train, resume
config               the settings that the parameters leave open
checkpoint_callback  CheckpointingLogger, the callback that logs, evaluates and saves checkpoints
forgetting           what a pretrained model forgets: its loss on general text, before and after
verdict              what the losses of a run mean, and the cause if something went wrong
normal_loss          whether a loss is normal: what similar runs reached
model_card           the model card
results              the saved model and run.json
"""
