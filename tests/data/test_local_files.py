"""Which files a path, a folder or a pattern means, and which values are refused."""

import bz2
import gzip
import json
import os
import socket
import time

import pytest

from helpers import refused, sentences
from mlm.data.corpus import load_corpus, make_workdir
from mlm.data.download import fetch_corpus
from texts import (
    LINES,
    TEXT,
    about,
    as_arrow,
    as_json,
    as_jsonl,
    as_text,
    as_wiki,
    as_zip,
    file_names,
    put,
    text_of,
)

HELP = "pass text files, a folder, a URL, 'nietzsche' or 'pydoc'"

# found


def test_a_path_may_be_relative_or_in_the_home_folder(tmp_path, monkeypatch):
    path = tmp_path / "a b.txt"
    put(path, "text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"file://localhost{path.parent}/a%20b.txt"
    for given in ("a b.txt", "~/a b.txt", str(path), path.as_uri(), url):
        assert fetch_corpus(given, tmp_path / "work") == (path,)


def test_the_output_below_a_folder_that_is_reached_through_a_link_is_no_text(tmp_path):
    put(tmp_path / "real" / "a.txt", TEXT)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    for given in (link, f"{link}/**/*.txt"):
        folders = {load_corpus(str(given), link / "work").name for _ in range(3)}
        assert len(folders) == 1, folders


def test_a_folder_gives_its_texts_and_nothing_else(tmp_path, capsys):
    root, workdir = tmp_path / "texts", tmp_path / "texts" / "b" / "work"
    texts = ["B.TXT", "a.md", "b/cc.txt.gz", "b/d.jsonl", "z.csv"]
    others = ["image.png", ".hidden.txt", ".git/x.txt", "b/work/corpus/x/train.txt", "notes"]
    for name in (*texts, *others):
        put(root / name, b"")
    os.symlink(root, root / "b" / "loop")
    os.symlink(root / "gone", root / "gone.txt")
    found = fetch_corpus(str(root), workdir)
    assert [str(path.relative_to(root)) for path in found] == texts
    printed = capsys.readouterr().out
    for words in ("5 text file(s); left out: ", "1 x .png", "1 x notes"):
        assert words in printed
    with refused("matches no file"):  # .git/x.txt is hidden
        fetch_corpus(f"{root}/**/?.txt", workdir)


@pytest.mark.parametrize("workdir", ["texts", "texts/runs", "."])
def test_output_of_earlier_runs_is_not_part_of_the_corpus(tmp_path, monkeypatch, workdir):
    """Wherever workdir is, a second call finds the same files and the same corpus."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        put(tmp_path / f"texts/{name}.txt", "\n".join(sentences(30, seed=name)))
    for given in ("texts", "texts/**/*.txt"):
        first = load_corpus(given, make_workdir(workdir))
        for name in ("run/checkpoints/a.txt", "run/model/README.md", "run/logs/metrics.csv"):
            put(tmp_path / workdir / name, "no text of the corpus\n")
        (tmp_path / workdir / "run/b.txt").write_text("nor is this\n")
        assert load_corpus(given, make_workdir(workdir)) == first
        assert about(first)["split"]["files"] == 2


def test_files_without_a_suffix_are_recognized_by_their_names(tmp_path, capsys):
    """As Spark and WikiExtractor write them."""
    lines = sentences(40)
    contents = {
        "spark/part-00000": as_jsonl(lines[:10]),
        "spark/part-00001-6f2a-c000.json": as_jsonl(lines[10:11]),
        "spark/part-r-00002.gz": gzip.compress(as_text(lines[11:20])),
        "spark/part-00003": b"",
        "wiki/AA/wiki_00": as_wiki(lines[20:30]),
        "wiki/AB/wiki_01.bz2": bz2.compress(as_wiki(lines[30:])),
    }
    others = ["spark/_SUCCESS", "spark/.part-00000.crc", "spark/._SUCCESS.crc", "Makefile"]
    for name, content in (contents | dict.fromkeys(others, b"")).items():
        put(tmp_path / "texts" / name, content)
    folder = load_corpus(str(tmp_path / "texts"), tmp_path / "work")
    assert text_of(folder) == sorted(lines)
    split = about(folder)["split"]
    assert split["formats"] == {"JSON lines": 2, "plain text": 2, "WikiExtractor": 2}
    assert "left out: 1 x Makefile, 1 x _SUCCESS" in capsys.readouterr().out


def test_json_files_that_describe_texts_are_left_out(tmp_path):
    """Beside other files, one object without the column is no text; each text may be an object."""
    put(tmp_path / "texts" / "a.json", as_json(LINES[:10]))
    put(tmp_path / "texts" / "b.json", as_jsonl(LINES[10:20]))
    put(tmp_path / "texts" / "c.json", json.dumps({"text": LINES[20]}, indent=2))
    put(tmp_path / "texts" / "d.json", as_jsonl(LINES[21:22]))
    put(tmp_path / "texts" / "config.json", json.dumps({"name": "text"}))
    put(tmp_path / "texts" / "settings.json", json.dumps({"a": "x", "b": [{"c": 1}]}, indent=2))
    folder = load_corpus(str(tmp_path / "texts"), tmp_path / "work")
    assert text_of(folder) == sorted(LINES[:22])
    split = about(folder)["split"]
    assert (split["files"], split["left_out"]) == (4, {".json": 2})
    with refused("line 1 has no column 'text'", "'name'"):
        load_corpus(f"{tmp_path}/texts/config.json", tmp_path / "work")


def save_dataset(folder, *parts):
    """Write what `datasets.save_to_disk` writes: Arrow streams, and JSON files that describe them."""
    names = [f"data-{i:05}-of-{len(parts):05}.arrow" for i in range(len(parts))]
    for name, texts in zip(names, parts):
        put(folder / name, as_arrow(texts))
    files = [{"filename": name} for name in names]
    put(folder / "state.json", json.dumps({"_data_files": files, "_split": None}, indent=2))
    put(folder / "dataset_info.json", json.dumps({"features": {"text": {}}}, indent=2))
    put(folder / "cache-0123.arrow", as_arrow(["not part of the dataset"]))


def test_a_saved_dataset_is_read(tmp_path):
    lines = sentences(40)
    save_dataset(tmp_path / "saved", lines[:30], lines[30:])
    folder = load_corpus(str(tmp_path / "saved"), tmp_path / "work")
    assert text_of(folder) == sorted(lines)
    assert about(folder)["split"]["formats"] == {"Arrow": 2}


@pytest.mark.fault
def test_a_part_of_a_saved_dataset_is_refused(tmp_path):
    save_dataset(tmp_path / "saved", sentences(30), sentences(30, seed=1))
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    with refused(
        "saved dataset", "its file data-00001-of-00002.arrow is missing", "copy the whole"
    ):
        load_corpus(str(tmp_path / "saved"), tmp_path / "work")


@pytest.mark.fault
def test_the_splits_of_a_saved_dataset_are_not_mixed(tmp_path):
    for split in ("train", "test"):
        save_dataset(tmp_path / "saved" / split, sentences(20, seed=split))
    put(tmp_path / "saved" / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    with refused("is a saved dataset with the splits train, test", f"'{tmp_path}/saved/train'"):
        load_corpus(str(tmp_path / "saved"), tmp_path / "work")
    folder = load_corpus(
        f"{tmp_path}/saved/train", tmp_path / "work", valid_corpus=f"{tmp_path}/saved/test"
    )
    assert about(folder)["split"]["train"] == 20


@pytest.mark.fault
def test_a_folder_of_archives_is_refused_and_a_pattern_is_read(tmp_path, capsys):
    """In a folder, an archive may contain the same texts as the files beside it."""
    for name in "ab":
        put(tmp_path / f"texts/{name}.zip", as_zip({"c.txt": as_text(sentences(20, seed=name))}))
    with refused("has 2 archive(s) and no text", "pass the archives, for example", "a.zip"):
        fetch_corpus(str(tmp_path / "texts"), tmp_path)
    folder = load_corpus(f"{tmp_path}/texts/*.zip", tmp_path / "work")
    assert about(folder)["split"]["files"] == 2
    put(tmp_path / "texts" / "c.txt", as_text(sentences(20)))
    assert len(fetch_corpus(str(tmp_path / "texts"), tmp_path)) == 1
    assert "1 text file(s); left out: 2 x .zip" in capsys.readouterr().out


# refused


@pytest.mark.fault
@pytest.mark.parametrize("parameter", ["corpus", "valid_corpus"])
@pytest.mark.parametrize(
    "given, word",
    [
        ("{}/gone.txt", "does not exist"),
        ("file://{}/gone.txt", "does not exist"),
        ("{}/empty", "has no file that ends in"),
        ("file://{}/empty", "has no file that ends in"),
        ("{}/none/*.txt", "matches no file"),
        ("{}/*.png", "matches no file"),
        ("{}/a**.txt", ""),
        ("{}/loop", ""),
    ],
)
def test_a_missing_text_is_refused_and_leaves_nothing(tmp_path, given, word, parameter):
    put(tmp_path / "empty" / "image.png", b"\x89PNG")
    os.symlink("loop", tmp_path / "loop")
    texts = {"corpus": put(tmp_path / "x.md", TEXT), parameter: given.format(tmp_path)}
    with refused(f"{parameter}=", word, str(tmp_path), HELP if word else "pass "):
        load_corpus(workdir=tmp_path / "work", **texts)
    assert file_names(tmp_path) == ["empty/image.png", "x.md"]


@pytest.mark.fault
def test_a_folder_of_other_files_is_refused_with_a_pattern_that_reads_them(tmp_path):
    put(tmp_path / "src" / "a" / "b.py", "\n".join(f"x{n} = {n}" for n in range(30)))
    pattern = str(tmp_path / "src" / "**" / "*.py")
    with refused("src has no file that ends in .txt", f"a pattern such as {pattern!r}"):
        load_corpus(str(tmp_path / "src"), tmp_path / "work")
    assert about(load_corpus(pattern, tmp_path / "work"))["lines"] == 30


@pytest.mark.fault
@pytest.mark.parametrize("parameter", ["corpus", "workdir"])
def test_what_is_not_a_path_is_refused(tmp_path, monkeypatch, no_waiting, parameter):
    """Each value in one line, within a second."""
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    os.mkfifo("pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    put(tmp_path / "locked.txt", "text")
    (tmp_path / "locked.txt").chmod(0)
    values = [
        "~nosuchuser/x", "a\0b", "x" * 300, "word " * 10_000,
        "loop", "loop/x", "pipe", "socket", "/dev/null", "locked.txt/x",
    ]  # fmt: skip
    if not os.access("locked.txt", os.R_OK):
        values.append("locked.txt")
    if parameter == "corpus":
        values += [
            "A whole text,\nof two lines. " * 2, "pipe/", "~nosuchuser",
            "http://[bad/", "http://", "http:///x", "https://:x/", "http://a\0b/",
            "http://" + "z" * 300 + "/", "file://[x", "file:///%00", "file:///" + "y" * 300,
        ]  # fmt: skip
    for value in values:
        began = time.monotonic()
        with refused("pass ") as line:
            if parameter == "corpus":
                load_corpus(value, tmp_path / "work")
            else:
                make_workdir(value)
        assert len(line()) < 700, line()
        assert time.monotonic() - began < 1, value
    listening.close()
