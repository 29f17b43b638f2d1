"""A trained model.

load                 find a run, verify it, load its three copies of the weights
predict              fill in masked words, score sentences
validation_examples  predictions on masked validation lines
task                 texts -> vectors -> classes, with a frozen and with a fine-tuned encoder
export               the model as ONNX
upload               the model on the Hugging Face Hub
"""
