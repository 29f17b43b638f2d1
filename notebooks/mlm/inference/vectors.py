"""Vectors of texts: mean-pooled hidden states, the nearest texts, and files for sentence-transformers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics.pairwise import cosine_similarity
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mlm.data.tokenization import own_special_tokens
from mlm.env.files import write_text
from mlm.env.notebook import NotebookError

READ_TEXTS = 64  # at a time
CHARS_PER_TOKEN = (
    100  # far more than any text has on average: the rest of a long text is not tokenized
)
MANY_LONG = (
    0.2  # from this fraction of longer texts on, a line says that an encoder does not read all
)

# texts -> vectors


def splits_special_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether special tokens in a text are split like its words, so that "[MASK]" is text, as in training.

    Not if there are additional ones, such as [USER]: in training, they are tokens.
    """
    return {*tokenizer.all_special_tokens} <= own_special_tokens(tokenizer).keys()


def to_batch(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_len: int,
    device: torch.device | str = "cpu",
) -> dict[str, torch.Tensor]:
    """Texts as the input of an encoder: padded, cut off after `max_len` tokens; tensors (texts, T)."""
    batch = tokenizer(
        [text[: CHARS_PER_TOKEN * max_len] for text in texts],
        padding=True,
        truncation=True,
        max_length=max_len,
        split_special_tokens=splits_special_tokens(tokenizer),
        return_attention_mask=True,  # also if the tokenizer gives none by itself, as FNet's
        return_tensors="pt",
    )
    return {name: tensor.to(device) for name, tensor in batch.items()}


def warn_about_long_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_len: int
) -> None:
    """Print a line if many texts are longer than the `max_len` tokens that an encoder reads of them."""
    is_long = to_batch(tokenizer, texts, max_len + 1)["attention_mask"].sum(1) > max_len
    number = int(is_long.sum())
    if number >= MANY_LONG * len(texts):
        print(
            f"{number:,} of the {len(texts):,} texts are longer than {max_len} tokens (max_len): the encoder reads "
            "only their beginning, TF-IDF the whole texts; a run with a larger max_len reads more"
        )


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean pooling: hidden states (B, T, H) -> the mean over the tokens of each text, (B, H)."""
    weights = attention_mask[:, :, None].to(hidden.dtype)  # (B, T, 1): 0 for padding
    return (hidden * weights).sum(1) / weights.sum(1)


@torch.no_grad()
def text_vectors(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_len: int
) -> np.ndarray:
    """A vector for each text, (texts, H): the mean of the hidden states of a masked LM's encoder."""
    encoder, vectors = model.base_model.eval(), []
    for start in range(0, len(texts), READ_TEXTS):
        part = texts[start : start + READ_TEXTS]
        batch = to_batch(tokenizer, part, max_len, model.device)
        hidden = encoder(**batch).last_hidden_state  # (B, T, H)
        vectors.append(pool(hidden, batch["attention_mask"]))
    return torch.cat(vectors).cpu().numpy()


def nearest(queries: np.ndarray, keys: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """For each query (Q, H) the `count` rows of `keys` (K, H) with the most similar vectors, best first.

    Returns their numbers and their similarities (Q, count): cosines of the angles, from -1 to 1.
    """
    cosines = cosine_similarity(queries, keys)  # (Q, K)
    rows = (-cosines).argsort(axis=1, kind="stable")[:, :count]
    return rows, np.take_along_axis(cosines, rows, axis=1)


def excerpt(text: str, length: int = 70) -> str:
    """The beginning of a text in one line, cut off after a word; within it, in a script without spaces."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    room = length - len(" …")
    end = line.rfind(" ", room // 2, room + 1)
    return f"{line[: end if end > 0 else room]} …"


def excerpts(texts: pd.DataFrame) -> list[str]:
    """ "(label) the beginning of the text" of each row of a table with the columns label and text."""
    return [f"({label}) {excerpt(text)}" for label, text in zip(texts["label"], texts["text"])]


def nearest_table(
    queries: Sequence[str], texts: Sequence[str], found: dict[str, tuple[np.ndarray, np.ndarray]]
) -> pd.DataFrame:
    """A row for each query and rank, a column for each model: "cosine text".

    found: {model: what `nearest` returns for these queries and texts}.
    """
    columns = {
        name: [f"{cosine:.2f} {texts[row]}" for row, cosine in zip(rows.flat, cosines.flat)]
        for name, (rows, cosines) in found.items()
    }
    ranks = range(1, 1 + next(iter(found.values()))[0].shape[1])
    index = pd.MultiIndex.from_product([queries, ranks], names=["query", "nearest"])
    return pd.DataFrame(columns, index)


# sentence-transformers


def check_sentence_transformers(wanted: bool, trained: bool) -> None:
    """Raises NotebookError if the files for sentence-transformers are requested without a run."""
    if wanted and not trained:
        raise NotebookError(
            "sentence_transformers=True: there is no run whose model/ could get the files; train one "
            "with 04_train.ipynb"
        )


def sentence_transformers_files(
    width: int, max_len: int, split_special_tokens: bool = True
) -> dict[str, Any]:
    """{name: content} of the files that make a model of transformers one of sentence-transformers.

    width: of the hidden states. max_len: longer texts are cut off after this number of tokens.
    split_special_tokens: see `splits_special_tokens`.
    https://sbert.net/docs/package_reference/sentence_transformer/models.html
    """
    transformer = {"path": "", "type": "sentence_transformers.models.Transformer"}
    pooling = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    return {
        "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
        },
        "sentence_bert_config.json": {
            "max_seq_length": max_len,
            "do_lower_case": False,
            "tokenizer_args": {"split_special_tokens": split_special_tokens},
        },
        "modules.json": [  # the last one: without it, the others are not read
            {"idx": number, "name": str(number), **module}
            for number, module in enumerate((transformer, pooling))
        ],
    }


def write_sentence_transformers(folder: Path, max_len: int) -> list[str]:
    """Write these files into the folder of a model; returns their names. transformers ignores them.

    Raises NotebookError if they cannot be written.
    """
    width = AutoConfig.from_pretrained(folder).get_text_config().hidden_size
    splits = splits_special_tokens(AutoTokenizer.from_pretrained(folder))
    files = sentence_transformers_files(width, max_len, splits)
    for name, content in files.items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
    return list(files)
