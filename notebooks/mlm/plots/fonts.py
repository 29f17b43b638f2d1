"""Text of any script in figures: installed fonts that have its characters, or numbers in its place."""

import contextlib
import functools
import unicodedata
from collections.abc import Iterable
from typing import Any

from matplotlib import font_manager, ft2font, rcParams

# matplotlib 3.11 joins Arabic letters, draws them from right to left and places Indic vowel signs.
# Older versions draw one character after the other from left to right, which is not readable.
SHAPES_TEXT = hasattr(ft2font, "__libraqm_version__")
VIRAMA = 9  # combining class of the sign that joins consonants in Indic scripts

NO_FONT = (
    "no installed font has its characters (Google's Noto fonts have most; on Debian, Ubuntu and "
    "Colab: apt-get install fonts-noto-core fonts-noto-cjk, then run the cell again)"
)
NO_SHAPING = "matplotlib can draw its script since version 3.11"


def needs_shaping(text: str) -> bool:
    """Whether a text is written from right to left, or has signs that join or move its letters."""
    return any(
        unicodedata.bidirectional(character) in ("R", "AL")
        or unicodedata.category(character) == "Mc"
        or unicodedata.combining(character) == VIRAMA
        for character in text
    )


@functools.cache
def characters_of(path: str) -> frozenset[str]:
    """The characters that a font file has shapes for; none if matplotlib cannot use the font."""
    try:
        font = ft2font.FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()


def installed_fonts() -> dict[str, str]:
    """{family: a file of it}, also of fonts that were installed after matplotlib listed them."""
    manager = font_manager.fontManager
    for path in {*font_manager.findSystemFonts()} - {font.fname for font in manager.ttflist}:
        with contextlib.suppress(Exception):  # a font that matplotlib cannot read
            manager.addfont(path)
    upright = {font.name: font.fname for font in manager.ttflist if font.style == "normal"}
    # A font of last resort has a box for every character.
    return {name: upright[name] for name in sorted(upright) if "Resort" not in name}


def find_families(characters: set[str]) -> tuple[list[str], set[str]]:
    """A few installed font families that have these characters, and the characters that none has."""
    fonts, families = installed_fonts(), []
    while characters:
        name = max(fonts, key=lambda name: len(characters & characters_of(fonts[name])))
        found = characters & characters_of(fonts[name])
        if not found:
            break
        families.append(name)
        characters = characters - found
    return families, characters


def drawable(texts: Iterable[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """{text: its label in a figure}, and the options of matplotlib's Text that the labels need.

    A label is the text itself. Texts that cannot be drawn get numbers, and what they mean is printed.
    The options name the fonts, and say that a $ is no formula.
    """
    texts = list(dict.fromkeys(texts))
    families = list(rcParams["font.family"])
    files = [font_manager.findfont(font_manager.FontProperties(family=[name])) for name in families]
    missing = {*"".join(texts)}.difference("\n", *map(characters_of, files))
    other_families, missing = find_families(missing)

    reasons = {}  # {text: why it cannot be drawn}
    for text in texts:
        if not missing.isdisjoint(text):
            reasons[text] = NO_FONT
        elif needs_shaping(text) and not SHAPES_TEXT:
            reasons[text] = NO_SHAPING
    numbers = {text: f"({number})" for number, text in enumerate(reasons, 1)}
    for reason in dict.fromkeys(reasons.values()):
        print(f"A number in the figure stands for a text that cannot be drawn: {reason}.")
    for text, number in numbers.items():
        print(f"{number:>5}  {text}")
    labels = {text: numbers.get(text, text) for text in texts}
    return labels, {"fontfamily": families + other_families, "parse_math": False}
