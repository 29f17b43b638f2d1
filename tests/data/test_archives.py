"""Archives and compressed files are read without unpacking them; other files are named for what they are."""

import gzip
import io
import pickle
import sqlite3

import numpy as np
import pytest
import torch

from helpers import refused, sentences
from mlm.data.corpus import load_corpus
from texts import (
    COMPRESS,
    TEXTS,
    about,
    as_csv,
    as_jsonl,
    as_parquet,
    as_tar,
    as_text,
    as_wiki,
    as_zip,
    common_lines,
    file_names,
    put,
    read_split,
)

FILES = {f"books/{i}.txt": text.encode() for i, text in enumerate(TEXTS)}
OTHERS = {"cover.png": b"\x89PNG", "README": b"not text", ".hidden.txt": b"x", "config.json": b"{}"}

ARCHIVES = {
    "books.tar": as_tar(OTHERS | FILES),
    "books.tar.gz": as_tar(FILES | OTHERS, "w:gz"),
    "books.tgz": as_tar(FILES | OTHERS, "w:gz"),
    "books.tar.bz2": as_tar(FILES | OTHERS, "w:bz2"),
    "books.tar.xz": as_tar(FILES | OTHERS, "w:xz"),
    "books.zip": as_zip(FILES | OTHERS),
    "books.txt": as_tar(FILES | OTHERS),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_texts_of_an_archive_are_read_like_files(tmp_path, name):
    expected = load_corpus(put(tmp_path / "a.jsonl", as_jsonl(TEXTS)), tmp_path / "plain")
    given = put(tmp_path / name, ARCHIVES[name])
    folder = load_corpus(given, tmp_path / "work")
    assert read_split(folder) == read_split(expected)
    split = about(folder)["split"]
    assert (split["files"], split["documents"], split["separated_by"]) == (4, 4, "file")
    assert split["left_out"] == {".png": 1, "README": 1, ".json": 1}
    assert file_names(tmp_path / "work" / "corpus")[0].endswith(
        "corpus.json"
    )  # nothing is unpacked


@pytest.mark.parametrize("write", [as_tar, as_zip])
def test_an_archive_may_contain_every_text_format(tmp_path, write):
    lines = sentences(60)
    files = {
        "a.txt.gz": gzip.compress(as_text(lines[:10])),
        "b.csv": as_csv(lines[10:20], delimiter=";"),
        "c.jsonl.xz": COMPRESS[".xz"](as_jsonl(lines[20:30])),
        "d/wiki_00": as_wiki(lines[30:40]),
        "d/part-00000": as_text(lines[40:50]),
        "e.tar.gz": b"",  # not a text
        "f.txt": as_text(lines[50:]),
    }
    folder = load_corpus(put(tmp_path / "a.zip", write(files)), tmp_path)
    assert sorted(line for part in read_split(folder) for line in part if line) == sorted(lines)
    assert not common_lines(folder)


@pytest.mark.parametrize("other", ["emb.npy", "model/data.pkl", "docs/mimetype"])
def test_an_archive_of_texts_may_contain_other_files(tmp_path, other):
    content = as_zip({"a.txt": as_text(sentences(60)), other: b"x"})
    folder = load_corpus(put(tmp_path / "a.zip", content), tmp_path)
    assert sorted(line for part in read_split(folder) for line in part if line) == sorted(
        sentences(60)
    )


@pytest.mark.fault
def test_archives_that_cannot_be_read_are_refused(tmp_path):
    tar = as_tar(FILES, "w:gz")
    archives = {
        "cut.tar.gz": (tar[: len(tar) // 2], ["is damaged or cannot be read"]),
        "cut.tar": (as_tar(FILES)[:1600], ["is damaged or cannot be read"]),
        "cut.zip": (as_zip(FILES)[:-30], ["is damaged or cannot be read"]),
        "images.zip": (as_zip({"a.png": b"x", "b.jpg": b"x"}), ["without a text file", "1 x .png"]),
        "empty.tar": (as_tar({"a/.hidden": b""}), ["without a text file", "no files"]),
        "nested.tar": (as_tar({"a.txt": as_zip(FILES)}), ["a.txt is a zip archive inside another"]),
        "parquet.zip": (as_zip({"a.parquet": as_parquet(TEXTS)}), ["in an archive: unpack it"]),
        "bad text.tar": (as_tar({"a/b.txt": b"a\0b\n" * 99}), ["bad text.tar/a/b.txt is a binary"]),
        "docx.zip": (as_zip({"[Content_Types].xml": b""}), ["an Office document", "plain text"]),
        "epub.zip": (as_zip({"mimetype": b"application/epub+zip"}), ["EPUB", "plain text"]),
        "npz.zip": (as_zip({"a.npy": b""}), ["a NumPy archive (.npz)"]),
    }
    for name, (content, words) in archives.items():
        with refused(name, *words):
            load_corpus(put(tmp_path / name, content), tmp_path / "work")
        assert not list((tmp_path / "work").rglob("*.*")), name


def test_a_zip_archive_with_a_password_is_refused(tmp_path):
    content = bytearray(as_zip(FILES))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # set the flag "encrypted"
        position = -1
        while (position := content.find(signature, position + 1)) >= 0:
            content[position + offset] |= 1
    with refused("a.zip is damaged or cannot be read", "encrypted"):
        load_corpus(put(tmp_path / "a.zip", bytes(content)), tmp_path / "work")


# what is not text


def saved(save, *arguments):
    """The content of a file that `save(*arguments, file)` writes."""
    file = io.BytesIO()
    save(*arguments, file)
    return file.getvalue()


def sqlite_file(folder):
    """The content of an SQLite database."""
    database = sqlite3.connect(folder / "database")
    database.execute("create table texts (text)")
    database.commit()
    database.close()
    return (folder / "database").read_bytes()


LINES_AFTER = b"line\n" * 20
NOT_TEXT = {
    "an SQLite database": sqlite_file,
    "a NumPy array (.npy)": saved(lambda a, f: np.save(f, a), np.arange(9)),
    "a NumPy archive (.npz)": saved(lambda a, f: np.savez(f, a), np.arange(9)),
    "a pickle": pickle.dumps(list(range(99))),
    "a pickle (such as an old PyTorch checkpoint)": saved(
        lambda t, f: torch.save(t, f, _use_new_zipfile_serialization=False), torch.ones(3)
    ),
    "a PyTorch checkpoint": saved(torch.save, torch.ones(3)),
    "a safetensors model": (64).to_bytes(8, "little") + b'{"weight":{"dtype":"F32"}}' + bytes(99),
    "a GGUF model": b"GGUF\x03\0\0\0" + bytes(99),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(99),
    "a JPEG image": b"\xff\xd8\xff\xe0" + bytes(99),
    "a GIF image": b"GIF89a" + bytes(99),
    "a WebP image": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(99),
    "a WAV file": b"RIFF\x24\0\0\0WAVEfmt " + bytes(99),
    "an MP4 video": b"\0\0\0\x20ftypisom" + bytes(99),
    "a PDF": b"%PDF-1.7\n" + LINES_AFTER,
    "a PostScript document": b"%!PS-Adobe-3.0\n" + LINES_AFTER,
    "an RTF document": b"{\\rtf1 " + LINES_AFTER,
    "an old Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
    "a zstd archive": b"\x28\xb5\x2f\xfd" + bytes(99),
    "a 7z archive": b"7z\xbc\xaf\x27\x1c" + bytes(99),
    "a RAR archive": b"Rar!\x1a\x07\x01\0" + bytes(99),
    "an Avro file": b"Obj\x01" + bytes(99),
    "a program or library (ELF)": b"\x7fELF" + bytes(99),
    "a Windows program": b"MZ\x90\0\x03\0\0\0" + bytes(99),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 7\n",
    "an HTML page": b"\n<!doctype HTML>\n" + LINES_AFTER,
    "an XML file": b'\xef\xbb\xbf<?xml version="1.0"?>\n<text>\n' + LINES_AFTER,
    "a MediaWiki dump": b'<mediawiki xmlns="x">\n' + LINES_AFTER,
    "a binary file": bytes(range(256)) * 9,
}


@pytest.mark.fault
@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl", "txt.gz"])
@pytest.mark.parametrize("kind", NOT_TEXT)
def test_files_that_are_not_text_are_named_for_what_they_are(tmp_path, kind, suffix):
    """Whatever their name says."""
    content = NOT_TEXT[kind]
    content = content(tmp_path) if callable(content) else content
    is_zip = content.startswith(b"PK")
    content = gzip.compress(content) if suffix.endswith("gz") else content
    given = put(tmp_path / f"a.{suffix}", content)
    expected = (
        "is a zip archive inside" if is_zip and suffix.endswith("gz") else f"a.{suffix} is {kind}"
    )
    with refused(expected):
        load_corpus(given, tmp_path / "work")


@pytest.mark.parametrize(
    "line",
    ["BM, the company", "MZ", "GIF", "GGUF is", "ID3 tags", "Obj", "II* and", "ORC\tis", "%"],
)
def test_text_that_begins_like_a_file_type_is_text(tmp_path, line):
    lines = [line, *sentences(30)]
    folder = load_corpus(put(tmp_path / "a.txt", as_text(lines)), tmp_path)
    assert sorted(line for part in read_split(folder) for line in part) == sorted(lines)
