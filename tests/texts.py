"""Small texts in every file format, and how to read a split, for the tests of mlm/data."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers import sentences

LINES = sentences(230)
TEXT = "\n".join([*LINES[:100], "", *LINES[100:], ""])
DOCUMENTS = [["a 1", "a 2"], [f"b {i}" for i in range(40)], ["c 1"], [f"d {i}" for i in range(60)]]
TEXTS = ["\n".join(lines) for lines in DOCUMENTS]  # one for each document


# write


def put(path: Path, content: str | bytes) -> str:
    """Write a file, and folders for it; its path as a parameter gives it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def as_csv(texts: Sequence[Any], column: str = "text", delimiter: str = ",") -> bytes:
    """A CSV file with a row for each text, and another column on each side of it."""
    file = io.StringIO(newline="")
    rows = [[number, text, "x"] for number, text in enumerate(texts)]
    csv.writer(file, delimiter=delimiter).writerows([["id", column, "label"], *rows])
    return file.getvalue().encode()


def as_jsonl(texts: Sequence[Any], column: str = "text") -> bytes:
    return "".join(json.dumps({"id": 1, column: t}) + "\n" for t in texts).encode()


def as_json(texts: Sequence[Any], column: str = "text", indent: int | None = None) -> bytes:
    """A JSON array of objects."""
    return json.dumps([{"id": 1, column: text} for text in texts], indent=indent).encode()


def as_parquet(texts: Sequence[Any], column: str = "text") -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet, file = pytest.importorskip("pyarrow.parquet"), io.BytesIO()
    parquet.write_table(pyarrow.table({"id": range(len(texts)), column: texts}), file)
    return file.getvalue()


def as_arrow(texts: Sequence[Any], column: str = "text") -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    table, file = pyarrow.table({column: texts}), io.BytesIO()
    with pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, 7)
    return file.getvalue()


def as_wiki(texts: Sequence[str]) -> bytes:
    """Articles as WikiExtractor writes them."""
    articles = (f'<doc id="{i}" title="A">\n{text}\n\n</doc>\n' for i, text in enumerate(texts))
    return "".join(articles).encode()


def as_tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar archive of {name: content}; mode "w:gz" compresses it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def as_zip(files: dict[str, bytes]) -> bytes:
    """A zip archive of {name: content}."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


def as_text(texts: Sequence[str]) -> bytes:
    return "\n".join(texts).encode()


WRITERS = {"csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet, "arrow": as_arrow}
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


# read


def read_split(folder: Path) -> list[list[str]]:
    """The lines of train.txt and of valid.txt, blank ones included."""
    parts = [(folder / name).read_bytes().decode() for name in ("train.txt", "valid.txt")]
    return [part.removesuffix("\n").split("\n") for part in parts]


def all_lines(folder: Path) -> list[str]:
    """The lines of both parts, sorted."""
    train, valid = read_split(folder)
    return sorted(train + valid)


def text_of(folder: Path) -> list[str]:
    """The non-blank lines of both parts, sorted."""
    return [line for line in all_lines(folder) if line]


def normalized(line: str) -> str:
    """A line as lines are compared: without invisible characters, NFKC, case folded, spaces collapsed."""
    visible = (
        letter
        for letter in line
        if letter.isspace() or letter > "\uffff" or unicodedata.category(letter) not in ("Cc", "Cf")
    )
    return " ".join(unicodedata.normalize("NFKC", "".join(visible)).casefold().split())


def common_lines(folder: Path) -> set[str]:
    """The normalized lines that are in both parts, without blank ones."""
    train, valid = ({normalized(line) for line in part} - {""} for part in read_split(folder))
    return train & valid


def about(folder: Path) -> dict[str, Any]:
    """What corpus.json says."""
    return json.loads((folder / "corpus.json").read_text())


def file_names(folder: Path) -> list[str]:
    """The paths of all files below a folder, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# words of the lines of prose in tests/inference
ANIMALS = "horse", "donkey", "rabbit", "squirrel"
VERBS = "watches", "follows", "hears"
PLACES = "river", "forest", "garden", "village", "mountain"
