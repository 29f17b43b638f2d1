"""Fetch a text: nietzsche, pydoc, URLs and datasets on the Hub. Taught in 02."""

import contextlib
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pooch
import requests

from mlm.data.formats import suffix_of
from mlm.data.local_files import CORPUS_HELP, find_local_files, parse_url
from mlm.data.mixture import parse_entry
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
from mlm.env.names import public_name
from mlm.env.network import hub_is_unreachable
from mlm.env.notebook import NotebookError
from mlm.env.secrets import hide_secrets

pooch.get_logger().setLevel("WARNING")  # the progress bar is enough

NIETZSCHE: dict[str, Any] = {  # the tutorial's address, then a mirror of the same bytes
    "urls": (
        "https://s3.amazonaws.com/text-datasets/nietzsche.txt",
        "https://storage.googleapis.com/tfjs-examples/lstm-text-generation/data/nietzsche.txt",
    ),
    "sha256": "23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647",
}
ABOUT_DOWNLOAD = "download.json"  # beside the text of a URL
OFFLINE = 'without a network, pass corpus="pydoc" and model="scratch:tiny"'


# the web


def download(urls: Sequence[str], sha256: str | None, path: Path, timeout: float = 5) -> None:
    """Download a file to `path`, complete or not at all, from the first of `urls` that works.

    A download counts only if its SHA-256 is `sha256`; None accepts any content. `timeout` is in
    seconds, for connecting and between two packets. pooch (https://www.fatiando.org/pooch) verifies
    the file, retries once, and renames it into place. Raises NotebookError if no URL works.
    """
    errors = []
    for url in urls:
        downloader = pooch.HTTPDownloader(progressbar=True, timeout=timeout)
        store = pooch.create(path.parent, "", registry={path.name: sha256}, urls={path.name: url})
        store.retry_if_failed = 1
        try:
            # the bar of pooch is for stderr, which notebooks show in red, like errors
            with contextlib.redirect_stderr(sys.stdout):
                store.fetch(path.name, downloader=downloader)
            return
        except (ValueError, OSError, requests.RequestException) as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise write_error(path, error) from None
            reason = hide_secrets(" ".join(str(error).split()), url)[:200]
            errors.append(f"{short_repr(url, 1000)[1:-1]}: {type(error).__name__}: {reason}")
    raise NotebookError(f"the corpus could not be downloaded ({'; '.join(errors)}); {OFFLINE}")


def web_text(url: str, downloads: Path, parameter: str) -> Path:
    """The file of the text at a URL, below `downloads`. Downloads it if it is missing or changed."""
    parts = parse_url(url, parameter)
    # Two URLs may differ only in punctuation, and long names are cut: a digest keeps them apart.
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    public = public_name(url)
    stem = re.sub(r"\W+", "-", public.split("://", 1)[1])[:60] + f"-{digest}"
    path = downloads / stem / (stem + (suffix_of(parts.path) or ".txt"))
    about_path = path.with_name(ABOUT_DOWNLOAD)
    about = read_checked_json(about_path) or {}
    if about.get("url") != public or first_damaged(path.parent, {path.name: about["sha256"]}):
        path.unlink(missing_ok=True)  # pooch would keep an existing file
        download([url], None, path)
        write_checked_json(about_path, {"url": public, "sha256": sha256_of(path)})
    return path


def nietzsche_text(downloads: Path) -> Path:
    """The file of the 2020 tutorial's text. Downloads it if it is missing or changed."""
    path = downloads / "nietzsche" / "nietzsche.txt"
    if first_damaged(path.parent, {path.name: NIETZSCHE["sha256"]}):
        download(NIETZSCHE["urls"], NIETZSCHE["sha256"], path)
    return path


def pydoc_text(downloads: Path) -> Path:
    """The file of Python's manual (its help pages): English text in every CPython, so it needs no network."""
    from pydoc_data.topics import topics

    path = downloads / "pydoc" / "pydoc.txt"
    paragraphs = [p for name in sorted(topics) for p in topics[name].split("\n\n")]
    text = "\n\n".join(dict.fromkeys(paragraphs))  # the pages quote each other: keep one copy
    if first_damaged(path.parent, {path.name: hashlib.sha256(text.encode()).hexdigest()}):
        with atomic_write(path) as file:
            file.write(text.encode())
    return path


NAMED_TEXTS = {"nietzsche": nietzsche_text, "pydoc": pydoc_text}


# the Hugging Face Hub

HUB_FILES = re.compile(  # https://huggingface.co/docs/huggingface_hub/guides/hf_file_system
    r"hf://datasets/([\w.-]+/[\w.-]+)(?:@(refs/\w+/\w+|[^/]+))?/(.+)", re.ASCII
)


def hub_files(text: str, parameter: str) -> list[Path]:
    """Files of a dataset on the Hub, hf://datasets/OWNER/NAME/FILES, in the Hub's own cache.

    If the Hub does not answer, only files that were downloaded before are used. Raises NotebookError
    if there is no such dataset.
    """
    match = HUB_FILES.fullmatch(text)
    if not match:
        raise NotebookError(
            f"{parameter}={short_repr(text)} is incomplete: pass hf://datasets/OWNER/NAME/FILES, where "
            "FILES is a path or a pattern such as data/*.parquet"
        )
    from huggingface_hub import snapshot_download

    dataset, revision, pattern = match.groups()
    unreachable = hub_is_unreachable(text)
    try:
        folder = Path(
            snapshot_download(
                dataset, repo_type="dataset", revision=revision, allow_patterns=pattern,
                local_files_only=unreachable,
            )
        )  # fmt: skip
    except Exception as error:
        raise load_error(text, parameter, error) from None
    if unreachable:
        print(
            "The Hub does not answer: using the files of this dataset that were downloaded before."
        )
    files = [p for p in folder.rglob("*") if fnmatch(p.relative_to(folder).as_posix(), pattern)]
    return sorted(path for path in files if path.is_file())


def hub_split(text: str, parameter: str) -> list[Path]:
    """Files of a dataset's split, hf:NAME or hf:NAME:SPLIT, in the cache of the package `datasets`.

    Raises NotebookError if there is no such split, or no `datasets` 4 or newer. (Older versions
    execute code that a dataset brings.)
    """
    try:
        import datasets

        if int(datasets.__version__.split(".")[0]) < 4:
            raise ImportError
    except ImportError:
        raise NotebookError(
            f"{parameter}={short_repr(text)} needs the package datasets: pip install -U 'datasets>=4', "
            "then run this again; or pass hf://datasets/OWNER/NAME/FILES, which does not need it"
        ) from None
    dataset, _, split = text.removeprefix("hf:").partition(":")
    if not re.fullmatch(r"\w*", split):
        raise NotebookError(
            f"{parameter}={short_repr(text)} must name a whole split; pass hf:NAME:train, for example"
        )
    try:
        found = datasets.load_dataset(dataset, split=split or "train", keep_in_memory=False)
    except Exception as error:
        raise load_error(text, parameter, error) from None
    return [Path(file["filename"]) for file in found.cache_files]


def load_error(text: str, parameter: str, error: Exception) -> NotebookError:
    """The error for a dataset that cannot be loaded."""
    reason = hide_secrets(" ".join(str(error).split()))[:300]
    return NotebookError(
        f"{parameter}={short_repr(text)} cannot be loaded ({reason}); {CORPUS_HELP}"
    )


# any text


def short_label(corpus: str | list[str], files: Sequence[Path]) -> str:
    """A short name for a corpus, used in front of its digest."""
    first = corpus if isinstance(corpus, str) else corpus[0]
    stem = (
        files[0].stem if len(files) == 1 else f"{len(files)} files {Path(public_name(first)).name}"
    )
    return re.sub(r"\W+", "-", stem)[:60]


@contextlib.contextmanager
def bad_downloads_removed(files: Iterable[Path]) -> Iterator[None]:
    """Context manager that deletes the texts of URLs among `files` if a NotebookError is raised.

    The next call downloads them again: a page that says "try later" is not kept as a text.
    """
    try:
        yield
    except NotebookError:
        for path in files:
            about = read_checked_json(path.with_name(ABOUT_DOWNLOAD)) or {}
            if path.stem == path.parent.name and "url" in about:
                path.unlink(missing_ok=True)
        raise


def fetch_text(text: str, workdir: Path, parameter: str) -> list[Path]:
    """The files of one text; `fetch_corpus` says what `text` may be."""
    downloads = workdir / "corpus"
    if text in NAMED_TEXTS:
        return [NAMED_TEXTS[text](downloads)]
    if re.match("https?://", text, re.IGNORECASE):
        return [web_text(text, downloads, parameter)]
    if text.startswith("hf://"):
        return hub_files(text, parameter)
    if text.startswith("hf:"):
        return hub_split(text, parameter)
    return find_local_files(text, workdir, parameter)


def fetch_corpus(
    corpus: str | list[str], workdir: str | Path, parameter: str = "corpus"
) -> tuple[Path, ...]:
    """The files of a corpus, in order; fetches what is not on this machine.

    `corpus` is "nietzsche", "pydoc", a file, a folder, a pattern ("texts/**/*.txt"), a URL, files of a
    dataset on the Hub (hf://datasets/OWNER/NAME/FILES), a split of a dataset (hf:NAME:SPLIT), or a
    list of these, maybe with weights ("wiki.txt*2"), which do not matter here. Downloads are stored in `workdir`/corpus and fetched again if they were changed. Local
    files stay where they are. Raises NotebookError, which names `parameter`, if a text is not found.
    """
    texts = [corpus] if isinstance(corpus, str) else [parse_entry(entry)[0] for entry in corpus]
    files = [
        path for text in texts for path in fetch_text(text, Path(workdir).resolve(), parameter)
    ]
    if not files:
        raise NotebookError(f"{parameter}={short_repr(corpus)} matches no file; {CORPUS_HELP}")
    return tuple(dict.fromkeys(files))  # a file that is listed twice counts once
