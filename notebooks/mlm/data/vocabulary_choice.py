"""Which vocabulary fits a text: WordPiece or BPE, with or without case and accents, and why."""

import re
import string
import unicodedata
from collections import Counter
from dataclasses import dataclass

from mlm.data.normalization import MAX_WORD_CHARS, bert_normalizer, make_normalizer
from mlm.data.vocabulary_names import DEFAULT_SIZE, KINDS, parse_vocabulary
from mlm.data.word_counts import TextCounts

HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # a Chinese character
MANY_MARKS = 0.5  # of all letters, punctuation: prose has 0.04, code 0.2, Morse code 1
LONG_WORDS = 16  # letters: English has 6, Finnish 11, Thai between spaces more than 20
MANY_CAPITALS = 0.3  # of all letters: prose has 0.03, German 0.07, SMILES 0.6
MANY_INNER_CAPITALS = 0.04  # of all distinct words: prose has 0, manuals 0.02, code 0.05 to 0.4
FEW_INNER_CAPITALS = 3  # words: too few to say anything about a text
FEW_ACCENTS = 0.01  # of all words: English has 0.001, German 0.1
FEW_MERGED = 0.005  # of all distinct words
JOINING_SPACES = {*"\v\f\x85"}  # BERT's normalization removes them, which joins words
DOTLESS_I = 0.005  # of all letters: Turkish has 0.05


@dataclass(frozen=True)
class VocabularyChoice:
    """What to learn: a kind of KINDS, the number of tokens, and how the text is normalized.

    keeps_accents=False: BERT's own normalization, without case and accents. dotless_i: I is the capital
    of ı. reasons: why, as a sentence.
    """

    kind: str
    size: int
    cased: bool
    keeps_accents: bool = True
    dotless_i: bool = False
    reasons: str = ""


def mean_word_length(words: Counter[str]) -> float:
    """The mean over letters of the length of the letter's word, so that punctuation hardly counts."""
    letters = sum(count * len(word) for word, count in words.items())
    return sum(count * len(word) ** 2 for word, count in words.items()) / max(1, letters)


def is_mark(word: str) -> bool:
    """Whether a word is a punctuation mark; BERT also counts all ASCII symbols as such."""
    return len(word) == 1 and (word in string.punctuation or unicodedata.category(word)[0] == "P")


def choose_kind(words: Counter[str]) -> tuple[str, str]:
    """(kind, reason): WordPiece, as BERT, if spaces separate the words of the text, otherwise BPE.

    In WordPiece each punctuation mark is a word, whether spaces are around it or not: "... -" in Morse
    code is "...-".
    """
    length = mean_word_length(words)
    if length > LONG_WORDS:
        return "bpe", f"the text has no spaces between words (runs of {length:.0f} letters)"
    letters = sum(count * len(word) for word, count in words.items())
    marks = sum(count for word, count in words.items() if is_mark(word))
    if marks > MANY_MARKS * letters:
        return "bpe", f"{marks / letters:.0%} of it is punctuation, between which spaces may matter"
    chinese = sum(count for word, count in words.items() if HAN.fullmatch(word))
    if 2 * chinese > letters:
        return "wordpiece", "each Chinese character is a word"
    return "wordpiece", "spaces and punctuation separate words"


def choose_case(words: Counter[str]) -> tuple[bool, str]:
    """(whether case is kept, reason). In prose, nearly all capitals are first letters."""
    upper = sum(count * sum(map(str.isupper, word)) for word, count in words.items())
    lower = sum(count * sum(map(str.islower, word)) for word, count in words.items())
    if not upper + lower:
        return True, "its letters have no case"
    if upper > MANY_CAPITALS * (upper + lower):
        return True, f"{upper / (upper + lower):.0%} of the letters are capitals"
    inner = sum(word[1:] != word[1:].lower() and not word.isupper() for word in words)
    if inner > MANY_INNER_CAPITALS * len(words) + FEW_INNER_CAPITALS:
        return True, f"{inner / len(words):.0%} of the distinct words have inner capitals"
    return False, "most capitals are first letters"


def choose_accents(counts: TextCounts, folded: dict[str, str]) -> tuple[bool, str]:
    """(whether accents are kept, reason), for a text without case.

    Without: BERT's normalization, if it changes few words and makes few of them equal. It removes marks of
    every script and joiners, splits Korean syllables, makes long words [UNK], and joins words that only a
    vertical tab, form feed or U+0085 separates.
    """
    words = counts.words
    if counts.letters & JOINING_SPACES:
        return True, "BERT's normalization would join words at vertical tabs or form feeds"
    plain = {word: bert_normalizer.normalize_str(word).replace(" ", "") for word in words}
    changed = [w for w in words if plain[w] != folded[w] or len(w) >= MAX_WORD_CHARS]
    # Folded words, not words: in Turkish, only the folding without accents makes "Işık" and "ışık" differ.
    merged = len({(folded[w], plain[w]) for w in words}) - len({*plain.values()})
    fraction = sum(words[word] for word in changed) / max(1, words.total())
    if not changed:
        return False, "no word has any"
    if fraction <= FEW_ACCENTS and merged <= FEW_MERGED * len(words):
        return False, f"{len(changed):,} distinct words have any; removing them merges {merged:,}"
    return True, f"{fraction:.0%} of the words have any; removing them merges {merged:,}"


def choose_vocabulary(counts: TextCounts, asked: str | None) -> VocabularyChoice:
    """The vocabulary for a text: what is `asked` for (a value of `vocabulary`), the rest from the text."""
    words = counts.words
    kind, kind_reason = choose_kind(words)
    cased, case_reason = choose_case(words)
    size = DEFAULT_SIZE
    if asked is not None:
        kind, cased, size = parse_vocabulary(asked)
        kind_reason = case_reason = "as set"

    letters = sum(count * len(word) for word, count in words.items())
    dotless_i = sum(count * word.count("ı") for word, count in words.items()) > DOTLESS_I * letters
    normalizer = make_normalizer(cased=False, dotless_i=dotless_i)
    folded = {word: normalizer.normalize_str(word) for word in words}
    num_merged = len(words) - len({*folded.values()})  # made equal to another word
    case_effect = f"lowercasing merges {num_merged:,} of {len(words):,} distinct words"
    keeps_accents, accent_reason = True, "as always with case"
    if not cased:
        keeps_accents, accent_reason = choose_accents(counts, folded)
    if kind != "wordpiece":
        keeps_accents, accent_reason = True, f"as always in {KINDS[kind]}"
    reasons = (
        f"{KINDS[kind]} ({kind_reason}), {'cased' if cased else 'uncased'} ({case_reason}; "
        f"{case_effect}), accents {'kept' if keeps_accents else 'removed'} ({accent_reason})"
    )
    return VocabularyChoice(kind, size, cased, keeps_accents, dotless_i and not cased, reasons)
