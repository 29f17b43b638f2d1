"""Files become documents, and documents lines: text, CSV, JSON lines, parquet, packed or not."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib

from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

# characters; without any limit a quote left open takes in the whole file
csv.field_size_limit(2**24)

COMPRESSIONS = {  # first bytes of a packed file, the end of its name, what unpacks it as it is read
    b"\x1f\x8b": (".gz", gzip.open),
    b"BZh": (".bz2", bz2.open),
    b"\xfd7zXZ": (".xz", lzma.open),
}
CONVERT = "convert it first, for example: iconv -f {} -t UTF-8 old.txt > new.txt"
UNPACK = "unpack it first and pass the text that is in it"
EXPORT = "save or export it as plain text (UTF-8) and pass that"
BINARY_KINDS = {  # the first bytes of files that are no plain text: what they are, what helps
    b"\x28\xb5\x2f\xfd": ("a zstd archive", UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"PK\x03\x04": ("a zip archive, as .docx, .odt and .epub are", EXPORT),
    b"PAR1": ("a parquet file", "let its name end in .parquet"),
    b"\xd0\xcf\x11\xe0": ("an old Office document", EXPORT),
    b"{\\rtf": ("an RTF document", EXPORT),
    b"%PDF": ("a PDF", EXPORT),
    b"\xff\xfe\0\0": ("UTF-32 text", CONVERT.format("UTF-32")),
    b"\0\0\xfe\xff": ("UTF-32 text", CONVERT.format("UTF-32")),
    b"\xff\xfe": ("UTF-16 text", CONVERT.format("UTF-16")),
    b"\xfe\xff": ("UTF-16 text", CONVERT.format("UTF-16")),
}


# text


def recognize_binary(head):
    """(what a file with these first bytes is, what helps) where that is known to be no UTF-8 text."""
    for magic, known in BINARY_KINDS.items():
        if head.startswith(magic):
            return known
    for order, ends in (("LE", head[1::2]), ("BE", head[::2])):  # without a mark in front
        if ends.count(0) > len(head) // 4:
            return f"UTF-16{order} text", CONVERT.format(f"UTF-16{order}")
    return None


def choose_open(path):
    """What opens a file: `open`, or, by its first bytes, a function that unpacks it as it is read."""
    with open(path, "rb") as file:
        head = file.read(8)
    return next(
        (unpack for magic, (_, unpack) in COMPRESSIONS.items() if head.startswith(magic)), open
    )


def utf8_lines(path, newline=None):
    """The lines of a UTF-8 file, packed or not, one at a time; a BOM is taken off.

    `newline` is that of `open`: with None, CRLF and CR become LF. Raises NotebookError where the
    file is not UTF-8 text, or a packed one is damaged.
    """
    head = b""
    try:
        unpacked = choose_open(path)
        with unpacked(path, "rb") as file:
            head = file.read(1024)
        if known := recognize_binary(head):
            raise NotebookError(f"{path}: {known[0]}, not UTF-8; {known[1]}")
        with unpacked(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise NotebookError(f"{path}: line {number} has a NUL byte: not a text file")
                yield line
    except UnicodeDecodeError as error:
        reason = f"{error.reason}, byte {error.object[error.start]:#04x}"
        help = "not a text file" if b"\0" in head else CONVERT.format("LATIN1")
        raise NotebookError(f"{path}: not UTF-8 ({reason}); {help}") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise NotebookError(f"{path} is damaged or cannot be read ({error})") from None


def text_lines(path):
    """The non-blank lines of a text file, one at a time, without their ends. Raises as `utf8_lines`."""
    return (line.strip("\n") for line in utf8_lines(path) if line.strip())


# rows


def missing_column(path, column, names):
    """The NotebookError for a file that has only other columns."""
    there = ", ".join(map(short_repr, names)) or "none"
    return NotebookError(f"{path} has no column {column!r}; pass column= one of these: {there}")


def csv_rows(path, column):
    """The fields of a column of a CSV file, whose first line names the columns."""
    rows = csv.reader(utf8_lines(path, newline=""), strict=True)
    try:
        names = next(rows, [])
        if column not in names:
            raise missing_column(path, column, names)
        for row in filter(None, rows):
            if len(row) != len(names):
                raise NotebookError(
                    f"{path}: line {rows.line_num} has {len(row)} columns where the first has "
                    f"{len(names)}; is it a CSV, and are texts with commas in quotes?"
                )
            yield row[names.index(column)]
    except csv.Error as error:
        raise NotebookError(f"{path}: line {rows.line_num} is no CSV ({error})") from None


def jsonl_rows(path, column):
    """The values of a key of JSON lines (https://jsonlines.org): an object a line."""
    for number, line in enumerate(utf8_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = getattr(error, "msg", error)
            raise NotebookError(f"{path}: line {number} is no JSON ({why})") from None
        if not isinstance(row, dict):
            raise NotebookError(
                f'{path}: line {number} is no JSON object, such as {{"text": "..."}}'
            )
        if column not in row:
            raise missing_column(f"{path}: line {number}", column, row)
        yield row[column]


def table_rows(path, column):
    """The values of a column of a parquet file, or of an Arrow stream, which `datasets` keeps."""
    try:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise NotebookError(
            f"{path} needs the package pyarrow: pip install pyarrow, then run this again"
        ) from None
    try:
        if format_of(path) == ".parquet":
            table = ParquetFile(path)
            names, batches = table.schema_arrow.names, table.iter_batches(1000, columns=[column])
        else:
            batches = arrow.ipc.open_stream(arrow.memory_map(str(path)))
            names = batches.schema.names
        if column not in names:
            raise missing_column(path, column, names)
        for batch in batches:
            yield from batch.column(column).to_pylist()
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        why = str(error).partition("\n")[0][:200]
        raise NotebookError(f"{path} is no such table, or damaged ({why})") from None


FORMATS = {".csv": csv_rows, ".jsonl": jsonl_rows, ".parquet": table_rows, ".arrow": table_rows}


def name_without_compression(path):
    """The name of a file without what says how it is packed, in lower case."""
    name = path.name.lower()
    ends = (end for end, _ in COMPRESSIONS.values() if name.endswith(end))
    return name.removesuffix(next(ends, ""))


def format_of(path):
    """Which of ROWS a file's name says that it has; None for text."""
    return next((end for end in FORMATS if name_without_compression(path).endswith(end)), None)


# documents


def row_lines(value, column, where):
    """The non-blank lines of a row's text; none where it has no text.

    Raises NotebookError where it is something else, or what UTF-8 has no bytes for.
    """
    if not isinstance(value, str | None):
        kind = type(value).__name__
        raise NotebookError(f"{where}: {column!r} is of type {kind}, not text; pass another column")
    text = value or ""
    try:
        text.encode()
        if "\0" in text:
            raise NotebookError(f"{where} has a NUL byte: not text")
    except UnicodeEncodeError:
        raise NotebookError(f"{where} has half of a surrogate pair: not text") from None
    return (line.strip("\n") for line in io.StringIO(text, newline=None) if line.strip())


def read_documents(files, column="text"):
    """The documents in these files, each as an iterator of its non-blank lines, to be read in turn.

    A text file is a document. So is each row of a file whose name ends in one of ROWS: what stands in
    `column`. Nothing is held but a row or a line. Raises NotebookError where a file is not what it
    should be.
    """
    for path in files:
        if form := format_of(path):
            for number, value in enumerate(FORMATS[form](path, column), 1):
                yield row_lines(value, column, f"{path}: row {number}")
        else:
            yield text_lines(path)


def numbered_lines(files, column="text"):
    """(number of its document, line) for each non-blank line of these files, in order."""
    for number, lines in enumerate(read_documents(files, column)):
        for line in lines:
            yield number, line
