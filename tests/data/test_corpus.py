"""Text in: what is read, refused, downloaded and held out."""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pooch.core
import pytest

import mlm.data.corpus as corpus
import mlm.data.download as fetch
import mlm.data.formats as documents
from helpers import ROOT, refused, sentences


def write(path, text, encoding="utf-8"):
    """A file of this text, or of these bytes."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def save(folder, lines, name="a.txt"):
    """The path of a file of these lines, as a parameter gives it."""
    return str(write(folder / name, "\n".join(lines)))


def read(folder):
    """The lines of (train.txt, valid.txt)."""
    parts = [(folder / name).read_bytes().decode() for name in ("train.txt", "valid.txt")]
    return [part.removesuffix("\n").split("\n") for part in parts]


def all_lines(folder):
    """The lines of both parts, sorted."""
    train, valid = read(folder)
    return sorted(train + valid)


def files(folder):
    """All files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# the split


@pytest.mark.parametrize("count", [10, 11, 19, 99, 100, 499, 509, 1234])
def test_split_loses_nothing_and_holds_out_runs(tmp_path, count):
    lines = sentences(count)
    train, valid = read(corpus.load_corpus(save(tmp_path, lines), tmp_path))
    assert sorted([*train, *valid]) == sorted(lines)  # each line once, in one part
    assert train == [line for line in lines if line in set(train)]  # in the order of the text
    assert valid == [line for line in lines if line in set(valid)]
    run = min(50, count // 10)
    where = [lines.index(line) for line in valid]
    starts = [i for i in where if i - 1 not in set(where)]
    held_out = {i for start in starts for i in range(start, min(start + run, count))}
    assert set(where) == held_out  # contiguous runs of `run` lines (the text's end cuts the last)
    assert 0.05 < len(valid) / count < 0.12


def test_split_is_a_function_of_the_content_only(tmp_path):
    lines = sentences(321)
    one = write(tmp_path / "one.txt", "\n".join(lines))
    two = write(tmp_path / "other name.txt", "\r\n\r\n".join(["", *lines, " "]), "utf-8-sig")
    os.utime(two, (1, 1))
    first = corpus.load_corpus(str(one), tmp_path / "a")
    second = corpus.load_corpus(str(two), tmp_path / "b")
    assert read(first) == read(second)


def test_split_is_the_same_in_another_process_and_locale(tmp_path):
    text = save(tmp_path, sentences(200))
    mine = read(corpus.load_corpus(text, tmp_path / "mine"))
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'notebooks')!r})\n"
        "from mlm.data.corpus import load_corpus\n"
        "print(load_corpus(sys.argv[1], sys.argv[2]))"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, text, tmp_path / "theirs"],
        env=os.environ | ascii_only | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read(Path(done.stdout.strip())) == mine


def test_corpus_json_describes_the_text(tmp_path):
    text = save(tmp_path, sentences(100))
    folder = corpus.load_corpus(text, tmp_path)
    about = json.loads((folder / "corpus.json").read_text())
    content = Path(text).read_bytes()
    assert (about["source"], about["sha256"]) == (text, hashlib.sha256(content).hexdigest())
    assert (about["bytes"], about["lines"]) == (len(content), 100)
    assert (about["split"]["train"], about["split"]["valid"]) == (90, 10)


@pytest.mark.parametrize("older_text", [False, True], ids=["new", "changed"])
@pytest.mark.parametrize("crash", [0, 1, 2])
def test_split_that_was_cut_off_is_done_again(tmp_path, monkeypatch, crash, older_text):
    """Whatever was in place when the process died, the next run has the split of its own text."""
    old, new = sentences(50, seed=1), sentences(60, seed=2)
    text = tmp_path / "a.txt"
    monkeypatch.setattr(corpus, "fetch_corpus", lambda *_: (text,))
    if older_text:
        read(corpus.load_corpus(str(write(text, "\n".join(old))), tmp_path))
    write(text, "\n".join(new))
    replaced, replace = [], os.replace

    def dies(part, path):
        if len(replaced) == crash:
            raise KeyboardInterrupt
        replaced.append(path)
        return replace(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            corpus.load_corpus(str(text), tmp_path)
    for lines in (old, new) if older_text else (new,):
        write(text, "\n".join(lines))
        assert all_lines(corpus.load_corpus(str(text), tmp_path)) == sorted(lines)


def test_split_is_made_once(tmp_path):
    text = save(tmp_path, sentences(50))
    folder = corpus.load_corpus(text, tmp_path)
    before = [(folder / name).stat().st_mtime_ns for name in files(folder)]
    assert corpus.load_corpus(text, tmp_path) == folder
    assert [(folder / name).stat().st_mtime_ns for name in files(folder)] == before
    assert files(folder) == ["corpus.json", "train.txt", "valid.txt"]  # no scratch files


def damages(content):
    """The ways in which a file may be damaged: names and what is then in it; None: it is gone."""
    middle = len(content) // 2
    yield "flipped", content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    yield "cut", content[:middle]
    yield "empty", b""
    yield "another's", b'{"sha256": 7}' + content
    yield "gone", None


@pytest.mark.fault
def test_what_was_damaged_is_made_again(tmp_path):
    """Every file of a corpus' folder, in every way."""
    text = save(tmp_path, sentences(120))
    folder = corpus.load_corpus(text, tmp_path)
    whole = {name: (folder / name).read_bytes() for name in files(folder)}
    tried = 0
    for name, content in whole.items():
        for way, damaged in damages(content):
            if damaged is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(damaged)
            assert corpus.load_corpus(text, tmp_path) == folder
            assert {n: (folder / n).read_bytes() for n in files(folder)} == whole, (name, way)
            tried += 1
    assert tried == 15


def test_a_full_disk_is_said_and_nothing_half_written_is_used(tmp_path):
    """With every limit between too little for anything and enough: the files' own, and one line."""
    text = save(tmp_path, sentences(120))
    expected = read(corpus.load_corpus(text, tmp_path / "whole"))
    work = tmp_path / "work"
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'notebooks')!r}]\n"
        "import resource, shutil, signal\n"
        "from pathlib import Path\n"
        "from mlm.data.corpus import load_corpus\n"
        "from mlm.env.notebook import refusal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for limit in (*range(0, 20_000, 400), resource.RLIM_INFINITY):\n"
        "    shutil.rmtree(sys.argv[2], ignore_errors=True)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    line = refusal(load_corpus, *sys.argv[1:])\n"
        "    left = [p.name for p in Path(sys.argv[2]).rglob('*') if '.part' in p.name]\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "    load_corpus(*sys.argv[1:])\n"
        "    parts = [p.read_bytes() for p in sorted(Path(sys.argv[2]).rglob('*.txt'))]\n"
        "    import json; print(json.dumps([line, left, [p.decode() for p in parts]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, text, work], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refusals = 0
    for line, left, parts in map(json.loads, done.stdout.splitlines()):
        assert line is None or ("disk of" in line and "is full" in line and "\n" not in line), line
        assert not left
        assert [part.removesuffix("\n").split("\n") for part in parts] == expected
        refusals += line is not None
    assert refusals >= 10 and line is None


@pytest.mark.fault
def test_a_download_that_was_damaged_is_made_again(tmp_path, monkeypatch, host):
    """Every file of the folder of a text from the web, and of a known one, in every way."""
    known(monkeypatch, f"{host.url}/ok")
    for source in ("nietzsche", f"{host.url}/a.txt", "pydoc"):
        folder = corpus.load_corpus(source, tmp_path)
        whole = {name: (folder / name).read_bytes() for name in files(folder)}
        assert len(whole) == (5 if source.startswith("http") else 4)
        for name, content in whole.items():
            others = [(f"is {n}", c) for n, c in whole.items() if n != name]
            for way, damaged in (*damages(content), *others):
                (folder / name).unlink()
                if damaged is not None:
                    (folder / name).write_bytes(damaged)
                assert corpus.load_corpus(source, tmp_path) == folder
                assert {n: (folder / n).read_bytes() for n in files(folder)} == whole, (name, way)


def test_several_that_make_one_corpus_at_once_all_succeed(tmp_path):
    """As torchrun's processes do: none takes away what another has made and reads."""
    text = save(tmp_path, sentences(3000))
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'notebooks')!r})\n"
        "from mlm.data.corpus import load_corpus\n"
        "for _ in range(20): print((load_corpus(*sys.argv[1:]) / 'corpus.json').read_text()[0])"
    )
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", program, text, str(tmp_path)], stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(4)
    ]  # fmt: skip
    for job in jobs:
        errors = job.communicate(timeout=60)[1]
        assert job.returncode == 0, errors


# what is read


@pytest.mark.parametrize(
    "content",
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
def test_lines_are_read_rightly(tmp_path, content):
    lines = [*sentences(20), "  indented: Größe, ß, 語\u2028a separator, \x0b and \x0c"]
    text = write(tmp_path / "a.txt", content(lines))
    assert list(documents.text_lines(text)) == lines
    assert all_lines(corpus.load_corpus(str(text), tmp_path)) == sorted(lines)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", ["0 non-blank line(s)", "at least 10"]),
        (b"\n \r\n\t\n" * 20, ["0 non-blank line(s)", "at least 10"]),
        (b"PK\x03\x04" + bytes(range(256)), ["zip archive", ".docx", "plain text"]),
        (b"%PDF-1.7\n" + b"line\n" * 20, ["a PDF", "plain text"]),
        (b"{\\rtf1 " + b"line\n" * 20, ["an RTF document", "plain text"]),
        ("line\n".encode("utf-32") * 20, ["UTF-32 text", "iconv -f UTF-32 "]),
        ("line\n".encode("utf-16-be") * 20, ["UTF-16BE text", "iconv -f UTF-16BE "]),
        (b"\xef\xbb\xbf", ["0 non-blank line(s)", "at least 10"]),
        (b"one line", ["1 non-blank line(s)", "a line of its own"]),
        (b"word " * 1_000_000, ["1 non-blank line(s)", "a line of its own"]),
        (b"line\n" * 9, ["9 non-blank line(s)", "at least 10"]),
        ("Größe\n".encode("latin-1") * 20, ["not UTF-8", "0xf6", "iconv -f LATIN1"]),
        (b"word\n" * 100_000 + b"\xff", ["not UTF-8", "0xff", "iconv"]),
        ("line\n".encode("utf-16") * 20, ["UTF-16 text", "iconv -f UTF-16 "]),
        ("line\n".encode("utf-16-le") * 20, ["UTF-16LE text", "iconv -f UTF-16LE "]),
        (b"line\n" * 20 + b"a\0b\n", ["line 21 has a NUL byte", "not a text file"]),
        (bytes(range(256)) * 100, ["not"]),
    ],
    ids=[
        "empty",
        "blank",
        "docx",
        "pdf",
        "rtf",
        "utf-32",
        "utf-16-be",
        "BOM-only",
        "1-line",
        "5MB-line",
        "9-lines",
        "latin-1",
        "late-bad-byte",
        "utf-16",
        "utf-16-le",
        "NUL",
        "binary",
    ],
)
@pytest.mark.fault
def test_what_is_no_text_is_refused(tmp_path, content, words):
    text = write(tmp_path / "a.txt", content)
    with refused(str(tmp_path / "a.txt"), *words):
        corpus.load_corpus(str(text), tmp_path / "work")
    assert files(tmp_path) == ["a.txt"]  # nothing half-made is left


@pytest.mark.fault
def test_ten_lines_are_enough(tmp_path):
    folder = corpus.load_corpus(save(tmp_path, "abcdefghij"), tmp_path)
    assert read(folder) == [list("abcdefghi"), ["j"]]


@pytest.mark.fault
def test_a_line_of_5_megabytes_is_kept_whole(tmp_path):
    lines = sentences(20)
    lines[7] = "word " * 1_000_000 + "end"
    assert all_lines(corpus.load_corpus(save(tmp_path, lines), tmp_path)) == sorted(lines)


# where it comes from


def test_pydoc_needs_no_network(tmp_path, monkeypatch):
    from pydoc_data.topics import topics

    monkeypatch.setattr(fetch, "download", None)
    train, valid = read(corpus.load_corpus("pydoc", tmp_path))
    lines = {line for topic in topics.values() for line in topic.splitlines() if line.strip()}
    assert {*train, *valid} == lines
    assert len(train) + len(valid) > 5000
    text = (tmp_path / "corpus" / "pydoc" / "pydoc.txt").read_text("utf-8")
    assert len(text) < sum(
        map(len, topics.values())
    )  # what topics quote of each other is there once


def test_a_path_may_be_relative_or_at_home(tmp_path, monkeypatch):
    write(tmp_path / "a b.txt", "text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "a b.txt"
    given = (
        "a b.txt",
        "~/a b.txt",
        str(path),
        path.as_uri(),
        f"file://localhost{path.parent}/a%20b.txt",
    )
    assert {fetch.fetch_corpus(name, tmp_path / "work") for name in given} == {(path,)}


def test_files_of_one_name_do_not_meet(tmp_path):
    found = []
    for name, content in (("x", sentences(30, seed=1)), ("y", sentences(30, seed=2))):
        (tmp_path / name).mkdir()
        found.append(corpus.load_corpus(save(tmp_path / name, content), tmp_path))
        assert all_lines(found[-1]) == sorted(content)
    assert found[0] != found[1]


@pytest.mark.parametrize("given", ["{}", "file://{}", "gone"])
@pytest.mark.fault
def test_what_is_not_there_is_refused(tmp_path, given):
    for path, word in ((tmp_path, "has no file"), (tmp_path / "gone.txt", "does not exist")):
        with refused(word, str(path), "pass text files, a folder, a URL, 'nietzsche' or 'pydoc'"):
            corpus.load_corpus(given.replace("gone", "{}").format(path), tmp_path / "work")
    assert files(tmp_path) == []


def test_a_workdir_is_made_and_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert corpus.make_workdir("~/a/b") == tmp_path / "a" / "b"
    assert corpus.make_workdir(tmp_path / "a" / "b").is_dir()
    assert files(tmp_path) == []


@pytest.mark.parametrize("workdir", ["a.txt", "a.txt/below", "/proc/work", "/dev/null"])
@pytest.mark.fault
def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, monkeypatch, workdir):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "text")
    with refused(f"workdir={workdir!r} cannot be written", "pass another folder"):
        corpus.make_workdir(workdir)


@pytest.mark.fault
@pytest.mark.parametrize("parameter", ["corpus", "workdir"])
def test_what_is_no_path_is_refused(tmp_path, monkeypatch, parameter):
    """Each in one line, within a second."""
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    os.mkfifo("pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    write(tmp_path / "locked.txt", "text").chmod(0)
    given = [
        "~nosuchuser/x", "a\0b", "x" * 300, "A whole text,\nof two lines. " * 2, "word " * 10_000,
        "loop", "loop/x", "pipe", "socket", "/dev/null", "locked.txt/x", *[p for p in ("locked.txt",)
        if not os.access(p, os.R_OK)],
    ]  # fmt: skip
    if parameter == "corpus":
        given += [
            "http://[bad/",
            "http://",
            "http:///x",
            "https://:x/",
            "http://a\0b/",
            "file://[x",
        ]
        given += [
            "file:///%00",
            "file:///" + "y" * 300,
            "http://" + "z" * 300 + "/",
            "pipe/",
            "~nosuchuser",
        ]
    else:
        given = [each for each in given if "text," not in each]  # a folder may be called so
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None))
    call = dict(corpus=lambda x: corpus.load_corpus(x, tmp_path / "w"), workdir=corpus.make_workdir)
    for each in given:
        began = time.monotonic()
        with refused() as line:
            call[parameter](each)
        assert len(line()) < 700 and ("pass " in line()), line()
        assert time.monotonic() - began < 1, each
    listening.close()


# downloads

LINES = sentences(200)
BODY = "\n".join(LINES).encode()
SHA256 = hashlib.sha256(BODY).hexdigest()


class Host(http.server.BaseHTTPRequestHandler):
    """A host of texts on which much can go wrong, by path."""

    def do_GET(self):
        self.server.asked.append(self.path)
        action = self.path.strip("/").split("/")[0].split("?")[0]
        if action == "never":  # an answer that does not come
            self.server.over.wait(20)
        elif action == "stalls":  # the first half, then nothing more
            self.answer(200, BODY[: len(BODY) // 2], {"Content-Length": len(BODY)})
            self.server.over.wait(20)
        elif action == "cut":  # the first half, then the line is cut
            self.answer(200, BODY[: len(BODY) // 2], {"Content-Length": len(BODY)})
        elif action == "loop":
            self.answer(302, b"", {"Location": self.path})
        elif action == "moved":
            self.answer(301, b"", {"Location": "/ok"})
        elif action == "other":
            self.answer(200, b"other bytes\n" * 100)
        elif action.isdigit():
            self.answer(int(action), b"no text here\n" * 100)
        else:
            self.answer(200, self.server.texts.get(self.path, BODY))

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def host(monkeypatch):
    """The address of a Host on loopback, with `asked`, the paths it was asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.asked, server.over, server.texts = [], threading.Event(), {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield SimpleNamespace(url=url, asked=server.asked, texts=server.texts)
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def known(monkeypatch, *urls):
    """Let "nietzsche" be LINES, to be had at these addresses."""
    monkeypatch.setattr(fetch, "NIETZSCHE", {"urls": urls, "sha256": SHA256})


def test_a_known_text_is_downloaded_once(tmp_path, monkeypatch, host):
    known(monkeypatch, f"{host.url}/ok", f"{host.url}/mirror")
    for _ in range(2):
        assert all_lines(corpus.load_corpus("nietzsche", tmp_path)) == sorted(LINES)
    assert host.asked == ["/ok"]
    kept = ["corpus.json", "nietzsche.txt", "train.txt", "valid.txt"]
    assert files(tmp_path / "corpus/nietzsche") == kept


@pytest.mark.parametrize("fault", ["404", "500", "other", "cut", "loop"])
def test_the_mirror_takes_over(tmp_path, monkeypatch, host, fault):
    known(monkeypatch, f"{host.url}/{fault}", f"{host.url}/ok")
    assert all_lines(corpus.load_corpus("nietzsche", tmp_path)) == sorted(LINES)
    assert host.asked.count("/ok") == 1


FAULTS = {
    "404": "404",
    "500": "500",
    "other": "hash",
    "cut": "IncompleteRead",
    "never": "timed out",
    "stalls": "timed out",
    "loop": "redirects",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.fault
def test_a_download_that_fails_says_so_and_leaves_nothing(tmp_path, monkeypatch, host, fault):
    urls = f"{host.url}/{fault}", f"{host.url}/{fault}/mirror"
    path = tmp_path / "corpus" / "nietzsche" / "nietzsche.txt"
    with refused("could not be downloaded", *urls, FAULTS[fault], 'corpus="pydoc"', "scratch:tiny"):
        fetch.download(urls, SHA256, path, timeout=0.2)
    assert files(tmp_path) == []
    if fault != "loop":  # each address is tried twice
        assert host.asked == [f"/{fault}"] * 2 + [f"/{fault}/mirror"] * 2
    known(monkeypatch, f"{host.url}/ok")  # a later run has the text
    assert fetch.fetch_corpus("nietzsche", tmp_path)[0].read_bytes() == BODY


@pytest.mark.fault
def test_nobody_there(tmp_path):
    with refused("http://127.0.0.1:9/a.txt", "ConnectionError", 'corpus="pydoc"'):
        fetch.download(["http://127.0.0.1:9/a.txt"], None, tmp_path / "a.txt", timeout=0.2)


@pytest.mark.fault
def test_half_a_file_is_not_taken_for_the_text(tmp_path, monkeypatch, host):
    known(monkeypatch, f"{host.url}/ok")
    path = tmp_path / "corpus" / "nietzsche" / "nietzsche.txt"
    path.parent.mkdir(parents=True)
    write(path, BODY[:1000])
    assert fetch.fetch_corpus("nietzsche", tmp_path)[0].read_bytes() == BODY


@pytest.mark.parametrize("fault", ["404", "500", "cut", "loop"])
@pytest.mark.fault
def test_a_url_that_fails_leaves_nothing(tmp_path, host, fault):
    url = f"{host.url}/{fault}/text.txt"
    with refused(url, FAULTS[fault], 'corpus="pydoc"'):
        corpus.load_corpus(url, tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "path", ["ok.txt", "moved", "a/b.txt?version=1&x=%20", "long/" + "x" * 500]
)
def test_a_url_is_downloaded_once_and_its_hash_recorded(tmp_path, host, path):
    for _ in range(2):
        folder = corpus.load_corpus(f"{host.url}/{path}", tmp_path)
        assert all_lines(folder) == sorted(LINES)
    assert host.asked.count(f"/{path}") == 1
    about = json.loads((folder / "corpus.json").read_text())
    assert (about["source"], about["sha256"]) == (f"{host.url}/{path}", SHA256)


def test_urls_that_look_alike_do_not_meet(tmp_path, host):
    for path in ("a.txt?b", "a/txt/b", "a-txt-b"):
        lines = host.texts[f"/{path}"] = sentences(30, seed=path)
        host.texts[f"/{path}"] = "\n".join(lines).encode()
        folder = corpus.load_corpus(f"{host.url}/{path}", tmp_path)
        assert all_lines(folder) == sorted(lines)


@pytest.mark.fault
def test_a_url_of_no_text_is_refused(tmp_path, host):
    host.texts["/page"] = b"<html>\n" * 3
    with refused(f"{host.url}/page", "3 non-blank line(s)"):
        corpus.load_corpus(f"{host.url}/page", tmp_path)
    assert not list(tmp_path.rglob("corpus.json"))
    host.texts["/page"] = BODY  # mended there: what was refused is not kept
    assert all_lines(corpus.load_corpus(f"{host.url}/page", tmp_path)) == sorted(LINES)
