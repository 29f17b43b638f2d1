"""[MASK] in a sentence, and the mask token of a tokenizer."""

from transformers import PreTrainedTokenizerBase


def with_mask(tokenizer: PreTrainedTokenizerBase, sentence: str) -> str:
    """The sentence with the tokenizer's own mask token in place of [MASK].

    The space before [MASK] is removed: tokenizers whose tokens begin with a space predict it as well.
    """
    mask = tokenizer.mask_token
    return sentence.replace(" [MASK]", mask).replace("[MASK]", mask)
