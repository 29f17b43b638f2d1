"""From a text to masked batches.

formats            plain text, CSV, JSON lines, parquet, Arrow, compressed or not -> documents -> lines
local_files        a path, a folder or a pattern -> files
download           nietzsche, pydoc, URLs and datasets of the Hub -> files
corpus             files -> train.txt and valid.txt
text_size          suggested settings for your text size, with measured results
normalization      how text is normalized and split into words for a learned vocabulary
word_counts        the letters of a text, and its words with their counts
vocabulary_names   the values of the parameter `vocabulary`
vocabulary_choice  which vocabulary fits a text, and why
vocabulary_learning  WordPiece, BPE and Unigram vocabularies, learned from a text
tokenizer          the tokenizer of a model, or one learned from a text
encoding           texts -> token ids and words, by a fast tokenizer or by several processes
token_ids          the token ids of a text, in memory-mapped files
token_frequencies  the unigram model: how frequent each token is
unknown_text       how much of a text is [UNK], in characters
dataset            MaskedLMDataset: the lines or blocks of a text as examples
vocabulary         frequent words of a text, added to the vocabulary
random_numbers     random numbers as a pure function of integer keys, with named purposes
masking            which tokens are masked, and by what: a pure function of seed, epoch and example
packing            which examples share a batch and a row, so that all batches have the same shape
batches            MaskedBatches: masked examples in rows, the model's input
"""
