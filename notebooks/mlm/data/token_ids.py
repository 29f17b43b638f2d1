"""Token ids of a text in memory-mapped files next to it. Taught in 03."""

import contextlib
import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from mlm.data.tokenization import (
    FAST_BATCH_CHARS,
    PYTHON_BATCH_CHARS,
    encode_batches,
    tokenizer_digest,
)
from mlm.data.tokenizer import MAX_PIECE_CHARS, split_long_lines
from mlm.env.files import (
    atomic_write,
    first_damaged,
    read_checked_json,
    remove_stale_parts,
    sha256_of,
    sha256_sums,
    write_checked_json,
)
from mlm.env.notebook import NotebookError

WORD_RULES = "2"  # version of the rules for where words start
LINE_OVERHEAD = 100  # characters that a piece counts in addition to its own
MAX_ATTEMPTS = 20  # other processes may remove files in between

Pieces = Iterable[tuple[str, bool]]  # the text of a piece, and whether it ends its unit

# units of a text: what is tokenized as one text


def join_lines(pieces: Pieces, across_documents: bool = False) -> Iterator[tuple[str, bool]]:
    """The lines of each document, joined by a space, in pieces of about MAX_PIECE_CHARS.

    `pieces` are of lines; blank lines separate documents. `across_documents`: all are joined as one. A piece that
    continues a document starts with the space, so that its first word gets the tokens of a word
    after a space: they are others than at the start of a text in RoBERTa's tokenizer, for example.
    """
    parts: list[str] = []
    size, is_first, starts_line = 0, True, True  # is_first: nothing of the document was read
    for text, ends_line in pieces:
        if starts_line and not text:  # a blank line
            if not across_documents and not is_first:
                yield "".join(parts), True
                parts, size, is_first = [], 0, True
            continue
        if size + len(text) > MAX_PIECE_CHARS and parts:
            yield "".join(parts), False
            parts, size = [], 0
        parts.append(f" {text}" if starts_line and not is_first else text)
        size, is_first, starts_line = size + len(text) + 1, False, ends_line
    if not is_first:
        yield "".join(parts), True


def non_blank_lines(pieces: Pieces) -> Iterator[tuple[str, bool]]:
    """Each line, without blank ones."""
    starts_line = True
    for text, ends_line in pieces:
        if text or not starts_line:
            yield text, ends_line
        starts_line = ends_line


UNITS: dict[str, Callable[[Pieces], Pieces]] = {
    "line": non_blank_lines,
    "document": join_lines,
    "text": partial(join_lines, across_documents=True),
}


# files


def batch_pieces(pieces: Pieces, max_chars: int) -> Iterator[list[tuple[str, bool]]]:
    """Group pieces into lists of about max_chars characters."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for text, ends_unit in pieces:
        batch.append((text, ends_unit))
        size += len(text) + LINE_OVERHEAD
        if size >= max_chars:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write_token_ids(
    text_file: Path, tokenizer: PreTrainedTokenizerBase, unit: str, paths: list[Path]
) -> None:
    """Tokenize a text into three files: ids, ends and word_starts of `encode_lines`."""
    max_chars = FAST_BATCH_CHARS if tokenizer.is_fast else PYTHON_BATCH_CHARS
    ends_unit: deque[np.ndarray] = deque()  # of the batches that are being tokenized

    def texts_of_batches() -> Iterator[list[str]]:
        for batch in batch_pieces(UNITS[unit](split_long_lines(text_file)), max_chars):
            ends_unit.append(np.array([ends for _, ends in batch]))
            yield [text for text, _ in batch]

    with contextlib.ExitStack() as stack:
        id_file, end_file, word_file = (stack.enter_context(atomic_write(path)) for path in paths)
        num_tokens = 0  # so far
        encoded = stack.enter_context(
            contextlib.closing(encode_batches(tokenizer, texts_of_batches()))
        )
        for ids, lengths, word_starts in encoded:
            id_file.write(ids.tobytes())
            word_file.write(word_starts.tobytes())
            ends = (num_tokens + np.cumsum(lengths))[ends_unit.popleft()]
            num_tokens += len(ids)
            end_file.write(ends.astype(np.int64).tobytes())


def remove_outdated_files(text_file: Path, source: dict[str, str], current_stem: str) -> None:
    """Remove token ids of this text file that are incomplete, or of an earlier text or library.

    Files with current_stem are kept: they are about to be replaced, maybe by another process as well.
    """
    token_id_file = re.compile(re.escape(text_file.stem) + r"-[0-9a-f]{12}\.(ids|ends|begins|json)")
    for path in text_file.parent.iterdir():
        if not token_id_file.fullmatch(path.name) or path.stem == current_stem:
            continue
        content = read_checked_json(path.with_suffix(".json")) or {}
        is_current = content.keys() == {*source, "files"} and content["text"] == source["text"]
        if not is_current:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    remove_stale_parts(text_file.parent)


def encode_lines(
    text_file: str | Path, tokenizer: PreTrainedTokenizerBase, unit: str = "line"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids of every line, without special tokens around them, in files next to the text.

    `unit` is what is tokenized as one text: "line"; "document", the lines between two blank lines,
    joined by a space; or "text", all lines. Blank lines are left out.
    Returns three memory-mapped arrays: ids (tokens,) int32; ends (units,) int64, where unit i is
    ids[ends[i-1]:ends[i]], maybe without a token; word_starts (tokens,) bool, whether a word starts at a token. Tokenizing
    uses all cores (`encode_batches`); memory does not grow with the text.
    A JSON file has the SHA-256 of the text, of the tokenizer and of the three files, and WORD_RULES. They are used
    again while all of these match, otherwise rebuilt. Raises NotebookError if the text has no tokens,
    the disk is full or a process is killed.
    """
    text_file = Path(text_file)
    digest = tokenizer_digest(tokenizer)
    text = sha256_of(text_file)
    source = {"text": text, "tokenizer": digest, "unit": unit, "words": WORD_RULES}
    key = hashlib.sha256("".join(source.values()).encode()).hexdigest()[:12]
    json_path = text_file.with_name(f"{text_file.stem}-{key}.json")
    paths = [json_path.with_suffix(suffix) for suffix in (".ids", ".ends", ".begins")]
    names = [path.name for path in paths]

    for _ in range(MAX_ATTEMPTS):
        if is_complete(json_path, source, names):
            break
        remove_outdated_files(text_file, source, json_path.stem)
        write_token_ids(text_file, tokenizer, unit, paths)
        with contextlib.suppress(FileNotFoundError):
            sums = sha256_sums(text_file.parent, names)
            write_checked_json(json_path, source | {"files": sums})
    else:
        raise NotebookError(
            f"{paths[0]} differs from what was written to it, {MAX_ATTEMPTS} times: check the disk, or "
            "pass another workdir"
        )
    if not paths[0].stat().st_size:
        raise NotebookError(f"{text_file}: the tokenizer finds no token in it; is it really text?")
    ids, ends, word_starts = (
        np.memmap(path, dtype, "r") for path, dtype in zip(paths, (np.int32, np.int64, np.bool_))
    )
    return ids, ends, word_starts


def is_complete(json_path: Path, source: dict[str, str], names: list[str]) -> bool:
    """Whether these files exist, undamaged, and were made from this text and tokenizer."""
    content = read_checked_json(json_path) or {}
    files = content.get("files", {})
    is_same_source = content == source | {"files": files} and [*files] == names
    return is_same_source and not first_damaged(json_path.parent, files)
