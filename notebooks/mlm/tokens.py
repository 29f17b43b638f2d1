"""Lines become token ids: the tokenizer, the ids on disk, the examples of the dataset."""

import functools
import hashlib
import os
from itertools import islice
from pathlib import Path

import huggingface_hub
import numpy as np
import requests
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import AutoTokenizer, BertTokenizer

from .notebook import NotebookError


def learn_wordpiece(text_file, vocab_size=8000, min_frequency=2):
    """Learn an uncased WordPiece vocabulary (Devlin et al. 2018, arXiv:1810.04805) from a text.

    Returns a BertTokenizer. The same text gives the same vocabulary: the trainer would number the
    inner letters ("##a") as a hash table yields them and break ties by number, so they come first.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with open(text_file, encoding="utf-8") as lines:
        letters = {
            c for line in lines for c in learner.normalizer.normalize_str(line).split() for c in c
        }
    inner = [f"##{letter}" for letter in sorted(letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(vocab_size, len(special) + 2 * len(inner)),
        min_frequency=min_frequency,
        special_tokens=special + inner,
        show_progress=False,
    )
    learner.train([str(text_file)], trainer)
    return BertTokenizer(vocab=learner.get_vocab())


@functools.cache
def hub_is_away(model):
    """Whether `model` is on a Hub that does not answer: then only what was downloaded before is there.

    Asked once, with patience for 10 seconds: the Hub's own client would try for minutes.
    """
    if Path(model).is_dir() or huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except requests.RequestException:
        return True
    return False


def load_tokenizer(model, text_file):
    """The tokenizer of `model` (a Hub name or a folder), or one learned from text for "scratch:".

    Raises NotebookError where there is no such model or its tokenizer cannot mask words.
    """
    if model.startswith("scratch:"):
        return learn_wordpiece(text_file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=hub_is_away(model))
    except Exception as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise NotebookError(
            f"model={model!r}: no tokenizer found ({reason}); pass the name of a "
            'BERT on the Hub, a folder that save_pretrained wrote, or (no network) "scratch:tiny"'
        ) from None
    lacks = [
        n for n in ("mask", "pad", "cls", "sep") if getattr(tokenizer, f"{n}_token_id") is None
    ]
    if lacks:
        raise NotebookError(
            f"model={model!r}: its tokenizer has no {lacks[0]} token, so it is no masked language "
            "model; pass a BERT, such as bert-base-uncased"
        )
    return tokenizer


def encode_lines(text_file, tokenizer):
    """Token ids of every line, without special tokens, in files beside the text; made only once.

    Returns memory-mapped arrays: ids (tokens,) int32 and ends (lines,) int64, where line i is
    ids[ends[i-1]:ends[i]]. Lines are tokenized in batches by the Rust tokenizer (all cores) and
    written as they come, so that memory does not grow with the text.
    """
    text_file = Path(text_file)
    key = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    key.update(f"{text_file.stat().st_size} {text_file.stat().st_mtime_ns}".encode())
    stem = text_file.with_name(f"{text_file.stem}-{key.hexdigest()[:12]}")
    paths = [stem.with_suffix(".ids"), stem.with_suffix(".ends")]
    if not all(path.is_file() for path in paths):
        parts = [path.with_name(f"{path.name}.{os.getpid()}.part") for path in paths]
        end = 0
        with (
            open(text_file, encoding="utf-8") as lines,
            open(parts[0], "wb") as ids,
            open(parts[1], "wb") as ends,
        ):
            while batch := [line.strip() for line in islice(lines, 10_000)]:
                encoded = tokenizer(
                    batch,
                    add_special_tokens=False,
                    truncation=False,
                    padding=False,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                    verbose=False,
                )["input_ids"]
                sizes = np.array([len(line) for line in encoded], dtype=np.int64)
                np.concatenate([np.asarray(line, dtype=np.int32) for line in encoded]).tofile(ids)
                (end + np.cumsum(sizes[sizes > 0])).tofile(ends)
                end += int(sizes.sum())
        for part, path in zip(parts, paths):
            part.replace(path)
    if not paths[0].stat().st_size:
        raise NotebookError(f"{text_file}: the tokenizer finds no token in it; is it really text?")
    return np.memmap(paths[0], np.int32, "r"), np.memmap(paths[1], np.int64, "r")


class MaskedLMDataset(Dataset):
    """The examples of a text file: `dataset[i]` is a 1-D int64 tensor, [CLS] tokens [SEP].

    examples="line": each non-blank line, truncated to `max_len` tokens, as in the 2020 tutorial.
    examples="block": all lines in a row, cut into blocks of `max_len` tokens (the last is shorter).
    `lengths` (examples,) counts the tokens of each without the two special ones.
    """

    def __init__(self, text_file, tokenizer, max_len=128, examples="line"):
        self.ids, ends = encode_lines(text_file, tokenizer)
        room = max_len - 2
        if examples == "line":
            self.starts = np.concatenate([[0], ends[:-1]])
            self.lengths = np.minimum(ends - self.starts, room)
        else:
            self.starts = np.arange(0, len(self.ids), room)
            self.lengths = np.minimum(len(self.ids) - self.starts, room)
        self.tokenizer, self.vocab_size = tokenizer, len(tokenizer)
        self.cls, self.sep = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
        self.truncated = len(self.ids) - int(self.lengths.sum())  # tokens beyond max_len

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        tokens = self.ids[self.starts[index] : self.starts[index] + self.lengths[index]]
        return torch.from_numpy(np.concatenate([self.cls, tokens, self.sep]))
