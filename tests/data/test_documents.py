"""What separates the documents of a text is recognized or given."""

import pytest

from layouts import GROUPS, LAYOUTS, SENTENCES
from mlm.data.corpus import load_corpus
from mlm.data.dataset import MaskedLMDataset
from mlm.data.documents import has_document_breaks
from mlm.data.tokenizer import learn_wordpiece
from texts import about as corpus_info
from texts import as_csv, as_tar, as_text, put, text_of


@pytest.mark.parametrize("name", LAYOUTS)
def test_berts_input_format_is_recognized(name):
    assert has_document_breaks([LAYOUTS[name].split("\n")]) == (name == "BERT")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_line_in_a_script_without_capitals_or_full_stops_needs_no_layout(tmp_path, name):
    """Nothing is assumed of a text of which nothing is known."""
    text = LAYOUTS[name].translate({ord("."): None}).upper()
    assert not has_document_breaks([text.split("\n")])


def test_an_empty_text_has_no_documents():
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
