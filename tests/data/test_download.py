"""Texts in many files and forms: the same lines whatever they come in, documents kept apart."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import shutil
import sys
import tracemalloc
import types

import numpy as np
import pytest

import mlm.data.corpus as corpus
from helpers import refused, sentences
from mlm.data.dataset import MaskedLMDataset
from mlm.data.download import fetch_corpus
from mlm.data.formats import numbered_lines, text_lines
from mlm.data.tokenizer import learn_wordpiece


def as_csv(texts, column="text"):
    """The bytes of a CSV with a row for each text, and another column on each side."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows(
        [["id", column, "label"], *([i, t, "x"] for i, t in enumerate(texts))]
    )
    return file.getvalue().encode()


def as_jsonl(texts, column="text"):
    return "".join(json.dumps({"id": 1, column: t}) + "\n" for t in texts).encode()


def as_parquet(texts, column="text"):
    arrow = pytest.importorskip("pyarrow")
    parquet, file = pytest.importorskip("pyarrow.parquet"), io.BytesIO()
    parquet.write_table(arrow.table({"id": range(len(texts)), column: texts}), file)
    return file.getvalue()


def as_arrow(texts, column="text"):
    arrow = pytest.importorskip("pyarrow")
    table, file = arrow.table({column: texts}), io.BytesIO()
    with arrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, 7)
    return file.getvalue()


ROWS = {"csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet, "arrow": as_arrow}
PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def put(path, content):
    """The path, as a parameter gives it, of a file of this content, made with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def parts(folder):
    """The bytes of train.txt and valid.txt."""
    return [(folder / name).read_bytes() for name in ("train.txt", "valid.txt")]


def split(folder):
    return json.loads((folder / "corpus.json").read_text())["split"]


LINES = sentences(230)
TEXT = "\n".join([*LINES[:100], "", *LINES[100:], ""])
DOCUMENTS = [["a 1", "a 2"], [f"b {i}" for i in range(40)], ["c 1"], [f"d {i}" for i in range(60)]]
TEXTS = ["\n".join(lines) for lines in DOCUMENTS]


# the same lines


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("form", ["txt", "csv", "jsonl", "parquet", "folder", "pattern", "file://"])
def test_one_document_is_the_same_in_every_form(tmp_path, form, pack):
    """As a file, or as the text of the one row of a table: the same bytes, the same split."""
    plain = corpus.load_corpus(put(tmp_path / "a.txt", TEXT), tmp_path / "plain")
    if form in ROWS:
        if form == "parquet" and pack:
            pytest.skip("it packs itself")
        given = put(tmp_path / f"rows.{form}{pack}", PACK[pack](ROWS[form]([TEXT])))
    else:
        given = put(tmp_path / "texts" / f"b.txt{pack}", PACK[pack](TEXT.encode()))
        given = {
            "folder": str(tmp_path / "texts"), "pattern": f"{tmp_path}/*/b.t*", "txt": given,
            "file://": f"file://{given}",
        }[form]  # fmt: skip
    folder = corpus.load_corpus(given, tmp_path / "work")
    assert parts(folder) == parts(plain)
    assert {k: split(folder)[k] for k in split(plain)} == split(plain)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "folder", "list"])
def test_many_documents_are_the_same_in_every_form(tmp_path, form):
    """Rows of a table and files of a folder: a blank line parts them, and is no line."""
    if form in ROWS:
        given = put(tmp_path / f"a.{form}", ROWS[form](TEXTS, "body"))
    else:
        files = [put(tmp_path / "texts" / f"{i}.txt", text) for i, text in enumerate(TEXTS)]
        given = files if form == "list" else str(tmp_path / "texts")
    folder = corpus.load_corpus(given, tmp_path / "work", "body")
    together = put(tmp_path / "all.txt", "\n".join(TEXTS))
    plain = corpus.load_corpus(together, tmp_path / "plain")
    for name in ("train.txt", "valid.txt"):
        assert list(text_lines(folder / name)) == list(text_lines(plain / name))
    train, valid = (part.decode() for part in parts(folder))
    apart = [doc.splitlines() for doc in train.removesuffix("\n").split("\n\n")]
    held_out = set(valid.splitlines())
    assert apart == [[line for line in doc if line not in held_out] for doc in DOCUMENTS]
    assert (split(folder)["documents"], split(folder)["empty"]) == (4, 0)


def test_lines_of_rows_are_read_as_those_of_files(tmp_path):
    """Whatever ends a line, and what only looks like an end."""
    text = "\ufeffone\r\n\r\ntwo\rthree \u2028 \x0b \x0c still\n \t \nfour: Größe, 語"
    expected = [line for _, line in numbered_lines([put_path(tmp_path / "a.txt", text)])]
    assert len(expected) == 4
    for form in ("csv", "jsonl"):
        path = put_path(tmp_path / f"a.{form}", ROWS[form]([text.removeprefix("\ufeff"), None]))
        assert list(numbered_lines([path])) == [(0, line) for line in expected]


def put_path(path, content):
    put(path, content)
    return path


# documents


@pytest.mark.parametrize("max_len", [5, 8, 64])
def test_no_block_runs_across_two_documents(tmp_path, max_len):
    given = put(tmp_path / "a.jsonl", as_jsonl(["", *TEXTS, " \n", "e 1"]))
    file = corpus.load_corpus(given, tmp_path) / "train.txt"
    tokenizer = learn_wordpiece(file)
    apart = [
        tokenizer(doc, add_special_tokens=False)["input_ids"]
        for doc in file.read_text().split("\n\n")
    ]
    room = max_len - 2
    expected = [doc[i : i + room] for doc in apart for i in range(0, len(doc), room)]
    blocks = MaskedLMDataset(file, tokenizer, max_len, "block")
    assert [example[1:-1].tolist() for example in blocks] == expected
    assert blocks.num_truncated == 0
    stream = MaskedLMDataset(file, tokenizer, max_len, "stream")
    whole = [token for doc in apart for token in doc]
    assert [example[1:-1].tolist() for example in stream] == [
        whole[i : i + room] for i in range(0, len(whole), room)
    ]
    lines = MaskedLMDataset(file, tokenizer, max_len)
    assert len(lines) == sum(1 for _ in text_lines(file))


def test_a_single_file_is_as_it_always_was(tmp_path):
    """No line is added, no digest changes; blocks run over its blank lines."""
    folder = corpus.load_corpus(put(tmp_path / "a.txt", TEXT), tmp_path)
    train, valid = parts(folder)
    numbered = list(enumerate(LINES))
    run = 230 // 10
    for part, held_out in ((train, False), (valid, True)):
        kept = [line for i, line in numbered if (i // run % 10 == 9) == held_out]
        assert part.decode() == "".join(f"{line}\n" for line in kept)
    tokenizer = learn_wordpiece(folder / "train.txt")
    data = {
        kind: MaskedLMDataset(folder / "train.txt", tokenizer, 16, kind)
        for kind in ("block", "stream")
    }
    for name in ("starts", "lengths"):
        assert np.array_equal(*(getattr(each, name) for each in data.values()))


# a held-out text of one's own


def test_all_of_the_text_is_trained_on_where_another_is_held_out(tmp_path):
    train = put(tmp_path / "a.txt", TEXT)
    mine = [*LINES[:3], "of my own", LINES[0]]
    valid = put(tmp_path / "b.csv", as_csv(mine, "line"))
    folder = corpus.load_corpus(train, tmp_path / "work", "line", valid)
    assert list(text_lines(folder / "train.txt")) == LINES
    assert list(text_lines(folder / "valid.txt")) == mine
    assert split(folder)["rule"].endswith("that the training text has too: 4")
    others = [corpus.load_corpus(train, tmp_path / "work")]
    put(tmp_path / "b.csv", as_csv([*mine, "more"], "line"))
    others += [corpus.load_corpus(train, tmp_path / "work", "line", valid)]
    about = [json.loads((each / "corpus.json").read_text()) for each in (folder, *others)]
    assert len({each["sha256"] for each in about}) == len({folder, *others}) == 3


def test_what_is_held_out_is_not_trained_on(tmp_path):
    """A folder or pattern may well hold the held-out file too."""
    for name in "abc":
        put(tmp_path / f"texts/{name}.txt", f"{name} 1\n{name} 2\n")
    valid = f"{tmp_path}/texts/b.txt"
    folder = corpus.load_corpus(f"{tmp_path}/texts/*.txt", tmp_path / "work", valid_corpus=valid)
    assert parts(folder) == [b"a 1\na 2\n\nc 1\nc 2\n", b"b 1\nb 2\n"]
    with refused("corpus=", "has no file that is not in valid_corpus as well"):
        corpus.load_corpus(valid, tmp_path / "work", valid_corpus=valid)


# what is taken


def test_a_folder_gives_its_texts_and_nothing_else(tmp_path, capsys):
    root = tmp_path / "texts"
    wanted = ["B.TXT", "a.md", "b/cc.txt.gz", "b/d.jsonl", "z.csv"]
    for name in [
        *wanted,
        "image.png",
        ".hidden.txt",
        ".git/x.txt",
        "b/work/corpus/x/train.txt",
        "notes",
    ]:
        put(root / name, b"")
    os.symlink(root, root / "b" / "loop")
    os.symlink(root / "gone", root / "gone.txt")
    found = fetch_corpus(str(root), root / "b" / "work")
    assert [str(path.relative_to(root)) for path in found] == wanted
    assert "5 text file(s); left out: " in (said := capsys.readouterr().out)
    assert "1 x .png" in said and "1 x notes" in said
    with refused("fits no file"):  # .git/x.txt is hidden
        fetch_corpus(f"{root}/**/?.txt", root / "b" / "work")


@pytest.mark.parametrize("place", ["texts", "texts/runs", "."])
def test_what_a_run_wrote_is_no_text_of_yours(tmp_path, monkeypatch, place, capsys):
    """Wherever workdir lies, the same folder is the same corpus again."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        put(tmp_path / f"texts/{name}.txt", "\n".join(sentences(30, seed=name)))
    for given in ("texts", "texts/**/*.txt"):
        first = corpus.load_corpus(given, corpus.make_workdir(place))
        assert corpus.load_corpus(given, corpus.make_workdir(place)) == first
        assert split(first)["files"] == 2


def test_order_is_that_of_names_and_only_content_decides(tmp_path):
    for folder, names in (("x", "abc"), ("y", "def")):
        for name, text in zip(names, TEXTS[1:]):
            put(tmp_path / folder / f"{name}.txt", text)
    put(tmp_path / "z" / "a.txt", TEXTS[3])
    put(tmp_path / "z" / "b.txt", TEXTS[2])
    put(tmp_path / "z" / "c.txt", TEXTS[1])
    x, y, z = (corpus.load_corpus(str(tmp_path / n), tmp_path / f"w{n}") for n in "xyz")
    about = [json.loads((each / "corpus.json").read_text()) for each in (x, y, z)]
    assert about[0]["sha256"] == about[1]["sha256"] != about[2]["sha256"]
    assert parts(x) == parts(y) != parts(z)


@pytest.mark.fault
@pytest.mark.parametrize("form", ["txt", "jsonl", "csv", "txt.gz"])
def test_a_change_of_any_file_makes_another_corpus(tmp_path, form):
    """What is damaged in its folder is made again; what changes in a source is another text."""
    pack = gzip.compress if form.endswith("gz") else bytes
    content = ROWS.get(form, lambda texts: "\n".join(texts).encode())
    for name in "abc":
        put(tmp_path / f"texts/{name}.{form}", pack(content(sentences(20, seed=name))))
    given = str(tmp_path / "texts")
    folder = corpus.load_corpus(given, tmp_path / "work")
    whole = parts(folder)
    put(folder / "train.txt", b"damaged")
    assert corpus.load_corpus(given, tmp_path / "work") == folder and parts(folder) == whole
    found = {folder}
    for name in "abc":
        put(tmp_path / f"texts/{name}.{form}", pack(content(sentences(20, seed=f"{name}2"))))
        found.add(corpus.load_corpus(given, tmp_path / "work"))
    assert len(found) == 4


def test_another_column_is_another_corpus(tmp_path):
    rows = [{"one": f"1 {line}", "two": f"2 {line}"} for line in LINES[:30]]
    given = put(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    one, two = (corpus.load_corpus(given, tmp_path, column) for column in ("one", "two"))
    assert one != two and {line[0] for line in text_lines(two / "train.txt")} == {"2"}


@pytest.mark.parametrize("form", ["txt", "txt.gz", "csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_text(tmp_path, form):
    """Three times the text takes as much at its peak (of a parquet file: of Python's own memory)."""
    peaks = []
    for times in (1, 3):
        texts = [" ".join(LINES[i % 50 : i % 50 + 20]) for i in range(1500 * times)]
        content = ROWS.get(form, lambda texts: "\n".join(texts).encode())(texts)
        content = gzip.compress(content, 1) if form.endswith("gz") else content
        given = put(tmp_path / f"{times}.{form}", content)
        del content, texts
        tracemalloc.start()
        corpus.load_corpus(given, tmp_path / "work")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# refused


def lines_of(*rows):
    return "\n".join(["x"] * 20 + [*rows]).encode()


BAD = {
    "no such column.csv": (as_csv(TEXTS, "body"), ["no column 'text'", "'id', 'body', 'label'"]),
    "empty.csv": (b"", ["no column 'text'"]),
    "semicolons.csv": (b"id;text\n1;a\n", ["no column 'text'", "'id;text'"]),
    "commas.csv": (b"text,n\nwith, commas, 1\n", ["line 2 has 3 columns where the first has 2"]),
    "open quote.csv": (b'text\n"never closed\n' + b"line\n" * 20, ["line 22 is no CSV"]),
    "huge.csv": (b'text\n"' + b"word " * 4_000_000, ["is no CSV", "field larger than field limit"]),
    "latin.csv": ("text\nGröße\n".encode("latin-1"), ["not UTF-8", "iconv -f LATIN1"]),
    "utf-16.csv": ("text\nline\n".encode("utf-16"), ["UTF-16 text"]),
    "no such key.jsonl": (as_jsonl(TEXTS, "body"), ["line 1 has no column 'text'", "'id', 'body'"]),
    "half.jsonl": (as_jsonl(TEXTS)[:-9], ["line 4 is no JSON"]),
    "an array.jsonl": (b'[{"text": "a"}]\n', ["line 1 is no JSON object"]),
    "deep.jsonl": (b"[" * 100_000, ["line 1 is no JSON"]),
    "a number.jsonl": (b'{"text": "a"}\n{"text": 7}\n', ["row 2: 'text' is of type int, not text"]),
    "a list.jsonl": (b'{"text": ["a"]}\n', ["row 1: 'text' is of type list, not text"]),
    "half a pair.jsonl": (b'{"text": "\\ud800"}\n', ["row 1 has half of a surrogate pair"]),
    "NUL.jsonl": (b'{"text": "a\\u0000b"}\n', ["row 1 has a NUL byte"]),
    "cut.txt.gz": (gzip.compress(os.urandom(9999).hex().encode())[:-100], ["is damaged"]),
    "flipped.txt.gz": (gzip.compress(lines_of())[:-6] + b"abcdef", ["is damaged"]),
    "cut.txt.bz2": (bz2.compress(os.urandom(9999).hex().encode())[:-100], ["is damaged"]),
    "cut.csv.xz": (lzma.compress(os.urandom(9999).hex().encode())[:-100], ["is damaged"]),
    "latin.txt.gz": (gzip.compress(lines_of("Größe").decode().encode("latin-1")), ["not UTF-8"]),
    "packed.txt.gz": (gzip.compress(b"PK\x03\x04" + bytes(99)), ["zip archive"]),
    "binary.jsonl": (bytes(range(256)), ["not"]),
    "table.txt": (b"PAR1" + bytes(99), ["a parquet file", ".parquet"]),
    "zstd.txt": (b"\x28\xb5\x2f\xfd" + bytes(99), ["a zstd archive", "unpack it first"]),
    "nine.jsonl": (as_jsonl([*"abcdefghi", "", None]), ["has 9 non-blank line(s)"]),
}


@pytest.mark.fault
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_refused(tmp_path, name):
    content, words = BAD[name]
    given = put(tmp_path / name, content)
    with refused(name, *words) as line:
        corpus.load_corpus(given, tmp_path / "work")
    assert len(line()) < 700
    assert not list(tmp_path.rglob("train.txt*"))


@pytest.mark.fault
@pytest.mark.parametrize("parameter", ["corpus", "valid_corpus"])
def test_one_bad_file_of_many_is_named(tmp_path, parameter):
    for name in "abc":
        put(tmp_path / f"texts/{name}.txt", TEXT)
    put(tmp_path / "texts" / "bad.txt", "Größe\n".encode("latin-1") * 20)
    given = {"corpus": put(tmp_path / "a.txt", TEXT), parameter: str(tmp_path / "texts")}
    with refused(str(tmp_path / "texts" / "bad.txt"), "not UTF-8"):
        corpus.load_corpus(workdir=tmp_path / "work", **given)


@pytest.mark.fault
@pytest.mark.parametrize("parameter", ["corpus", "valid_corpus"])
@pytest.mark.parametrize(
    "given, word",
    [
        ("{}/none/*.txt", "fits no file"), ("{}/a**.txt", ""), ("{}/empty", "has no file that ends in"),
        ("{}/gone", "does not exist"), ("hf://datasets/glue", "hf://datasets/OWNER/NAME/FILES"),
        ("http://[bad/", "is no address"), ("{}/loop", ""), ("{}/*.png", "fits no file"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(tmp_path, given, word, parameter):
    (tmp_path / "empty").mkdir()
    put(tmp_path / "empty" / "image.png", b"\x89PNG")
    os.symlink("loop", tmp_path / "loop")
    texts = {"corpus": put(tmp_path / "x.md", TEXT), parameter: given.format(tmp_path)}
    with refused(f"{parameter}=", word, "pass "):
        corpus.load_corpus(workdir=tmp_path / "work", **texts)


@pytest.mark.fault
def test_tables_without_pyarrow_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refused("a.parquet needs the package pyarrow", "pip install pyarrow"):
        corpus.load_corpus(put(tmp_path / "a.parquet", b"PAR1"), tmp_path)


@pytest.mark.fault
def test_tables_that_are_none_are_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    for name, content in (
        ("a.parquet", b"PAR1 and no more"),
        ("b.parquet", as_parquet(TEXTS)[:-9]),
        ("c.arrow", as_arrow(TEXTS)[:200]),
    ):
        with refused(name, "is no such table, or damaged"):
            corpus.load_corpus(put(tmp_path / name, content), tmp_path / "work")
    for form, made in (("parquet", as_parquet), ("arrow", as_arrow)):
        with refused("no column 'text'", "'body'"):
            corpus.load_corpus(put(tmp_path / f"d.{form}", made(TEXTS, "body")), tmp_path / "work")
        with refused("row 1: 'text' is of type int, not text"):
            corpus.load_corpus(put(tmp_path / f"e.{form}", made([1, 2, 3])), tmp_path / "work")
    assert arrow


# the Hub


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """A package `datasets` that knows one dataset, kept in two files."""
    files = [put(tmp_path / f"cache/{i}.jsonl", as_jsonl(TEXTS[2 * i : 2 * i + 2])) for i in (0, 1)]

    def load_dataset(name, split, keep_in_memory):
        if (name, split) not in (("me/mine", "train"), ("me/mine", "test")):
            raise ValueError(f"Dataset '{name}'\ndoesn't exist on the Hub")
        kept = files if split == "train" else files[1:]
        return types.SimpleNamespace(cache_files=[{"filename": name} for name in kept])

    stub = types.SimpleNamespace(load_dataset=load_dataset, __version__="4.0.0")
    monkeypatch.setitem(sys.modules, "datasets", stub)
    return stub


def test_a_split_of_a_dataset_is_read_where_datasets_keeps_it(tmp_path, stub):
    expected = corpus.load_corpus(put(tmp_path / "a.jsonl", as_jsonl(TEXTS)), tmp_path / "plain")
    for given in ("hf:me/mine", "hf:me/mine:train"):
        folder = corpus.load_corpus(given, tmp_path / "work")
        assert parts(folder) == parts(expected)
    folder = corpus.load_corpus("hf:me/mine", tmp_path / "work", valid_corpus="hf:me/mine:test")
    assert list(text_lines(folder / "valid.txt")) == [*DOCUMENTS[2], *DOCUMENTS[3]]


@pytest.mark.fault
def test_datasets_that_cannot_be_had_are_refused(tmp_path, stub, monkeypatch):
    with refused("corpus='hf:me/other' cannot be loaded", "doesn't exist on the Hub"):
        corpus.load_corpus("hf:me/other", tmp_path)
    with refused("pass a whole split"):
        corpus.load_corpus("hf:me/mine:train[:10%]", tmp_path)
    stub.__version__ = "3.6.0"
    with refused("corpus='hf:me/mine' needs the package datasets", "pip install -U 'datasets>=4'"):
        corpus.load_corpus("hf:me/mine", tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused("needs the package datasets", "hf://datasets/OWNER/NAME/FILES"):
        corpus.load_corpus("hf:me/mine", tmp_path)


def test_files_of_a_dataset_come_through_the_hubs_own_cache(tmp_path, monkeypatch, capsys):
    """The snapshot may hold files that were asked for before; those that fit are taken, by name."""
    import huggingface_hub

    asked = []
    for name, texts in (
        ("data/b.jsonl", TEXTS[2:]),
        ("data/a.jsonl", TEXTS[:2]),
        ("data/x.csv", []),
    ):
        put(tmp_path / "blobs" / name.replace("/", "-"), as_jsonl(texts))
        (tmp_path / "snapshot/data").mkdir(parents=True, exist_ok=True)
        os.symlink(tmp_path / "blobs" / name.replace("/", "-"), tmp_path / "snapshot" / name)

    def snapshot_download(name, **how):
        asked.append((name, how["revision"], how["allow_patterns"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("mlm.env.hub.hub_is_away", lambda _: True)
    given = "hf://datasets/me/mine@refs/convert/parquet/data/*.jsonl"
    folder = corpus.load_corpus(given, tmp_path / "work")
    expected = corpus.load_corpus(put(tmp_path / "a.jsonl", as_jsonl(TEXTS)), tmp_path / "plain")
    assert parts(folder) == parts(expected)
    assert asked == [("me/mine", "refs/convert/parquet", "data/*.jsonl")]
    assert "The Hub does not answer" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "snapshot")
    (tmp_path / "snapshot").mkdir()
    with refused("corpus='hf://datasets/me/mine/none.csv'", "no file"):
        corpus.load_corpus("hf://datasets/me/mine/none.csv", tmp_path / "work")
