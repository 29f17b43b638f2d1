"""The same lines from every file format; documents stay apart; what is not text is refused."""

import gzip
import os
import re
import sys
import tracemalloc

import pytest

from helpers import refused, sentences
from mlm.data.corpus import load_corpus
from mlm.data.formats import FORMATS, Format, format_table, numbered_lines, text_lines
from texts import (
    COMPRESS,
    DOCUMENTS,
    LINES,
    TEXT,
    TEXTS,
    WRITERS,
    about,
    all_lines,
    as_arrow,
    as_csv,
    as_json,
    as_jsonl,
    as_parquet,
    as_text,
    as_wiki,
    file_names,
    put,
    read_split,
    text_of,
)

# lines


@pytest.mark.parametrize(
    "join",
    [
        "\n".join,
        "\r\n".join,
        "\r".join,
        lambda lines: "\n\n \t\n".join(lines) + "\n\n",
        lambda lines: "\ufeff" + "\n".join(lines) + "\n",
        lambda lines: "\ufeff" + "\r\n".join(lines) + "\r\n",
    ],
    ids=["LF", "CRLF", "CR", "blank lines", "BOM", "BOM and CRLF"],
)
@pytest.mark.fault
def test_line_ends_blank_lines_and_a_bom_are_removed(tmp_path, join):
    lines = [*sentences(20), "  indented: Größe, ß, 語\u2028a separator, \x0b and \x0c"]
    text = put(tmp_path / "a.txt", join(lines))
    assert list(text_lines(tmp_path / "a.txt")) == lines
    assert all_lines(load_corpus(text, tmp_path)) == sorted(lines)


def test_lines_in_a_row_are_split_like_lines_of_a_file(tmp_path):
    text = "\ufeffone\r\n\r\ntwo\rthree \u2028 \x0b \x0c still\n \t \nfour: Größe, 語"
    put(tmp_path / "a.txt", text)
    expected = [line for _, line in numbered_lines([tmp_path / "a.txt"])]
    assert len(expected) == 4
    for form in ("csv", "jsonl"):
        path = tmp_path / f"a.{form}"
        put(path, WRITERS[form]([text.removeprefix("\ufeff"), None]))
        assert list(numbered_lines([path])) == [(0, line) for line in expected]


@pytest.mark.fault
def test_a_line_of_5_megabytes_is_kept(tmp_path):
    lines = sentences(20)
    lines[7] = "word " * 1_000_000 + "end"
    assert all_lines(load_corpus(put(tmp_path / "a.txt", as_text(lines)), tmp_path)) == sorted(
        lines
    )


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("form", ["txt", "csv", "jsonl", "parquet", "folder", "pattern", "file://"])
def test_one_document_gives_the_same_split_in_every_form(tmp_path, form, compression):
    """As a text file, or as the only row of a table."""
    plain = load_corpus(put(tmp_path / "a.txt", TEXT), tmp_path / "plain")
    compress = COMPRESS[compression]
    if form in WRITERS:
        if form == "parquet" and compression:
            pytest.skip("parquet files compress themselves")
        given = put(tmp_path / f"rows.{form}{compression}", compress(WRITERS[form]([TEXT])))
    else:
        path = put(tmp_path / "texts" / f"b.txt{compression}", compress(TEXT.encode()))
        given = {
            "txt": path,
            "folder": str(tmp_path / "texts"),
            "pattern": f"{tmp_path}/*/b.t*",
            "file://": f"file://{path}",
        }[form]
    folder = load_corpus(given, tmp_path / "work")
    assert read_split(folder) == read_split(plain)
    for name in ("train", "valid", "removed", "rule", "documents"):
        assert about(plain)["split"][name] == about(folder)["split"][name]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "folder", "list"])
def test_documents_give_the_same_split_in_every_form(tmp_path, form):
    """As rows of a table or files of a folder; a blank line, which is no example, separates them."""
    if form in WRITERS:
        given = put(tmp_path / f"a.{form}", WRITERS[form](TEXTS, "body"))
    else:
        files = [put(tmp_path / "texts" / f"{i}.txt", text) for i, text in enumerate(TEXTS)]
        given = files if form == "list" else str(tmp_path / "texts")
    folder = load_corpus(given, tmp_path / "work", "body" if form in WRITERS else "text")
    plain = load_corpus(put(tmp_path / "all.txt", "\n".join(TEXTS)), tmp_path / "plain")
    for name in ("train.txt", "valid.txt"):
        assert list(text_lines(folder / name)) == list(text_lines(plain / name))
    train, valid = ((folder / name).read_text() for name in ("train.txt", "valid.txt"))
    documents = [text.splitlines() for text in train.removesuffix("\n").split("\n\n")]
    held_out = set(valid.splitlines())
    assert documents == [[line for line in text if line not in held_out] for text in DOCUMENTS]
    split = about(folder)["split"]
    assert (split["documents"], split["empty"]) == (4, 0)


@pytest.mark.parametrize("form", ["txt", "txt.gz", "csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_text(tmp_path, form):
    """A text three times as long takes as much memory at its peak (for parquet: in Python)."""
    peaks = []
    for times in (1, 3):
        texts = [" ".join(LINES[i % 50 : i % 50 + 20]) for i in range(500 * times)]
        content = WRITERS.get(form, as_text)(texts)
        content = gzip.compress(content, 1) if form.endswith("gz") else content
        given = put(tmp_path / f"{times}.{form}", content)
        del content, texts
        tracemalloc.start()
        load_corpus(given, tmp_path / "work")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# recognized by the content

TABS, SEMICOLONS, BARS = (as_csv(TEXTS, delimiter=delimiter) for delimiter in "\t;|")
QUOTES = [f'the "{i} word' if i % 3 else f'"{i} quoted' for i in range(40)]  # not closed
CONTENTS = {  # file name: (content, what corpus.json says)
    "lines.json": (as_jsonl(TEXTS), "JSON lines"),
    "lines.ndjson": (as_jsonl(TEXTS), "JSON lines"),
    "lines.txt": (as_jsonl(TEXTS), "JSON lines"),
    "no suffix": (as_jsonl(TEXTS), "JSON lines"),
    "array.json": (as_json(TEXTS), "JSON"),
    "pretty.json": (b"\n " + as_json(TEXTS, indent=2) + b"\n", "JSON"),
    "array.jsonl": (as_json(TEXTS), "JSON"),
    "objects.json": (as_json(TEXTS, indent=1)[1:-1].replace(b"},", b"}"), "JSON"),
    "tabs.tsv": (TABS, "CSV with the delimiter '\\t'"),
    "tabs.txt": (TABS, "CSV with the delimiter '\\t'"),
    "tabs.csv.gz": (gzip.compress(TABS), "CSV with the delimiter '\\t'"),
    "semicolons.csv": (SEMICOLONS, "CSV with the delimiter ';'"),
    "bars.csv": (BARS, "CSV with the delimiter '|'"),
    "part-00000": (as_csv(TEXTS), "CSV with the delimiter ','"),
    "with a BOM.csv": (b"\xef\xbb\xbf" + SEMICOLONS, "CSV with the delimiter ';'"),
    "wiki_00": (as_wiki(TEXTS), "WikiExtractor"),
    "wiki.txt": (b"\n" + as_wiki(TEXTS), "WikiExtractor"),
    "wiki.json": (as_jsonl(TEXTS), "JSON lines"),  # WikiExtractor --json
}


@pytest.mark.parametrize("name", CONTENTS)
def test_the_content_decides_the_format(tmp_path, name):
    content, label = CONTENTS[name]
    folder = load_corpus(put(tmp_path / name, content), tmp_path / "work")
    expected = load_corpus(put(tmp_path / "expected.jsonl", as_jsonl(TEXTS)), tmp_path / "plain")
    assert read_split(folder) == read_split(expected)
    assert about(folder)["split"]["formats"] == {label: 1}


def test_a_table_may_have_one_column(tmp_path):
    lines = sentences(40)
    folder = load_corpus(put(tmp_path / "a.csv", as_text(["text", *lines])), tmp_path)
    assert text_of(folder) == sorted(lines)
    assert about(folder)["split"]["formats"] == {"CSV with one column": 1}


@pytest.mark.fault
def test_a_table_without_names_of_columns_shows_its_first_row(tmp_path):
    rows = [f"{i}\tI see, {i}" for i in range(40)]  # each row has one comma, too
    with refused("'0', 'I see, 0'", "first line, which must name the columns"):
        load_corpus(put(tmp_path / "a.tsv", as_text(rows)), tmp_path)


@pytest.mark.parametrize("write", [as_parquet, as_arrow])
def test_parquet_and_arrow_need_no_suffix(tmp_path, write):
    folder = load_corpus(put(tmp_path / "a.txt", write(TEXTS)), tmp_path)
    assert text_of(folder) == sorted(line for document in DOCUMENTS for line in document)


def test_quotes_in_a_table_with_tabs_may_be_part_of_the_text(tmp_path):
    """As in GLUE, where they do not enclose a text."""
    rows = "".join(f"{i}\t{text}\n" for i, text in enumerate(QUOTES))
    folder = load_corpus(put(tmp_path / "a.tsv", f"id\ttext\n{rows}"), tmp_path)
    assert text_of(folder) == sorted(QUOTES)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_text_in_quotes_may_contain_delimiters_and_line_ends(tmp_path, delimiter):
    texts = [f'{i} said: "no; never,\twell|perhaps"\nand went' for i in range(30)]
    folder = load_corpus(
        put(tmp_path / "a.csv", as_csv(texts, "body", delimiter)), tmp_path, "body"
    )
    assert about(folder)["lines"] == 60
    assert {*text_of(folder)} == {*"\n".join(texts).split("\n")}


@pytest.mark.parametrize(
    "line",
    ["1, 2; 3 and | the text\tof it", "[1] text", '{"a": 1', "{} text", "<doc> is a tag", "text"],
)
def test_plain_text_stays_plain_text(tmp_path, line):
    lines = [f"{line} {i}" for i in range(30)]
    lines[0] = line
    folder = load_corpus(put(tmp_path / "a.txt", as_text(lines)), tmp_path)
    assert all_lines(folder) == sorted(lines)


def test_a_json_array_in_one_line_is_read_in_parts(tmp_path):
    """Also objects that are longer than a part."""
    texts = [*TEXTS, *("word " * 10**length for length in range(6))]
    put(tmp_path / "a.json", as_json(texts))
    put(tmp_path / "a.jsonl", as_jsonl(texts))
    lines = [list(numbered_lines([tmp_path / name])) for name in ("a.json", "a.jsonl")]
    assert lines[0] == lines[1] and len(lines[0]) == 109


# documents


def test_documents_are_files_rows_lines_or_what_blank_lines_separate(tmp_path):
    files = [tmp_path / name for name in ("a.txt", "b.txt", "c.csv")]
    put(files[0], "\n\na\nb\n\n \nc\n")
    put(files[1], "d\n")
    put(files[2], as_csv(["e\n\nf", "", "g"]))
    expected = {  # the documents
        None: ["abc", "d", "ef", "g"],
        "file": ["abc", "d", "efg"],
        "blank line": ["ab", "c", "d", "e", "f", "g"],
        "line": [*"abcdefg"],
    }
    for documents, words in expected.items():
        found = list(numbered_lines(files, documents=documents))
        assert found == [(i, letter) for i, word in enumerate(words) for letter in word]


# the table of formats


def test_one_entry_in_the_table_adds_a_format(tmp_path, monkeypatch, capsys):
    """Files of the new format are found in a folder, read, and named in messages and tables."""

    def toy_rows(file, column):
        """Documents between lines of dashes.

        This line is not shown.
        """
        yield from "".join(file.lines()).split("---\n")

    put(tmp_path / "texts" / "a.toy", "---\n".join(f"{text}\n" for text in TEXTS[:2]))
    put(tmp_path / "texts" / "b.TOY.gz", gzip.compress("\n---\n".join(TEXTS[2:]).encode()))
    put(tmp_path / "empty" / "image.png", b"")
    with refused("has no file that ends in .txt"):
        load_corpus(str(tmp_path / "texts"), tmp_path / "work")
    capsys.readouterr()

    monkeypatch.setitem(FORMATS, "toy format", Format((".toy",), toy_rows))
    folder = load_corpus(str(tmp_path / "texts"), tmp_path / "work")
    assert "2 text file(s)\n" in capsys.readouterr().out
    expected = load_corpus(put(tmp_path / "a.jsonl", as_jsonl(TEXTS)), tmp_path / "plain")
    assert read_split(folder) == read_split(expected)
    assert about(folder)["split"]["documents"] == 4
    with refused("has no file that ends in", ".toy"):
        load_corpus(str(tmp_path / "empty"), tmp_path / "work")
    assert "| toy format | `*.toy` | Documents between lines of dashes |" in format_table()


def test_every_reader_describes_its_format():
    for name, form in FORMATS.items():
        assert form.read.__doc__ and f"| {name} | " in format_table()


def test_the_table_of_formats_has_three_columns_in_each_row():
    """A "|" in a description would be the border of a fourth, and nbconvert shows no table then."""
    rows = format_table().splitlines()
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}


# what is not text


def twenty_lines_and(*more):
    return "\n".join(["x"] * 20 + [*more]).encode()


NOT_TEXT = {  # name: (content, words of the message)
    "empty.txt": (b"", ["has no text"]),
    "blank.txt": (b"\n \r\n\t\n" * 20, ["has no text"]),
    "only a BOM.txt": (b"\xef\xbb\xbf", ["has no text"]),
    "one line.txt": (b"one line", ["got 1", "on its own line"]),
    "one long line.txt": (b"word " * 1_000_000, ["got 1", "on its own line"]),
    "nine lines.txt": (b"line\n" * 9, ["at least 10", "got 9"]),
    "utf-32.txt": ("line\n".encode("utf-32") * 20, ["UTF-32 text", "iconv -f UTF-32 "]),
    "utf-16.txt": ("line\n".encode("utf-16") * 20, ["UTF-16 text", "iconv -f UTF-16 "]),
    "utf-16-le.txt": ("line\n".encode("utf-16-le") * 20, ["UTF-16LE text", "iconv -f UTF-16LE "]),
    "utf-16-be.txt": ("line\n".encode("utf-16-be") * 20, ["UTF-16BE text", "iconv -f UTF-16BE "]),
    "latin-1.txt": ("Größe\n".encode("latin-1") * 20, ["not UTF-8", "0xf6", "iconv -f CP1252"]),
    "late byte.txt": (b"word\n" * 100_000 + b"\xff", ["not UTF-8", "0xff", "iconv"]),
    "NUL.txt": (b"line\n" * 20 + b"a\0b\n", ["line 21 contains a NUL byte", "not a text file"]),
    "binary.txt": (bytes(range(256)) * 100, ["a binary file", "pass a text file"]),
    "parquet.txt": (b"PAR1" + bytes(99), ["is damaged, or not a parquet"]),
    "cut.txt.gz": (gzip.compress(os.urandom(9999).hex().encode())[:-100], ["is damaged"]),
    "flipped.txt.gz": (gzip.compress(twenty_lines_and())[:-6] + b"abcdef", ["is damaged"]),
    "cut.txt.bz2": (COMPRESS[".bz2"](os.urandom(9999).hex().encode())[:-100], ["is damaged"]),
    "cut.csv.xz": (COMPRESS[".xz"](os.urandom(9999).hex().encode())[:-100], ["is damaged"]),
    "latin.txt.gz": (gzip.compress("Größe\n".encode("latin-1") * 20), ["not UTF-8"]),
    "zip.txt.gz": (gzip.compress(b"PK\x03\x04" + bytes(99)), ["zip archive inside"]),
    "other column.csv": (as_csv(TEXTS, "body"), ["no column 'text'", "'id', 'body', 'label'"]),
    "empty.csv": (b"", ["has no text"]),
    "semicolons.csv": (b"id;body\n1;a\n", ["no column 'text'", "'id', 'body'"]),
    "commas.csv": (b"text,n\nwith, commas, 1\n", ["line 2 has 3 columns where the first has 2"]),
    "open quote.csv": (b'text\n"never closed\n' + b"line\n" * 20, ["line 22 is not valid CSV"]),
    "huge.csv": (b'text\n"' + b"word " * 4_000_000, ["not valid CSV", "larger than field limit"]),
    "latin.csv": (
        "text\nGröße\n".encode("latin-1"),
        ["not UTF-8", "line 2, byte offset 7", "cp1252"],
    ),
    "utf-16.csv": ("text\nline\n".encode("utf-16"), ["UTF-16 text"]),
    "other key.jsonl": (as_jsonl(TEXTS, "body"), ["line 1 has no column 'text'", "'id', 'body'"]),
    "half.jsonl": (as_jsonl(TEXTS)[:-9], ["line 4 is not valid JSON"]),
    "numbers.jsonl": (b"1\n2\n", ["line 1 is not a JSON object"]),
    "numbers.json": (b"[1, 2]", ["object 1 is not a JSON object"]),
    "cut.json": (as_json(TEXTS)[:-9], ["object 4 is cut off or not valid JSON"]),
    "open.json": (as_json(TEXTS)[:-1], ["is cut off"]),
    "other key.json": (as_json(TEXTS, "body"), ["object 1 has no column 'text'", "'id', 'body'"]),
    "config.json": (b'{"vocab_size": 7}', ["no column 'text'", "'vocab_size'"]),
    "deep.json": (b"[" * 100_000, ["is cut off"]),
    "words.json": (b"[Illustration]", ["object 1 is cut off or not valid JSON"]),
    "deep.jsonl": (b"[" * 100_000, ["line 1 is not valid JSON"]),
    "number.jsonl": (b'{"text": "a"}\n{"text": 7}\n', ["row 2: 'text' is of type int, not text"]),
    "list.jsonl": (b'{"text": ["a"]}\n', ["row 1: 'text' is of type list, not text"]),
    "surrogate.jsonl": (b'{"text": "\\ud800"}\n', ["row 1 contains half of a surrogate pair"]),
    "NUL.jsonl": (b'{"text": "a\\u0000b"}\n', ["row 1 contains a NUL byte"]),
    "binary.jsonl": (bytes(range(256)), ["not"]),
    "nine.jsonl": (as_jsonl([*"abcdefghi", "", None]), ["at least 10", "got 9"]),
}


@pytest.mark.fault
@pytest.mark.parametrize("name", NOT_TEXT)
def test_what_is_not_text_is_refused_and_leaves_nothing(tmp_path, name):
    content, words = NOT_TEXT[name]
    given = put(tmp_path / name, content)
    with refused(name, *words) as line:
        load_corpus(given, tmp_path / "work")
    assert len(line()) < 700
    assert file_names(tmp_path) == [name]


@pytest.mark.fault
def test_tables_without_pyarrow_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refused("a.parquet needs the package pyarrow", "pip install pyarrow"):
        load_corpus(put(tmp_path / "a.parquet", b"PAR1"), tmp_path)


@pytest.mark.fault
def test_damaged_tables_and_wrong_columns_are_refused(tmp_path):
    pytest.importorskip("pyarrow")
    damaged = {
        "a.parquet": b"PAR1 and nothing else",
        "b.parquet": as_parquet(TEXTS)[:-9],
        "c.arrow": as_arrow(TEXTS)[:200],
    }
    for name, content in damaged.items():
        with refused(name, "is damaged, or not a"):
            load_corpus(put(tmp_path / name, content), tmp_path / "work")
    for form, write in (("parquet", as_parquet), ("arrow", as_arrow)):
        with refused("no column 'text'", "'body'"):
            load_corpus(put(tmp_path / f"d.{form}", write(TEXTS, "body")), tmp_path / "work")
        with refused("row 1: 'text' is of type int, not text"):
            load_corpus(put(tmp_path / f"e.{form}", write([1, 2, 3])), tmp_path / "work")


@pytest.mark.fault
def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table([["a", "b"], LINES[:2], LINES[2:4]], names=["id", "text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    put(tmp_path / "a.csv", "id,text,text\n" + "1,b,c\n" * 20)
    for form in ("parquet", "arrow", "csv"):
        with refused(f"a.{form} has 2 columns 'text'", "rename"):
            load_corpus(str(tmp_path / f"a.{form}"), tmp_path / "work")
