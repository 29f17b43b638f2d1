"""Texts from the web, from Python and from the Hub: complete and verified, or one line that says why not."""

import hashlib
import os
import shutil
import sys
import types

import pytest

import mlm.data.download
from helpers import refused, sentences
from mlm.data.corpus import load_corpus
from mlm.data.download import bad_downloads_removed, download, fetch_corpus
from mlm.data.formats import text_lines
from mlm.data.layout import describe_layout
from texts import (
    DOCUMENTS,
    LINES,
    TEXTS,
    about,
    all_lines,
    as_jsonl,
    as_text,
    file_names,
    normalized,
    put,
    read_split,
)

# without a network


def test_pydoc_needs_no_network(tmp_path, monkeypatch):
    from pydoc_data.topics import topics

    monkeypatch.setattr(mlm.data.download, "download", None)
    train, valid = read_split(load_corpus("pydoc", tmp_path))
    lines = {line for topic in topics.values() for line in topic.splitlines() if line.strip()}
    assert {*map(normalized, [*train, *valid])} == {*map(normalized, lines)}
    assert len(train) > 5000 and len(valid) > 500
    text = (tmp_path / "corpus" / "pydoc" / "pydoc.txt").read_text("utf-8")
    assert len(text) < sum(
        map(len, topics.values())
    )  # paragraphs that occur twice are written once


# the web


def test_a_known_text_is_downloaded_once(tmp_path, set_nietzsche_urls, host):
    set_nietzsche_urls(f"{host.url}/ok", f"{host.url}/mirror")
    for _ in range(2):
        assert all_lines(load_corpus("nietzsche", tmp_path)) == sorted(LINES)
    assert host.requests == ["/ok"]
    assert file_names(tmp_path / "corpus/nietzsche") == ["nietzsche.txt"]


@pytest.mark.parametrize("fault", ["404", "500", "other", "cut", "loop"])
def test_the_mirror_is_used_if_the_first_address_fails(tmp_path, set_nietzsche_urls, host, fault):
    set_nietzsche_urls(f"{host.url}/{fault}", f"{host.url}/ok")
    assert all_lines(load_corpus("nietzsche", tmp_path)) == sorted(LINES)
    assert host.requests.count("/ok") == 1


FAULTS = {  # what the host does: what the message says
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
def test_a_failed_download_is_reported_and_leaves_nothing(
    tmp_path, set_nietzsche_urls, host, fault
):
    urls = f"{host.url}/{fault}", f"{host.url}/{fault}/mirror"
    path = tmp_path / "corpus" / "nietzsche" / "nietzsche.txt"
    sha256 = hashlib.sha256(host.body).hexdigest()
    with refused("could not be downloaded", *urls, FAULTS[fault], 'corpus="pydoc"', "scratch:tiny"):
        download(urls, sha256, path, timeout=0.2)
    assert file_names(tmp_path) == []
    if fault != "loop":  # each address is tried twice
        assert host.requests == [f"/{fault}"] * 2 + [f"/{fault}/mirror"] * 2
    set_nietzsche_urls(f"{host.url}/ok")  # a later call succeeds
    assert fetch_corpus("nietzsche", tmp_path)[0].read_bytes() == host.body


def test_progress_is_shown_but_not_as_an_error(tmp_path, host, capsys):
    """Notebooks show stderr in red."""
    download([f"{host.url}/ok"], None, tmp_path / "a.txt")
    shown = capsys.readouterr()
    assert "100%" in shown.out and not shown.err


@pytest.mark.fault
def test_a_host_that_does_not_exist_is_reported(tmp_path, no_waiting):
    with refused("http://127.0.0.1:9/a.txt", "ConnectionError", 'corpus="pydoc"'):
        download(["http://127.0.0.1:9/a.txt"], None, tmp_path / "a.txt", timeout=0.2)


@pytest.mark.fault
def test_an_incomplete_file_is_downloaded_again(tmp_path, set_nietzsche_urls, host):
    set_nietzsche_urls(f"{host.url}/ok")
    put(tmp_path / "corpus" / "nietzsche" / "nietzsche.txt", host.body[:1000])
    assert fetch_corpus("nietzsche", tmp_path)[0].read_bytes() == host.body


@pytest.mark.parametrize("fault", ["404", "500", "cut", "loop"])
@pytest.mark.fault
def test_a_failed_url_is_reported_and_leaves_nothing(tmp_path, host, fault):
    url = f"{host.url}/{fault}/text.txt"
    with refused(url, FAULTS[fault], 'corpus="pydoc"'):
        load_corpus(url, tmp_path)
    assert file_names(tmp_path) == []


@pytest.mark.parametrize(
    "path", ["ok.txt", "moved", "a/b.txt?version=1&x=%20", "long/" + "x" * 500]
)
def test_a_url_is_downloaded_once_and_its_sha256_stored(tmp_path, host, path):
    for _ in range(2):
        folder = load_corpus(f"{host.url}/{path}", tmp_path)
        assert all_lines(folder) == sorted(LINES)
    assert host.requests.count(f"/{path}") == 1
    sha256 = hashlib.sha256(host.body).hexdigest()
    name = f"{host.url}/{path.partition('?')[0]}"  # without the query, which may be a secret
    assert (about(folder)["source"], about(folder)["text_sha256"]) == (name, sha256)


def test_similar_urls_have_folders_of_their_own(tmp_path, host):
    for path in ("a.txt?b", "a/txt/b", "a-txt-b"):
        lines = sentences(30, seed=path)
        host.texts[f"/{path}"] = as_text(lines)
        assert all_lines(load_corpus(f"{host.url}/{path}", tmp_path)) == sorted(lines)


@pytest.mark.fault
def test_a_url_without_a_text_is_refused_and_not_kept(tmp_path, host):
    host.texts["/page"] = b"<p>\n" * 3
    with refused(f"{host.url}/page", "at least 10", "got 3"):
        load_corpus(f"{host.url}/page", tmp_path)
    host.texts["/page"] = b"<!DOCTYPE html>\n<html>\n" + host.body
    with refused("is an HTML page, not text"):
        load_corpus(f"{host.url}/page", tmp_path)
    assert not list(tmp_path.rglob("corpus.json"))
    host.texts["/page"] = host.body  # corrected on the server
    assert all_lines(load_corpus(f"{host.url}/page", tmp_path)) == sorted(LINES)


@pytest.mark.fault
def test_only_the_texts_of_urls_are_removed_if_they_are_bad(tmp_path, host):
    """02 describes a text before it splits it."""
    mine = tmp_path / "page" / "page.txt"
    put(mine, b"my own")
    (pydoc,) = fetch_corpus("pydoc", tmp_path)
    host.texts["/page"] = b"\n"
    (page,) = fetch_corpus(f"{host.url}/page", tmp_path)
    with refused("has no text"), bad_downloads_removed((mine, pydoc, page)):
        describe_layout([page])
    assert mine.exists() and pydoc.exists() and not page.exists()
    host.texts["/page"] = host.body
    (page,) = fetch_corpus(f"{host.url}/page", tmp_path)
    with bad_downloads_removed([page]):
        assert f"{len(LINES)} line(s)" in describe_layout([page])
    assert page.exists()


# the Hub


@pytest.fixture
def datasets_package(monkeypatch, tmp_path):
    """A package `datasets` that knows one dataset, stored in two files."""
    files = [put(tmp_path / f"cache/{i}.jsonl", as_jsonl(TEXTS[2 * i : 2 * i + 2])) for i in (0, 1)]
    splits = {"train": files, "test": files[1:]}

    def load_dataset(name, split, keep_in_memory):
        if name != "me/mine":
            raise ValueError(f"Dataset '{name}'\ndoesn't exist on the Hub")
        return types.SimpleNamespace(cache_files=[{"filename": name} for name in splits[split]])

    package = types.SimpleNamespace(load_dataset=load_dataset, __version__="4.0.0")
    monkeypatch.setitem(sys.modules, "datasets", package)
    return package


def test_a_split_is_read_from_the_cache_of_datasets(tmp_path, datasets_package):
    expected = load_corpus(put(tmp_path / "a.jsonl", as_jsonl(TEXTS)), tmp_path / "plain")
    for given in ("hf:me/mine", "hf:me/mine:train"):
        folder = load_corpus(given, tmp_path / "work")
        assert read_split(folder) == read_split(expected)
    folder = load_corpus("hf:me/mine", tmp_path / "work", valid_corpus="hf:me/mine:test")
    assert list(text_lines(folder / "valid.txt")) == [*DOCUMENTS[2], *DOCUMENTS[3]]


@pytest.mark.fault
def test_a_split_that_cannot_be_loaded_is_refused(tmp_path, datasets_package, monkeypatch):
    with refused("corpus='hf:me/other' cannot be loaded", "doesn't exist on the Hub"):
        load_corpus("hf:me/other", tmp_path)
    with refused("must name a whole split"):
        load_corpus("hf:me/mine:train[:10%]", tmp_path)
    datasets_package.__version__ = "3.6.0"
    with refused("corpus='hf:me/mine' needs the package datasets", "pip install -U 'datasets>=4'"):
        load_corpus("hf:me/mine", tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused("needs the package datasets", "hf://datasets/OWNER/NAME/FILES"):
        load_corpus("hf:me/mine", tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize("parameter", ["corpus", "valid_corpus"])
def test_a_dataset_without_files_is_refused(tmp_path, parameter):
    given = {"corpus": put(tmp_path / "a.txt", as_text(LINES)), parameter: "hf://datasets/glue"}
    with refused(f"{parameter}='hf://datasets/glue'", "hf://datasets/OWNER/NAME/FILES"):
        load_corpus(workdir=tmp_path / "work", **given)


def test_files_of_a_dataset_are_read_from_the_cache_of_the_hub(tmp_path, monkeypatch, capsys):
    """The cache may hold files from earlier calls; only those that match are read, sorted by name."""
    import huggingface_hub

    requests = []
    contents = {"data/b.jsonl": TEXTS[2:], "data/a.jsonl": TEXTS[:2], "data/x.csv": []}
    for name, texts in contents.items():
        put(tmp_path / "blobs" / name.replace("/", "-"), as_jsonl(texts))
        (tmp_path / "snapshot/data").mkdir(parents=True, exist_ok=True)
        os.symlink(tmp_path / "blobs" / name.replace("/", "-"), tmp_path / "snapshot" / name)

    def snapshot_download(name, revision, allow_patterns, **options):
        requests.append((name, revision, allow_patterns))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("mlm.data.download.hub_is_unreachable", lambda _: True)
    given = "hf://datasets/me/mine@refs/convert/parquet/data/*.jsonl"
    folder = load_corpus(given, tmp_path / "work")
    expected = load_corpus(put(tmp_path / "a.jsonl", as_jsonl(TEXTS)), tmp_path / "plain")
    assert read_split(folder) == read_split(expected)
    assert requests == [("me/mine", "refs/convert/parquet", "data/*.jsonl")]
    assert "The Hub does not answer" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "snapshot")
    (tmp_path / "snapshot").mkdir()
    for parameter in ("corpus", "valid_corpus"):
        missing = {"corpus": given, parameter: "hf://datasets/me/mine/none.csv"}
        with refused("='hf://datasets/me/mine", "matches no file"):
            load_corpus(workdir=tmp_path / "work", **missing)
