"""What separates the documents of a text is recognized or given; hard-wrapped text is recognized."""

import textwrap

import pytest

from helpers import refused
from helpers import sentences as numbered
from mlm.data.corpus import load_corpus
from mlm.data.dataset import MaskedLMDataset
from mlm.data.documents import has_document_breaks
from mlm.data.layout import describe_layout, find_layout
from mlm.data.tokenizer import learn_wordpiece
from texts import about as corpus_info
from texts import as_csv, as_tar, as_text, put, text_of


def sentence(i):
    """An English sentence of 6 to 20 words."""
    words = [
        "river",
        "stone",
        "market",
        "harbour",
        "old",
        "lantern",
        "winter",
        "garden",
        "letter",
        "captain",
        "window",
        "silver",
    ]
    middle = " ".join(words[(i * j) % len(words)] for j in range(4, 8 + i % 11))
    return f"The {words[i % 11]} of {i} follows the {middle} near a bridge."


SENTENCES = [sentence(i) for i in range(360)]
GROUPS = [SENTENCES[i : i + 6] for i in range(0, 360, 6)]
PARAGRAPHS = [" ".join(group) for group in GROUPS]
LAYOUTS = {  # name: text
    "BERT": "\n\n".join(
        map("\n".join, GROUPS)
    ),  # a sentence per line, blank lines between documents
    "paragraphs": "\n\n".join(PARAGRAPHS),  # a paragraph per line
    "lines": "\n".join(SENTENCES),
    "wrapped 40": "\n\n".join(textwrap.fill(text, 40) for text in PARAGRAPHS),
    "wrapped 72": "\n\n".join(textwrap.fill(text, 72) for text in PARAGRAPHS),
    "mail": "\n".join(textwrap.fill(text, 72, subsequent_indent="  ") for text in PARAGRAPHS),
    "quoted mail": "\n>\n".join(
        textwrap.fill(text, 72, initial_indent="> ", subsequent_indent="> ") for text in PARAGRAPHS
    ),
    "verse": "\n\n".join("\n".join(f"{w} of the morning" for w in g[0].split()) for g in GROUPS),
    "words": "\n".join(" ".join(SENTENCES).split()),
    "numbers": "\n".join(f"line {i}" for i in range(300)),
    "log": "\n".join(
        f"2026-11-{i % 28 + 1:02} 12:00:{i % 60:02} INFO request {i:05} done" for i in range(300)
    ),
    "chinese": "\n".join("今天天气很好，我们去公园散步。" * (1 + i % 3) for i in range(100)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_recognized(name):
    lines = LAYOUTS[name].split("\n")
    assert has_document_breaks([lines]) == (name == "BERT")
    assert find_layout([lines]).is_wrapped == name.startswith(("wrapped", "mail", "quoted mail"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_line_in_a_script_without_capitals_or_full_stops_needs_no_layout(tmp_path, name):
    """Nothing is assumed of a text of which nothing is known."""
    text = LAYOUTS[name].translate({ord("."): None}).upper()
    assert not has_document_breaks([text.split("\n")])
    assert not find_layout([text.split("\n")]).is_wrapped


def test_an_empty_text_has_a_layout():
    assert find_layout([]).width == find_layout([[], ["", " \n"]]).width == 0
    assert not has_document_breaks([]) and not has_document_breaks([["", " \n"]])


def test_blocks_of_berts_input_format_stay_within_documents(tmp_path):
    folder = load_corpus(put(tmp_path / "a.txt", LAYOUTS["BERT"]), tmp_path)
    split = corpus_info(folder)["split"]
    assert (split["documents"], split["separated_by"]) == (60, "blank line")
    tokenizer = learn_wordpiece(folder / "train.txt")
    blocks = MaskedLMDataset(folder / "train.txt", tokenizer, 512, "block")
    documents = (folder / "train.txt").read_text().split("\n\n")
    assert [block[1:-1].tolist() for block in blocks] == [
        tokenizer(document, add_special_tokens=False)["input_ids"] for document in documents
    ]


@pytest.mark.parametrize(
    "documents, count", [(None, 60), ("blank line", 60), ("file", 1), ("line", 360)]
)
def test_documents_says_what_a_document_is(tmp_path, documents, count):
    given = put(tmp_path / "a.txt", LAYOUTS["BERT"])
    folder = load_corpus(given, tmp_path, documents=documents)
    split = corpus_info(folder)["split"]
    assert (split["documents"], split["separated_by"]) == (count, documents or "blank line")
    text = (folder / "train.txt").read_text() + "\n" + (folder / "valid.txt").read_text()
    assert abs(text.count("\n\n") + 1 - count) <= 1
    assert text_of(folder) == sorted(SENTENCES)


def test_files_and_rows_are_documents_by_default(tmp_path):
    """Also if there is nothing but files to separate groups of sentences."""
    archive = as_tar({f"{i}.txt": as_text(group) for i, group in enumerate(GROUPS)})
    for name, content, unit in (
        ("a.tar", archive, "file"),
        ("a.csv", as_csv(map("\n".join, GROUPS)), "row"),
        ("b.csv", as_csv([LAYOUTS["BERT"]]), "row"),
    ):
        folder = load_corpus(put(tmp_path / name, content), tmp_path / name[0] / "work")
        assert corpus_info(folder)["split"]["separated_by"] == unit


# notebook 02


SUBTITLES = "\n\n".join(
    f"{i}\n00:00:{i % 60:02},000 --> 00:00:{i % 60:02},900\n{line}"
    for i, line in enumerate(SENTENCES)
)
LAYOUTS |= {
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
    put(tmp_path / "a.txt", LAYOUTS[name])
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
