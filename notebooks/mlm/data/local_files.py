"""Local files of a corpus: which files a path, a folder or a pattern means."""

import itertools
import os
import re
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

from mlm.data.archives import ARCHIVE_SUFFIXES
from mlm.data.formats import (
    corpus_suffixes,
    is_text_name,
    name_without_compression,
)
from mlm.data.mixture import parse_entry
from mlm.env.files import absolute_path, describe_path, read_json, short_repr
from mlm.env.notebook import NotebookError

CORPUS_HELP = "pass text files, a folder, a URL, 'nietzsche' or 'pydoc'"
WILDCARD = re.compile(r"[*?[]")


def parse_url(text: str, parameter: str) -> urllib.parse.ParseResult:
    """The parts of a URL. Raises NotebookError if it is invalid; `parameter` is named in the error."""
    try:
        url = urllib.parse.urlparse(text)
        if url.scheme.lower() == "file" or url.hostname:
            return url
        reason = "it names no host"
    except ValueError as error:
        reason = str(error)
    raise NotebookError(f"{parameter}={short_repr(text)} is not a URL ({reason}); {CORPUS_HELP}")


def find_local_files(text: str, workdir: Path, parameter: str) -> list[Path]:
    """The files that a path, a folder, a pattern or a file:// URL means, sorted by path.

    In a folder, these are the files in it and below whose names are names of texts, compressed or not.
    Hidden files, archives and the output of runs in `workdir` are left out. Raises NotebookError if no
    file is found; `parameter` is named in the error.
    """
    given = text
    if text.lower().startswith("file:"):
        given = urllib.request.url2pathname(parse_url(text, parameter).path)
    found = describe_path(absolute_path(parameter, given))
    path = Path(os.path.abspath(Path(given).expanduser()))  # a link's own name says its format
    files = []
    if found == "is a file":
        files = [path]
    elif found == "is a folder":
        files = folder_files(path, workdir, parameter)
        found = (
            f"has no file that ends in {', '.join(corpus_suffixes())} (a pattern such as "
            f"{short_repr(os.path.join(given, '**', '*.py'))} finds files of other names)"
        )
    elif found == "does not exist" and WILDCARD.search(given):
        files = glob_files(path, workdir, parameter)
        found = "matches no file"
        if parse_entry(given)[1] != 1:
            found += " (weights are for the texts of a list, such as ['a.txt*2', 'b.txt'])"
    if not files:
        shown = short_repr(path)[1:-1]
        raise NotebookError(f"{parameter}={short_repr(text)}: {shown} {found}; {CORPUS_HELP}")
    return files


def output_folders(workdir: Path, folder: Path) -> set[Path]:
    """The folders whose files are output of the notebooks and not part of a corpus in `folder`.

    That is `workdir`. If the corpus itself is inside it, these are `workdir`/corpus and the runs' folders.
    `workdir` is resolved. If `folder` is reached through a link, so are the folders below it.
    """
    real, found = folder.resolve(), {workdir}
    if workdir in (real, *real.parents):
        found = {workdir / "corpus", *(path.parent for path in workdir.glob("*/checkpoints"))}
    return found | {folder / path.relative_to(real) for path in found if path.is_relative_to(real)}


def folder_files(folder: Path, workdir: Path, parameter: str) -> list[Path]:
    """The texts in a folder and below, sorted. Prints which files it leaves out.

    Does not follow links to folders. Raises NotebookError if a folder cannot be read.
    """

    def raise_unreadable(error: OSError) -> None:
        raise NotebookError(
            f"{parameter}={short_repr(folder)}: {error.filename} cannot be read ({error.strerror}); "
            f"{CORPUS_HELP}"
        )

    skipped = output_folders(workdir, folder)
    texts, archives, left_out = [], list[Path](), Counter[str]()
    for parent, folders, names in os.walk(folder, onerror=raise_unreadable):
        folders[:] = [n for n in folders if n[0] != "." and Path(parent, n) not in skipped]
        paths = [Path(parent, n) for n in names if n[0] != "."]
        dataset_files = saved_dataset_files(Path(parent), parameter)
        for path in paths:
            is_text = is_text_name(path.name) if dataset_files is None else path in dataset_files
            if is_text and path.is_file():
                texts.append(path)
                continue
            left_out[path.suffix or path.name] += 1
            if name_without_compression(path.name).endswith(ARCHIVE_SUFFIXES):
                archives.append(path)
    others = ", ".join(f"{count} x {suffix}" for suffix, count in left_out.most_common(8))
    print(f"{folder}: {len(texts)} text file(s)" + (f"; left out: {others}" if others else ""))
    if not texts and archives:
        raise NotebookError(
            f"{parameter}={short_repr(folder)} has {len(archives)} archive(s) and no text; pass the "
            f"archives, for example {short_repr(min(archives))}, or a pattern"
        )
    return sorted(texts)


def saved_dataset_files(folder: Path, parameter: str) -> list[Path] | None:
    """The files of a dataset that `datasets.save_to_disk` wrote to a folder; None if it is no dataset.

    Raises NotebookError if the folder has several splits: training on all would include the test split.
    Raises it too if a file is missing.
    """
    splits = read_json(folder / "dataset_dict.json").get("splits")
    if splits:
        first = short_repr(folder / splits[0])
        raise NotebookError(
            f"{parameter}={short_repr(folder)} is a saved dataset with the splits {', '.join(splits)}: "
            f"pass one of them, for example {first}"
        )
    listed = read_json(folder / "state.json").get("_data_files")
    if not listed:
        return None
    files = [folder / file["filename"] for file in listed]
    for file in files:
        if not file.is_file():
            raise NotebookError(
                f"{parameter}={short_repr(folder)} is a saved dataset, but its file {file.name} is missing: "
                "copy the whole folder again"
            )
    return files


def glob_files(pattern: Path, workdir: Path, parameter: str) -> list[Path]:
    """The files that match a pattern, sorted; `**` matches any number of folders but no links.

    Raises NotebookError if the pattern is invalid.
    """
    fixed = Path(*itertools.takewhile(lambda part: not WILDCARD.search(part), pattern.parts))
    skipped = output_folders(workdir, fixed)
    try:
        matches = [path.relative_to(fixed) for path in fixed.glob(str(pattern.relative_to(fixed)))]
    except ValueError as error:
        raise NotebookError(
            f"{parameter}={short_repr(pattern)} is not a valid pattern ({error}); {CORPUS_HELP}"
        ) from None
    visible = (fixed / path for path in matches if not any(part[0] == "." for part in path.parts))
    return sorted(p for p in visible if skipped.isdisjoint(p.parents) and p.is_file())
