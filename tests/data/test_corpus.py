"""The split into training and validation lines: complete, reproducible, and repaired if damaged."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlm.data.corpus as corpus
import mlm.data.split as split
from helpers import ROOT, refused, sentences
from mlm.data.corpus import is_intact, load_corpus, make_workdir
from mlm.data.dataset import MaskedLMDataset
from mlm.data.formats import text_lines
from mlm.data.tokenizer import learn_wordpiece
from texts import (
    LINES,
    TEXT,
    TEXTS,
    WRITERS,
    about,
    all_lines,
    as_csv,
    as_jsonl,
    as_text,
    file_names,
    put,
    read_split,
)


def save(folder, lines, name="a.txt"):
    """The path of a text file with these lines, as a parameter gives it."""
    return put(folder / name, as_text(lines))


def file_contents(folder):
    """{name: bytes} of all files in a folder."""
    return {name: (folder / name).read_bytes() for name in file_names(folder)}


# which lines


@pytest.mark.parametrize("count", [10, 11, 19, 99, 100, 499, 509, 1234])
def test_every_tenth_block_of_lines_is_held_out_and_no_line_is_lost(tmp_path, count):
    lines = sentences(count)
    train, valid = read_split(load_corpus(save(tmp_path, lines), tmp_path))
    assert sorted([*train, *valid]) == sorted(lines)  # each line once, in one part
    assert train == [line for line in lines if line in set(train)]  # in the order of the text
    assert valid == [line for line in lines if line in set(valid)]
    block_size = min(50, count // 10)
    held_out = [lines.index(line) for line in valid]
    starts = [i for i in held_out if i - 1 not in set(held_out)]
    blocks = {i for start in starts for i in range(start, min(start + block_size, count))}
    assert set(held_out) == blocks  # whole blocks; the end of the text may cut the last
    assert 0.05 < len(valid) / count < 0.12


@pytest.mark.fault
def test_ten_lines_are_enough(tmp_path):
    assert read_split(load_corpus(save(tmp_path, "abcdefghij"), tmp_path)) == [
        list("abcdefghi"),
        ["j"],
    ]


def test_a_single_text_file_gets_no_blank_lines(tmp_path):
    """Blank lines in it are dropped, so that blocks cross them."""
    folder = load_corpus(put(tmp_path / "a.txt", TEXT), tmp_path)
    block_size = 230 // 10
    for name, held_out in (("train.txt", False), ("valid.txt", True)):
        lines = [x for i, x in enumerate(LINES) if (i // block_size % 10 == 9) == held_out]
        assert (folder / name).read_text() == "".join(f"{line}\n" for line in lines)
    tokenizer = learn_wordpiece(folder / "train.txt")
    block, stream = (
        MaskedLMDataset(folder / "train.txt", tokenizer, 16, kind) for kind in ("block", "stream")
    )
    for name in ("starts", "lengths"):
        assert np.array_equal(getattr(block, name), getattr(stream, name))


@pytest.mark.parametrize("max_len", [5, 8, 64])
def test_no_block_of_tokens_crosses_the_end_of_a_document(tmp_path, max_len):
    given = put(tmp_path / "a.jsonl", as_jsonl(["", *TEXTS, " \n", "e 1"]))
    file = load_corpus(given, tmp_path) / "train.txt"
    tokenizer = learn_wordpiece(file)
    documents = [
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in file.read_text().split("\n\n")
    ]
    length = max_len - 2  # without [CLS] and [SEP]
    expected = [ids[i : i + length] for ids in documents for i in range(0, len(ids), length)]
    blocks = MaskedLMDataset(file, tokenizer, max_len, "block")
    assert [example[1:-1].tolist() for example in blocks] == expected
    assert blocks.num_truncated == 0
    stream = MaskedLMDataset(file, tokenizer, max_len, "stream")
    ids = [token for document in documents for token in document]
    assert [example[1:-1].tolist() for example in stream] == [
        ids[i : i + length] for i in range(0, len(ids), length)
    ]
    assert len(MaskedLMDataset(file, tokenizer, max_len)) == sum(1 for _ in text_lines(file))


# a validation text of your own


def test_with_a_valid_corpus_all_of_the_corpus_is_trained_on(tmp_path):
    train = put(tmp_path / "a.txt", TEXT)
    valid_lines = ["of my own", LINES[0], LINES[1].upper(), "of my own"]
    valid = put(tmp_path / "b.csv", as_csv(valid_lines, "line"))
    folder = load_corpus(train, tmp_path / "work", "line", valid)
    assert list(text_lines(folder / "train.txt")) == LINES
    assert list(text_lines(folder / "valid.txt")) == ["of my own"] * 2
    split = about(folder)["split"]
    assert (split["train"], split["valid"], split["removed"]) == (230, 2, 2)
    assert split["rule"] == "valid_corpus is the validation set, without lines of the training text"
    folders = [folder, load_corpus(train, tmp_path / "work")]
    put(tmp_path / "b.csv", as_csv([*valid_lines, "more"], "line"))
    folders.append(load_corpus(train, tmp_path / "work", "line", valid))
    assert len({about(each)["sha256"] for each in folders}) == len({*folders}) == 3


def test_files_of_the_valid_corpus_are_not_trained_on(tmp_path):
    """A folder or pattern may contain the validation file, too."""
    for name in "abc":
        put(tmp_path / f"texts/{name}.txt", f"{name} 1\n{name} 2\n")
    valid = f"{tmp_path}/texts/b.txt"
    folder = load_corpus(f"{tmp_path}/texts/*.txt", tmp_path / "work", valid_corpus=valid)
    assert read_split(folder) == [["a 1", "a 2", "", "c 1", "c 2"], ["b 1", "b 2"]]
    with refused("corpus=", "has no file that is not in valid_corpus as well"):
        load_corpus(valid, tmp_path / "work", valid_corpus=valid)


# the same text, the same split


def test_the_split_depends_on_the_content_only(tmp_path):
    lines = sentences(321)
    one = put(tmp_path / "one.txt", as_text(lines))
    two = put(tmp_path / "other name.txt", "\r\n\r\n".join(["\ufeff", *lines, " "]))
    os.utime(two, (1, 1))
    splits = [read_split(load_corpus(text, tmp_path / text[-5])) for text in (one, two)]
    assert splits[0] == splits[1]


def test_files_are_read_in_the_order_of_their_names_and_the_names_do_not_matter(tmp_path):
    orders = {"x": zip("abc", TEXTS[1:]), "y": zip("def", TEXTS[1:]), "z": zip("abc", TEXTS[:0:-1])}
    for folder, files in orders.items():
        for name, text in files:
            put(tmp_path / folder / f"{name}.txt", text)
    x, y, z = (load_corpus(str(tmp_path / name), tmp_path / f"w{name}") for name in "xyz")
    assert about(x)["sha256"] == about(y)["sha256"] != about(z)["sha256"]
    assert read_split(x) == read_split(y) != read_split(z)


def test_files_of_the_same_name_have_folders_of_their_own(tmp_path):
    found = []
    for name, lines in (("x", sentences(30, seed=1)), ("y", sentences(30, seed=2))):
        found.append(load_corpus(save(tmp_path / name, lines), tmp_path))
        assert all_lines(found[-1]) == sorted(lines)
    assert found[0] != found[1]


@pytest.mark.fault
@pytest.mark.parametrize("form", ["txt", "jsonl", "csv", "txt.gz"])
def test_a_change_in_any_file_gives_another_corpus(tmp_path, form):
    """A damaged train.txt is repaired, but a changed source is another text."""
    compress = gzip.compress if form.endswith("gz") else bytes
    write = WRITERS.get(form, as_text)
    for name in "abc":
        put(tmp_path / f"texts/{name}.{form}", compress(write(sentences(20, seed=name))))
    given = str(tmp_path / "texts")
    folder = load_corpus(given, tmp_path / "work")
    expected = read_split(folder)
    put(folder / "train.txt", b"damaged")
    assert load_corpus(given, tmp_path / "work") == folder and read_split(folder) == expected
    found = {folder}
    for name in "abc":
        put(tmp_path / f"texts/{name}.{form}", compress(write(sentences(20, seed=f"{name}2"))))
        found.add(load_corpus(given, tmp_path / "work"))
    assert len(found) == 4


def test_another_column_gives_another_corpus(tmp_path):
    rows = [{"one": f"1 {line}", "two": f"2 {line}"} for line in LINES[:30]]
    given = put(tmp_path / "a.jsonl", as_text([json.dumps(row) for row in rows]))
    one, two = (load_corpus(given, tmp_path, column) for column in ("one", "two"))
    assert one != two and {line[0] for line in text_lines(two / "train.txt")} == {"2"}


def test_the_split_is_the_same_in_another_process_and_locale(tmp_path):
    text = save(tmp_path, sentences(200))
    expected = read_split(load_corpus(text, tmp_path / "here"))
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'notebooks')!r})\n"
        "from mlm.data.corpus import load_corpus\n"
        "print(load_corpus(sys.argv[1], sys.argv[2]))"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, text, tmp_path / "there"],
        env=os.environ | ascii_only | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_split(Path(done.stdout.strip())) == expected


# corpus.json


def test_corpus_json_describes_the_text(tmp_path):
    text = save(tmp_path, sentences(100))
    found = about(load_corpus(text, tmp_path))
    content = Path(text).read_bytes()
    assert (found["source"], found["text_sha256"]) == (
        Path(text).name,
        hashlib.sha256(content).hexdigest(),
    )
    assert abs(found["bytes"] - len(content)) <= 2 and found["lines"] == 100
    rule = "every tenth block of 10 lines is the validation set, without lines of the training text"
    assert found["split"] == {
        "train": 90, "valid": 10, "removed": 0, "rule": rule, "documents": 1, "separated_by": "file",
        "files": 1, "formats": {"plain text": 1}, "encoding": "utf-8", "empty": 0, "left_out": {},
    }  # fmt: skip


def test_a_corpus_is_split_once(tmp_path):
    text = save(tmp_path, sentences(50))
    folder = load_corpus(text, tmp_path)
    times = [(folder / name).stat().st_mtime_ns for name in file_names(folder)]
    assert load_corpus(text, tmp_path) == folder
    assert [(folder / name).stat().st_mtime_ns for name in file_names(folder)] == times
    assert file_names(folder) == ["corpus.json", "train.txt", "valid.txt"]  # no temporary files


def test_a_split_of_an_earlier_version_is_another_corpus_and_stays_where_it_is(
    tmp_path, monkeypatch
):
    """An unfinished run of it is not resumed with other lines, and a finished one finds its lines."""
    text = save(tmp_path, sentences(50))
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "SPLIT_VERSION", 1)
        old = load_corpus(text, tmp_path)
    content = file_contents(old)
    new = load_corpus(text, tmp_path)
    assert new != old and about(new)["sha256"] != about(old)["sha256"]
    assert file_contents(old) == content and is_intact(old, about(old)["sha256"])
    assert read_split(new) == read_split(old)  # here, the rules are the same


@pytest.mark.parametrize(
    "option", [{"column": "id"}, {"documents": "line"}, {"encoding": "cp1252"}], ids=str
)
def test_a_text_that_is_read_in_another_way_is_another_corpus(tmp_path, option):
    text = put(tmp_path / "a.csv", as_csv([f"line {i}" for i in range(50)]))
    assert load_corpus(text, tmp_path) != load_corpus(text, tmp_path, **option)


@pytest.mark.fault
def test_options_that_are_not_valid_are_refused(tmp_path):
    text = save(tmp_path, LINES)
    with refused("encoding must be", "'klingon'", "'gb18030'"):
        load_corpus(text, tmp_path, encoding="klingon")
    for name in ("unicode_escape", "idna", "rot13", "base64", "undefined"):  # not of a text file
        with refused("encoding must be an encoding that Python knows", f"got '{name}'"):
            load_corpus(text, tmp_path, encoding=name)
    with refused("documents must be one of 'file', 'blank line', 'line' or None, got 'page'"):
        load_corpus(text, tmp_path, documents="page")
    with refused("column='review' names a column, but the text has none (plain text)"):
        load_corpus(text, tmp_path, column="review")


@pytest.mark.fault
def test_an_empty_text_is_refused(tmp_path):
    names = {"a.txt": b"", "b.csv": as_csv([" "] * 40), "c.txt.gz": gzip.compress(b"\n\n")}
    for parameter in ("corpus", "valid_corpus"):
        for name, content in names.items():
            texts = {
                "corpus": save(tmp_path, LINES),
                parameter: put(tmp_path / "e" / name, content),
            }
            with refused(f"{parameter}=", name, "has no text"):
                load_corpus(workdir=tmp_path / "work", **texts)


# interrupted, damaged, or the disk is full


@pytest.mark.parametrize("older_text", [False, True], ids=["new", "changed"])
@pytest.mark.parametrize("crash", range(4))
def test_an_interrupted_split_is_repeated(tmp_path, monkeypatch, crash, older_text):
    """Whichever files were written when the process died, the next call splits its own text."""
    old, new = sentences(50, seed=1), sentences(60, seed=2)
    text = tmp_path / "a.txt"
    monkeypatch.setattr(corpus, "fetch_corpus", lambda *_: (text,))
    if older_text:
        load_corpus(save(tmp_path, old), tmp_path)
    save(tmp_path, new)
    replaced, replace = [], os.replace

    def dies(part, path):
        if len(replaced) == crash:
            raise KeyboardInterrupt
        replaced.append(path)
        return replace(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            load_corpus(str(text), tmp_path)
    for lines in (old, new) if older_text else (new,):
        assert all_lines(load_corpus(save(tmp_path, lines), tmp_path)) == sorted(lines)


def damages(content):
    """(name, content or None if the file is missing) for each way in which a file is damaged."""
    middle = len(content) // 2
    yield "one bit", content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    yield "cut", content[:middle]
    yield "empty", b""
    yield "other content", b'{"sha256": 7}' + content
    yield "missing", None


@pytest.mark.fault
def test_damaged_files_of_a_corpus_are_written_again(tmp_path):
    text = save(tmp_path, sentences(120))
    folder = load_corpus(text, tmp_path)
    expected = file_contents(folder)
    assert len(expected) == 3
    for name, content in expected.items():
        for damage, damaged in damages(content):
            (folder / name).unlink()
            if damaged is not None:
                (folder / name).write_bytes(damaged)
            assert load_corpus(text, tmp_path) == folder
            assert file_contents(folder) == expected, (name, damage)


@pytest.mark.fault
@pytest.mark.parametrize("source", ["nietzsche", "URL", "pydoc"])
def test_damaged_downloads_are_fetched_again(
    tmp_path, monkeypatch, set_nietzsche_urls, host, source
):
    """Every file of the corpus, damaged or replaced by another of its files."""
    set_nietzsche_urls(f"{host.url}/ok")
    monkeypatch.setattr("pydoc_data.topics.topics", {"a": "\n".join(sentences(50))})  # is faster
    given = f"{host.url}/a.txt" if source == "URL" else source
    folder, downloads = load_corpus(given, tmp_path), tmp_path / "corpus"
    expected = file_contents(downloads)
    assert len(expected) == (5 if source == "URL" else 4)
    for name, content in expected.items():
        others = [(other, c) for other, c in expected.items() if other != name]
        for damage, damaged in (*damages(content), *others):
            (downloads / name).unlink()
            if damaged is not None:
                (downloads / name).write_bytes(damaged)
            assert load_corpus(given, tmp_path) == folder
            assert file_contents(downloads) == expected, (name, damage)


def test_a_full_disk_is_reported_and_incomplete_files_are_never_used(tmp_path):
    """With every limit on the size of a file, from 0 to enough."""
    text = save(tmp_path, sentences(120))
    expected = read_split(load_corpus(text, tmp_path / "expected"))
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'notebooks')!r}]\n"
        "import json, resource, shutil, signal\n"
        "from pathlib import Path\n"
        "from mlm.data.corpus import load_corpus\n"
        "from mlm.env.notebook import error_message\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for limit in (*range(0, 20_000, 1000), resource.RLIM_INFINITY):\n"
        "    shutil.rmtree(sys.argv[2], ignore_errors=True)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    message = error_message(load_corpus, *sys.argv[1:])\n"
        "    left = [p.name for p in Path(sys.argv[2]).rglob('*') if '.part' in p.name]\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "    load_corpus(*sys.argv[1:])\n"
        "    parts = [p.read_bytes() for p in sorted(Path(sys.argv[2]).rglob('*.txt'))]\n"
        "    print(json.dumps([message, left, [p.decode() for p in parts]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, text, tmp_path / "work"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    messages = []
    for message, left, parts in map(json.loads, done.stdout.splitlines()):
        assert not left
        assert [part.removesuffix("\n").split("\n") for part in parts] == expected
        messages.append(message)
    *errors, last = messages
    assert last is None
    errors = [message for message in errors if message]
    assert len(errors) >= 10
    for message in errors:
        assert "disk of" in message and "is full" in message and "\n" not in message


def test_other_processes_see_a_split_only_when_it_is_complete(tmp_path, monkeypatch):
    """Neither the validation lines before duplicates are removed, nor the split of another rule."""
    text = save(tmp_path, sentences(30) * 4)
    folder = load_corpus(text, tmp_path)
    expected, seen = file_contents(folder), []
    (folder / "corpus.json").unlink()
    remove = split.remove_common_lines

    def remove_and_look(*paths):
        seen.append([file_contents(folder)[name] for name in ("train.txt", "valid.txt")])
        return remove(*paths)

    monkeypatch.setattr(split, "remove_common_lines", remove_and_look)
    load_corpus(text, tmp_path)
    assert seen == [[expected["train.txt"], expected["valid.txt"]]] * 2
    assert file_contents(folder) == expected


def test_several_processes_may_load_one_corpus_at_once(tmp_path):
    """As torchrun's do: none removes a file that another one reads."""
    text = save(tmp_path, sentences(3000))
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'notebooks')!r})\n"
        "from mlm.data.corpus import load_corpus\n"
        "for _ in range(20): (load_corpus(*sys.argv[1:]) / 'corpus.json').read_text()"
    )
    command = [sys.executable, "-c", program, text, str(tmp_path)]
    jobs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for job in jobs:
        errors = job.communicate(timeout=60)[1]
        assert job.returncode == 0, errors


@pytest.mark.fault
@pytest.mark.parametrize("parameter", ["corpus", "valid_corpus"])
def test_one_bad_file_of_many_is_named(tmp_path, parameter):
    for name in "abc":
        put(tmp_path / f"texts/{name}.txt", TEXT)
    put(tmp_path / "texts" / "bad.txt", "Größe\n".encode("latin-1") * 20)
    texts = {"corpus": put(tmp_path / "a.txt", TEXT), parameter: str(tmp_path / "texts")}
    with refused(str(tmp_path / "texts" / "bad.txt"), "not UTF-8"):
        load_corpus(workdir=tmp_path / "work", **texts)


# workdir


def test_workdir_is_created_if_it_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_workdir("~/a/b") == tmp_path / "a" / "b"
    assert make_workdir(tmp_path / "a" / "b").is_dir()
    assert file_names(tmp_path) == []


@pytest.mark.parametrize("workdir", ["a.txt", "a.txt/below", "/proc/work", "/dev/null"])
@pytest.mark.fault
def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, monkeypatch, workdir):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "a.txt", "text")
    with refused(f"workdir={workdir!r} cannot be written", "pass another folder"):
        make_workdir(workdir)
