"""How weights are updated.

schedule   the learning-rate schedules: a table of functions
muon       Muon for weight matrices, AdamW for all other weights
optimizer  parameter groups, optimizer and learning-rate scheduler for a model
recipe     batch size, optimizer, learning rate, masking rate: chosen for a model, with reasons
"""
