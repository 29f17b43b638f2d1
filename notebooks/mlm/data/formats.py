"""File formats of a corpus: plain text, CSV, JSON lines, parquet and Arrow, compressed or not.

`read_documents` reads files as documents, and each document as lines. To add a format, write a reader
and add it to FORMATS; everything else is derived from that table.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

# Characters per field. Without a limit, a quote that is never closed reads the whole file into memory.
csv.field_size_limit(2**24)

COMPRESSIONS: dict[
    bytes, tuple[str, Callable[..., Any]]
] = {  # first bytes: (suffix, open function)
    b"\x1f\x8b": (".gz", gzip.open),
    b"BZh": (".bz2", bz2.open),
    b"\xfd7zXZ": (".xz", lzma.open),
}
CONVERT = "convert it first, for example: iconv -f {} -t UTF-8 old.txt > new.txt"
DECOMPRESS = "decompress it first and pass the text file inside"
EXPORT = "export it as plain text (UTF-8) and pass that file"
UNSUPPORTED = {  # first bytes of files that are not UTF-8 text: (what they are, what to do)
    b"\x28\xb5\x2f\xfd": ("a zstd archive", DECOMPRESS),
    b"7z\xbc\xaf": ("a 7z archive", DECOMPRESS),
    b"PK\x03\x04": ("a zip archive (such as .docx, .odt or .epub)", EXPORT),
    b"PAR1": ("a parquet file", "rename it so that its name ends in .parquet"),
    b"\xd0\xcf\x11\xe0": ("an old Office document", EXPORT),
    b"{\\rtf": ("an RTF document", EXPORT),
    b"%PDF": ("a PDF", EXPORT),
    b"\xff\xfe\0\0": ("UTF-32 text", CONVERT.format("UTF-32")),
    b"\0\0\xfe\xff": ("UTF-32 text", CONVERT.format("UTF-32")),
    b"\xff\xfe": ("UTF-16 text", CONVERT.format("UTF-16")),
    b"\xfe\xff": ("UTF-16 text", CONVERT.format("UTF-16")),
}


# text files


def recognize_unsupported(head: bytes) -> tuple[str, str] | None:
    """(what the file is, what to do) if its first bytes show that it is not UTF-8 text; else None."""
    for magic, found in UNSUPPORTED.items():
        if head.startswith(magic):
            return found
    # UTF-16 without a byte order mark: every other byte of English text is zero.
    for order, every_other in (("LE", head[1::2]), ("BE", head[::2])):
        if every_other.count(0) > len(head) // 4:
            return f"UTF-16{order} text", CONVERT.format(f"UTF-16{order}")
    return None


def choose_open(path: Path) -> Callable[..., Any]:
    """`open`, or the `open` of gzip, bz2 or lzma if the first bytes of the file are compressed."""
    with open(path, "rb") as file:
        head = file.read(8)
    for magic, (_, open_compressed) in COMPRESSIONS.items():
        if head.startswith(magic):
            return open_compressed
    return open


def utf8_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, compressed or not, without a byte order mark (BOM).

    `newline` as in `open`: with None, the line ends CRLF and CR become LF. Raises NotebookError if
    the file is not UTF-8 text or cannot be decompressed.
    """
    head = b""
    try:
        open_file = choose_open(path)
        with open_file(path, "rb") as file:
            head = file.read(1024)
        if unsupported := recognize_unsupported(head):
            kind, advice = unsupported
            raise NotebookError(f"{path} is {kind}, not UTF-8 text; {advice}")
        with open_file(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise NotebookError(
                        f"{path}: line {number} contains a NUL byte, so this is not a text file; "
                        "pass a text file"
                    )
                yield line
    except UnicodeDecodeError as error:
        reason = f"{error.reason}, byte {error.object[error.start]:#04x}"
        advice = "pass a text file" if b"\0" in head else CONVERT.format("LATIN1")
        raise NotebookError(f"{path} is not UTF-8 text ({reason}); {advice}") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise NotebookError(
            f"{path} is damaged or cannot be read ({error}); pass another copy of the file"
        ) from None


def text_lines(path: Path) -> Iterator[str]:
    """Yield the non-blank lines of a text file without their line ends. Raises like `utf8_lines`."""
    return (line.strip("\n") for line in utf8_lines(path) if line.strip())


# tables


def missing_column(where: str, column: str, names: Iterable[str]) -> NotebookError:
    """The error for a file or row (`where`) that has only the columns `names`."""
    found = ", ".join(map(short_repr, names)) or "none"
    return NotebookError(f"{where} has no column {column!r}; pass column= one of these: {found}")


def csv_rows(path: Path, column: str) -> Iterator[str]:
    """A column of a CSV file whose first line names the columns."""
    rows = csv.reader(utf8_lines(path, newline=""), strict=True)
    try:
        names = next(rows, [])
        if column not in names:
            raise missing_column(str(path), column, names)
        for row in filter(None, rows):
            if len(row) != len(names):
                raise NotebookError(
                    f"{path}: line {rows.line_num} has {len(row)} columns where the first has "
                    f"{len(names)}; is it a CSV file, and are texts with commas in quotes?"
                )
            yield row[names.index(column)]
    except csv.Error as error:
        raise NotebookError(
            f"{path}: line {rows.line_num} is not valid CSV ({error}); export the file again"
        ) from None


def jsonl_rows(path: Path, column: str) -> Iterator[Any]:
    """A key of a JSON lines file (https://jsonlines.org): one JSON object per line."""
    for number, line in enumerate(utf8_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        example = '{"text": "..."}'
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise NotebookError(
                f"{where} is not valid JSON ({reason}); each line must be an object such as {example}"
            ) from None
        if not isinstance(row, dict):
            raise NotebookError(f"{where} is not a JSON object such as {example}")
        if column not in row:
            raise missing_column(where, column, row)
        yield row[column]


def pyarrow_rows(
    path: Path, column: str, open_table: Callable[[Path, str], tuple[list[str], Iterable[Any]]]
) -> Iterator[Any]:
    """A column of a table that `open_table` opens with pyarrow as (column names, record batches)."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise NotebookError(
            f"{path} needs the package pyarrow: pip install pyarrow, then run this again"
        ) from None
    try:
        names, batches = open_table(path, column)
        if column not in names:
            raise missing_column(str(path), column, names)
        for batch in batches:
            yield from batch.column(column).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise NotebookError(
            f"{path} is damaged, or not a {format_of(path)} file ({reason}); pass another copy"
        ) from None


def open_parquet(path: Path, column: str) -> tuple[list[str], Iterable[Any]]:
    """(column names, record batches of `column`) of a parquet file."""
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(path)
    return table.schema_arrow.names, table.iter_batches(1000, columns=[column])


def open_arrow_stream(path: Path, column: str) -> tuple[list[str], Iterable[Any]]:
    """(column names, record batches) of an Arrow stream."""
    import pyarrow

    stream = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
    return stream.schema.names, stream


def parquet_rows(path: Path, column: str) -> Iterator[Any]:
    """A column of a parquet file (needs pyarrow)."""
    return pyarrow_rows(path, column, open_parquet)


def arrow_rows(path: Path, column: str) -> Iterator[Any]:
    """A column of an Arrow stream, as the package `datasets` stores it (needs pyarrow)."""
    return pyarrow_rows(path, column, open_arrow_stream)


# the table of formats

PLAIN_TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")

# Suffix -> reader(path, column), which yields the text of each row. The first line of a reader's
# docstring describes the format in `format_table`.
FORMATS: dict[str, Callable[[Path, str], Iterator[Any]]] = {
    ".csv": csv_rows,
    ".jsonl": jsonl_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
}


def corpus_suffixes() -> tuple[str, ...]:
    """The suffixes by which a file in a folder is recognized as a text."""
    return (*PLAIN_TEXT_SUFFIXES, *FORMATS)


def format_table() -> str:
    """The formats as a Markdown table."""
    lines = ["| file name | content |", "|---|---|"]
    for suffix, reader in FORMATS.items():
        content = (reader.__doc__ or "").partition("\n")[0].rstrip(".")
        lines.append(f"| `*{suffix}` | {content} |")
    lines.append("| any other | Plain text in UTF-8 |")
    return "\n".join(lines)


def name_without_compression(path: Path) -> str:
    """The name of a file in lower case, without a suffix such as .gz."""
    name = path.name.lower()
    for suffix, _ in COMPRESSIONS.values():
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def format_of(path: Path) -> str | None:
    """The key of FORMATS that the file's name ends in; None means plain text."""
    name = name_without_compression(path)
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), None)


# documents


def row_lines(value: Any, column: str, where: str) -> Iterator[str]:
    """Yield the non-blank lines of the text in a row; none if the row has no text (None).

    Raises NotebookError if the value is not text or cannot be encoded as UTF-8.
    """
    if not isinstance(value, str | None):
        kind = type(value).__name__
        raise NotebookError(f"{where}: {column!r} is of type {kind}, not text; pass another column")
    text = value or ""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotebookError(
            f"{where} contains half of a surrogate pair, so it is not text; export the file again"
        ) from None
    if "\0" in text:
        raise NotebookError(
            f"{where} contains a NUL byte, so it is not text; export the file again"
        )
    return (line.strip("\n") for line in io.StringIO(text, newline=None) if line.strip())


def read_documents(files: Iterable[Path], column: str = "text") -> Iterator[Iterator[str]]:
    """Yield the documents in these files, each as an iterator of its non-blank lines.

    A text file is one document. In a table (FORMATS), each row is one: the text in `column`. Read
    each iterator before you ask for the next: only one row or line is in memory at a time. Raises
    NotebookError if a file is not what its name says.
    """
    for path in files:
        suffix = format_of(path)
        if suffix is None:
            yield text_lines(path)
        else:
            for number, value in enumerate(FORMATS[suffix](path, column), 1):
                yield row_lines(value, column, f"{path}: row {number}")


def numbered_lines(files: Iterable[Path], column: str = "text") -> Iterator[tuple[int, str]]:
    """Yield (document number, line) for each non-blank line of these files, in order."""
    for number, lines in enumerate(read_documents(files, column)):
        for line in lines:
            yield number, line
