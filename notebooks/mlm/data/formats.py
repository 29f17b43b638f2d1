"""File formats of a corpus: plain text, CSV, JSON, parquet, Arrow and WikiExtractor's output.

The content of a file decides its format, then the end of its name. Compressed files and archives are
read without unpacking them. `numbered_lines` reads files as documents, and each document as lines. To
add a format, write a reader and add it to FORMATS; everything else is derived from that table.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from mlm.data.archives import COMPRESSIONS, HEAD_BYTES, ByteFile, open_files
from mlm.data.encodings import (
    decoded_head,
    decoded_lines,
    decoding_errors_reported,
    doubt_encoding,
    open_decoded,
)
from mlm.data.file_types import recognize_type
from mlm.env.files import short_repr
from mlm.env.notebook import NotebookError

DEFAULT_COLUMN = "text"
# Characters per field. Without a limit, a quote that is never closed reads the whole file into memory.
MAX_FIELD_CHARS = 2**24
csv.field_size_limit(MAX_FIELD_CHARS)


@dataclass(frozen=True)
class TextFile:
    """A file, or a file in an archive, that a reader reads once from its start."""

    bytes: ByteFile
    encoding: str | None  # None: UTF-8

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.bytes.name

    @cached_property
    def head(self) -> str:
        """The first characters, to recognize the format."""
        return decoded_head(self.bytes, self.encoding)

    @cached_property
    def head_lines(self) -> list[str]:
        """The first non-blank lines, without a last one that `head` cuts."""
        lines = self.head.split("\n")
        is_cut = len(self.bytes.head) >= HEAD_BYTES
        return [line for line in (lines[:-1] if is_cut else lines) if line.strip()]

    def lines(self, newline: str | None = None) -> Iterator[str]:
        """Yield the lines with their line ends; see `decoded_lines`."""
        return decoded_lines(self.bytes, self.encoding, newline)


# plain text


def text_lines(path: Path) -> Iterator[str]:
    """Yield the non-blank lines of a text file, compressed or not, without their line ends.

    Raises like `decoded_lines`.
    """
    for file in open_files(path, is_text_name):
        yield from (line.strip("\n") for line in decoded_lines(file) if line.strip())


def plain_text(file: TextFile, column: str) -> Iterator[Iterator[str]]:
    """Plain text."""
    yield file.lines()


DOC_START = re.compile(r"<doc\b[^>]*>\s*")


def wiki_documents(file: TextFile, column: str) -> Iterator[Iterator[str]]:
    """Articles between lines `<doc ...>` and `</doc>`, as WikiExtractor writes them."""
    lines = file.lines()
    for line in lines:
        if DOC_START.fullmatch(line):
            yield takewhile(lambda line: line.strip() != "</doc>", lines)


def is_wiki(file: TextFile, column: str) -> bool:
    """Whether the first line of a file is `<doc ...>`."""
    return bool(DOC_START.fullmatch("".join(file.head_lines[:1])))


# CSV


def check_unique(where: str, column: str, names: Sequence[str]) -> None:
    """Raise NotebookError if a table (`where`) has several columns of this name."""
    if names.count(column) > 1:
        raise NotebookError(
            f"{where} has {names.count(column)} columns {column!r}: rename all but the one with the text"
        )


def missing_column(where: str, column: str, names: Iterable[str]) -> NotebookError:
    """The error for a file or row (`where`) that has only the columns `names`."""
    found = ", ".join(short_repr(name, 50) for name in names) or "none"
    return NotebookError(
        f"{where} has no column {column!r}; pass column= one of these: {found[:300]}"
    )


# How a table in CSV may separate its columns: options of `csv.reader`. Texts with tabs or | as delimiters often
# contain quotes that mean nothing.
DIALECTS: list[dict[str, Any]] = [
    {"delimiter": delimiter, "quoting": quoting, "strict": True}
    for quoting, delimiters in ((csv.QUOTE_MINIMAL, ",;\t|"), (csv.QUOTE_NONE, "\t|"))
    for delimiter in delimiters
]


def head_rows(head: str, dialect: dict[str, Any]) -> list[list[str]]:
    """The rows in the first characters of a table, as far as they are valid in a dialect."""
    rows = []
    try:
        for row in filter(None, csv.reader(io.StringIO(head, newline=""), **dialect)):
            rows.append(row)
    except csv.Error:
        rows.append([])
    return rows


def find_dialect(file: TextFile, column: str) -> tuple[dict[str, Any], list[str], bool]:
    """The dialect in which a table's head makes most sense, its first row, and whether all rows fit.

    Best is a dialect in which the first row has `column`. If several have it (or none), all rows should
    have the same number of columns, as many as possible; then tabs in a .tsv file, then more rows.
    """
    is_cut = len(file.bytes.head) >= HEAD_BYTES
    found = []
    for number, dialect in enumerate(DIALECTS):
        names, *rows = head_rows(file.head, dialect) or [[]]
        if len(names) < 2 and dialect["quoting"] == csv.QUOTE_NONE:
            continue  # the delimiter does not occur
        counts = {len(row) for row in (rows[:-1] if is_cut else rows)}
        is_regular = counts <= {len(names)}
        fits_name = dialect["delimiter"] == "\t" and suffix_of(file.name) == ".tsv"
        score = (column in names, is_regular, len(names), fits_name, len(rows), -number)
        found.append((score, dialect, names, is_regular))
    _, dialect, names, is_regular = max(found, key=lambda item: item[0])
    return dialect, names, is_regular


def csv_rows(file: TextFile, column: str) -> Iterator[str]:
    """CSV whose first line names the columns; the delimiter is a comma, semicolon, tab or `|`."""
    dialect, _, _ = find_dialect(file, column)
    rows = csv.reader(file.lines(newline=""), **dialect)
    try:
        names = next(filter(None, rows), [])
        if column not in names:
            error = missing_column(file.name, column, names)
            raise NotebookError(
                f"{error} (these are the fields of the first line, which must name the columns)"
            )
        check_unique(file.name, column, names)
        for row in filter(None, rows):
            if len(row) != len(names):
                raise NotebookError(
                    f"{file.name}: line {rows.line_num} has {len(row)} columns where the first has "
                    f"{len(names)} (delimiter {dialect['delimiter']!r}); is it a CSV file, and are texts "
                    "with delimiters in quotes?"
                )
            yield row[names.index(column)]
    except csv.Error as error:
        raise NotebookError(
            f"{file.name}: line {rows.line_num} is not valid CSV ({error}); export the file again"
        ) from None


def is_csv(file: TextFile, column: str) -> bool:
    """Whether a file of any name is a table: its first line names `column`, and all rows fit."""
    if column not in "".join(file.head_lines[:1]):
        return False
    _, names, is_regular = find_dialect(file, column)
    return is_regular and column in names and len(names) > 1


def csv_label(file: TextFile, column: str) -> str:
    """The name of the format with its delimiter."""
    dialect, names, _ = find_dialect(file, column)
    return (
        f"CSV with the delimiter {dialect['delimiter']!r}"
        if len(names) > 1
        else "CSV with one column"
    )


# JSON

EXAMPLE = '{"text": "..."}'


def json_value(row: Any, column: str, where: str) -> Any:
    """The value of `column` in a JSON object. Raises NotebookError if there is none."""
    if not isinstance(row, dict):
        raise NotebookError(f"{where} is not a JSON object such as {EXAMPLE}")
    if column not in row:
        raise missing_column(where, column, row)
    return row[column]


def invalid_json(where: str, error: Exception) -> NotebookError:
    """The error for a line or object (`where`) that is not valid JSON."""
    reason = getattr(error, "msg", error)
    return NotebookError(f"{where} is not valid JSON ({reason}); pass objects such as {EXAMPLE}")


def jsonl_rows(file: TextFile, column: str) -> Iterator[Any]:
    """JSON lines (https://jsonlines.org): one JSON object per line."""
    for number, line in enumerate(file.lines(), 1):
        if not line.strip():
            continue
        where = f"{file.name}: line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise invalid_json(where, error) from None
        yield json_value(row, column, where)


def json_rows(file: TextFile, column: str) -> Iterator[Any]:
    """JSON: an array of objects, or objects one after the other."""
    for number, row in enumerate(json_objects(file), 1):
        yield json_value(row, column, f"{file.name}: object {number}")


def json_objects(file: TextFile) -> Iterator[Any]:
    """Yield the elements of a JSON array, or of the whole file. Only a part of it is in memory.

    Raises NotebookError if one is not valid JSON, or longer than MAX_FIELD_CHARS.
    """
    decoder, separators = json.JSONDecoder(), re.compile(r"[\s,\[\]]*")
    text, start, number, last = "", 0, 1, ""
    with decoding_errors_reported(file.bytes, file.encoding):
        stream = open_decoded(file.bytes, file.encoding)
        # The size doubles while an object does not end, so that a long one takes linear time.
        while block := stream.read(max(2**16, len(text))):
            text, start = text[start:] + block, 0
            last = text.rstrip()[-1:] or last
            while (start := separators.match(text, start).end()) < len(text):  # type: ignore[union-attr]
                try:
                    row, start = decoder.raw_decode(text, start)
                except (ValueError, RecursionError) as error:
                    if len(text) - start > MAX_FIELD_CHARS or isinstance(error, RecursionError):
                        raise invalid_json(f"{file.name}: object {number}", error) from None
                    break  # the object may continue in the next block
                yield row
                number += 1
    if start < len(text) or (file.head.lstrip().startswith("[") and last != "]"):
        raise NotebookError(
            f"{file.name}: object {number} is cut off or not valid JSON; export the file again"
        )


def is_json_array(file: TextFile) -> bool:
    """Whether a file begins like a JSON array of objects."""
    return bool(re.match(r"\s*\[\s*\{\s*\"", file.head))


def is_json(file: TextFile, column: str) -> bool:
    """Whether a file begins like a JSON array of objects, or like an object of several lines."""
    return is_json_array(file) or bool(re.match(r'\s*\{\s*\n\s*"[^"\n]*"\s*:', file.head))


def is_jsonl(file: TextFile, column: str) -> bool:
    """Whether the first lines of a file are JSON objects."""
    lines = file.head_lines[:2]
    if not lines:  # a line that is longer than the head
        return bool(re.match(r'\s*\{\s*"', file.head))
    try:
        return all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


# parquet and Arrow


def pyarrow_rows(
    file: TextFile, column: str, open_table: Callable[[Path, str], tuple[list[str], Iterable[Any]]]
) -> Iterator[Any]:
    """A column of a table that `open_table` opens with pyarrow as (column names, record batches)."""
    if not file.bytes.is_plain:
        raise NotebookError(
            f"{file.name} is a parquet or Arrow file that is compressed or in an archive: unpack it first"
        )
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise NotebookError(
            f"{file.name} needs the package pyarrow: pip install pyarrow, then run this again"
        ) from None
    try:
        names, batches = open_table(file.bytes.source, column)
        if column not in names:
            raise missing_column(file.name, column, names)
        check_unique(file.name, column, names)
        for batch in batches:
            yield from batch.column(column).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise NotebookError(
            f"{file.name} is damaged, or not a parquet or Arrow file ({reason}); pass another copy"
        ) from None


def open_parquet(path: Path, column: str) -> tuple[list[str], Iterable[Any]]:
    """(column names, record batches of `column`) of a parquet file."""
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(path)
    return table.schema_arrow.names, table.iter_batches(100, columns=[column])


def open_arrow(path: Path, column: str) -> tuple[list[str], Iterable[Any]]:
    """(column names, record batches) of an Arrow stream or file."""
    import pyarrow

    memory = pyarrow.memory_map(str(path))
    if memory.read(6) == b"ARROW1":
        table = pyarrow.ipc.open_file(memory)
        return table.schema.names, map(table.get_batch, range(table.num_record_batches))
    memory.seek(0)
    stream = pyarrow.ipc.open_stream(memory)
    return stream.schema.names, stream


def parquet_rows(file: TextFile, column: str) -> Iterator[Any]:
    """A column of a parquet file (needs pyarrow)."""
    return pyarrow_rows(file, column, open_parquet)


def arrow_rows(file: TextFile, column: str) -> Iterator[Any]:
    """A column of an Arrow stream or file, as the package `datasets` stores it (needs pyarrow)."""
    return pyarrow_rows(file, column, open_arrow)


# the table of formats


@dataclass(frozen=True)
class Format:
    """How to recognize a format and read its texts.

    `read(file, column)` yields the text of each row, or if the format has no columns, the lines of each
    document. The first line of its docstring describes the format in `format_table`.
    """

    suffixes: tuple[str, ...]  # of file names
    read: Callable[[TextFile, str], Iterator[Any]]
    matches: Callable[[TextFile, str], bool] = lambda file, column: False  # by the content
    has_columns: bool = True
    document: str = "row"  # what a document is
    label: Callable[[TextFile, str], str] | None = None  # a name with details; None: the key


FORMATS = {  # the first one that matches is right; if none does, the suffix decides
    "parquet": Format((".parquet",), parquet_rows, lambda f, _: f.bytes.head.startswith(b"PAR1")),
    "Arrow": Format(
        (".arrow", ".feather"), arrow_rows,
        lambda f, _: f.bytes.head.startswith((b"ARROW1", b"\xff\xff\xff\xff")),
    ),
    "WikiExtractor": Format((), wiki_documents, is_wiki, has_columns=False, document="<doc>"),
    "JSON lines": Format((".jsonl", ".ndjson"), jsonl_rows, is_jsonl),
    "JSON": Format((".json",), json_rows, is_json),
    "CSV": Format((".csv", ".tsv"), csv_rows, is_csv, label=csv_label),
    "plain text": Format(
        (".txt", ".text", ".md", ".rst"), plain_text, has_columns=False, document="file"
    ),
}  # fmt: skip
PART_NAME = re.compile(r"part-([mr]-)?\d{5}.*|wiki_\d+")  # files of Spark and of WikiExtractor


def corpus_suffixes() -> tuple[str, ...]:
    """The suffixes by which a file in a folder is recognized as a text."""
    return tuple(suffix for form in reversed(FORMATS.values()) for suffix in form.suffixes)


def name_without_compression(name: str) -> str:
    """A file name in lower case, without a suffix such as .gz."""
    name = name.lower()
    for suffix, _ in COMPRESSIONS.values():
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def is_text_name(name: str) -> bool:
    """Whether a file of this name in a folder or an archive is a text."""
    name = name_without_compression(name)
    return name.endswith(corpus_suffixes()) or bool(PART_NAME.fullmatch(name))


def suffix_of(name: str) -> str | None:
    """The suffix in `corpus_suffixes` that a file name ends in, or None."""
    name = name_without_compression(name)
    return next((suffix for suffix in corpus_suffixes() if name.endswith(suffix)), None)


def format_by_name(name: str) -> str:
    """The key in FORMATS of the format that the suffix of a file name means."""
    suffix = suffix_of(name)
    return next((key for key, form in FORMATS.items() if suffix in form.suffixes), "plain text")


def find_format(file: TextFile, column: str) -> str:
    """The key in FORMATS of a file's format. An empty file is plain text."""
    if not file.bytes.head.strip(b"\xef\xbb\xbf \t\r\n"):
        return "plain text"
    for name, form in FORMATS.items():
        if form.matches(file, column):
            return name
    return format_by_name(file.name)


def is_settings(file: TextFile, column: str) -> bool:
    """Whether a .json file beside texts is no text: one object that does not have the column."""
    if not name_without_compression(file.name).endswith(".json") or is_json_array(file):
        return False
    if is_jsonl(file, column) and len(file.head_lines) > 1:
        return False
    return not re.search(rf'"{re.escape(column)}"\s*:', file.head)


def format_table() -> str:
    """The formats as a Markdown table."""
    lines = ["| format | file names | content |", "|---|---|---|"]
    for name, form in FORMATS.items():
        names = ", ".join(f"`*{suffix}`" for suffix in form.suffixes) or "any"
        content = (form.read.__doc__ or "").partition("\n")[0].rstrip(".").replace("|", r"\|")
        lines.append(f"| {name} | {names} | {content} |")
    return "\n".join(lines)


# texts and documents


def row_lines(value: Any, column: str, where: str) -> Iterator[str]:
    """Yield the lines of the text in a row; none if the row has no text (None).

    Raises NotebookError if the value is not text or cannot be encoded as UTF-8.
    """
    if not isinstance(value, str | None):
        fields = ""
        if isinstance(value, dict):
            fields = f" with the fields {', '.join(short_repr(name, 50) for name in value)}"[:300]
        raise NotebookError(
            f"{where}: {column!r} is of type {type(value).__name__}{fields}, not text; pass another "
            f"column, or write a file whose column {column!r} is the text itself"
        )
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
    return iter(io.StringIO(text, newline=None))


@dataclass
class Contents:
    """What `numbered_lines` finds in files. It is complete when all lines were read."""

    formats: Counter[str] = field(default_factory=Counter)  # files of each format
    documents: set[str] = field(default_factory=set)  # what a document is: "file" or "row"
    has_columns: bool = False  # whether a file has columns
    num_empty: int = 0  # files and rows without text
    left_out: Counter[str] = field(default_factory=Counter)  # files that are not texts


def check_column(column: str, *contents: Contents) -> None:
    """Raise NotebookError if no file has columns, but a column was chosen."""
    if column != DEFAULT_COLUMN and not any(part.has_columns for part in contents):
        formats = ", ".join(name for part in contents for name in part.formats)
        raise NotebookError(
            f"column={column!r} names a column, but the text has none ({formats}): leave column at "
            f"{DEFAULT_COLUMN!r}, or pass a table (CSV, JSON lines, parquet)"
        )


def read_texts(
    files: Iterable[Path], column: str, encoding: str | None, contents: Contents
) -> Iterator[tuple[int, Iterator[str]]]:
    """Yield (number of the file, lines) for each text in these files, blank lines included.

    A text is a file, a file in an archive, a row of a table, or an article. Read each text before you
    ask for the next: only one row or line is in memory at a time. Raises NotebookError if a file is
    not text.
    """
    number, paths = 0, list(files)
    for path in paths:
        for opened in open_files(path, is_text_name, contents.left_out):
            if found := recognize_type(opened.head):
                kind, advice = found
                raise NotebookError(f"{opened.name} is {kind}, not text; {advice}")
            file = TextFile(opened, encoding)
            is_alone = len(paths) == 1 and file.name == str(path)
            if not is_alone and is_settings(file, column):
                contents.left_out[".json"] += 1
                continue
            name = find_format(file, column)
            form = FORMATS[name]
            contents.formats[form.label(file, column) if form.label else name] += 1
            contents.documents.add(form.document)
            contents.has_columns |= form.has_columns
            for row, text in enumerate(form.read(file, column), 1):
                if form.has_columns:
                    text = row_lines(text, column, f"{file.name}: row {row}")
                yield number, text
            number += 1


def doubted_encodings(files: Iterable[Path], encoding: str | None) -> list[str]:
    """A warning for the first file that is much more plausible in another encoding; mostly none."""
    if encoding is None:
        return []
    for path in files:
        for opened in open_files(path, is_text_name):
            if doubt := doubt_encoding(opened, encoding):
                return [doubt]
    return []


def numbered_lines(
    files: Iterable[Path],
    column: str = "text",
    encoding: str | None = None,
    documents: str | None = None,
    contents: Contents | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield (document number, line) for each non-blank line of these files, in order.

    `column` is the column to read of a table; `encoding` None is UTF-8. `documents` says what a
    document is: "file": a file or a file in an archive, "blank line": the lines between two blank lines,
    "line": each line, None: a file, or a row of a table. Documents without lines are not numbered.
    What was found is added to `contents`. Raises NotebookError if a file is not text.
    """
    contents = contents if contents is not None else Contents()
    number, last_file = -1, -1
    for file, lines in read_texts(files, column, encoding, contents):
        begins = documents != "file" or file != last_file  # whether the next line begins a document
        is_empty = True
        for line in lines:
            if line.isspace():
                begins = begins or documents == "blank line"
                continue
            if begins:
                number += 1
                begins = documents == "line"
            is_empty = False
            yield number, line.rstrip("\n")
        contents.num_empty += is_empty
        if not is_empty:
            last_file = file


def count_lines(lines: Iterable[tuple[int, str]]) -> tuple[int, int]:
    """The number of lines, given as (document number, line), and of documents."""
    num_lines, num_documents = 0, 0
    for document, _ in lines:
        num_lines += 1
        num_documents = document + 1
    return num_lines, num_documents
