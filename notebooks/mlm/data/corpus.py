"""Split a text into train.txt and valid.txt, and describe both in corpus.json. Taught in 02."""

import tempfile
from collections.abc import Iterable, Sequence
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
from mlm.env.names import public_names
from mlm.env.notebook import NotebookError

SPLIT_FILES = "train.txt", "valid.txt"
MIN_LINES = 10  # every tenth block of lines is held out, so fewer lines give no validation set


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


def corpus_digest(
    files: Sequence[Path], valid_files: Sequence[Path], column: str
) -> tuple[str, bool]:
    """(SHA-256 of everything that decides a corpus, whether it is a single plain text file).

    Of a single plain text file, that is the file's own SHA-256. Otherwise it covers the content and
    format of all files, in order, and the column. Names and paths do not count. Raises NotebookError if
    a file cannot be read.
    """
    all_files = (*files, *valid_files)
    try:
        is_table = any(format_of(path) for path in all_files)
        if len(all_files) == 1 and not is_table and choose_open(all_files[0]) is open:
            return sha256_of(all_files[0]), True
        contents = [
            [(format_of(path), sha256_of(path)) for path in part] for part in (files, valid_files)
        ]
        return json_digest({"files": contents, "column": column if is_table else None}), False
    except OSError as error:
        raise NotebookError(
            f"{error.filename} cannot be read ({error.strerror}); pass files that can be read"
        ) from None


def count_lines(files: Iterable[Path], column: str) -> dict[str, int]:
    """The number of "documents" with text, of their non-blank "lines", and of "empty" documents."""
    counts = {"documents": 0, "lines": 0, "empty": 0}
    for document in read_documents(files, column):
        lines = sum(1 for _ in document)
        counts["documents" if lines else "empty"] += 1
        counts["lines"] += lines
    return counts


def check_num_lines(parameter: str, given: str | list[str], num_lines: int, min_lines: int) -> None:
    """Raise NotebookError if a text has fewer than `min_lines` lines."""
    if num_lines < min_lines:
        reason = ", since every tenth is held out" if min_lines > 1 else ""
        raise NotebookError(
            f"{parameter}={short_repr(given)} must have at least {min_lines} non-blank line(s)"
            f"{reason}, got {num_lines}: put each sentence or paragraph on its own line"
        )


# split


def write_lines(path: Path, numbered: Iterable[tuple[int, str]]) -> int:
    """Write lines, given as (document number, line), with a blank line between two documents.

    Returns the number of lines. The file appears under its name only when it is complete.
    """
    count, last_document = 0, None
    with atomic_write(path, "w", encoding="utf-8", newline="\n") as file:
        for document, line in numbered:
            separator = "\n" if last_document not in (None, document) else ""
            file.write(f"{separator}{line}\n")
            last_document, count = document, count + 1
    return count


def split_text(
    files: Sequence[Path], folder: Path, num_lines: int, column: str = "text"
) -> dict[str, int | str]:
    """Write every tenth block of 50 consecutive lines to valid.txt, and all others to train.txt.

    With fewer than 500 lines, a block is a tenth of them. Returns the numbers of lines and the rule.
    """
    block_size = min(50, num_lines // 10)

    def part_of(i: int) -> str:
        return "valid" if i // block_size % 10 == 9 else "train"

    counts = {}
    for part in ("train", "valid"):
        numbered = enumerate(numbered_lines(files, column))
        lines = (line for i, line in numbered if part_of(i) == part)
        counts[part] = write_lines(folder / f"{part}.txt", lines)
    return {**counts, "rule": f"every tenth block of {block_size} lines is the validation set"}


def count_duplicates(folder: Path) -> int:
    """The number of validation lines that also occur in the training text.

    Only hashes are kept in memory.
    """
    valid = {hash(line) for line in text_lines(folder / "valid.txt")}
    duplicates = valid.intersection(map(hash, text_lines(folder / "train.txt")))
    return sum(hash(line) in duplicates for line in text_lines(folder / "valid.txt"))


def split_by_files(
    files: Sequence[Path], valid_files: Sequence[Path], folder: Path, column: str = "text"
) -> dict[str, int | str]:
    """Write `files` to train.txt and `valid_files` to valid.txt; the numbers of lines and the rule."""
    train = write_lines(folder / "train.txt", numbered_lines(files, column))
    valid = write_lines(folder / "valid.txt", numbered_lines(valid_files, column))
    rule = (
        f"valid_corpus is the validation set; {count_duplicates(folder):,} of its {valid:,} lines are "
        "also in the training text"
    )
    return {"train": train, "valid": valid, "rule": rule}


# the corpus


def is_intact(folder: Path, sha256: str) -> bool:
    """Whether a folder holds the split of the text with this SHA-256, with all files unchanged."""
    about = read_checked_json(folder / "corpus.json") or {}
    files = about.get("files", {})
    return (
        about.get("sha256") == sha256
        and {*files} == {*SPLIT_FILES}
        and not first_damaged(folder, files)
    )


def load_corpus(
    corpus: str | list[str],
    workdir: str | Path,
    column: str = "text",
    valid_corpus: str | None = None,
) -> Path:
    """Fetch, check and split a text; returns the folder with train.txt, valid.txt and corpus.json.

    `corpus` and `valid_corpus`: see `fetch_corpus`; `column`: see `read_documents`. The validation set
    is `valid_corpus`, whose files are left out of `corpus`. With None, `split_text` holds out lines: it
    needs no random numbers, and few validation lines are next to a training line. A blank line
    separates two documents. corpus.json describes the corpus and stores the SHA-256 of its files. It is written
    last. If it fits the text and all files are unchanged, nothing is done. Raises NotebookError if a text
    is not found or not text, if it has too few lines, or if the disk is full.
    """
    valid_files = fetch_corpus(valid_corpus, workdir, "valid_corpus") if valid_corpus else ()
    files = tuple(path for path in fetch_corpus(corpus, workdir) if path not in valid_files)
    if not files:
        raise NotebookError(
            f"corpus={short_repr(corpus)} has no file that is not in valid_corpus as well; pass "
            "another valid_corpus"
        )
    downloads = Path(workdir).resolve() / "corpus"
    sha256, is_plain_text = corpus_digest(files, valid_files, column)
    if is_plain_text and is_download(files[0], downloads):
        folder = files[0].parent
    else:
        folder = downloads / f"{short_label(corpus, files)}-{sha256[:8]}"
    if is_intact(folder, sha256):
        return folder

    try:
        counts = count_lines(files, column)
        check_num_lines("corpus", corpus, counts["lines"], 1 if valid_corpus else MIN_LINES)
        if valid_corpus:
            num_lines = count_lines(valid_files, column)["lines"]
            check_num_lines("valid_corpus", valid_corpus, num_lines, 1)
    except NotebookError:
        for path in (*files, *valid_files):
            if is_download(path, downloads):
                path.unlink(missing_ok=True)  # so that the next call downloads it again
        raise

    remove_stale_parts(folder)
    if valid_corpus:
        split = split_by_files(files, valid_files, folder, column)
    else:
        split = split_text(files, folder, counts["lines"], column)
    if is_plain_text:
        num_bytes = files[0].stat().st_size
    else:
        num_bytes = sum((folder / name).stat().st_size for name in SPLIT_FILES)
        split |= {"files": len(files), "documents": counts["documents"], "empty": counts["empty"]}
    about = {
        "source": public_names(corpus),
        "sha256": sha256,
        "bytes": num_bytes,
        "lines": counts["lines"],
        "split": split,
        "files": sha256_sums(folder, SPLIT_FILES),
    }
    write_checked_json(folder / "corpus.json", about)
    return folder
