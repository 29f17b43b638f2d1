"""A text: fetched so that it is whole or not there, read by lines, split. Taught in 02."""

import hashlib
import re
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

import pooch
import requests

from .files import (
    FULL,
    cannot_write,
    clear_parts,
    damaged,
    digests,
    full_path,
    kind_of,
    read_record,
    sha256_of,
    shown,
    whole_file,
    write_record,
)
from .notebook import NotebookError

pooch.get_logger().setLevel("WARNING")  # the progress bar says enough

NIETZSCHE = {  # the tutorial's address, then a mirror of the same bytes
    "urls": (
        "https://s3.amazonaws.com/text-datasets/nietzsche.txt",
        "https://storage.googleapis.com/tfjs-examples/lstm-text-generation/data/nietzsche.txt",
    ),
    "sha256": "23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647",
}
OFFLINE = 'without a network, pass corpus="pydoc" and model="scratch:tiny"'


# fetched


def download(urls, sha256, path, timeout=5):
    """Download the first of `urls` that answers with the right bytes to `path`, all or nothing.

    `timeout` is in seconds, for the connection and between two pieces. With `sha256=None` any
    bytes will do. pooch (https://www.fatiando.org/pooch) verifies, retries once, and places the
    file only when it is whole. Raises NotebookError when no address serves it.
    """
    reasons = []
    for url in urls:
        get = pooch.HTTPDownloader(progressbar=True, timeout=timeout)
        store = pooch.create(path.parent, "", registry={path.name: sha256}, urls={path.name: url})
        store.retry_if_failed = 1
        try:
            store.fetch(path.name, downloader=get)
            return
        except (ValueError, OSError, requests.RequestException) as error:
            if getattr(error, "errno", None) in FULL:
                raise cannot_write(path, error) from None
            reasons.append(
                f"{shown(url, 1000)[1:-1]}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            )
    raise NotebookError(f"the corpus could not be downloaded ({'; '.join(reasons)}); {OFFLINE}")


def make_workdir(workdir):
    """The folder `workdir` as an absolute path, made if need be.

    Raises NotebookError where nothing can be written in it.
    """
    path = full_path("workdir", workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        found = kind_of(path)
        why = error.strerror if found in ("is a folder", "does not exist") else f"it {found}"
        raise NotebookError(
            f"workdir={shown(workdir)} cannot be written ({why}); pass another folder"
        ) from None
    return path


TEXTS = "pass a text file, a URL, 'nietzsche' or 'pydoc'"


def address(corpus):
    """The parts of a URL. Raises NotebookError where it is none."""
    try:
        url = urllib.parse.urlparse(corpus)
        if url.scheme.lower() == "file" or url.hostname:
            return url
        why = "it names no host"
    except ValueError as error:
        why = str(error)
    raise NotebookError(f"corpus={shown(corpus)} is no address ({why}); {TEXTS}")


def own_text(corpus):
    """(name, path) of a text of yours, given by its path or a file:// address."""
    given = corpus
    if corpus.lower().startswith("file:"):
        given = urllib.request.url2pathname(address(corpus).path)
    path = full_path("corpus", given)
    if (found := kind_of(path)) == "is a file":
        try:
            return re.sub(r"\W+", "-", path.stem)[:60] + f"-{sha256_of(path)[:8]}", path
        except OSError as error:
            found = f"cannot be read ({error.strerror})"
    raise NotebookError(f"corpus={shown(corpus)}: {shown(path)[1:-1]} {found}; {TEXTS}")


def web_text(corpus, kept):
    """(name, path) of the text at a URL, downloaded unless it is in the folder `kept` as it came."""
    address(corpus)
    # The letters of two addresses may be the same, and a name is cut: the digest tells them apart.
    digest = hashlib.sha256(corpus.encode()).hexdigest()[:8]
    name = re.sub(r"\W+", "-", corpus.split("://", 1)[1])[:60] + f"-{digest}"
    path = kept / name / f"{name}.txt"
    record = read_record(path.with_name("corpus.json")) or {}
    as_it_came = record.get("source") != corpus or not damaged(
        path.parent, {path.name: record["sha256"]}
    )
    if not (path.is_file() and as_it_came):
        path.unlink(missing_ok=True)  # pooch would keep what is there
        download([corpus], None, path)
    return name, path


def pydoc_text(kept):
    """(name, path) of the English that every CPython carries; written below `kept` where it is not."""
    from pydoc_data.topics import topics

    path = kept / "pydoc" / "pydoc.txt"
    paragraphs = [p for name in sorted(topics) for p in topics[name].split("\n\n")]
    text = "\n\n".join(dict.fromkeys(paragraphs))  # the topics quote each other: once is enough
    if damaged(path.parent, {path.name: hashlib.sha256(text.encode()).hexdigest()}):
        with whole_file(path) as file:
            file.write(text.encode())
    return "pydoc", path


def fetch_corpus(corpus, workdir):
    """Bring the text of `corpus` to a local file; returns (name, path).

    `corpus` is "nietzsche", "pydoc" (English that every CPython carries), a path or a URL. What is
    downloaded is kept in `workdir`/corpus/`name`/, and downloaded again where it is no longer as it
    was; a file of yours stays where it is. Raises NotebookError where there is no such text.
    """
    kept = Path(workdir) / "corpus"
    if corpus == "nietzsche":
        path = kept / "nietzsche" / "nietzsche.txt"
        if damaged(path.parent, {path.name: NIETZSCHE["sha256"]}):
            download(NIETZSCHE["urls"], NIETZSCHE["sha256"], path)
        return "nietzsche", path
    if corpus == "pydoc":
        return pydoc_text(kept)
    if re.match("https?://", corpus, re.IGNORECASE):
        return web_text(corpus, kept)
    return own_text(corpus)


# read


CONVERT = "convert it first, for example: iconv -f {} -t UTF-8 old.txt > new.txt"
UNPACK = "unpack it first and pass the text that is in it"
EXPORT = "save or export it as plain text (UTF-8) and pass that"
KINDS = {  # the first bytes of files that are no plain text: what they are, what helps
    b"\x1f\x8b": ("a gzip archive", UNPACK),
    b"BZh": ("a bzip2 archive", UNPACK),
    b"\xfd7zXZ": ("an xz archive", UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"PK\x03\x04": ("a zip archive, as .docx, .odt and .epub are", EXPORT),
    b"\xd0\xcf\x11\xe0": ("an old Office document", EXPORT),
    b"{\\rtf": ("an RTF document", EXPORT),
    b"%PDF": ("a PDF", EXPORT),
    b"\xff\xfe\0\0": ("UTF-32 text", CONVERT.format("UTF-32")),
    b"\0\0\xfe\xff": ("UTF-32 text", CONVERT.format("UTF-32")),
    b"\xff\xfe": ("UTF-16 text", CONVERT.format("UTF-16")),
    b"\xfe\xff": ("UTF-16 text", CONVERT.format("UTF-16")),
}


def foreign(head):
    """(what a file with these first bytes is, what helps) where that is known to be no UTF-8 text."""
    for magic, known in KINDS.items():
        if head.startswith(magic):
            return known
    for order, ends in (("LE", head[1::2]), ("BE", head[::2])):  # without a mark in front
        if ends.count(0) > len(head) // 4:
            return f"UTF-16{order} text", CONVERT.format(f"UTF-16{order}")
    return None


def text_lines(path):
    """The non-blank lines of a UTF-8 file, one at a time; a BOM and CRLF or CR ends are taken off.

    Raises NotebookError where the file is not UTF-8 text.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
    if known := foreign(head):
        raise NotebookError(f"{path}: {known[0]}, not UTF-8; {known[1]}")
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise NotebookError(f"{path}: line {number} has a NUL byte: not a text file")
                if line.strip():
                    yield line.strip("\n")
    except UnicodeDecodeError as error:
        reason = f"{error.reason}, byte {error.object[error.start]:#04x}"
        help = "not a text file" if b"\0" in head else CONVERT.format("LATIN1")
        raise NotebookError(f"{path}: not UTF-8 ({reason}); {help}") from None


# split


def split_text(source, folder, lines):
    """Write the lines of the text `source`, which has so many, to train.txt and valid.txt.

    Every tenth run of (up to 50) consecutive lines is held out, in valid.txt. A file gets its name
    when it is whole. Returns what was done, as a dict.
    """
    run, counts = min(50, lines // 10), {}
    for part, held_out in (("train", False), ("valid", True)):
        with whole_file(folder / f"{part}.txt", "w", encoding="utf-8", newline="\n") as file:
            numbered = enumerate(text_lines(source))
            kept = (line for i, line in numbered if (i // run % 10 == 9) == held_out)
            counts[part] = sum(1 for line in kept if file.write(line + "\n"))
    return {**counts, "rule": f"every tenth run of {run} lines is held out"}


PARTS = "train.txt", "valid.txt"


def is_whole(folder, sha256):
    """Whether a corpus' folder holds the split of the text with this SHA-256, each file as written."""
    record = read_record(folder / "corpus.json") or {}
    files = record.get("files", {})
    return record.get("sha256") == sha256 and {*files} == {*PARTS} and not damaged(folder, files)


def load_corpus(corpus, workdir):
    """Fetch, check and split a corpus once; returns the folder with train.txt and valid.txt.

    The split (see `split_text`) needs no random numbers, is the same everywhere, and few held-out
    lines have a training line as neighbour. corpus.json describes it, vouches for its files and is
    written last; what is no longer as it was written is made again. Raises NotebookError where the
    text is not there or no text, has less than 10 lines, or the disk is full.
    """
    name, source = fetch_corpus(corpus, workdir)
    folder, sha256 = Path(workdir) / "corpus" / name, sha256_of(source)
    if is_whole(folder, sha256):
        return folder
    try:
        lines = sum(1 for _ in text_lines(source))
        if lines < 10:
            raise NotebookError(
                f"corpus={shown(corpus)} has {lines} non-blank line(s): at least 10 are needed, since "
                "every tenth is held out; give each sentence or paragraph a line of its own"
            )
    except NotebookError:
        if folder in source.parents:  # a download: the next try asks the host again
            source.unlink(missing_ok=True)
        raise
    clear_parts(folder)
    split = split_text(source, folder, lines)
    record = {
        "source": corpus,
        "sha256": sha256,
        "bytes": source.stat().st_size,
        "lines": lines,
        "split": split,
        "files": digests(folder, PARTS),
    }
    write_record(folder / "corpus.json", record)
    return folder
