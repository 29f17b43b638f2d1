"""Token ids and words of texts: a fast tokenizer uses all cores, any other runs in several processes."""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer
from transformers import BertJapaneseTokenizer, PreTrainedTokenizerBase

from mlm.env.files import json_digest
from mlm.env.notebook import NotebookError

MAX_WORD_TOKENS = 10  # each token of a longer one, such as a DNA sequence, counts as a word
FAST_BATCH_CHARS = 2**20  # characters tokenized at once; each takes about 150 bytes of memory
PYTHON_BATCH_CHARS = 2**16  # characters that a process gets at once: less than a second of work
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # of a model's own special tokens


class Encoded(NamedTuple):
    """Several tokenized texts, one after the other, without special tokens around them."""

    ids: np.ndarray  # (tokens,) int32
    lengths: np.ndarray  # (texts,) int64, in tokens
    word_starts: np.ndarray  # (tokens,) bool, whether a word starts at a token


Encoder = Callable[[list[str]], Encoded]


# special tokens


def own_special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """{token: id} of the special tokens that have a role, such as [MASK], without additional ones."""
    found = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    return {
        str(getattr(tokenizer, f"{role}_token")): token_id
        for role, token_id in found.items()
        if token_id is not None
    }


def ids_of_text(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """What each id becomes in a text, (V,) int32: its own special tokens [UNK], all others themselves.

    A tokenizer may have only the special token for the text "[MASK]".
    """
    ids = np.arange(1 + max(tokenizer.get_vocab().values()), dtype=np.int32)
    if tokenizer.unk_token_id is not None:
        ids[[*own_special_tokens(tokenizer).values()]] = tokenizer.unk_token_id
    return ids


# words


def limit_words(ids: np.ndarray, is_start: np.ndarray, special_ids: list[int]) -> np.ndarray:
    """Where words start, (tokens,) bool, if no word has a special token or more than MAX_WORD_TOKENS.

    ids (tokens,); is_start (tokens,): where words start according to the tokenizer. Each [UNK] and each
    additional special token is a word of its own, and so is each token of a word that is too long.
    """
    is_special = np.isin(ids, special_ids)
    is_start = is_start | is_special | np.roll(is_special, 1)  # and the token after it
    word = np.cumsum(is_start)
    return is_start | (np.bincount(word)[word] > MAX_WORD_TOKENS)


# Scripts without spaces between words: the first character of each range, and the one after its last.
UNSPACED = np.array(
    [
        *(0x0E00, 0x0F00),  # Thai, Lao
        *(0x1000, 0x10A0, 0x1780, 0x1800),  # Burmese, Khmer
        *(0x1950, 0x1AB0, 0x1B00, 0x1B80),  # Tai Le, New Tai Lue, Tai Tham, Balinese
        *(0x3040, 0x3100, 0x31F0, 0x3200),  # Hiragana, Katakana
        *(0x3400, 0x4DC0, 0x4E00, 0xA000),  # Chinese characters
        *(0xA980, 0xAA00, 0xAA60, 0xAAE0),  # Javanese, extensions of Burmese, Tai Viet
        *(0xF900, 0xFB00, 0xFF66, 0xFFA0),  # compatibility forms of Chinese and Japanese
        *(0x20000, 0x40000),  # rare Chinese characters
    ]
)


def is_unspaced(text: str) -> np.ndarray:
    """Whether each character of a text is of a script without spaces between words: (characters,) bool."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    found: np.ndarray = np.searchsorted(UNSPACED, codes, side="right") % 2 == 1
    return found


WORD_MARKS: dict[str, Callable[[str, str], bool]] = {
    # how tokens show words: the mark, and whether a token starts a word (previous token, token)
    "##": lambda previous, token: not token.startswith("##"),  # WordPiece
    "▁": lambda previous, token: token.startswith("▁"),  # SentencePiece
    "@@": lambda previous, token: not previous.endswith("@@"),  # BERTweet, PhoBERT
    "</w>": lambda previous, token: previous.endswith("</w>"),  # XLM, FlauBERT
}


def word_mark(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The mark in WORD_MARKS that most tokens of a vocabulary have; None if no token has one."""
    counts = dict.fromkeys(WORD_MARKS, 0)
    for token in tokenizer.get_vocab():
        for mark in WORD_MARKS:
            is_inside = token.startswith(mark) or token.endswith(mark)
            counts[mark] += is_inside and token != mark
    mark = max(counts, key=lambda mark: counts[mark])
    return mark if counts[mark] else None


def splits_japanese(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer first splits Japanese into words, with MeCab for example."""
    return isinstance(tokenizer, BertJapaneseTokenizer) and tokenizer.do_word_tokenize


def provides_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer says where words start; one of amino acids does not, for example."""
    return tokenizer.is_fast or splits_japanese(tokenizer) or word_mark(tokenizer) is not None


# fast tokenizers


def text_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of a fast tokenizer's backend for which its own special tokens are text.

    "[MASK]" in a text becomes two brackets and a word. Additional special tokens remain tokens, unless the
    tokenizer has `split_special_tokens`.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    own = own_special_tokens(tokenizer)
    for token in content["added_tokens"]:
        token["special"] &= tokenizer.split_special_tokens
        token["special"] |= token["content"] in own
    content["truncation"] = content["padding"] = None
    backend = Tokenizer.from_str(json.dumps(content))
    backend.encode_special_tokens = True  # as text, if they are special
    return backend


def find_word_starts(encodings: list[Encoding]) -> np.ndarray:
    """Whether a word starts at each token of tokenized texts, one after the other: (tokens,) bool.

    Words are the tokenizer's own (`word_ids`); in BERT's, a punctuation mark is a word, too.
    """
    word_ids = np.fromiter(chain.from_iterable(text.word_ids for text in encodings), np.int64)
    text_number = np.repeat(np.arange(len(encodings)), [len(text) for text in encodings])
    return (np.diff(text_number, prepend=-1) != 0) | (np.diff(word_ids, prepend=-1) != 0)


def find_unspaced_starts(text: str, encoding: Encoding) -> np.ndarray:
    """Whether each token of a text counts as a word because its script has no spaces: (tokens,) bool.

    So does the token after it. A token that is a part of the previous token's character does not.
    """
    is_start = np.zeros(len(encoding), bool)
    if len(encoding) and not text.isascii() and (in_text := is_unspaced(text)).any():
        before = np.concatenate([[0], np.cumsum(in_text)])
        start, stop = np.array(encoding.offsets).T
        is_start = before[stop] > before[start]
        is_start[1:] |= is_start[:-1]
        is_start[1:] &= start[1:] >= stop[:-1]
    return is_start


def fast_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """A function that tokenizes texts with a fast tokenizer, on all cores."""
    backend, text_ids = text_backend(tokenizer), ids_of_text(tokenizer)
    special_ids = tokenizer.all_special_ids

    def encode(texts: list[str]) -> Encoded:
        encodings = backend.encode_batch(texts, add_special_tokens=False)
        ids = text_ids[np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int64)]
        starts = find_word_starts(encodings)
        starts |= np.concatenate([*map(find_unspaced_starts, texts, encodings)])
        starts = limit_words(ids, starts, special_ids)
        return Encoded(ids, np.array([len(e) for e in encodings]), starts)

    return encode


# tokenizers in Python


def split_japanese(tokenizer: Any, text: str) -> tuple[list[str], list[bool]]:
    """`tokenizer.tokenize(text)`, and whether each token starts a word."""
    pieces: list[list[str]] = []  # of each word
    for part in tokenizer.tokens_trie.split(text):
        if part in tokenizer.get_added_vocab():
            pieces.append([part])
            continue
        words = tokenizer.word_tokenizer.tokenize(part, never_split=tokenizer.all_special_tokens)
        split = tokenizer.subword_tokenizer.tokenize if tokenizer.do_subword_tokenize else None
        pieces += [split(word) if split else [word] for word in words]
    tokens = [token for word in pieces for token in word]
    return tokens, [index == 0 for word in pieces for index in range(len(word))]


def tokens_and_words(tokenizer: Any, mark: str | None, text: str) -> tuple[list[str], list[bool]]:
    """`tokenizer.tokenize(text)`, and whether each token starts a word: all do if there is no mark."""
    if splits_japanese(tokenizer):
        return split_japanese(tokenizer, text)
    tokens = tokenizer.tokenize(text)
    if mark is None:
        return tokens, [True] * len(tokens)
    starts_word = WORD_MARKS[mark]
    return tokens, [i == 0 or starts_word(tokens[i - 1], tokens[i]) for i in range(len(tokens))]


def encode_in_python(
    tokenizer: Any, text_ids: np.ndarray, mark: str | None, texts: list[str]
) -> Encoded:
    """Tokenize texts with a tokenizer that is written in Python."""
    splits = [tokens_and_words(tokenizer, mark, text) for text in texts]
    ids = [tokenizer.convert_tokens_to_ids(tokens) for tokens, _ in splits]
    joined = text_ids[np.fromiter(chain.from_iterable(ids), np.int64)]
    is_start = np.fromiter(chain.from_iterable(starts for _, starts in splits), bool)
    starts = limit_words(joined, is_start, tokenizer.all_special_ids)
    return Encoded(joined, np.array([len(tokens) for tokens in ids]), starts)


def python_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """A function that tokenizes texts with a tokenizer in Python, on one core."""
    return partial(encode_in_python, tokenizer, ids_of_text(tokenizer), word_mark(tokenizer))


# several processes


def num_processes() -> int:
    """How many processes may tokenize at once: one for each core that this process may use."""
    if multiprocessing.current_process().daemon:  # it must not start processes
        return 1
    on_linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if on_linux else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # torchrun's processes


worker: dict[str, Encoder] = {}  # the encoder of this process, if it is a worker


def start_worker(encoder: Encoder, parent: int) -> None:
    """Prepare a process that tokenizes. It ignores interrupts and ends with its parent."""

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Jupyter interrupts all processes; the parent acts
    threading.Thread(target=end_with_parent, daemon=True).start()
    worker["encoder"] = encoder


def run_worker(texts: list[str]) -> Encoded:
    """Tokenize texts in a process that `start_worker` prepared."""
    return worker["encoder"](texts)


def encode_in_processes(
    encoder: Encoder, batches: Iterable[list[str]], processes: int
) -> Iterator[Encoded]:
    """Each batch tokenized, in order; a few batches are in memory at a time.

    Raises NotebookError if a process is killed.
    """
    # Forks need no import. They only run Python code, so locks of other threads do not matter.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(processes, context, start_worker, (encoder, os.getpid()))
    try:
        waiting = deque(pool.submit(run_worker, texts) for texts in islice(batches, 2 * processes))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(run_worker, texts) for texts in islice(batches, 1))
    except BrokenProcessPool:
        raise NotebookError(
            "a process that tokenizes the text was killed, probably because memory is full: close other "
            "notebooks, then run this again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def encode_batches(
    tokenizer: PreTrainedTokenizerBase, batches: Iterable[list[str]]
) -> Generator[Encoded, None, None]:
    """Each batch of texts tokenized, in order, with all cores.

    A fast tokenizer has threads of its own. Any other runs in several processes, if there are several
    batches. Everything in a text is text, except additional special tokens (`text_backend`).
    """
    encoder = fast_encoder(tokenizer) if tokenizer.is_fast else python_encoder(tokenizer)
    processes = 1 if tokenizer.is_fast else num_processes()
    batches = iter(batches)
    first = [*islice(batches, 2)]
    batches = chain(first, batches)
    if len(first) == 2 and processes > 1:
        yield from encode_in_processes(encoder, batches, processes)
    else:
        yield from map(encoder, batches)


# identity


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """The SHA-256 of a tokenizer's behaviour, without its last padding and truncation options."""
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content = {k: v for k, v in content.items() if k not in ("truncation", "padding")}
        return json_digest(content | ({"split": True} if tokenizer.split_special_tokens else {}))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(Path(folder).rglob("*"))
        return json_digest(
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        )
