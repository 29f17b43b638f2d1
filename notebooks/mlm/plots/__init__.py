"""Figures.

style        what the figures have in common
fonts        text of any script: installed fonts, or numbers in its place
token_boxes  masked batches, packed rows and attention masks, one box per token
corpus       line lengths, frequent words, the split of a text
training     the learning curve
task         accuracy on a task by the number of labels
predictions  probabilities of tokens, surprisal of a sentence
speed        speeds, recipes, parts of a step
"""
