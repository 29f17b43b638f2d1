"""Files of your own: what a path, a folder or a pattern stands for."""

import itertools
import os
import re
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

from mlm.data.formats import name_without_compression
from mlm.env.files import absolute_path, describe_path, short_repr
from mlm.env.notebook import NotebookError

CORPUS_HELP = "pass text files, a folder, a URL, 'nietzsche' or 'pydoc'"


def parse_url(text, name):
    """The parts of a URL. Raises NotebookError where it is none."""
    try:
        url = urllib.parse.urlparse(text)
        if url.scheme.lower() == "file" or url.hostname:
            return url
        why = "it names no host"
    except ValueError as error:
        why = str(error)
    raise NotebookError(f"{name}={short_repr(text)} is no address ({why}); {CORPUS_HELP}")


WILD = re.compile(r"[*?[]")
TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst", ".csv", ".jsonl", ".parquet")  # taken of a folder


def find_local_files(text, workdir, name):
    """The files that a path, a pattern or a file:// address stands for, in the order of their names.

    Of a folder, the texts in it and below, whose names end in TEXT_ENDS, packed or not; what is
    hidden and what a run has written is left out. Raises NotebookError where there is none.
    """
    given = text
    if text.lower().startswith("file:"):
        given = urllib.request.url2pathname(parse_url(text, name).path)
    found = describe_path(absolute_path(name, given))
    path = Path(os.path.abspath(Path(given).expanduser()))  # a link keeps its name, and so its form
    if found == "is a file":
        return [path]
    if found == "is a folder":
        files = folder_files(path, workdir, name)
        found = f"has no file that ends in {', '.join(TEXT_SUFFIXES)}"
    elif found == "does not exist" and WILD.search(given):
        files = glob_files(path, workdir, name)
        found = "fits no file"
    else:
        files = []
    if not files:
        raise NotebookError(
            f"{name}={short_repr(text)}: {short_repr(path)[1:-1]} {found}; {CORPUS_HELP}"
        )
    return files


def output_folder(workdir, folder):
    """The folder below which files are no texts of yours: `workdir`, or what is kept in it."""
    inside = workdir in (folder, *folder.parents)
    return workdir / "corpus" if inside else workdir


def folder_files(folder, workdir, name):
    """The texts in a folder and below, sorted; links to folders are not followed. Says what it took."""

    def unreadable(error):
        raise NotebookError(
            f"{name}={short_repr(folder)}: {error.filename} cannot be read ({error.strerror}); {CORPUS_HELP}"
        )

    skipped = output_folder(workdir, folder)
    taken, others = [], Counter()
    for place, below, names in os.walk(folder, onerror=unreadable):
        below[:] = [n for n in below if n[0] != "." and Path(place, n) != skipped]
        for path in (Path(place, n) for n in names if n[0] != "."):
            if name_without_compression(path).endswith(TEXT_SUFFIXES) and path.is_file():
                taken.append(path)
            else:
                others[path.suffix or path.name] += 1
    left = ", ".join(f"{times} x {end}" for end, times in others.most_common(8))
    print(f"{folder}: {len(taken)} text file(s)" + (f"; left out: {left}" if left else ""))
    return sorted(taken)


def glob_files(pattern, workdir, name):
    """The files that a pattern fits, sorted; `**` is any number of folders, none of them a link."""
    fixed = Path(*itertools.takewhile(lambda part: not WILD.search(part), pattern.parts))
    skipped, rest = output_folder(workdir, fixed), pattern.relative_to(fixed)
    try:
        found = [path.relative_to(fixed) for path in fixed.glob(str(rest))]
    except ValueError as error:
        raise NotebookError(
            f"{name}={short_repr(pattern)} is no pattern ({error}); {CORPUS_HELP}"
        ) from None
    seen = (fixed / path for path in found if not any(part[0] == "." for part in path.parts))
    return sorted(path for path in seen if skipped not in path.parents and path.is_file())
