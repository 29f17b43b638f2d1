"""A text fetched: of the web, of the Hub, of Python, whole or not there. Taught in 02."""

import hashlib
import re
from fnmatch import fnmatch
from pathlib import Path

import pooch
import requests

from mlm.data.formats import format_of
from mlm.data.local_files import CORPUS_HELP, find_local_files, parse_url
from mlm.env.files import (
    DISK_FULL,
    atomic_write,
    first_damaged,
    read_checked_json,
    sha256_of,
    short_repr,
    write_checked_json,
    write_error,
)
from mlm.env.notebook import NotebookError

pooch.get_logger().setLevel("WARNING")  # the progress bar says enough

NIETZSCHE = {  # the tutorial's address, then a mirror of the same bytes
    "urls": (
        "https://s3.amazonaws.com/text-datasets/nietzsche.txt",
        "https://storage.googleapis.com/tfjs-examples/lstm-text-generation/data/nietzsche.txt",
    ),
    "sha256": "23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647",
}
OFFLINE = 'without a network, pass corpus="pydoc" and model="scratch:tiny"'


# the web


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
            if getattr(error, "errno", None) in DISK_FULL:
                raise write_error(path, error) from None
            reasons.append(
                f"{short_repr(url, 1000)[1:-1]}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            )
    raise NotebookError(f"the corpus could not be downloaded ({'; '.join(reasons)}); {OFFLINE}")


def web_text(text, kept, name):
    """The file of the text at a URL, downloaded unless it is in the folder `kept` as it came."""
    url = parse_url(text, name)
    # The letters of two addresses may be the same, and a name is cut: the digest tells them apart.
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    stem = re.sub(r"\W+", "-", text.split("://", 1)[1])[:60] + f"-{digest}"
    path = kept / stem / (stem + (format_of(Path(url.path)) or ".txt"))
    about = path.with_name("download.json")
    record = read_checked_json(about) or {}
    if record.get("url") != text or first_damaged(path.parent, {path.name: record["sha256"]}):
        path.unlink(missing_ok=True)  # pooch would keep what is there
        download([text], None, path)
        write_checked_json(about, {"url": text, "sha256": sha256_of(path)})
    return path


def nietzsche_text(kept):
    """The file of the tutorial's text."""
    path = kept / "nietzsche" / "nietzsche.txt"
    if first_damaged(path.parent, {path.name: NIETZSCHE["sha256"]}):
        download(NIETZSCHE["urls"], NIETZSCHE["sha256"], path)
    return path


def pydoc_text(kept):
    """The file of the English that every CPython carries; written below `kept` where it is not."""
    from pydoc_data.topics import topics

    path = kept / "pydoc" / "pydoc.txt"
    paragraphs = [p for name in sorted(topics) for p in topics[name].split("\n\n")]
    text = "\n\n".join(dict.fromkeys(paragraphs))  # the topics quote each other: once is enough
    if first_damaged(path.parent, {path.name: hashlib.sha256(text.encode()).hexdigest()}):
        with atomic_write(path) as file:
            file.write(text.encode())
    return path


# the Hub

HUB_FILES = re.compile(  # https://huggingface.co/docs/huggingface_hub/guides/hf_file_system
    r"hf://datasets/([\w.-]+/[\w.-]+)(?:@(refs/\w+/\w+|[^/]+))?/(.+)", re.ASCII
)


def hub_files(text, name):
    """Files of a dataset on the Hub, hf://datasets/NAME/PATTERN, in the Hub's own cache.

    Raises NotebookError where it has none of this name, or the Hub does not answer and none is here.
    """
    if not (parts := HUB_FILES.fullmatch(text)):
        raise NotebookError(
            f"{name}={short_repr(text)} is incomplete: pass hf://datasets/OWNER/NAME/FILES, where FILES is "
            "a path or a pattern such as data/*.parquet"
        )
    from huggingface_hub import snapshot_download

    from mlm.env.hub import hub_is_away  # here: with transformers, which takes seconds to import

    dataset, revision, pattern = parts.groups()
    away = hub_is_away(text)
    try:
        folder = Path(
            snapshot_download(
                dataset, repo_type="dataset", revision=revision, allow_patterns=pattern,
                local_files_only=away,
            )
        )  # fmt: skip
    except Exception as error:
        raise fetch_error(text, name, error) from None
    if away:
        print("The Hub does not answer: what was downloaded of this dataset before is taken.")
    files = [p for p in folder.rglob("*") if fnmatch(p.relative_to(folder).as_posix(), pattern)]
    return sorted(path for path in files if path.is_file())


def hub_split(text, name):
    """Files of a split of a dataset, hf:NAME or hf:NAME:SPLIT, as the package `datasets` keeps them.

    Raises NotebookError where `datasets` (4 or newer: it runs no code of a dataset's) is not
    installed or does not find it.
    """
    try:
        import datasets

        if int(datasets.__version__.split(".")[0]) < 4:
            raise ImportError
    except ImportError:
        raise NotebookError(
            f"{name}={short_repr(text)} needs the package datasets: pip install -U 'datasets>=4', then run "
            "this again; or pass hf://datasets/OWNER/NAME/FILES, which needs none"
        ) from None
    dataset, _, split = text.removeprefix("hf:").partition(":")
    if not re.fullmatch(r"\w*", split):
        raise NotebookError(f"{name}={short_repr(text)}: pass a whole split, such as hf:NAME:train")
    try:
        found = datasets.load_dataset(dataset, split=split or "train", keep_in_memory=False)
    except Exception as error:
        raise fetch_error(text, name, error) from None
    return [Path(file["filename"]) for file in found.cache_files]


def fetch_error(text, name, error):
    """The NotebookError for a dataset that is not there."""
    why = " ".join(str(error).split())[:300]
    return NotebookError(f"{name}={short_repr(text)} cannot be loaded ({why}); {CORPUS_HELP}")


# all of them


def short_label(corpus, files):
    """A short name for these files of a corpus, to stand before its digest."""
    first = corpus if isinstance(corpus, str) else corpus[0]
    stem = files[0].stem if len(files) == 1 else f"{len(files)} files {Path(first).name}"
    return re.sub(r"\W+", "-", stem)[:60]


def is_download(path, kept):
    """Whether a file lies where those that were fetched are kept."""
    return path.parent.parent == kept and path.name.startswith(f"{path.parent.name}.")


def fetch_one(text, workdir, name):
    """The files of one text, as `fetch_corpus` describes it."""
    kept = workdir / "corpus"
    if text == "nietzsche":
        return [nietzsche_text(kept)]
    if text == "pydoc":
        return [pydoc_text(kept)]
    if re.match("https?://", text, re.IGNORECASE):
        return [web_text(text, kept, name)]
    if text.startswith("hf://"):
        return hub_files(text, name)
    if text.startswith("hf:"):
        return hub_split(text, name)
    return find_local_files(text, workdir, name)


def fetch_corpus(corpus, workdir, name="corpus"):
    """Bring a text here: the tuple of its files, in order.

    `corpus`, the parameter `name`, is "nietzsche", "pydoc" (English that every CPython carries), a
    file, a folder, a pattern ("texts/**/*.txt"), a URL, files of a dataset on the Hub
    (hf://datasets/OWNER/NAME/FILES), a split of one (hf:NAME:SPLIT, by the package `datasets`), or a
    list of such. What is downloaded of the web is kept below `workdir`/corpus/, and downloaded again
    where it is no longer as it was; files of yours stay where they are. Raises NotebookError where
    there is no such text.
    """
    texts = [corpus] if isinstance(corpus, str) else corpus
    files = [path for text in texts for path in fetch_one(text, Path(workdir).resolve(), name)]
    return tuple(dict.fromkeys(files))
