"""Texts of every script can be read in or below a figure, and nothing warns of missing glyphs."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from mlm.plots import fonts
from mlm.plots.corpus import draw_words
from mlm.plots.fonts import drawable, needs_shaping
from mlm.plots.predictions import draw_predictions, draw_surprisals
from mlm.plots.token_boxes import draw_attention, draw_tokens

HINDI, THAI, CHINESE, JAPANESE = "हिन्दी", "ภาษา", "中文", "日本語"
KOREAN, KHMER, ARABIC, HEBREW = "한국어", "ភាសា", "العربية", "עברית"
WORDS = (HINDI, THAI, CHINESE, JAPANESE, KOREAN, KHMER, ARABIC, HEBREW)


@pytest.fixture(autouse=True)
def only_bundled_fonts(monkeypatch):
    """Only matplotlib's own fonts are installed: the Latin, Greek, Cyrillic, Arabic and Hebrew scripts."""
    manager = font_manager.fontManager
    bundled = [font for font in manager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(manager, "ttflist", bundled)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    yield
    plt.close("all")


@pytest.fixture
def install_font(tmp_path, monkeypatch):
    """A function that installs a font with a square for each of these characters."""

    def install(family, characters):
        pen = TTGlyphPen(None)
        pen.moveTo((100, 0))
        for point in ((100, 700), (500, 700), (500, 0)):
            pen.lineTo(point)
        pen.closePath()
        builder = FontBuilder(1000)
        names = {ord(character): f"u{ord(character):04X}" for character in characters}
        builder.setupGlyphOrder([".notdef", *names.values()])
        builder.setupCharacterMap(names)
        builder.setupGlyf(dict.fromkeys([".notdef", *names.values()], pen.glyph()))
        builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (600, 100)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": family, "styleName": "Regular"})
        builder.setupOS2(usWeightClass=400)
        builder.setupPost()
        path = tmp_path / f"{family}.ttf"
        builder.save(path)
        installed = [*font_manager.findSystemFonts(), str(path)]
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: installed)

    return install


def draw_all(words):
    """Every figure that shows words of a text."""
    draw_words(plt.subplots()[1], [(word, 3) for word in words], set(words[:1]))
    draw_predictions({words[0]: [[(word, 0.1) for word in words]]}, f"[MASK] {words[-1]}")
    draw_surprisals(plt.subplots()[1], [*words], {"before": [1.0] * len(words)})
    draw_attention(
        plt.subplots()[1], words, np.eye(len(words), dtype=bool), np.ones(len(words), int)
    )
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]
    special = {
        f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")
    }
    model = WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special)
    input_ids = np.arange(len(vocabulary))[None]
    labels = np.where(input_ids > 5, input_ids[:, ::-1], -100)
    draw_tokens({"input_ids": input_ids, "labels": labels}, tokenizer, max_tokens=40)
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()


def figure_texts():
    """The texts in all open figures."""
    return [
        text.get_text()
        for number in plt.get_fignums()
        for text in plt.figure(number).findobj(plt.Text)
    ]


@pytest.mark.parametrize("shapes_text", [True, False])
@pytest.mark.parametrize("all_installed", [True, False])
def test_no_figure_misses_a_glyph(install_font, monkeypatch, capsys, shapes_text, all_installed):
    """Whatever is installed: each word is in the figure, or a number whose meaning is printed."""
    monkeypatch.setattr(fonts, "SHAPES_TEXT", shapes_text and fonts.SHAPES_TEXT)
    if all_installed:
        install_font("Test", set("".join(WORDS)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_all(WORDS)
    printed, shown = capsys.readouterr().out, figure_texts()
    for word in WORDS:
        assert word in shown or f"  {word}\n" in printed
    assert (CHINESE in shown) == all_installed
    assert (ARABIC in shown) == (HEBREW in shown) == fonts.SHAPES_TEXT
    assert bool(printed) == (not all_installed or not fonts.SHAPES_TEXT)


def test_a_text_without_a_font_gets_a_number_and_the_reason_is_printed(capsys):
    labels, _ = drawable(["power", CHINESE, "power", HINDI, "Wörter ελ"])
    numbers = {CHINESE: "(1)", HINDI: "(2)"}
    assert labels == {"power": "power", "Wörter ελ": "Wörter ελ"} | numbers
    first, *lines = capsys.readouterr().out.splitlines()
    assert "no installed font" in first and "fonts-noto" in first
    assert [line.split() for line in lines] == [[numbers[word], word] for word in numbers]


def test_fonts_installed_since_are_found_and_few_are_used(install_font, capsys):
    assert drawable([CHINESE])[0] == {CHINESE: "(1)"}
    install_font("One", CHINESE[0])
    assert drawable([CHINESE])[0] == {CHINESE: "(1)"}
    capsys.readouterr()
    install_font("Other", CHINESE + JAPANESE)
    labels, options = drawable([CHINESE, JAPANESE])
    assert labels == {CHINESE: CHINESE, JAPANESE: JAPANESE} and not capsys.readouterr().out
    assert options["fontfamily"][-1] == "Other" and "One" not in options["fontfamily"]
    assert drawable(["power"])[1]["fontfamily"] == options["fontfamily"][:-1]


def test_damaged_fonts_are_skipped(tmp_path, install_font, monkeypatch):
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    install_font("Good", CHINESE)
    paths = [str(tmp_path / "damaged.ttf"), *font_manager.findSystemFonts()]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    assert drawable([CHINESE])[0] == {CHINESE: CHINESE}


def test_which_scripts_need_shaping():
    assert [word for word in WORDS if needs_shaping(word)] == [HINDI, KHMER, ARABIC, HEBREW]
    assert not any(
        map(needs_shaping, ["power", "né\u0301", "Tiếng Việt", "русский", "##ing", "日"])
    )


@pytest.mark.parametrize("word", ["$\\frac$", "$$", "$a$", "a$", "\\$", "$ü ελ$"])
def test_dollars_are_no_formula(word, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_all([word, "power", word])
    assert figure_texts().count(word) > 5 and not caplog.records
