"""No validation line occurs in the training text, whichever way a text is split."""

import random
import tracemalloc

import pytest

import mlm.data.split as split
from helpers import refused, sentences
from mlm.data.corpus import load_corpus
from mlm.data.formats import text_lines
from mlm.data.split import line_hashes, normalize, remove_common_lines
from texts import (
    about,
    as_csv,
    as_jsonl,
    as_text,
    common_lines,
    normalized,
    put,
    read_split,
)

VARIANTS = [  # of one line
    "The ﬁrst STRASSE, №1 …",
    "the first straße, No1 ...",
    "  The\u00a0 first\tStraße,\u2003№1 ...  ",
    "ＴＨＥ ＦＩＲＳＴ straße,\x0bno1 ...",
    "\ufeffthe fi\u00adrst str\u200basse,\x1fno1\x7f ...\u200d\x01",
]
INVISIBLE = "\u200b", "\u00ad\u2060", "\x01", " \u200e "  # lines that are not blank


def repeated(num_different, num_copies):
    """Lines that occur `num_copies` times each, in a mixed order."""
    lines = sentences(num_different) * num_copies
    random.Random(0).shuffle(lines)
    return lines


# equal lines


def test_lines_are_compared_without_capitals_spaces_and_compatible_characters():
    assert {normalize(line) for line in VARIANTS} == {"the first strasse, no1 ..."}
    assert normalize("\n".join(VARIANTS)) == "\n".join(map(normalize, VARIANTS))
    assert normalize("now here") != normalize("nowhere") != normalize("nówhere")


def test_many_lines_are_normalized_like_each_of_them():
    """Of all Unicode characters, with spaces around them."""
    lines = [
        f"{before}{chr(i)}{after}"
        for i in range(1, 0x30000)
        if not 0xD800 <= i < 0xE000 and not chr(i).isspace()
        for before, after in (("", " "), ("a\t ", "\u0301b"))
    ]
    for start in range(0, len(lines), 1000):
        block = lines[start : start + 1000]
        assert normalize("\n".join(block)).split("\n") == list(map(normalized, block))


@pytest.mark.parametrize("read_chars", [1, 7, 2**17])
def test_each_non_blank_line_has_a_hash(tmp_path, monkeypatch, read_chars):
    lines = [*sentences(300), *VARIANTS, *INVISIBLE, *VARIANTS]
    put(tmp_path / "a.txt", as_text([*lines[:50], "", *lines[50:], ""]))
    monkeypatch.setattr(split, "READ_CHARS", read_chars)
    hashes = [value for batch in line_hashes(tmp_path / "a.txt") for value in batch.tolist()]
    assert hashes == [hash(normalized(line)) for line in lines]


@pytest.mark.parametrize("max_hashes", [1, 10, 2**22])
def test_common_lines_are_removed_and_documents_stay_apart(tmp_path, monkeypatch, max_hashes):
    """Also if the hashes do not fit into memory at once."""
    monkeypatch.setattr(split, "MAX_HASHES", max_hashes)
    monkeypatch.setattr(split, "READ_CHARS", 5)
    put(tmp_path / "a.txt", "x\na\n\nb\nx\nc\n\nX\n\nx\nd\n\nx\n")
    put(tmp_path / "b.txt", "p\n\nX \nq\n")
    assert remove_common_lines(tmp_path / "a.txt", tmp_path / "b.txt") == 5
    assert (tmp_path / "a.txt").read_text() == "a\n\nb\nc\n\nd\n"
    assert remove_common_lines(tmp_path / "a.txt", tmp_path / "b.txt") == 0
    assert (tmp_path / "a.txt").read_text() == "a\n\nb\nc\n\nd\n"


# no line is in both parts


@pytest.mark.parametrize("copies", [1, 2, 3, 12, 100])
@pytest.mark.parametrize("form", ["lines", "rows", "documents", "files", "valid_corpus"])
def test_no_validation_line_occurs_in_the_training_text(tmp_path, form, copies):
    """However a text is split, and however often its lines are repeated."""
    lines = repeated(1200 // copies, copies)
    lines = [line.upper() if i % 7 == 0 else f" {line}" for i, line in enumerate(lines)]
    documents = ["\n".join(lines[i : i + 6]) for i in range(0, len(lines), 6)]
    valid = None
    if form == "lines":
        given = put(tmp_path / "a.txt", as_text(lines))
    elif form == "rows":
        given = put(tmp_path / "a.csv", as_csv(lines))
    elif form == "documents":
        given = put(tmp_path / "a.jsonl", as_jsonl(documents))
    elif form == "files":
        given = [put(tmp_path / f"{i}.txt", text) for i, text in enumerate(documents)]
    else:
        given = put(tmp_path / "a.txt", as_text(lines))
        valid = put(tmp_path / "b.txt", as_text([*lines[:40], *sentences(20, seed=1)]))
    folder = load_corpus(given, tmp_path / "work", valid_corpus=valid)
    assert not common_lines(folder)
    found = about(folder)["split"]
    train, valid_lines = ([line for line in part if line] for part in read_split(folder))
    assert (found["train"], found["valid"]) == (len(train), len(valid_lines))
    assert {*map(normalized, lines)} <= {*map(normalized, [*train, *valid_lines])}
    if form != "valid_corpus":
        assert found["train"] + found["valid"] + found["removed"] == len(lines)
        assert 0.02 < found["valid"] / (found["train"] + found["valid"]) < 0.26


@pytest.mark.parametrize("number", [100, 2])
def test_all_copies_of_a_line_are_in_one_part(tmp_path, number):
    """As in a mailbox in which each of 100 mails is stored 12 times."""
    lines = repeated(number, 12)
    folder = load_corpus(put(tmp_path / "a.txt", as_text(lines)), tmp_path)
    train, valid = read_split(folder)
    assert sorted([*train, *valid]) == sorted(lines)  # none is removed
    assert not common_lines(folder)
    assert about(folder)["split"]["rule"] == (
        "a tenth of the different lines is the validation set, with all copies of them"
    )
    if number == 100:
        assert 0.05 < len(valid) / len(lines) < 0.15


@pytest.mark.fault
def test_a_text_of_equal_lines_is_refused_and_leaves_nothing(tmp_path):
    given = put(tmp_path / "a.txt", as_text(["The same.", "the  same."] * 50))
    with refused("too few different lines", "valid_corpus"):
        load_corpus(given, tmp_path)
    assert not list((tmp_path / "corpus").rglob("*.*"))


def test_if_most_of_valid_corpus_is_in_the_corpus_it_is_removed_from_the_training_text(tmp_path):
    """A part that was copied from the corpus and not removed there."""
    lines = repeated(100, 3)
    given = put(tmp_path / "a.txt", as_text(lines))
    valid = put(tmp_path / "b.txt", as_text(lines[:10]))
    folder = load_corpus(given, tmp_path / "work", valid_corpus=valid)
    assert list(text_lines(folder / "valid.txt")) == lines[:10]
    assert list(text_lines(folder / "train.txt")) == [x for x in lines if x not in lines[:10]]
    found = about(folder)["split"]
    assert found["removed"] == 300 - found["train"] > 0
    assert found["rule"].endswith("its lines are removed from the training text")


@pytest.mark.fault
def test_a_valid_corpus_that_has_all_lines_of_the_corpus_is_refused(tmp_path):
    texts = [put(tmp_path / f"{i}.txt", as_text(repeated(30, 2))) for i in (0, 1)]
    with refused("all lines of corpus are also in valid_corpus"):
        load_corpus(texts[0], tmp_path / "work", valid_corpus=texts[1])
    assert not list((tmp_path / "work").rglob("*.txt"))


# documents


def whole_documents(folder, documents):
    """Whether each document is in one part, with all its lines in order."""
    parts = [(folder / name).read_text().strip("\n") for name in ("train.txt", "valid.txt")]
    return sorted("\n\n".join(parts).split("\n\n")) == sorted(documents)


@pytest.mark.parametrize("form", ["blank lines", "rows", "files"])
@pytest.mark.parametrize("length", [1, 3, 80])
def test_documents_are_not_torn_if_there_are_enough_of_them(tmp_path, form, length):
    lines = sentences(60 * length)
    documents = ["\n".join(lines[i : i + length]) for i in range(0, len(lines), length)]
    if form == "blank lines":
        given = put(tmp_path / "a.txt", "\n\n".join(documents))
        folder = load_corpus(given, tmp_path, documents="blank line")
    elif form == "rows":
        folder = load_corpus(put(tmp_path / "a.csv", as_csv(documents)), tmp_path)
    else:
        for i, text in enumerate(documents):
            put(tmp_path / "texts" / f"{i:02}.txt", text)
        folder = load_corpus(str(tmp_path / "texts"), tmp_path / "work")
    assert whole_documents(folder, documents)
    assert 0.05 < about(folder)["split"]["valid"] / len(lines) < 0.15
    rule = "document is" if length == 80 else "block of 6 documents is"
    assert about(folder)["split"]["rule"].startswith(f"every tenth {rule} the validation set")


@pytest.mark.parametrize("count, are_whole", [(19, False), (20, True)])
def test_fewer_than_twenty_documents_are_split_between_lines(tmp_path, count, are_whole):
    documents = ["\n".join(sentences(200, seed=f"{i}")) for i in range(count)]
    documents = [text.replace(" ", f" {i} ") for i, text in enumerate(documents)]
    folder = load_corpus(put(tmp_path / "a.jsonl", as_jsonl(documents)), tmp_path)
    assert whole_documents(folder, documents) == are_whole
    assert about(folder)["split"]["removed"] < count


def test_a_document_that_is_most_of_the_text_is_split_between_lines(tmp_path):
    lines = sentences(2000)
    documents = [*lines[:19], "\n".join(lines[19:1900]), *lines[1900:1930]]
    folder = load_corpus(put(tmp_path / "a.jsonl", as_jsonl(documents)), tmp_path)
    assert 0.05 < about(folder)["split"]["valid"] / 1930 < 0.15
    assert about(folder)["split"]["rule"].startswith("every tenth block of 50 lines is")


def test_copies_of_documents_are_in_one_part(tmp_path):
    documents = ["\n".join(sentences(9, seed=f"{i}")) for i in range(50)] * 8
    documents = [text.replace(" ", f" {i % 50} ") for i, text in enumerate(documents)]
    random.Random(1).shuffle(documents)
    folder = load_corpus(put(tmp_path / "a.jsonl", as_jsonl(documents)), tmp_path)
    assert whole_documents(folder, documents) and not common_lines(folder)
    assert about(folder)["split"]["rule"].startswith("a tenth of the different documents is")
    assert 0.05 < about(folder)["split"]["valid"] / 3600 < 0.15


# memory


def test_memory_does_not_grow_with_the_validation_set(tmp_path, monkeypatch):
    monkeypatch.setattr(split, "MAX_HASHES", 2000)
    peaks = []
    for times in (1, 5):
        train = put(tmp_path / "a.txt", as_text(sentences(4000)))
        valid = put(tmp_path / f"{times}.txt", as_text(sentences(6000 * times, seed=1)))
        tracemalloc.start()
        load_corpus(train, tmp_path / "work", valid_corpus=valid)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
