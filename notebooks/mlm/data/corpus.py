"""A text split: lines to learn from, lines held out, and a record of both. Taught in 02."""

import tempfile
from pathlib import Path

from mlm.data.download import fetch_corpus, is_download, short_label
from mlm.data.formats import choose_open, format_of, numbered_lines, read_documents, text_lines
from mlm.env.files import (
    absolute_path,
    atomic_write,
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
from mlm.env.notebook import NotebookError

SPLIT_FILES = "train.txt", "valid.txt"


# the text


def make_workdir(workdir):
    """The folder `workdir` as an absolute path, made if need be.

    Raises NotebookError where nothing can be written in it.
    """
    path = absolute_path("workdir", workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        found = describe_path(path)
        why = error.strerror if found in ("is a folder", "does not exist") else f"it {found}"
        raise NotebookError(
            f"workdir={short_repr(workdir)} cannot be written ({why}); pass another folder"
        ) from None
    return path


def corpus_digest(files, held_out, column):
    """(SHA-256 of all that decides a corpus, whether it is one text file as it stands).

    That is the files' bytes, in order, and how they are read; of one text file, its own SHA-256. Names
    and places do not count. Raises NotebookError where a file cannot be read.
    """
    try:
        if (
            len(files) == 1
            and not held_out
            and not format_of(files[0])
            and choose_open(files[0]) is open
        ):
            return sha256_of(files[0]), True
        forms = [
            [(format_of(path), sha256_of(path)) for path in part] for part in (files, held_out)
        ]
        has_columns = any(format_of(path) for path in (*files, *held_out))
        return json_digest({"files": forms, "column": column if has_columns else None}), False
    except OSError as error:
        raise NotebookError(
            f"{error.filename} cannot be read ({error.strerror}); pass files that can be"
        ) from None


def count_lines(files, column):
    """{"documents", "lines", "empty"}: how many of each; a document without any text is empty."""
    counts = {"documents": 0, "lines": 0, "empty": 0}
    for document in read_documents(files, column):
        lines = sum(1 for _ in document)
        counts["documents" if lines else "empty"] += 1
        counts["lines"] += lines
    return counts


# split


def write_lines(path, numbered):
    """Write lines, given as (number of its document, line), with a blank line between documents.

    Returns how many lines they are. The file gets its name when it is whole.
    """
    count, before = 0, None
    with atomic_write(path, "w", encoding="utf-8", newline="\n") as file:
        for document, line in numbered:
            between = "\n" if before not in (None, document) else ""
            file.write(f"{between}{line}\n")
            before, count = document, count + 1
    return count


def split_text(files, folder, lines, column="text"):
    """Write the lines of a text, which has so many, to train.txt and valid.txt.

    Every tenth run of (up to 50) consecutive lines is held out, in valid.txt. Returns what was done,
    as a dict.
    """
    run, counts = min(50, lines // 10), {}
    for part, held_out in (("train", False), ("valid", True)):
        numbered = enumerate(numbered_lines(files, column))
        kept = (line for i, line in numbered if (i // run % 10 == 9) == held_out)
        counts[part] = write_lines(folder / f"{part}.txt", kept)
    return {**counts, "rule": f"every tenth run of {run} lines is held out"}


def lines_in_both(folder):
    """How many held-out lines stand in the training text as well; only the held-out ones are held."""
    held_out = {hash(line) for line in text_lines(folder / "valid.txt")}
    both = held_out.intersection(map(hash, text_lines(folder / "train.txt")))
    return sum(hash(line) in both for line in text_lines(folder / "valid.txt"))


def split_by_files(files, held_out, folder, column="text"):
    """Write one text to train.txt and another to valid.txt; returns what was done, as a dict."""
    train, valid = (
        write_lines(folder / part, numbered_lines(text, column))
        for part, text in zip(SPLIT_FILES, (files, held_out))
    )
    rule = "a held-out text of its own; lines of it that the training text has too: "
    return {"train": train, "valid": valid, "rule": f"{rule}{lines_in_both(folder):,}"}


# the corpus


def is_intact(folder, sha256):
    """Whether a corpus' folder holds the split of the text with this SHA-256, each file as written."""
    record = read_checked_json(folder / "corpus.json") or {}
    files = record.get("files", {})
    return (
        record.get("sha256") == sha256
        and {*files} == {*SPLIT_FILES}
        and not first_damaged(folder, files)
    )


def check_lines(name, given, counts, least):
    """Raises NotebookError where a text has fewer lines than needed."""
    if counts["lines"] < least:
        why = ", since every tenth is held out" if least > 1 else ""
        raise NotebookError(
            f"{name}={short_repr(given)} has {counts['lines']} non-blank line(s): at least {least} are "
            f"needed{why}; give each sentence or paragraph a line of its own"
        )


def load_corpus(corpus, workdir, column="text", valid_corpus=None):
    """Fetch, check and split a corpus once; returns the folder with train.txt and valid.txt.

    `corpus` and `valid_corpus` are what `fetch_corpus` takes, `column` what `read_documents` takes. Where there
    is no `valid_corpus`, lines are held out as `split_text` does it: that needs no random numbers, is the
    same everywhere, and few held-out lines have a training line as neighbour. With it, all of
    `corpus` is trained on, but for files that are in `valid_corpus` too. A blank line parts two documents.
    corpus.json describes the corpus, vouches for its files and is written last; what is no longer as
    it was written is made again. Raises NotebookError where the text is not there or no text, has
    less than 10 lines, or the disk is full.
    """
    held_out = fetch_corpus(valid_corpus, workdir, "valid_corpus") if valid_corpus else ()
    files = [path for path in fetch_corpus(corpus, workdir) if path not in held_out]
    if not files:
        raise NotebookError(
            f"corpus={short_repr(corpus)} has no file that is not in valid_corpus as well"
        )
    kept = Path(workdir).resolve() / "corpus"
    sha256, plain = corpus_digest(files, held_out, column)
    beside = plain and is_download(files[0], kept)
    folder = files[0].parent if beside else kept / f"{short_label(corpus, files)}-{sha256[:8]}"
    if is_intact(folder, sha256):
        return folder
    try:
        counts = count_lines(files, column)
        check_lines("corpus", corpus, counts, 1 if held_out else 10)
        if held_out:
            check_lines("valid_corpus", valid_corpus, count_lines(held_out, column), 1)
    except NotebookError:
        for path in (path for path in (*files, *held_out) if is_download(path, kept)):
            path.unlink(missing_ok=True)  # the next try asks the host again
        raise
    remove_stale_parts(folder)
    if held_out:
        split = split_by_files(files, held_out, folder, column)
    else:
        split = split_text(files, folder, counts["lines"], column)
    if not plain:
        split |= {"files": len(files), "documents": counts["documents"], "empty": counts["empty"]}
    record = {
        "source": corpus,
        "sha256": sha256,
        "bytes": sum(
            p.stat().st_size for p in (files if plain else map(folder.joinpath, SPLIT_FILES))
        ),
        "lines": counts["lines"],
        "split": split,
        "files": sha256_sums(folder, SPLIT_FILES),
    }
    write_checked_json(folder / "corpus.json", record)
    return folder
