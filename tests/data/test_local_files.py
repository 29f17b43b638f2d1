"""Which files a path, a folder or a pattern means, and which values are refused."""

import os
import socket
import time

import pytest

from helpers import refused, sentences
from mlm.data.corpus import load_corpus, make_workdir
from mlm.data.download import fetch_corpus
from texts import TEXT, about, file_names, put

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
        assert load_corpus(given, make_workdir(workdir)) == first
        assert about(first)["split"]["files"] == 2


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
