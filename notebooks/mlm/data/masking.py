"""BERT's masks as a pure function: nothing is drawn from a stream, nothing depends on what came before.

The last key says what a number is for: 0 how many tokens (or words) are predicted, 1 which, 2 what
becomes of each token, 3 the random one in its place; 4 and 5 are those of the order in batches.py.
"""

import numpy as np


def uniform(*keys):
    """Random numbers in [0, 1), a pure function of integer keys (arrays are broadcast).

    splitmix64 (Steele et al. 2014, doi:10.1145/2714064.2660195), one round a key. Nothing is drawn
    from a stream, so the masks of an example depend on seed, epoch, its number and the position
    alone: not on its batch, the process, the device, or how many numbers were drawn before.
    """
    state = np.uint64(0)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        for key in keys:
            state = (state ^ np.asarray(key).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53


def masked_counts(lengths, seed, epoch, indices, mlm_probability):
    """How many tokens of each example are predicted: its share, rounded up or down at random.

    `lengths` counts those that may be asked about. Each of them has the chance `mlm_probability`,
    and no example gets more than its share rounded up: room for all masks of a batch is known
    beforehand, so none is ever left out. Where whole words are masked, words are counted.
    """
    return np.floor(mlm_probability * lengths + uniform(seed, epoch, indices, 0)).astype(np.int64)


def candidate_counts(dataset, masking):
    """How many tokens of each example, or words, a MaskedLMDataset has to choose from, (examples,).

    A word has one token or more: of c words that are chosen out of `choices` so many tokens are asked
    about at most: c + known - choices, where `known` tokens are in all words.
    """
    return dataset.word_counts if masking == "word" else dataset.maskable


def mask_tokens(
    input_ids, special, counts, seed, epoch, indices, mask_token_id, vocab_size,
    words=None, replace="80/10/10",
):  # fmt: skip
    """BERT's masks (Devlin et al. 2018, appendix A.1) for rows [CLS] tokens [SEP] padding.

    input_ids (B, T) int64; special, the ids that are never asked about: those of [CLS], [SEP],
    padding, and [UNK], which is many words at once; counts, indices (B,): predictions and number of
    each example. With `words` (B, T), the number of each token's word, `counts` are words, and all
    tokens of a chosen one are predicted (Devlin's whole-word masking of 2019). Of the predicted
    tokens 80% become [MASK], 10% a random token, 10% stay: `replace`. Returns the masked input_ids
    and the labels, (B, T), -100 where nothing is predicted.
    """
    position = np.arange(input_ids.shape[1])
    example = seed, epoch, np.asarray(indices)[:, None]
    words = np.broadcast_to(position if words is None else words, input_ids.shape)
    never = np.isin(input_ids, special)
    order = np.where(never, 2.0, uniform(*example, words, 1)).argsort(1, kind="stable")
    shuffled = np.take_along_axis(words, order, 1)  # the tokens of a word stay side by side
    nth = (np.diff(shuffled, prepend=-1) != 0).cumsum(1)  # word of its row
    chosen = np.zeros(input_ids.shape, bool)
    np.put_along_axis(chosen, order, nth <= np.asarray(counts)[:, None], 1)
    fate, other = (uniform(*example, position, purpose) for purpose in (2, 3))
    to_mask, to_other, _ = np.cumsum([int(share) for share in replace.split("/")]) / 100
    other = np.where(fate < to_other, (other * vocab_size).astype(np.int64), input_ids)
    masked = np.where(fate < to_mask, mask_token_id, other)
    return np.where(chosen, masked, input_ids), np.where(chosen, input_ids, -100)
