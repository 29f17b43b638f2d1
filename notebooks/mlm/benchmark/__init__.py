"""Speed and learning, compared with transformers.Trainer. Used by 06 alone.

speed   one optimization at a time, in real tokens per second
race    whole recipes: validation loss against seconds
limits  the machine's limits, and where the time of a step goes
"""
