"""A trained model.

load                 find a run, verify it, load its three copies of the weights
predict              fill in masked words, score sentences
generation           fill in several masks step by step
validation_examples  predictions on masked validation lines
widget               examples for the model's page on the Hub
vectors              texts -> vectors, nearest texts, files for sentence-transformers
task                 texts -> vectors -> classes, with a frozen and with a fine-tuned encoder
export               the model as ONNX
upload               the model on the Hugging Face Hub
"""
