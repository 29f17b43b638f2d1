"""Fetch and split a text: train.txt, valid.txt, and corpus.json, which describes both. Taught in 02."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlm.data.documents import choose_documents
from mlm.data.download import NAMED_TEXTS, bad_downloads_removed, fetch_corpus, short_label
from mlm.data.formats import (
    DEFAULT_COLUMN,
    Contents,
    check_column,
    count_lines,
    doubted_encodings,
    format_by_name,
    numbered_lines,
)
from mlm.data.mixture import count_units, is_mixture, parse_entry
from mlm.data.split import (
    SPLIT_FILES,
    SPLIT_VERSION,
    WITHOUT_DUPLICATES,
    new_files,
    remove_common_lines,
    split_by_files,
    split_text,
)
from mlm.data.text_options import DOCUMENTS, is_encoding
from mlm.env.files import (
    absolute_path,
    describe_path,
    first_damaged,
    json_digest,
    read_checked_json,
    remove_stale_parts,
    sha256_of,
    sha256_sums,
    short_repr,
    write_checked_json,
)
from mlm.env.names import public_names
from mlm.env.notebook import NotebookError

MIN_LINES = 10  # a tenth is held out, so fewer lines give no validation set


def make_workdir(workdir: str | Path) -> Path:
    """The absolute path of the folder `workdir`, which is created if it does not exist.

    Raises NotebookError if no file can be written in it.
    """
    path = absolute_path("workdir", workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        found = describe_path(path)
        reason = error.strerror if found in ("is a folder", "does not exist") else f"it {found}"
        raise NotebookError(
            f"workdir={short_repr(workdir)} cannot be written ({reason}); pass another folder"
        ) from None
    return path


# identify and check the text


def file_sums(files: Iterable[Path]) -> list[tuple[str, str]]:
    """(format by its name, SHA-256) of each file. Raises NotebookError if one cannot be read."""
    try:
        return [(format_by_name(path.name), sha256_of(path)) for path in files]
    except OSError as error:
        raise NotebookError(
            f"{error.filename} cannot be read ({error.strerror}); pass files that can be read"
        ) from None


def check_num_lines(
    parameter: str, given: str | list[str], num_lines: int, min_lines: int, left_out: Counter[str]
) -> None:
    """Raise NotebookError if a text has fewer than `min_lines` lines."""
    if not num_lines:
        others = ", ".join(f"{count} x {suffix}" for suffix, count in left_out.items())
        raise NotebookError(
            f"{parameter}={short_repr(given)} has no text: all files are empty or blank"
            + (f", or have no such column (left out: {others})" if others else "")
            + "; pass a text"
        )
    if num_lines < min_lines:
        raise NotebookError(
            f"{parameter}={short_repr(given)} must have at least {min_lines} non-blank lines, since a "
            f"tenth is held out, got {num_lines}: put each sentence or paragraph on its own line"
        )


def check_options(encoding: str | None, documents: str | None) -> None:
    """Raise NotebookError if `encoding` or `documents` is not valid."""
    if encoding is not None and not is_encoding(encoding):
        raise NotebookError(
            "encoding must be an encoding that Python knows, such as 'cp1252' or 'gb18030', or None "
            f"(UTF-8), got {short_repr(encoding)}"
        )
    if documents is not None and documents not in DOCUMENTS:
        names = ", ".join(map(repr, DOCUMENTS))
        raise NotebookError(
            f"documents must be one of {names} or None, got {short_repr(documents)}"
        )


# the corpus


def is_intact(folder: Path, sha256: str, names: Sequence[str] = SPLIT_FILES) -> bool:
    """Whether a folder holds the split of the text with this SHA-256, with all files unchanged.

    names: the files that it has.
    """
    about = read_checked_json(folder / "corpus.json") or {}
    files = about.get("files", {})
    return (
        about.get("sha256") == sha256 and {*files} == {*names} and not first_damaged(folder, files)
    )


def load_corpus(
    corpus: str | list[str],
    workdir: str | Path,
    column: str = DEFAULT_COLUMN,
    valid_corpus: str | None = None,
    encoding: str | None = None,
    documents: str | None = None,
    parameter: str = "corpus",
) -> Path:
    """Fetch, check and split a text; returns the folder with train.txt, valid.txt and corpus.json.

    `corpus` and `valid_corpus`: see `fetch_corpus`; `column`, `encoding` and `documents`: see
    `numbered_lines`, but with documents=None, blank lines separate documents in a text in BERT's input
    format. The validation set is `valid_corpus`, whose files are left out of `corpus`. With None, it is
    a tenth of the text (`split_text`). No validation line occurs in the training text. A blank line
    separates two documents. corpus.json describes the corpus and stores the SHA-256 of its files. It is
    written last. If it fits the text and all files are unchanged, nothing is done; a split of an earlier
    version stays where it is. Corpora with weights are split one by one (`load_mixture`). Raises NotebookError if a text is not found or not text, if it has too
    few lines, or if the disk is full; `parameter` is named in the error. A text of another parameter than
    corpus may lack columns.
    """
    check_options(encoding, documents)
    if is_mixture(corpus):
        load = partial(
            load_corpus,
            workdir=workdir,
            column=column,
            valid_corpus=valid_corpus,
            encoding=encoding,
            documents=documents,
        )
        return load_mixture(corpus, workdir, load, one_validation_set=valid_corpus is not None)
    names = [corpus] if valid_corpus is None else [corpus, valid_corpus]
    if all(isinstance(name, str) and name in NAMED_TEXTS for name in names):
        encoding = None  # they are UTF-8, whatever other texts are
    valid_files = fetch_corpus(valid_corpus, workdir, "valid_corpus") if valid_corpus else ()
    files = tuple(
        path for path in fetch_corpus(corpus, workdir, parameter) if path not in valid_files
    )
    if not files:
        raise NotebookError(
            f"corpus={short_repr(corpus)} has no file that is not in valid_corpus as well; pass "
            "another valid_corpus"
        )
    for warning in doubted_encodings((*files, *valid_files), encoding):
        print(warning)
    sums, valid_sums = file_sums(files), file_sums(valid_files)
    reading = {"column": column, "encoding": encoding, "documents": documents}
    # Everything that decides train.txt and valid.txt; names and paths of files do not count.
    sha256 = json_digest({"files": [sums, valid_sums], "split": SPLIT_VERSION, **reading})
    folder = Path(workdir).resolve() / "corpus" / f"{short_label(corpus, files)}-{sha256[:8]}"
    if is_intact(folder, sha256):
        return folder

    contents, valid_contents = Contents(), Contents()
    with bad_downloads_removed((*files, *valid_files)):
        documents = choose_documents(files, column, encoding, documents)
        read = partial(numbered_lines, files, column, encoding, documents)
        num_lines, num_documents = count_lines(read(contents=contents))
        min_lines = 1 if valid_corpus else MIN_LINES
        check_num_lines(parameter, corpus, num_lines, min_lines, contents.left_out)
        read_valid = partial(numbered_lines, valid_files, column, encoding, documents)
        if valid_corpus:
            num_valid_lines, _ = count_lines(read_valid(contents=valid_contents))
            left_out = valid_contents.left_out
            check_num_lines("valid_corpus", valid_corpus, num_valid_lines, 1, left_out)
        if parameter == "corpus":
            check_column(column, contents, valid_contents)

    remove_stale_parts(folder)
    if valid_corpus:
        split = split_by_files(read, read_valid, folder)
    else:
        split = split_text(read, folder, num_lines, num_documents)
    about = {
        "source": public_names(corpus),
        "sha256": sha256,
        "text_sha256": sums[0][1] if len(sums) == 1 else json_digest(sums),
        "bytes": sum((folder / name).stat().st_size for name in SPLIT_FILES),
        "lines": num_lines,
        "split": split
        | {
            "documents": num_documents,
            "separated_by": documents or " or ".join(sorted(contents.documents)),
            "files": contents.formats.total(),
            "formats": dict(contents.formats),
            "encoding": encoding or "utf-8",
            "empty": contents.num_empty,
            "left_out": dict(contents.left_out),
        },
        "files": sha256_sums(folder, SPLIT_FILES),
    }
    write_checked_json(folder / "corpus.json", about)
    return folder


def load_mixture(
    corpus: Sequence[str],
    workdir: str | Path,
    load: Callable[[str], Path],
    one_validation_set: bool,
) -> Path:
    """The folder with the joined splits of corpora with weights; see `load_corpus`.

    `load` splits one of them. train.txt has the training lines of each once: "mixture" in corpus.json is
    a list of their weights and of their numbers of lines and documents in train.txt, in order.
    one_validation_set: all have the same validation set.
    """
    entries = [parse_entry(entry) for entry in corpus]
    folders = [load(text) for text, _ in entries]
    abouts = [read_checked_json(folder / "corpus.json") or {} for folder in folders]
    identity = [(about["sha256"], weight) for about, (_, weight) in zip(abouts, entries)]
    sha256 = json_digest({"mixture": identity})
    folder = Path(workdir).resolve() / "corpus" / f"mixture-of-{len(folders)}-{sha256[:8]}"
    if is_intact(folder, sha256):
        return folder

    remove_stale_parts(folder)
    with new_files(folder) as (train, valid):
        join_texts([folder / SPLIT_FILES[0] for folder in folders], train)
        valid_folders = folders[:1] if one_validation_set else folders
        join_texts([folder / SPLIT_FILES[1] for folder in valid_folders], valid)
        removed = remove_common_lines(valid, train)
        num_valid, _ = count_units(valid)
    if not num_valid:
        raise NotebookError(
            f"corpus={short_repr(corpus)}: each validation line of one text is a training line of another "
            "one; pass texts that differ, or pass valid_corpus"
        )
    mixture = [mixture_entry(source, weight) for (_, weight), source in zip(entries, folders)]
    shown = ", ".join(f"{source['name']} x {source['weight']:g}" for source in mixture)
    rule = f"each of {shown} is split by itself, {WITHOUT_DUPLICATES}"
    if one_validation_set:
        rule = f"valid_corpus is the validation set of {shown}; lines in both are removed from one"
    # and what was removed when each text was split: from its part of valid.txt, or from its training lines
    splits = [about["split"] for about in abouts]
    removed += sum(split["removed"] for split in splits[: len(valid_folders)])
    removed += sum(
        about["lines"] - about["split"]["train"] for about in abouts[len(valid_folders) :]
    )
    about = {
        "source": [f"{public_names(text)}*{weight:g}" for text, weight in entries],
        "sha256": sha256,
        "text_sha256": json_digest([about["text_sha256"] for about in abouts]),
        "bytes": sum((folder / name).stat().st_size for name in SPLIT_FILES),
        "lines": sum(about["lines"] for about in abouts),
        "split": {
            "train": sum(split["train"] for split in splits),
            "valid": num_valid,
            "removed": removed,
            "rule": rule,
        },
        "mixture": mixture,
        "files": sha256_sums(folder, SPLIT_FILES),
    }
    write_checked_json(folder / "corpus.json", about)
    return folder


def mixture_entry(folder: Path, weight: float) -> dict[str, Any]:
    """The training text of a corpus as an entry of "mixture" in corpus.json."""
    name = folder.name.rpartition("-")[0]  # without its digest
    lines, documents = count_units(folder / SPLIT_FILES[0])
    return {"name": name, "weight": weight, "lines": lines, "documents": documents}


def join_texts(texts: Sequence[Path], path: Path) -> None:
    """Write texts to a file, one after the other, with a blank line between two of them."""
    with open(path, "wb") as file:
        for number, text in enumerate(texts):
            file.write(b"\n" if number else b"")
            with open(text, "rb") as part:
                shutil.copyfileobj(part, file)
