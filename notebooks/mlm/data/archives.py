"""Compressed files and archives: each file in them as a stream of bytes, in memory of constant size.

Nothing is unpacked to disk. COMPRESSIONS is the table of compressions; archives are tar and zip.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mlm.env.notebook import NotebookError

HEAD_BYTES = 2**16  # of a file, to recognize what it is

COMPRESSIONS: dict[bytes, tuple[str, Callable[..., Any]]] = {  # first bytes: (suffix, open)
    b"\x1f\x8b": (".gz", gzip.open),
    b"BZh": (".bz2", bz2.open),
    b"\xfd7zXZ": (".xz", lzma.open),
}
ARCHIVE_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".zip")

# What a zip archive without texts is, by the end of a member's name.
ZIP_FILES = {
    "[Content_Types].xml": "an Office document (such as .docx or .xlsx)",
    "mimetype": "an OpenDocument or EPUB document (such as .odt or .epub)",
    "META-INF/MANIFEST.MF": "a Java archive",
    "data.pkl": "a PyTorch checkpoint",
    ".npy": "a NumPy archive (.npz)",
    ".keras": "a Keras model",
}
DAMAGE = (  # what reading a damaged file raises; RuntimeError: a zip archive with a password
    OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
    RuntimeError, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True)
class ByteFile:
    """A file, or a file in an archive, that is read once from its start."""

    name: str  # for messages: the path; in an archive, followed by the name there
    source: Path  # the file or archive on disk
    head: bytes  # the first HEAD_BYTES bytes
    stream: BinaryIO  # from the start
    is_plain: bool  # neither compressed nor in an archive: `source` has the same bytes
    is_text: Callable[[str], bool]  # see `open_files`

    @contextlib.contextmanager
    def reopen(self) -> Iterator[BinaryIO]:
        """Context manager that yields another stream of this file, from its start."""
        with contextlib.closing(open_files(self.source, self.is_text)) as files:
            yield next(file.stream for file in files if file.name == self.name)


class Replay(io.RawIOBase):
    """A stream whose first bytes, `head`, were read before, from its start."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self.head, self.stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        block = self.head[: len(buffer)] or self.stream.read(len(buffer))
        self.head = self.head[len(buffer) :]
        buffer[: len(block)] = block
        return len(block)


@contextlib.contextmanager
def damage_reported(name: str | Path) -> Iterator[None]:
    """Context manager that turns the errors of a damaged file into a NotebookError."""
    try:
        yield
    except DAMAGE as error:
        raise NotebookError(
            f"{name} is damaged or cannot be read ({error}); pass another copy of the file"
        ) from None


def open_files(
    path: Path, is_text: Callable[[str], bool], left_out: Counter[str] | None = None
) -> Generator[ByteFile]:
    """Yield the files that a path contains: itself, decompressed, or the texts of an archive.

    In an archive, these are the files for whose name `is_text` is true; the suffixes of all others are
    counted in `left_out`. Read each file before you ask for the next. Raises NotebookError if the file
    cannot be read, or if an archive has no text.
    """
    with damage_reported(path), open(path, "rb") as stream:
        yield from unpacked_files(str(path), path, stream, True, is_text, left_out)


def unpacked_files(
    name: str,
    source: Path,
    stream: BinaryIO,
    is_plain: bool,
    is_text: Callable[[str], bool],
    left_out: Counter[str] | None,
) -> Iterator[ByteFile]:
    """Yield the files in a stream; see `open_files`."""
    head = stream.read(HEAD_BYTES)
    replayed = io.BufferedReader(Replay(head, stream), HEAD_BYTES)
    for magic, (_, decompress) in COMPRESSIONS.items():
        if head.startswith(magic):
            yield from unpacked_files(name, source, decompress(replayed), False, is_text, left_out)
            return
    if is_tar(head):
        members = tar_members(replayed)
    elif head.startswith(b"PK\x03\x04"):
        members = zip_members(name, source, is_plain, is_text)
    else:
        yield ByteFile(name, source, head, replayed, is_plain, is_text)
        return

    skipped, num_texts = Counter[str](), 0
    for member, member_stream in members:
        path = PurePosixPath(member)
        if any(part.startswith((".", "__MACOSX")) for part in path.parts):
            continue
        if not is_text(path.name):
            skipped[path.suffix or path.name] += 1
            continue
        num_texts += 1
        yield from unpacked_files(
            f"{name}/{member}", source, member_stream(), False, is_text, left_out
        )
    if not num_texts:
        found = ", ".join(f"{count} x {suffix}" for suffix, count in skipped.most_common(8))
        raise NotebookError(
            f"{name} is an archive without a text file (it has {found or 'no files'}): pass the texts"
        )
    if left_out is not None:
        left_out.update(skipped)


def is_tar(head: bytes) -> bool:
    """Whether a file that begins like this is a tar archive: its first header has a valid checksum."""
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
        return True
    except tarfile.HeaderError:
        return False


def tar_members(stream: BinaryIO) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
    """Yield (name, function that opens it) for each file of a tar archive, in order."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.isfile():
                yield member.name, lambda member=member: archive.extractfile(member)  # type: ignore[misc]


def zip_members(
    name: str, source: Path, is_plain: bool, is_text: Callable[[str], bool]
) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
    """Yield (name, function that opens it) for each file of a zip archive, in order.

    Raises NotebookError if it has no text because it is a document or a model, or if it is itself
    compressed or in an archive.
    """
    if not is_plain:
        raise NotebookError(f"{name} is a zip archive inside another archive: unpack it first")
    with zipfile.ZipFile(source) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        has_texts = any(is_text(PurePosixPath(member.filename).name) for member in members)
        for member in members:
            for ending, kind in ZIP_FILES.items():
                if member.filename.endswith(ending) and not has_texts:
                    raise NotebookError(
                        f"{name} is {kind}, not text; export it as plain text (UTF-8) and pass that file"
                    )
        for member in members:
            yield member.filename, lambda member=member: archive.open(member)  # type: ignore[misc]
