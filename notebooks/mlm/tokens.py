"""Lines become token ids: the tokenizer, the ids on disk, the examples of the dataset."""

import contextlib
import hashlib
import re
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import AutoTokenizer, BertTokenizer

from .files import (
    clear_parts,
    damaged,
    digests,
    read_record,
    sha256_of,
    whole_file,
    write_record,
)
from .hub import cannot_load, hub_is_away, model_source
from .notebook import NotebookError

PIECE = 2**16  # characters: only longer lines are cut before they are tokenized
BATCH = 2**20  # characters that are tokenized at once, 150 bytes of memory each
LINE = 100  # characters that a line costs besides its own
ROOM = 512  # the longest text that BERT has positions for
LONGEST = 10  # tokens of a word: what has more, as an address may, counts as several
UNKNOWN = 0.5  # a text with a larger share of [UNK] is refused


# lines


def pieces(text_file):
    """(text, whether a line ends there) of a file: its lines, long ones cut at spaces where they have any."""
    with open(text_file, encoding="utf-8") as lines:
        for line in lines:
            line, start = line.strip(), 0
            while len(line) - start > PIECE:
                space = line.rfind(" ", start + 1, start + PIECE)
                stop = space if space > 0 else start + PIECE
                yield line[start:stop], False
                start = stop
            yield line[start:], True


def batched(pieces):
    """Lists of (text, whether a line ends there), as much in each as is tokenized at once."""
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0]) + LINE
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# tokenizer


def learn_wordpiece(text_file, vocab_size=8000, min_frequency=2):
    """Learn an uncased WordPiece vocabulary (Devlin et al. 2018, arXiv:1810.04805) from a text.

    Returns a BertTokenizer. The same text gives the same vocabulary: the trainer would number the
    inner letters ("##a") as a hash table yields them and break ties by number, so they come first.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    normalized = map(learner.normalizer.normalize_str, (text for text, _ in pieces(text_file)))
    letters = {letter for text in normalized for letter in text if not letter.isspace()}
    inner = [f"##{letter}" for letter in sorted(letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(vocab_size, len(special) + 2 * len(inner)),
        min_frequency=min_frequency,
        special_tokens=special + inner,
        show_progress=False,
    )
    learner.train_from_iterator((text for text, _ in pieces(text_file)), trainer)
    return BertTokenizer(vocab=learner.get_vocab(), model_max_length=ROOM)


def load_tokenizer(model, text_file):
    """The tokenizer of `model` (a Hub name or a folder), or one learned from text for "scratch:".

    Raises NotebookError where there is no such model or its tokenizer cannot mask words.
    """
    if model.startswith("scratch:"):
        return learn_wordpiece(text_file)
    source = model_source(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, local_files_only=hub_is_away(source), trust_remote_code=False
        )
    except Exception as error:
        raise cannot_load(model, error, ": no tokenizer found") from None
    tokenizer.cls_token = tokenizer.cls_token or tokenizer.bos_token
    tokenizer.sep_token = tokenizer.sep_token or tokenizer.eos_token
    lacks = [
        n for n in ("mask", "pad", "cls", "sep") if getattr(tokenizer, f"{n}_token_id") is None
    ]
    if lacks:
        raise NotebookError(
            f"model={model!r}: its tokenizer has no {lacks[0]} token, so it is no masked language "
            "model; pass one, such as bert-base-uncased"
        )
    if not tokenizer.is_fast:
        raise NotebookError(
            f"model={model!r}: its tokenizer, {type(tokenizer).__name__}, has no fast form "
            "(tokenizer.json); pass a model that has one, such as bert-base-multilingual-cased"
        )
    return tokenizer


# ids on disk


def word_begins(texts, unknown):
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
    return begins | ((place - np.maximum.accumulate(place * begins)) % LONGEST == 0)


def write_arrays(text_file, tokenizer, paths):
    """Tokenize a text into three files: ids, ends and begins, as `encode_lines` describes them.

    A text is text: what looks like [MASK] in it is brackets and a word; [UNK], where the tokenizer
    has nothing but the special token for it, as SentencePiece may.
    """
    as_text = np.arange(len(tokenizer), dtype=np.int32)
    if tokenizer.unk_token_id is not None:
        as_text[tokenizer.all_special_ids] = tokenizer.unk_token_id
    with contextlib.ExitStack() as stack:
        ids, ends, begins = (stack.enter_context(whole_file(path)) for path in paths)
        end = stop = 0  # of the tokens, and of the last line with any
        for batch in batched(pieces(text_file)):
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
            begins.write(word_begins(texts, tokenizer.unk_token_id).tobytes())
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
        record = read_record(path.with_suffix(".json")) or {}
        if record.get("text") != about["text"]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    clear_parts(text_file.parent)


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
        found = read_record(record) or {}
        files = found.get("files", {})
        if (
            found == about | {"files": files}
            and [*files] == names
            and not damaged(text_file.parent, files)
        ):
            break
        clear_arrays(text_file, about, record.stem)
        write_arrays(text_file, tokenizer, paths)
        with contextlib.suppress(FileNotFoundError):
            write_record(record, about | {"files": digests(text_file.parent, names)})
    else:
        raise NotebookError(
            f"{paths[0]} is never as it was written; is the disk sound? pass another workdir"
        )
    if not paths[0].stat().st_size:
        raise NotebookError(f"{text_file}: the tokenizer finds no token in it; is it really text?")
    kinds = np.int32, np.int64, np.bool_
    return tuple(np.memmap(path, kind, "r") for path, kind in zip(paths, kinds))


# examples


def refuse_unknown(text_file, share):
    """Raise a NotebookError where so large a share of a text's tokens is [UNK]: nothing is learned."""
    if share > UNKNOWN:
        raise NotebookError(
            f"{text_file}: {share:.0%} of its tokens are [UNK], which the vocabulary lacks: put "
            "spaces between the words (one of more than 100 letters is always [UNK]), or pass a "
            'model of this language, or model="scratch:tiny", which learns its words'
        )


def places(ids, wanted):
    """Where in `ids` (tokens,) one of the `wanted` stands, in order; read from disk in pieces."""
    step = 10**7
    cuts = range(0, len(ids), step)
    return np.concatenate([i + np.flatnonzero(np.isin(ids[i : i + step], wanted)) for i in cuts])


def words_in(begins, starts, lengths):
    """How many words each example has a token of, (examples,); `begins` is read from disk in order."""
    edges = np.stack([starts, starts + lengths], 1).ravel()
    begun = np.add.reduceat(begins, edges[edges < len(begins)], dtype=np.int64)[::2]
    return begun + ~begins[starts]  # a block may begin within a word


def cut_documents(ends, room):
    """(starts, lengths) of blocks of up to `room` tokens that fill documents with these ends."""
    ends = np.unique(ends[ends > 0])
    starts = np.concatenate([[0], ends[:-1]])
    counts = -(-(ends - starts) // room)  # blocks of each document
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(starts, counts) + number * room
    return first, np.minimum(np.repeat(ends, counts) - first, room)


class MaskedLMDataset(Dataset):
    """The examples of a text file: `dataset[i]` is a 1-D int64 tensor, [CLS] tokens [SEP].

    examples="line": each non-blank line, truncated to `max_len` tokens, as in the 2020 tutorial.
    examples="block": the lines of a document in a row, cut into blocks of `max_len` tokens (the last
    is shorter); a blank line parts two documents. "stream": all lines of all documents in a row.
    `lengths` (examples,) counts the tokens of each without the two special ones, `known` those of
    them that may be asked about: not [UNK], whose share of the text is `unknown`; `words` counts the
    words that these make. Raises NotebookError where more than half is [UNK].
    """

    def __init__(self, text_file, tokenizer, max_len=128, examples="line"):
        self.ids, ends, self.begins = encode_lines(text_file, tokenizer)
        starts, room = np.concatenate([[0], ends[:-1]]), max_len - 2
        if examples == "line":
            starts, ends = starts[ends > starts], ends[ends > starts]
            self.starts, self.lengths = starts, np.minimum(ends - starts, room)
        else:
            parted = ends[ends == starts] if examples == "block" else ends[:0]
            self.starts, self.lengths = cut_documents(np.append(parted, len(self.ids)), room)
        self.tokenizer, self.vocab_size = tokenizer, len(tokenizer)
        self.cls, self.sep = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
        self.truncated = len(self.ids) - int(self.lengths.sum())  # tokens beyond max_len
        self.special = tokenizer.all_special_ids
        never = places(self.ids, self.special)  # only [UNK]: a text has no other
        first, last = np.searchsorted(never, [self.starts, self.starts + self.lengths])
        self.known, self.unknown = self.lengths - (last - first), len(never) / len(self.ids)
        refuse_unknown(text_file, self.unknown)
        self.words = words_in(self.begins, self.starts, self.lengths) - (self.lengths - self.known)

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        tokens = self.ids[self.starts[index] : self.starts[index] + self.lengths[index]]
        return torch.from_numpy(np.concatenate([self.cls, tokens, self.sep]))
