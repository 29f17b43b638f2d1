"""Token ids of a text in memory-mapped files beside it. Taught in 03."""

import contextlib
import hashlib
import re
from itertools import chain
from pathlib import Path

import numpy as np

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

BATCH_CHARS = 2**20  # characters that are tokenized at once, 150 bytes of memory each


LINE_OVERHEAD = 100  # characters that a line costs besides its own


MAX_WORD_TOKENS = 10  # tokens of a word: what has more, as an address may, counts as several


def batched(split_long_lines):
    """Lists of (text, whether a line ends there), as much in each as is tokenized at once."""
    batch, size = [], 0
    for piece in split_long_lines:
        batch.append(piece)
        size += len(piece[0]) + LINE_OVERHEAD
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def word_starts(texts, unknown):
    """Whether a word begins at each token of tokenized texts, one after the other: (tokens,) bool.

    Words are what the tokenizer itself takes for one (`word_ids`): with BERT's, a punctuation mark,
    too. But [UNK], whose id is `unknown`, is one by itself, and so are LONGEST tokens of a longer one.
    """
    ids, words = (
        np.fromiter(chain.from_iterable(getattr(text, name) for text in texts), np.int64)
        for name in ("ids", "word_ids")
    )
    text = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    is_unknown = ids == unknown
    begins = (np.diff(text, prepend=-1) != 0) | (np.diff(words, prepend=-1) != 0)
    begins |= is_unknown | np.roll(is_unknown, 1)
    place = np.arange(len(ids))
    return begins | ((place - np.maximum.accumulate(place * begins)) % MAX_WORD_TOKENS == 0)


def write_arrays(text_file, tokenizer, paths):
    """Tokenize a text into three files: ids, ends and begins, as `encode_lines` describes them.

    A text is text: what looks like [MASK] in it is brackets and a word; [UNK], where the tokenizer
    has nothing but the special token for it, as SentencePiece may.
    """
    as_text = np.arange(len(tokenizer), dtype=np.int32)
    if tokenizer.unk_token_id is not None:
        as_text[tokenizer.all_special_ids] = tokenizer.unk_token_id
    with contextlib.ExitStack() as stack:
        ids, ends, begins = (stack.enter_context(atomic_write(path)) for path in paths)
        end = stop = 0  # of the tokens, and of the last line with any
        for batch in batched(split_long_lines(text_file)):
            texts = tokenizer(
                [text for text, _ in batch],
                add_special_tokens=False,
                split_special_tokens=True,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            ).encodings
            for text in texts:
                ids.write(as_text[text.ids].tobytes())
            begins.write(word_starts(texts, tokenizer.unk_token_id).tobytes())
            stops = end + np.cumsum([len(text) for text in texts])
            end = int(stops[-1])
            last, blank = np.array([(ends_line, not text) for text, ends_line in batch]).T
            stops, blank = stops[last], blank[last]
            # lines without a token are none, but for those that part documents
            stops = stops[(np.diff(stops, prepend=stop) > 0) | blank]
            ends.write(stops.astype(np.int64).tobytes())
            stop = int(stops[-1]) if len(stops) else stop


def clear_arrays(text_file, about, own):
    """Remove arrays of this very file that no record vouches for, or that are of another text.

    Those with the stem `own` stay: who writes them replaces them, and others may be writing the same.
    """
    mine = re.compile(re.escape(text_file.stem) + r"-[0-9a-f]{12}\.(ids|ends|begins|json)")
    for path in text_file.parent.iterdir():
        if not mine.fullmatch(path.name) or path.stem == own:
            continue
        record = read_checked_json(path.with_suffix(".json")) or {}
        if record.get("text") != about["text"]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    remove_stale_parts(text_file.parent)


def encode_lines(text_file, tokenizer):
    """Token ids of every line, without special tokens, in files beside the text; made only once.

    Returns memory-mapped arrays: ids (tokens,) int32; ends (lines,) int64, where line i is
    ids[ends[i-1]:ends[i]], and a blank line, which parts two documents, has no tokens; begins (tokens,)
    bool, whether a word begins there. Lines are tokenized by the Rust tokenizer (all cores) and written
    as they come, so that memory grows neither with the text nor with its lines (of a line of more than
    PIECE characters it sees a piece at a time). A record beside them vouches for the files, and says of which
    text and tokenizer they are; what is no longer as it was written is made again. Raises
    NotebookError where the text has no token, or the disk is full.
    """
    text_file = Path(text_file)
    vocabulary = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    about = {"text": sha256_of(text_file), "tokenizer": vocabulary}
    key = hashlib.sha256("".join(about.values()).encode()).hexdigest()[:12]
    record, *paths = (
        text_file.with_name(f"{text_file.stem}-{key}.{end}")
        for end in ("json", "ids", "ends", "begins")
    )
    names = [path.name for path in paths]
    for _ in range(20):  # others that make the same may take a file away between two lines
        found = read_checked_json(record) or {}
        files = found.get("files", {})
        if (
            found == about | {"files": files}
            and [*files] == names
            and not first_damaged(text_file.parent, files)
        ):
            break
        clear_arrays(text_file, about, record.stem)
        write_arrays(text_file, tokenizer, paths)
        with contextlib.suppress(FileNotFoundError):
            write_checked_json(record, about | {"files": sha256_sums(text_file.parent, names)})
    else:
        raise NotebookError(
            f"{paths[0]} is never as it was written; is the disk sound? pass another workdir"
        )
    if not paths[0].stat().st_size:
        raise NotebookError(f"{text_file}: the tokenizer finds no token in it; is it really text?")
    kinds = np.int32, np.int64, np.bool_
    return tuple(np.memmap(path, kind, "r") for path, kind in zip(paths, kinds))
