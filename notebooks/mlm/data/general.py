"""General text beside the corpus of a pretrained model: lines to measure forgetting on, text to replay.

Both are split as a corpus is. The held-out lines of `general` are measured and never trained on; the
training lines of `replay` are mixed into training.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mlm.data.corpus import is_intact, join_texts, load_corpus, mixture_entry
from mlm.data.dataset import MaskedLMDataset
from mlm.data.download import NAMED_TEXTS
from mlm.data.mixture import count_units
from mlm.data.split import SPLIT_FILES, new_files, remove_common_lines
from mlm.env.files import (
    json_digest,
    partial_path,
    read_checked_json,
    remove_stale_parts,
    sha256_sums,
    short_repr,
    write_checked_json,
)
from mlm.env.names import public_name
from mlm.env.notebook import NotebookError
from mlm.env.secrets import without_secrets

DEFAULT_GENERAL = "pydoc"  # in every CPython: technical English, a quarter of it code and tables
GENERAL_CHARS = 20_000  # measured at most, about 5,000 tokens: a few seconds on a CPU
LINE_CHARS = 500  # of a longer line, which is cut off at max_len tokens
MIN_GENERAL_TOKENS = 200


def load_other(
    parameter: str,
    text: str,
    workdir: Path,
    column: str,
    encoding: str | None,
    documents: str | None,
) -> Path:
    """`load_corpus` for the text of another parameter, which its errors name.

    Named texts are UTF-8, whatever the encoding of the corpus.
    """
    if text in NAMED_TEXTS:
        encoding = None
    try:
        return load_corpus(text, workdir, column, None, encoding, documents, parameter)
    except NotebookError as error:
        if str(error).startswith(f"{parameter}="):
            raise
        raise NotebookError(f"{parameter}={short_repr(without_secrets(text))}: {error}") from None


def make_text(
    folder: Path, name: str, sha256: str, write: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Let `write` write a text, `name` in `folder`, unless it is there; returns what corpus.json says.

    That is what `write` returns, `sha256`, a digest of all that decides the text, and the SHA-256 of the
    file. Raises NotebookError if the disk is full.
    """
    if not is_intact(folder, sha256, [name]):
        remove_stale_parts(folder)
        with new_files(folder, [name]) as (path,):
            about = write(path)
        about |= {"sha256": sha256, "files": sha256_sums(folder, [name])}
        write_checked_json(folder / "corpus.json", about)
    return read_checked_json(folder / "corpus.json") or {}


# what is measured


@dataclass(frozen=True)
class GeneralText:
    """Lines on which forgetting is measured: their file, what its corpus.json says, and their examples."""

    path: Path
    about: dict[str, Any]
    examples: MaskedLMDataset


def load_general(
    general: str | None,
    model: str,
    corpus_folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_len: int,
    **reading: Any,
) -> GeneralText | None:
    """Held-out lines of a general text that occur nowhere in the corpus, about GENERAL_CHARS of them.

    general: a text, see `fetch_corpus`; None: DEFAULT_GENERAL. reading: workdir, column, encoding and
    documents, as for `load_corpus`. Returns None, and prints why, if there is nothing to measure: a model
    from scratch has nothing to forget, and the corpus may contain all of the default text. Raises
    NotebookError if `general` is given and cannot be measured.
    """
    if model.startswith("scratch:"):
        print("forgetting is not measured: a model that starts from scratch has nothing to forget")
        return None
    text = general or DEFAULT_GENERAL
    try:
        path, about = general_lines(text, corpus_folder, **reading)
        examples = MaskedLMDataset(path, tokenizer, max_len) if about["lines"] else None
        num_tokens = int(examples.maskable.sum()) if examples else 0
        if not examples or num_tokens < MIN_GENERAL_TOKENS:
            raise NotebookError(
                f"general={short_repr(without_secrets(text))} must have at least {MIN_GENERAL_TOKENS} tokens "
                "in its held-out lines (a tenth of the text), without lines that occur in corpus, got "
                f"{num_tokens}: pass general=FILE with another or a longer text"
            )
    except (NotebookError, ImportError) as error:  # some distributions lack pydoc's texts
        if general is not None:
            raise
        print(f"forgetting is not measured: {error}")
        return None
    print(f"forgetting is measured on {about['lines']:,} lines of {about['source']}")
    return GeneralText(path, about, examples)


def evenly_chosen(path: Path) -> Iterator[str]:
    """Lines from everywhere in a text, with about GENERAL_CHARS characters before they are cut off."""
    with open(path, encoding="utf-8", newline="\n") as file:
        num_chars = sum(min(len(line), LINE_CHARS) for line in file if line.strip())
    step = max(1.0, num_chars / GENERAL_CHARS)  # one of `step` lines is chosen
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(line for line in file if line.strip()):
            if number % step < 1:
                yield line


def general_lines(text: str, corpus_folder: Path, **reading: Any) -> tuple[Path, dict[str, Any]]:
    """(general.txt, what corpus.json says) of the lines that `load_general` measures."""
    source = load_other("general", text, **reading)
    sources = [
        read_checked_json(folder / "corpus.json") or {} for folder in (source, corpus_folder)
    ]
    sha256 = json_digest(
        {"general": [about["sha256"] for about in sources], "chars": GENERAL_CHARS}
    )
    folder = source.with_name(f"general-{source.name.rpartition('-')[0]}-{sha256[:8]}")

    def write(path: Path) -> dict[str, Any]:
        shutil.copyfile(source / SPLIT_FILES[1], path)
        for name in SPLIT_FILES:
            remove_common_lines(path, corpus_folder / name)
        lines = [*evenly_chosen(path)]
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        return {"source": public_name(text), "lines": len(lines)}

    return folder / "general.txt", make_text(folder, "general.txt", sha256, write)


# what is replayed


def load_replay(
    replay: str | None,
    fraction: float,
    corpus_folder: Path,
    general: GeneralText | None,
    **reading: Any,
) -> Path:
    """The folder of the text to train on: the corpus, and with `replay`, general text after it.

    train.txt then has the training lines of the corpus, followed by the training lines of `replay` that
    occur neither in the corpus nor in the lines of `general`. "mixture" in corpus.json has `fraction` for
    them, so that they are this fraction of the examples of each epoch (`source_weights`). "replay" says
    which text it is. The validation set stays the one of the corpus. reading: see `load_general`. Raises
    NotebookError if no line of `replay` is left.
    """
    if replay is None:
        return corpus_folder
    source = load_other("replay", replay, **reading)
    abouts = [read_checked_json(folder / "corpus.json") or {} for folder in (corpus_folder, source)]
    sums = [about["sha256"] for about in abouts]
    held_out = general.about["files"] if general else None
    sha256 = json_digest({"replay": sums, "fraction": fraction, "held_out": held_out})
    folder = source.with_name(f"replay-{source.name.rpartition('-')[0]}-{sha256[:8]}")

    def write(path: Path) -> dict[str, Any]:
        replayed = partial_path(folder / "replayed.txt")
        try:
            shutil.copyfile(source / SPLIT_FILES[0], replayed)
            for other in (*([general.path] if general else []), *corpus_files):
                remove_common_lines(replayed, other)
            lines, documents = count_units(replayed)
            join_texts([corpus_folder / SPLIT_FILES[0], replayed], path)
        finally:
            replayed.unlink(missing_ok=True)
        entries = abouts[0].get("mixture") or [mixture_entry(corpus_folder, 1.0)]
        name, counts = public_name(replay), {"fraction": fraction, "lines": lines}
        return {
            "mixture": [*entries, {"name": name, **counts, "documents": documents}],
            "replay": {"source": name, **counts, "sha256": sha256},
        }

    corpus_files = [corpus_folder / name for name in SPLIT_FILES]
    about = make_text(folder, SPLIT_FILES[0], sha256, write)
    if not about["replay"]["lines"]:
        raise NotebookError(
            f"replay={short_repr(without_secrets(replay))}: all of its lines occur in corpus or in the lines "
            "of general, so none is left to replay; pass another replay"
        )
    return folder
