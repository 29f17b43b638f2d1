"""Examples for the widget on a model's page on the Hub: validation lines with one masked word."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from mlm.inference.mask_token import with_mask
from mlm.inference.validation_examples import ValidationExample, reads_as_prose

CREDENTIALS = re.compile(
    r"\b(pass(word|wort|wd|phrase|code)|secret|credential|login|api key|pin\b)", re.IGNORECASE
)  # a line that names one may quote it


def may_be_shown(sentence: str) -> bool:
    """Whether a line is only words and punctuation (no address, path or number) and names no credential."""
    return reads_as_prose(sentence.replace("[MASK]", "word")) and not CREDENTIALS.search(sentence)


def widget_sentence(tokenizer: PreTrainedTokenizerBase, sentence: str) -> str:
    """A sentence with the tokenizer's mask token for [MASK], and the tokens that `encode` gives it.

    The space before the mask stays if it makes no difference.
    """
    spaced, tight = (
        sentence.replace("[MASK]", tokenizer.mask_token),
        with_mask(tokenizer, sentence),
    )
    ids, expected = (tokenizer(text)["input_ids"] for text in (spaced, tight))
    return spaced if ids == expected else tight


def widget_sentences(
    examples: Sequence[ValidationExample], tokenizer: PreTrainedTokenizerBase, count: int
) -> list[str]:
    """Up to `count` of the examples as sentences for the widget, with the tokenizer's mask token.

    Only lines of words and punctuation are used, first those whose word the (last) model predicts.
    """
    shown = [example for example in examples if may_be_shown(example.sentence)]
    shown.sort(key=lambda e: [*e.predictions.values()][-1][0] != e.answer)  # a stable order
    return [widget_sentence(tokenizer, example.sentence) for example in shown[:count]]
