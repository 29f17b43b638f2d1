"""How a text is laid out in lines is recognized and described with advice."""

import textwrap

import pytest

from helpers import refused
from helpers import sentences as numbered
from layouts import LAYOUTS, PARAGRAPHS, SENTENCES
from mlm.data.layout import describe_layout, find_layout
from texts import as_csv, put


@pytest.mark.parametrize("name", LAYOUTS)
def test_hard_wrapped_text_is_recognized(name):
    is_wrapped = find_layout([LAYOUTS[name].split("\n")]).is_wrapped
    assert is_wrapped == name.startswith(("wrapped", "mail", "quoted mail"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_text_without_capitals_or_full_stops_is_not_taken_for_hard_wrapped(name):
    text = LAYOUTS[name].translate({ord("."): None}).upper()
    assert not find_layout([text.split("\n")]).is_wrapped


def test_an_empty_text_has_a_layout():
    assert find_layout([]).width == find_layout([[], ["", " \n"]]).width == 0


SUBTITLES = "\n\n".join(
    f"{i}\n00:00:{i % 60:02},000 --> 00:00:{i % 60:02},900\n{line}"
    for i, line in enumerate(SENTENCES)
)
TEXTS = LAYOUTS | {
    "subtitles": SUBTITLES,
    "tags": "\n".join(f"<p class='a'>{line}</p>" for line in SENTENCES),
    "mail with headers": "\n\n".join(
        f"From: A User <a@example.org>\nTo: b@example.org\nSubject: {text[:30]}\nDate: Mon, 1 Jan 2024\n\n"
        + textwrap.fill(text, 72)
        for text in PARAGRAPHS
    ),
}
ADVICE = {
    "subtitles": [
        "67% of the lines have no letter",
        "times of subtitles",
        'documents="blank line"',
    ],
    "tags": ["100% of the lines have tags such as <p>"],
    "mail with headers": [
        "are wrapped at about 72 characters",
        'examples="block"',
        'documents="blank line"',
    ],  # layout: words of the description
    "BERT": ["plain text (1 file(s)): 360 line(s), 60 document(s); blank lines separate them"],
    "lines": ["plain text (1 file(s)): 360 line(s), 1 document(s); each file is one"],
    "wrapped 72": [
        "are wrapped at about 72 characters",
        'examples="block"',
        'documents="blank line"',
    ],
    "verse": ['documents="blank line"'],
}


@pytest.mark.parametrize("name", ADVICE)
def test_a_text_is_described_with_advice(tmp_path, name):
    put(tmp_path / "a.txt", TEXTS[name])
    found = describe_layout([tmp_path / "a.txt"])
    assert [words for words in ADVICE[name] if words not in found] == []
    others = {word for words in ADVICE.values() for word in words[-2:] if "=" in word}
    assert [word for word in others - {*ADVICE[name]} if word in found] == []


def test_a_table_without_column_names_gets_advice(tmp_path):
    put(tmp_path / "a.txt", "\n".join(f"{i}\t{line}" for i, line in enumerate(numbered(40))))
    assert "Each line has 1 tab(s): if it is a table" in describe_layout([tmp_path / "a.txt"])
    put(tmp_path / "b.csv", as_csv(["a\tb"] * 30, delimiter="\t"))
    found = describe_layout([tmp_path / "b.csv"])
    assert (
        found
        == "CSV with the delimiter '\\t' (1 file(s)): 30 line(s), 30 document(s); each row is one"
    )


@pytest.mark.fault
def test_an_empty_text_is_refused_before_it_is_described(tmp_path):
    put(tmp_path / "a.txt", b"")
    put(tmp_path / "b.csv", as_csv([" "] * 40))
    for name in ("a.txt", "b.csv"):
        with refused(name, "has no text"):
            describe_layout([tmp_path / name])
