"""How weights are updated.

schedule   the learning-rate schedules
muon       Muon for weight matrices, AdamW for everything else
optimizer  parameter groups, optimizer and schedule for a model
recipe     batch size, optimizer, learning rate, masking rate: chosen for a model and a device
"""
