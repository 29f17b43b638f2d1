"""A trained model.

load                 find a run, verify it, load its three copies of the weights
mask_token           [MASK] in a sentence -> the tokenizer's own mask token
predict              fill in masked words, score sentences
generation           fill in several masks step by step
validation_set       the validation set of a run, and whether a rebuilt model has the stored loss
validation_examples  predictions on masked validation lines
accuracy             accuracy by how frequent a token is
sentences            sentences to try a model with, from its run's validation set
widget               examples for the model's page on the Hub
vectors              texts -> vectors, nearest texts, files for sentence-transformers
task                 texts -> vectors -> classes, with a frozen and with a fine-tuned encoder
export               the model as ONNX
quantize             the same with weights of 8 bits, and what that costs
npm_packages         the JavaScript libraries of the browser page
browser_tokenizer    the tokenizer for the browser page, with the same ids
page_template        HTML and script of the browser page
page                 write the browser page
upload               the model on the Hugging Face Hub
"""
