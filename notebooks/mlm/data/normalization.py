"""How text is normalized and split into words before it becomes tokens of a learned vocabulary."""

import re
import unicodedata
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

MAX_WORD_CHARS = 100  # WordPiece makes longer words [UNK], so they are cut
SPACE = "▁"  # stands for the space before a word in BPE and Unigram tokens, as in SentencePiece
WORD_BREAK = "\u200b"  # zero width space: ends a word in Khmer, Thai and Burmese texts
INVISIBLE = (  # control characters, soft hyphen, text direction, byte order mark; no joiners
    "[\x01-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u200e\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)
JOINERS = "\u200c\u200d"  # zero width non-joiner (Persian), joiner (Devanagari, emoji)
PUNCTUATION = r"[\p{P}$+<=>^`|~]"  # the marks that BERT splits at

bert_normalizer = normalizers.BertNormalizer(lowercase=True)  # removes accents, too


def make_normalizer(cased: bool, dotless_i: bool) -> Any:
    """A normalizer that keeps accents, vowel signs, tone marks and joiners.

    Characters are composed (NFC), U+200B becomes a space and other invisible characters are removed.
    Unless `cased`, letters are folded to lower case. Then `dotless_i` says that I is the capital of ı,
    as in Turkish, and sigma at the end of a Greek word becomes ς.
    """
    steps = [
        normalizers.Replace(Regex(INVISIBLE), ""),
        normalizers.Replace(WORD_BREAK, " "),
        normalizers.NFC(),
    ]
    if not cased:
        if dotless_i:
            steps += [normalizers.Replace("İ", "i"), normalizers.Replace("I", "ı")]
        final_sigma = Regex(r"(?<=[\p{L}\p{M}])σ(?![\p{L}\p{M}])")
        steps += [normalizers.Lowercase(), normalizers.Replace(final_sigma, "ς")]
    return normalizers.Sequence(steps)


def word_splitter() -> Any:
    """Splits at spaces and punctuation, as BERT does; each Chinese character is a word."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.FixedLength(MAX_WORD_CHARS),
        ]
    )


def space_marker() -> Any:
    """Splits before spaces, which become the "▁" of the next word, and at punctuation."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="first"),
            pre_tokenizers.Split(Regex(f"{SPACE}?{PUNCTUATION}"), "isolated"),
            pre_tokenizers.FixedLength(MAX_WORD_CHARS),
        ]
    )


MARKS = "".join(c for c in map(chr, range(0x20000)) if unicodedata.category(c)[0] == "M")
# Letters, then marks and letters in turn: there is only one way to match, so it takes linear time.
WORD = re.compile(rf"[^\W\d_]+(?:[{MARKS}{JOINERS}]+[^\W\d_]+)*[{MARKS}{JOINERS}]*")


def find_words(text: str) -> list[str]:
    """The words of a text: letters, with the accents, vowel signs and joiners that belong to them."""
    return WORD.findall(text)


def is_word(text: str) -> bool:
    """Whether a text is a word."""
    return WORD.fullmatch(text) is not None
