"""Figures.

token_boxes  masked batches, packed rows and attention masks, one box per token
figures      learning curves, predictions, speeds
"""
