"""How many tokens a model from scratch can read. This module imports nothing."""

BERT_POSITIONS = 512  # position embeddings of every published BERT
MAX_POSITIONS = 65_536  # of a model from scratch


def num_positions(max_len: int) -> int:
    """The number of positions of a model from scratch: BERT's, or as many as `max_len` tokens need."""
    return max(BERT_POSITIONS, max_len)
