"""Labelled texts for a task: read them, check them, split them into a training and a test part. Used in 07."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlm.data.archives import open_files
from mlm.data.file_types import recognize_type
from mlm.data.formats import (
    FORMATS,
    Contents,
    TextFile,
    doubted_encodings,
    find_format,
    is_text_name,
    read_texts,
    row_lines,
)
from mlm.data.python_topics import python_topics
from mlm.data.split import normalize, occur_in
from mlm.env.files import absolute_path, describe_path, short_repr
from mlm.env.notebook import NotebookError
from mlm.env.secrets import SCHEME

MAX_CLASSES = 200
MAX_NUMBERS = 10  # different labels with a fraction, such as 4.5 stars, that are still classes
FRACTION = re.compile(
    r"[+-]?\d*[.,]\d*[1-9]\d*(e[+-]?\d+)?|[+-]?\d(\.\d+)?e[+-]?\d+", re.IGNORECASE
)
SPLITS = {"train", "training", "test", "testing", "valid", "validation", "val", "dev"}
TEST_FRACTION = 1 / 5
MAX_TEST_TEXTS = 2000
LABEL_SIZES = 8, 32, 128  # labels per class
MAX_LABELLED = 6400  # labelled texts in a sample: 128 of 50 classes, or 32 of 200
MIN_NEW_TEXTS = 5  # per class; with fewer, the test part has texts that the run trained on
FEW_TEST_TEXTS = 30  # with fewer, not even a difference of 10 points can be clear (3 / number)
HELP = "pass a table (CSV, JSON lines, parquet), or a folder with a folder of texts for each class"

# read


def load_labelled(
    labelled: str | None,
    column: str = "text",
    label_column: str = "label",
    encoding: str | None = None,
) -> pd.DataFrame:
    """Labelled texts as a table with the columns "text" and "label"; no text occurs twice.

    `labelled` is a table with the columns `column` and `label_column`, a folder with a folder of texts
    for each class, or None: passages of Python's manual. `encoding` of text files; None is UTF-8. Prints what is left out. Raises NotebookError
    if there is no such file or column, or if the labels are not at least two classes with two texts each.
    """
    if labelled is None:
        name, rows, advice = "labelled=None", python_topics(), HELP
    else:
        name = f"labelled={short_repr(labelled)}"
        if SCHEME.match(labelled) or labelled.startswith("hf:"):
            raise NotebookError(f"{name} is not on this machine: download it first, then {HELP}")
        path = absolute_path("labelled", labelled)
        found = describe_path(path)
        try:
            if found == "is a file":
                rows = read_table(path, column, label_column, encoding)
                advice = "pass another label_column"
            elif found == "is a folder":
                rows = read_class_folders(path, name, column, encoding)
                advice = "pass the folder that has one folder for each class, with each text in its own file"
            else:
                raise NotebookError(f"{path} {found}; {HELP}")
        except NotebookError as error:
            if str(error).startswith("labelled="):
                raise
            raise NotebookError(f"{name}: {error}") from None
    texts, counts = distinct_texts(rows)
    left_out = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    if left_out:
        print("left out:", left_out)
    check_classes(texts["label"], name, advice, left_out)
    return texts


def column_values(path: Path, column: str, encoding: str | None) -> Iterator[Any]:
    """Yield the values of a column of a table, row by row. Raises NotebookError if there is none."""
    for opened in open_files(path, is_text_name):
        file = TextFile(opened, encoding)
        if found := recognize_type(opened.head):
            raise NotebookError(f"labelled={short_repr(path)} is {found[0]}, not a table; {HELP}")
        if not file.head.strip():
            for _ in file.lines():  # raises if this is not the encoding of the file
                pass
            raise NotebookError(f"labelled={short_repr(path)} is empty; {HELP}")
        form = FORMATS[find_format(file, column)]
        if not form.has_columns:
            raise NotebookError(f"labelled={short_repr(path)} is plain text without labels; {HELP}")
        yield from form.read(file, column)


def warn_about_encoding(files: list[Path], encoding: str | None) -> None:
    """Print a warning if another encoding than the given one makes a file much more plausible."""
    for warning in doubted_encodings(files, encoding):
        print(warning)


def read_table(path: Path, column: str, label_column: str, encoding: str | None) -> pd.DataFrame:
    """The texts and labels in a table; None if a row has no label. Raises NotebookError if it cannot be read."""
    if column == label_column:
        raise NotebookError(
            f"column and label_column are both {column!r}: pass the column of the classes as label_column"
        )
    warn_about_encoding([path], encoding)
    texts = [
        "".join(row_lines(value, column, f"{path}: row {row}")).strip()
        for row, value in enumerate(column_values(path, column, encoding), 1)
    ]
    try:
        values = [*column_values(path, label_column, encoding)]
    except (
        NotebookError
    ) as error:  # the readers know their column by the name of the other parameter
        raise NotebookError(str(error).replace("pass column=", "pass label_column=")) from None
    labels = [
        label_text(value, label_column, f"{path}: row {row}") for row, value in enumerate(values, 1)
    ]
    return pd.DataFrame({"text": texts, "label": labels}, dtype=object)


def label_text(value: Any, label_column: str, where: str) -> str | None:
    """A label as text: 3 and 3.0 are "3"; None if it is missing. Raises NotebookError for other types."""
    if value is None or value != value:  # NaN
        return None
    if not isinstance(value, str | int | float | Decimal):
        raise NotebookError(
            f"{where}: {label_column!r} is of type {type(value).__name__}, not a class; pass a column "
            "with one word or number per text"
        )
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    return clean_label(str(value)) or None


def clean_label(label: str) -> str:
    """A label in the form in which labels are compared: labels that look the same are the same class."""
    return " ".join(unicodedata.normalize("NFC", label).split())


def is_visible(path: Path) -> bool:
    """Whether a path is not hidden, and not what macOS adds to archives."""
    return not any(part[0] == "." or part == "__MACOSX" for part in path.parts)


def read_class_folders(folder: Path, name: str, column: str, encoding: str | None) -> pd.DataFrame:
    """The texts in the folders of a folder, whose names are the classes. A text is a file, or a row."""
    folders = [
        path for path in sorted(folder.iterdir()) if path.is_dir() and is_visible(Path(path.name))
    ]
    if not folders:
        raise NotebookError(f"{name} has no folders, which would be the classes; {HELP}")
    if {path.name.lower() for path in folders} <= SPLITS:
        raise NotebookError(
            f"{name} has the folders {', '.join(path.name for path in folders)}, which are parts of a data "
            f"set and not classes: pass one of them, such as {short_repr(folders[0])}"
        )
    rows = []
    for path in folders:
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and is_text_name(file.name) and is_visible(file.relative_to(path))
        ]
        if not files:
            raise NotebookError(
                f"{name}: the folder {path.name!r} has no text files; remove it, or add texts"
            )
        warn_about_encoding(files, encoding)
        for _, lines in read_texts(files, column, encoding, Contents()):
            rows.append(("".join(lines).strip(), clean_label(path.name)))
    return pd.DataFrame(rows, columns=["text", "label"], dtype=object)


# check


def text_key(text: str) -> str:
    """Texts are equal if they have the same key: the same words, whatever the case and the spaces."""
    return normalize(" ".join(text.split()))


def distinct_texts(rows: pd.DataFrame) -> tuple[pd.DataFrame, Counter[str]]:
    """The texts that can be used, each once, and the numbers of those that are left out, by reason."""
    left_out: Counter[str] = Counter()

    def keep(rows: pd.DataFrame, usable: Any, reason: str) -> pd.DataFrame:
        left_out[reason] += int((~usable).sum())
        return rows[usable]

    rows = keep(rows, rows["label"].notna(), "without a label")
    rows = keep(rows, rows["text"].str.strip() != "", "empty")
    keys = rows["text"].map(text_key)
    num_labels = rows["label"].groupby(keys).transform("nunique")
    rows = keep(rows, num_labels == 1, "with several labels for the same text")
    rows = keep(rows, ~keys[rows.index].duplicated(), "repeated")
    return rows.reset_index(drop=True), +left_out


def check_classes(labels: pd.Series, name: str, advice: str, left_out: str = "") -> None:
    """Raise NotebookError if labels are not at least two classes with at least two texts each.

    advice: what to do if these are no classes. left_out: which texts cannot be used, in words.
    """
    counts = labels.value_counts()
    shown = ", ".join(short_repr(label, 40) for label in counts.index[:5])
    dots = ", ..." if len(counts) > 5 else ""
    numbers = [label for label in counts.index if FRACTION.fullmatch(label)]
    if len(counts) < 2:
        raise NotebookError(
            f"{name}: there must be at least 2 classes with different texts, found {len(counts)} "
            f"({shown or 'no text that can be used'}{f'; left out: {left_out}' if left_out else ''}); add "
            f"texts of another class, or {advice}"
        )
    if len(numbers) > min(MAX_NUMBERS, len(labels) / 2):
        raise NotebookError(
            f"{name}: the labels are numbers such as {numbers[0]}, not classes; pass another label_column, "
            "or replace the numbers by a few classes such as low and high"
        )
    if len(counts) > min(MAX_CLASSES, len(labels) / 2):
        more_texts = "add texts, or " if len(counts) <= MAX_CLASSES else ""
        raise NotebookError(
            f"{name}: {len(counts):,} different labels for {len(labels):,} texts ({shown}{dots}) are too "
            f"many: at most {MAX_CLASSES}, each with at least 2 different texts; {more_texts}{advice}"
        )
    if counts.min() < 2:
        raise NotebookError(
            f"{name}: each class must have at least 2 different texts, one to train and one to test, but "
            f"{counts.idxmin()!r} has {counts.min()}; add texts, or remove the class"
        )


# split


def is_new(texts: pd.Series, trained_on: Path) -> np.ndarray:
    """Whether no line of a text occurs in the text file `trained_on`, (texts,) bool.

    Lines are compared as in `split`: without regard to case and spaces.
    """
    lines = [[line for line in text.split("\n") if line.strip()] for text in texts]
    hashes = np.array([hash(normalize(line)) for part in lines for line in part], np.int64)
    owner = np.repeat(np.arange(len(lines)), [len(part) for part in lines])
    new = np.ones(len(lines), bool)
    new[owner[occur_in(hashes, trained_on)]] = False
    return new


def choose_test(labels: pd.Series, new: np.ndarray, seed: int) -> np.ndarray:
    """Which texts are the test part, (texts,) bool: a fifth of each class, chosen at random.

    new: (texts,) bool. If each class has MIN_NEW_TEXTS of them, only new texts are chosen, so classes may
    have fewer than a fifth. At least one text of each class is in each part.
    """
    counts = labels.value_counts()
    only_new = (
        labels[new].value_counts().reindex(counts.index, fill_value=0) >= MIN_NEW_TEXTS
    ).all()
    fraction = min(TEST_FRACTION, MAX_TEST_TEXTS / len(labels))
    generator, is_test = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in sorted(counts.index):
        candidates = np.flatnonzero((labels == label) & (new if only_new else True))
        number = min(max(1, round(fraction * counts[label])), len(candidates), counts[label] - 1)
        is_test[generator.permutation(candidates)[:number]] = True
    return is_test


def describe_test(is_test: np.ndarray, new: np.ndarray | None) -> str:
    """The size of the test part, and how many of its texts the run trained on, in words.

    is_test, new: (texts,) bool; new=None: not known, because there is no run, or not its corpus.
    """
    number = int(is_test.sum())
    if new is None:
        text = f"{number} test texts; whether the encoder was trained on them is not known"
    else:
        num_old = int((is_test & ~new).sum())
        text = f"{num_old} of the {number} test texts contain a line that the run trained on"
    if number < FEW_TEST_TEXTS:
        text += (
            f"\nWith so few test texts, no difference below {min(100, 300 / number):.0f} points can be clear: "
            "pass more labelled texts, if you have them."
        )
    return text


def check_overlap(train: pd.Series, test: pd.Series) -> None:
    """Raise NotebookError if a text is in both parts: then a test measures memory."""
    common = {*train.map(text_key)} & {*test.map(text_key)}
    if common:
        raise NotebookError(
            f"{len(common):,} texts are in the training part and in the test part, such as "
            f"{short_repr(min(common), 60)}: an accuracy on them shows nothing; remove them from one part"
        )


def sample_per_class(labels: pd.Series, number: int, seed: int) -> np.ndarray:
    """The indices of `number` random texts of each class, or all of a class with fewer; shuffled."""
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:number]
        for label in sorted(labels.unique())
    ]
    return generator.permutation(np.concatenate(chosen))


def label_sizes(labels: pd.Series) -> list[int]:
    """The numbers of labels per class to try: the LABEL_SIZES that the largest class reaches, or its size.

    Larger ones than the first are left out, with a line, if a sample would have more than MAX_LABELLED texts.
    """
    counts = labels.value_counts()
    sizes = [size for size in LABEL_SIZES if size <= counts.max()] or [int(counts.max())]
    texts = {size: int(counts.clip(upper=size).sum()) for size in sizes}
    for size in sizes[1:]:
        if texts[size] > MAX_LABELLED:
            print(
                f"{size} labels per class are left out: with {len(counts)} classes these are "
                f"{texts[size]:,} labelled texts (at most {MAX_LABELLED:,}, which bounds time and memory)"
            )
    kept = [size for size in sizes if size == sizes[0] or texts[size] <= MAX_LABELLED]
    if kept[-1] == counts.max():
        print(
            f"With {kept[-1]} labels per class, all texts of the training part have labels: the samples of all "
            "seeds are equal, so the intervals do not include what other labelled texts would change."
        )
    return kept
