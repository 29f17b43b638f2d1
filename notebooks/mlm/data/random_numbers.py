"""Random numbers as a pure function of integer keys, and what each of them is for.

The last key is a `Purpose`: two draws for the same example never use the same number.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a random number decides. It is the last key of `uniform`; a value is never used twice."""

    NUM_MASKED = 0  # how many tokens (or words) of an example are masked
    CHOICE = 1  # which of its tokens (or words)
    REPLACEMENT = 2  # what replaces a masked token: [MASK], a random token or nothing
    RANDOM_TOKEN = 3  # which random token
    BATCH_ORDER = 4  # the order of the examples in an epoch
    ROW_ORDER = 5  # the order in which a batch's examples are assigned to rows
    DROPOUT = 6  # the seed of a step's dropout
    LINE_SAMPLE = 7  # the lines of a text that notebook 06 trains on
    SOURCE_SAMPLE = 8  # the examples that an epoch has of a corpus with a fractional weight


def uniform(*keys: int | np.ndarray) -> np.ndarray:
    """Random numbers in [0, 1): a pure function of integer keys (arrays are broadcast).

    Each key goes through one round of splitmix64 (Steele et al. 2014, doi:10.1145/2714064.2660195).
    There is no generator with a state. The masks of an example depend only on the seed, the epoch,
    the example's index and the position: not on its batch, the process or earlier draws.
    """
    state = np.uint64(0)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is intended
        for key in keys:
            state = (state ^ np.asarray(key).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state ^= state >> np.uint64(30)
            state *= np.uint64(0xBF58476D1CE4E5B9)
            state ^= state >> np.uint64(27)
            state *= np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) * 2.0**-53
