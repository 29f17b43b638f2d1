"""A text: fetched so that it is whole or not there, read by lines, split. Taught in 02."""

import hashlib
import json
import os
import re
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

import pooch
import requests

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


def sha256_of(path):
    """The SHA-256 of a file of any size, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
            reasons.append(f"{url}: {type(error).__name__}: {str(error)[:200]}")
    raise NotebookError(f"the corpus could not be downloaded ({'; '.join(reasons)}); {OFFLINE}")


def make_workdir(workdir):
    """The folder `workdir` as an absolute path, made if need be.

    Raises NotebookError where nothing can be written in it.
    """
    path = Path(workdir).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise NotebookError(
            f"workdir={str(workdir)!r} cannot be written ({error.strerror}); pass another folder"
        ) from None
    return path


def fetch_corpus(corpus, workdir):
    """Bring the text of `corpus` to a local file; returns (name, path).

    `corpus` is "nietzsche", "pydoc" (English that every CPython carries), a path or a URL. What is
    downloaded is kept in `workdir`/corpus/`name`/; a file of yours stays where it is.
    Raises NotebookError where there is no such text.
    """
    kept = Path(workdir) / "corpus"
    if corpus == "nietzsche":
        path = kept / "nietzsche" / "nietzsche.txt"
        if not (path.is_file() and sha256_of(path) == NIETZSCHE["sha256"]):
            download(NIETZSCHE["urls"], NIETZSCHE["sha256"], path)
        return "nietzsche", path
    if corpus == "pydoc":
        from pydoc_data.topics import topics

        path = kept / "pydoc" / "pydoc.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        paragraphs = [p for name in sorted(topics) for p in topics[name].split("\n\n")]
        text = "\n\n".join(dict.fromkeys(paragraphs))  # the topics quote each other: once is enough
        part.write_text(text, encoding="utf-8")
        part.replace(path)
        return "pydoc", path
    url = urllib.parse.urlparse(corpus)
    if url.scheme in ("http", "https"):
        # The letters of two addresses may be the same, and a name is cut: the digest tells them apart.
        digest = hashlib.sha256(corpus.encode()).hexdigest()[:8]
        name = re.sub(r"\W+", "-", corpus.split("://", 1)[1])[:60] + f"-{digest}"
        if not (path := kept / name / f"{name}.txt").is_file():
            download([corpus], None, path)
        return name, path
    path = Path(urllib.request.url2pathname(url.path) if url.scheme == "file" else corpus)
    path = path.expanduser().resolve()
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise NotebookError(
            f"corpus={corpus!r}: {path} {found}; pass a text file, a URL, 'nietzsche' or 'pydoc'"
        )
    name = re.sub(r"\W+", "-", path.stem)[:60]
    return f"{name}-{sha256_of(path)[:8]}", path


# read


def text_lines(path):
    """The non-blank lines of a UTF-8 file, one at a time; a BOM and CRLF or CR ends are taken off.

    Raises NotebookError where the file is not UTF-8 text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise NotebookError(f"{path}: line {number} has a NUL byte: not a text file")
                if line.strip():
                    yield line.strip("\n")
    except UnicodeDecodeError as error:
        raise NotebookError(
            f"{path}: not UTF-8 ({error.reason}, byte {error.object[error.start]:#04x}); "
            "convert it first, for example: iconv -f LATIN1 -t UTF-8 old.txt > new.txt"
        ) from None


# split


def split_text(source, folder, lines):
    """Write the lines of the text `source`, which has so many, to train.txt and valid.txt.

    Every tenth run of (up to 50) consecutive lines is held out, in valid.txt. A file gets its name
    when it is whole. Returns what was done, as a dict.
    """
    run, counts = min(50, lines // 10), {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, held_out in (("train", False), ("valid", True)):
        scratch = folder / f"{part}.{os.getpid()}.part"
        with open(scratch, "w", encoding="utf-8", newline="\n") as file:
            numbered = enumerate(text_lines(source))
            kept = (line for i, line in numbered if (i // run % 10 == 9) == held_out)
            counts[part] = sum(1 for line in kept if file.write(line + "\n"))
        scratch.replace(folder / f"{part}.txt")
    return {**counts, "rule": f"every tenth run of {run} lines is held out"}


def is_whole(folder, sha256):
    """Whether a corpus' folder holds the split of the text with this SHA-256, each file as written."""
    try:
        about = json.loads((folder / "corpus.json").read_text())
        files = about["files"].items()
        return about["sha256"] == sha256 and all(sha256_of(folder / n) == sha for n, sha in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def load_corpus(corpus, workdir):
    """Fetch, check and split a corpus once; returns the folder with train.txt and valid.txt.

    The split (see `split_text`) needs no random numbers, is the same everywhere, and few held-out
    lines have a training line as neighbour. corpus.json describes it, vouches for its files and is
    written last; what is no longer as it was written is made again. Raises NotebookError where the text is not there or no text, or
    has less than 10 lines.
    """
    name, source = fetch_corpus(corpus, workdir)
    folder, sha256 = Path(workdir) / "corpus" / name, sha256_of(source)
    if is_whole(folder, sha256):
        return folder
    try:
        lines = sum(1 for _ in text_lines(source))
        if lines < 10:
            raise NotebookError(
                f"corpus={corpus!r} has {lines} non-blank line(s): at least 10 are needed, since "
                "every tenth is held out; give each sentence or paragraph a line of its own"
            )
    except NotebookError:
        if folder in source.parents:  # a download: the next try asks the host again
            source.unlink()
        raise
    if not is_whole(folder, sha256):  # another process may have been faster
        (folder / "corpus.json").unlink(missing_ok=True)  # until the split of this text is whole
    split = split_text(source, folder, lines)
    record = {
        "source": corpus,
        "sha256": sha256,
        "bytes": source.stat().st_size,
        "lines": lines,
        "split": split,
        "files": {name: sha256_of(folder / name) for name in ("train.txt", "valid.txt")},
    }
    scratch = folder / f"corpus.{os.getpid()}.part"
    scratch.write_text(json.dumps(record, indent=1) + "\n")
    scratch.replace(folder / "corpus.json")
    return folder
