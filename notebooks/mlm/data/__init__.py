"""From a text to masked batches.

archives           compressed files, tar and zip archives -> streams of bytes
file_types         files that are not text: what they are
text_options       valid values of `encoding` and `documents`
encodings          streams of bytes -> lines, or which line fails and which encodings are likely
formats            plain text, CSV, JSON, parquet, Arrow, WikiExtractor's output -> documents -> lines
documents          what separates the documents of a text
layout             how a text is laid out in lines: hard-wrapped, for example
mixture            the weights of corpora that are mixed
local_files        a path, a folder or a pattern -> files
download           nietzsche, pydoc, URLs and datasets of the Hub -> files
split              lines -> train.txt and valid.txt; no line is in both
corpus             files -> a folder with train.txt, valid.txt and corpus.json
python_topics      passages of Python's manual with their classes, a task that needs no network
labelled           texts with labels: read, check, split into a training and a test part
text_size          suggested settings for your text size, with measured results
lengths            how many tokens a model from scratch can read
normalization      how text is normalized and split into words for a learned vocabulary
word_counts        the letters of a text, and its words with their counts
vocabulary_names   the values of the parameter `vocabulary`
vocabulary_choice  which vocabulary fits a text, and why
vocabulary_learning  WordPiece, BPE and Unigram vocabularies, learned from a text
tokenizer          the tokenizer of a model, or one learned from a text
tokenization       texts -> token ids and words, by a fast tokenizer or by several processes
token_ids          the token ids of a text, in memory-mapped files
token_frequencies  the unigram model: how frequent each token is
random_numbers     random numbers as a pure function of integer keys, with named purposes
epoch_examples     which examples an epoch has, with weights
unknown_text       how much of a text is [UNK], in characters
dataset            MaskedLMDataset: the lines or blocks of a text as examples
general            general text: lines to measure forgetting on, text to replay in training
vocabulary         frequent words of a text, added to the vocabulary
masking            which tokens are masked, and by what: a pure function of seed, epoch and example
packing            which examples share a batch and a row, so that all batches have the same shape
batches            MaskedBatches: masked examples in rows, the model's input
"""
