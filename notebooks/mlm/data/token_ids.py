"""Token ids of a text in memory-mapped files next to it. Taught in 03."""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from mlm.data.tokenizer import split_long_lines
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

BATCH_CHARS = 2**20  # characters tokenized at once; each takes about 150 bytes of memory
LINE_OVERHEAD = 100  # characters that a line counts in addition to its own
MAX_WORD_TOKENS = 10  # longer words, such as web addresses, count as several words
MAX_ATTEMPTS = 20  # other processes may remove files in between


def batch_pieces(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Group (text, whether it ends a line) into lists of about BATCH_CHARS characters."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for text, ends_line in pieces:
        batch.append((text, ends_line))
        size += len(text) + LINE_OVERHEAD
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def find_word_starts(encodings: Sequence[Encoding], unk_token_id: int | None) -> np.ndarray:
    """Whether a word starts at each token of tokenized texts, one after the other: (tokens,) bool.

    Words are the tokenizer's own (`word_ids`); in BERT's, a punctuation mark is a word, too. But each
    [UNK] is a word of its own, and a new word starts after MAX_WORD_TOKENS tokens.
    """
    ids = np.fromiter(chain.from_iterable(text.ids for text in encodings), np.int64)
    word_ids = np.fromiter(chain.from_iterable(text.word_ids for text in encodings), np.int64)
    text_number = np.repeat(np.arange(len(encodings)), [len(text) for text in encodings])

    is_start = np.diff(text_number, prepend=-1) != 0
    is_start |= np.diff(word_ids, prepend=-1) != 0
    is_unk = ids == unk_token_id
    is_start |= is_unk | np.roll(is_unk, 1)  # [UNK] and the token after it

    position = np.arange(len(ids))
    word_start = np.maximum.accumulate(position * is_start)  # position where the word started
    return is_start | ((position - word_start) % MAX_WORD_TOKENS == 0)


def write_token_ids(text_file: Path, tokenizer: PreTrainedTokenizerFast, paths: list[Path]) -> None:
    """Tokenize a text into three files: ids, line_ends and word_starts of `encode_lines`.

    Everything in a text is text: "[MASK]" becomes two brackets and a word. If a tokenizer has only the
    special token for it (SentencePiece), it becomes [UNK].
    """
    text_ids = np.arange(len(tokenizer), dtype=np.int32)  # special ids -> [UNK], others unchanged
    if tokenizer.unk_token_id is not None:
        text_ids[tokenizer.all_special_ids] = tokenizer.unk_token_id
    with contextlib.ExitStack() as stack:
        id_file, end_file, word_file = (stack.enter_context(atomic_write(path)) for path in paths)
        num_tokens = 0  # so far
        last_end = 0  # of the last line that was written
        for batch in batch_pieces(split_long_lines(text_file)):
            encodings = tokenizer(
                [text for text, _ in batch],
                add_special_tokens=False,
                split_special_tokens=True,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            ).encodings
            for encoding in encodings:
                id_file.write(text_ids[encoding.ids].tobytes())
            word_file.write(find_word_starts(encodings, tokenizer.unk_token_id).tobytes())

            piece_ends = num_tokens + np.cumsum([len(encoding) for encoding in encodings])
            num_tokens = int(piece_ends[-1])
            ends_line = np.array([ends_line for _, ends_line in batch])
            is_blank = np.array([not text for text, _ in batch])[ends_line]
            line_ends = piece_ends[ends_line]
            # A line without tokens is left out, unless it is blank: blank lines separate documents.
            line_ends = line_ends[(np.diff(line_ends, prepend=last_end) > 0) | is_blank]
            end_file.write(line_ends.astype(np.int64).tobytes())
            if len(line_ends):
                last_end = int(line_ends[-1])


def remove_outdated_files(text_file: Path, source: dict[str, str], current_stem: str) -> None:
    """Remove token ids of this text file that are incomplete or of an earlier version of the text.

    Files with current_stem are kept: they are about to be replaced, maybe by another process as well.
    """
    token_id_file = re.compile(re.escape(text_file.stem) + r"-[0-9a-f]{12}\.(ids|ends|begins|json)")
    for path in text_file.parent.iterdir():
        if not token_id_file.fullmatch(path.name) or path.stem == current_stem:
            continue
        content = read_checked_json(path.with_suffix(".json")) or {}
        if content.get("text") != source["text"]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    remove_stale_parts(text_file.parent)


def encode_lines(
    text_file: str | Path, tokenizer: PreTrainedTokenizerFast
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids of every line, without special tokens, in files next to the text.

    Returns three memory-mapped arrays: ids (tokens,) int32; line_ends (lines,) int64, where line i is
    ids[line_ends[i-1]:line_ends[i]] and a blank line has no tokens; word_starts (tokens,) bool, whether
    a word starts at a token. The fast tokenizer uses all cores; memory does not grow with the text.
    A JSON file has the SHA-256 of the text, of the tokenizer and of the three files. They are used
    again while all of these match, otherwise rebuilt. Raises NotebookError if the text has no tokens or
    the disk is full.
    """
    text_file = Path(text_file)
    tokenizer_sha256 = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    source = {"text": sha256_of(text_file), "tokenizer": tokenizer_sha256}
    key = hashlib.sha256("".join(source.values()).encode()).hexdigest()[:12]
    json_path = text_file.with_name(f"{text_file.stem}-{key}.json")
    paths = [json_path.with_suffix(suffix) for suffix in (".ids", ".ends", ".begins")]
    names = [path.name for path in paths]

    for _ in range(MAX_ATTEMPTS):
        if is_complete(json_path, source, names):
            break
        remove_outdated_files(text_file, source, json_path.stem)
        write_token_ids(text_file, tokenizer, paths)
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
    ids, line_ends, word_starts = (
        np.memmap(path, dtype, "r") for path, dtype in zip(paths, (np.int32, np.int64, np.bool_))
    )
    return ids, line_ends, word_starts


def is_complete(json_path: Path, source: dict[str, str], names: list[str]) -> bool:
    """Whether these files exist, undamaged, and were made from this text and tokenizer."""
    content = read_checked_json(json_path) or {}
    files = content.get("files", {})
    is_same_source = content == source | {"files": files} and [*files] == names
    return is_same_source and not first_damaged(json_path.parent, files)
