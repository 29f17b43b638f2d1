"""The values of the parameter `vocabulary`, "bpe-cased:16000" for example.

Values are checked before packages are installed, so nothing here imports tokenizers.
"""

import re

KINDS = {"wordpiece": "WordPiece", "bpe": "BPE", "unigram": "Unigram"}  # {value: its usual name}
DEFAULT_SIZE = 8000  # tokens
MIN_SIZE, MAX_SIZE = 100, 1_000_000
FORM = re.compile(rf"({'|'.join(KINDS)})(-cased)?(?::(\d{{1,7}}))?")


def is_vocabulary(value: str) -> bool:
    """Whether a value names a kind of vocabulary and, optionally, a valid size."""
    match = FORM.fullmatch(value)
    return match is not None and MIN_SIZE <= int(match[3] or DEFAULT_SIZE) <= MAX_SIZE


def parse_vocabulary(value: str) -> tuple[str, bool, int]:
    """(kind, whether it is cased, number of tokens) of a valid value."""
    match = FORM.fullmatch(value)
    assert match, f"{value!r} was not checked"
    return match[1], match[2] is not None, int(match[3] or DEFAULT_SIZE)
