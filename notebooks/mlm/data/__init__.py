"""From a text to masked batches.

formats      text, CSV, JSON lines, parquet, Arrow, compressed or not -> documents -> lines
local_files  a path, a folder or a pattern -> files
download     nietzsche, pydoc, URLs and datasets of the Hub -> files
corpus       files -> train.txt and valid.txt
text_size    what to run for your text size, with measured results
tokenizer    the tokenizer of a model, or one learned from the text
token_ids    token ids of a text in memory-mapped files
dataset      MaskedLMDataset: lines or blocks as examples
vocabulary   frequent words that the vocabulary lacks, added as tokens
masking      masks as a pure function of seed, epoch, example and position
packing      which examples share a batch and a row, so that all batches have one shape
batches      MaskedBatches: examples, masked and laid out in rows
"""
