"""Predictions on the validation set: chosen examples, and accuracy by how frequent a token is.

The masked tokens are those that the evaluation of a run masks, so they depend on the text, the tokenizer
and the seed alone.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.data.batches import MaskedBatches
from mlm.data.corpus import is_intact
from mlm.data.dataset import MaskedLMDataset
from mlm.data.formats import text_lines
from mlm.data.normalization import is_word
from mlm.data.packing import VALIDATION_EPOCH
from mlm.env.files import absolute_path
from mlm.models.encoders import supports_packing
from mlm.models.preparation import init_head_bias
from mlm.training.datamodule import VALIDATION_MLM_PROBABILITY, MaskedLMData
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM, masked_labels

FREQUENCY_BANDS = 10, 100, 1000  # upper limits of the rows of `accuracy_by_frequency`

# the rule for `validation_examples`
MIN_LINE_TOKENS, MAX_LINE_TOKENS = 8, 24
MIN_CONTEXT_TOKENS = 2  # on each side of the masked word
MIN_WORD_LETTERS = 4
CHUNK_TOKENS = 10**7  # that are read at a time
MAX_LINES = 2000  # that are considered, evenly spread over a larger validation set
PROSE_PUNCTUATION = " ,.;:'’-–—!?¿¡।॥،؛؟۔။၊។៖、。，？！։՞׃።፣"
BETWEEN_WORDS = re.compile(f"[{re.escape(PROSE_PUNCTUATION)}]+")
ENGLISH_STOP_WORDS = """
about above after again against also although always among another because been before being below
between both cannot could does doing done down during each either else even ever every from further
have having hence here however instead into itself just less like made make many more most much must
neither never none often once only other others otherwise over rather same several shall should since
some still such than that their them themselves then there therefore these they this those though
through thus together under unless until upon very well were what whatever when where whether which
while whom whose will with within without would your
"""
STOP_WORDS = frozenset(ENGLISH_STOP_WORDS.split())


@dataclass(frozen=True)
class ValidationExample:
    """A line of the validation set with one masked word, the answer, and each model's prediction."""

    sentence: str  # with [MASK]
    answer: str
    predictions: dict[str, list[str]]  # {model: its most likely tokens, best first}
    line: str  # without [MASK], as far as the model reads it


def find_corpus(results: dict[str, Any], workdir: str | Path) -> Path | None:
    """The folder with the corpus of a run. Returns None and prints why if it is not in `workdir`."""
    for folder in absolute_path("workdir", workdir).glob("corpus/*"):
        if is_intact(folder, results["data"]["sha256"]):
            return folder
    print("The corpus of this run is not in workdir, so there are no predictions on its lines.")
    return None


def load_split(
    folder: Path, split: str, tokenizer: PreTrainedTokenizerBase, results: dict[str, Any]
) -> MaskedLMDataset:
    """The lines of "train" or "valid" of a run's corpus."""
    return MaskedLMDataset(folder / f"{split}.txt", tokenizer, results["parameters"]["max_len"])


def validation_batches(
    valid: MaskedLMDataset, results: dict[str, Any], pack: bool
) -> MaskedBatches:
    """The validation batches of a run: with the masks of its evaluation."""
    data = MaskedLMData(
        train=valid,  # not used
        valid=valid,
        batch_size=32,
        mlm_probability=VALIDATION_MLM_PROBABILITY,
        seed=results["parameters"]["seed"],
        total_steps=0,
        pack=pack,
    )
    return data.validation_batches()


def validation_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    folder: Path,
) -> float:
    """The loss of a model on the validation set of a run, with the run's masks, in nats per masked token.

    folder: of the run's corpus.
    """
    valid = load_split(folder, "valid", tokenizer, results)
    batches = validation_batches(valid, results, supports_packing(model.config))
    module = MaskedLM(model, {}).train(model.training)  # the mode that evaluate restores
    return evaluate(module, batches)["loss"]


def is_initial_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    workdir: str | Path,
) -> bool:
    """Whether a rebuilt model is the one that training started from; prints the reason.

    It must have the validation loss that 04 stored, up to rounding. An MLM head that the model's files
    lack first gets the bias that 04 gave it. If the run's corpus is not in `workdir`, the model counts
    as the right one.
    """
    folder = find_corpus(results, workdir)
    if folder is None:
        print("model before training: not verified, because the run's corpus is not in workdir")
        return True
    if getattr(model, "head_was_missing", False):
        init_head_bias(model, load_split(folder, "train", tokenizer, results))
    rebuilt, stored = validation_loss(model, tokenizer, results, folder), results["before"]["loss"]
    hardware = results.get("hardware", {})
    is_exact = (hardware.get("device"), hardware.get("precision")) == ("cpu", "torch.float32")
    if math.isclose(rebuilt, stored, rel_tol=1e-4 if is_exact else 0.01):
        print(f"model before training: validation loss {rebuilt:.3f}, the same as 04 stored")
        return True
    print(
        f"no comparison with the model before training: its validation loss is {rebuilt:.3f}, but 04 stored "
        f"{stored:.3f}; the files that it is loaded from changed after the run"
    )
    return False


# examples


def reads_as_prose(line: str) -> bool:
    """Whether a line has only words and common punctuation, and does not begin with a small letter."""
    words = BETWEEN_WORDS.split(line)
    return is_word(words[0]) and not line[0].islower() and all(map(is_word, filter(None, words)))


def is_content_word(word: str) -> bool:
    """Whether a token is a word that carries meaning: letters only, not short, not a stop word."""
    return is_word(word) and len(word) >= MIN_WORD_LETTERS and word.lower() not in STOP_WORDS


def find_pairs(data: MaskedLMDataset, pairs: np.ndarray) -> np.ndarray:
    """Which of these pairs of token ids (n, 2) occur in a text as neighbours, (n,) bool."""
    codes = pairs[:, 0].astype(np.int64) * data.vocab_size + pairs[:, 1]
    wanted, index = np.unique(codes, return_inverse=True)
    occurs = np.zeros(len(wanted), bool)
    for start in range(0, len(data.ids), CHUNK_TOKENS):  # the ids are on disk
        ids = data.ids[start : start + CHUNK_TOKENS + 1].astype(np.int64)
        text_codes = ids[:-1] * data.vocab_size + ids[1:]
        nearest = np.searchsorted(wanted, text_codes).clip(max=len(wanted) - 1)
        occurs[nearest[wanted[nearest] == text_codes]] = True
    return occurs[index]


def masked_sentence(
    line: str, ids: list[int], position: int, tokenizer: PreTrainedTokenizerBase
) -> str:
    """A line with [MASK] in place of the token at `position` of its `ids`."""
    encoded = tokenizer(
        line,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=tokenizer.is_fast,  # one in Python has none
    )
    offsets = encoded.get("offset_mapping")
    if encoded["input_ids"] != ids or offsets is None:  # show what the model reads
        masked = [*ids[:position], tokenizer.mask_token_id, *ids[position + 1 :]]
        return tokenizer.decode(masked).replace(tokenizer.mask_token, "[MASK]")
    start, end = offsets[position]
    start += len(line[start:end]) - len(line[start:end].lstrip())  # tokens may begin with a space
    return f"{line[:start]}[MASK]{line[end:]}"


def line_as_read(line: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The line, or the text of its `ids` if the tokenizer gives others, because the line is cut off."""
    encoded = tokenizer(line, add_special_tokens=False, split_special_tokens=True)
    return line if encoded["input_ids"] == ids else tokenizer.decode(ids)


def masked_words(data: MaskedLMDataset, seed: int) -> list[tuple[int, int]]:
    """(line, position) of masked tokens that are whole words within lines of suitable length.

    Positions count the tokens of a line from 0, without [CLS]. The masks are the evaluation's.
    """
    suitable = (data.lengths >= MIN_LINE_TOKENS) & (data.lengths <= MAX_LINE_TOKENS)
    numbers = np.flatnonzero(suitable)
    if len(numbers) > MAX_LINES:
        numbers = numbers[np.linspace(0, len(numbers) - 1, MAX_LINES).astype(int)]
    if not len(numbers):
        return []
    keys = [(VALIDATION_EPOCH, numbers)]
    (batch,) = MaskedBatches(data, keys, VALIDATION_MLM_PROBABILITY, seed)
    rows, columns = np.nonzero(batch["labels"].numpy() != -100)
    words = []
    for number, position in zip(numbers[rows], columns - 1):
        tokens_after = data.lengths[number] - 1 - position
        token = data.starts[number] + position
        has_context = min(position, tokens_after) >= MIN_CONTEXT_TOKENS
        if has_context and data.word_starts[token] and data.word_starts[token + 1]:
            words.append((int(number), int(position)))
    return words


def choose_words(
    train: MaskedLMDataset,
    valid: MaskedLMDataset,
    lines: dict[int, str],
    words: list[tuple[int, int]],
) -> list[tuple[int, int]]:
    """One word of each line, by the rule of `validation_examples`; if there are none, all `words`."""
    candidates, triples = [], []  # triples: a word between its neighbours
    for number, position in words:
        token = valid.starts[number] + position
        word = valid.tokenizer.decode([int(valid.ids[token])]).strip()
        if reads_as_prose(lines[number]) and is_content_word(word):
            candidates.append((number, position))
            triples.append(valid.ids[token - 1 : token + 2])
    if not candidates:
        return words
    before, after = (find_pairs(train, np.array(triples)[:, i : i + 2]) for i in (0, 1))
    chosen: dict[int, int] = {}  # {line: position}
    for index in np.flatnonzero(before & after):
        number, position = candidates[index]
        chosen.setdefault(number, position)
    return list(chosen.items()) or words


@torch.no_grad()
def validation_examples(
    models: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    workdir: str | Path,
    num_examples: int = 8,
    top_k: int = 3,
) -> list[ValidationExample]:
    """The `top_k` predictions of each model for one masked word in lines of the validation set.

    The examples are chosen by a rule that does not look at predictions: lines of 8 to 24 tokens that
    begin with a capital letter (in scripts that have any) and consist of words and punctuation; in each line the first content
    word that the evaluation masks. A content word is a whole word of at least 4 letters, no stop word,
    and at least 2 tokens away from both ends of the line. The training text must contain it, too: after
    the same left neighbour, and before the same right neighbour (not necessarily both at once).
    From these lines, `num_examples` are taken at regular distances. If no line qualifies, any masked
    word will do. The other words of a line are not masked. Returns an empty list if the corpus is not in
    `workdir`.
    """
    folder = find_corpus(results, workdir)
    if folder is None:
        return []
    train, data = (load_split(folder, split, tokenizer, results) for split in ("train", "valid"))
    words = masked_words(data, results["parameters"]["seed"])
    wanted = {number for number, _ in words}
    numbered = enumerate(text_lines(folder / "valid.txt"))
    lines = {number: line.strip() for number, line in numbered if number in wanted}
    chosen = choose_words(train, data, lines, words)
    if not chosen:
        return []
    spread = np.unique(np.linspace(0, len(chosen) - 1, num_examples).astype(int))
    examples = []
    for number, position in (chosen[index] for index in spread):
        ids = data[number][None].clone()  # (1, T)
        line_ids = ids[0, 1:-1].tolist()
        sentence = masked_sentence(lines[number], line_ids, position, tokenizer)
        ids[0, position + 1] = tokenizer.mask_token_id
        predictions = {}
        for name, model in models.items():
            best = model(ids).logits[0, position + 1].topk(top_k).indices
            predictions[name] = tokenizer.convert_ids_to_tokens(best.tolist())
        (answer,) = tokenizer.convert_ids_to_tokens(data[number][[position + 1]].tolist())
        line = line_as_read(lines[number], line_ids, tokenizer)
        examples.append(ValidationExample(sentence, answer, predictions, line))
    return examples


def format_examples(examples: list[ValidationExample]) -> str:
    """The examples as text: each sentence, then the answer and the predictions, one per line."""
    blocks = []
    for example in examples:
        rows = {"answer": [example.answer], **example.predictions}
        width = max(map(len, rows))
        lines = [f"    {name:<{width}}  {', '.join(tokens)}" for name, tokens in rows.items()]
        blocks.append("\n".join([example.sentence, *lines]))
    return "\n\n".join(blocks)


# accuracy by frequency


@torch.no_grad()
def accuracy_by_frequency(
    models: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Any],
    workdir: str | Path,
) -> pd.DataFrame | None:
    """Accuracy on all masked validation tokens, by how often the token occurs in the training text.

    A row for each range of counts and one for all tokens, with the number of masked tokens, the accuracy
    of always predicting the most frequent token, and the accuracy of each model. Returns None if the
    run's corpus is not in `workdir`.
    """
    folder = find_corpus(results, workdir)
    if folder is None:
        return None
    train, valid = (load_split(folder, split, tokenizer, results) for split in ("train", "valid"))
    counts = np.bincount(train.ids, minlength=train.vocab_size)
    pack = all(supports_packing(model.config) for model in models.values())
    batches = validation_batches(valid, results, pack)
    labels = torch.cat([masked_labels(batch) for batch in batches]).numpy()
    correct = {"most frequent token": np.full(len(labels), counts.argmax()) == labels}
    for name, model in models.items():
        module = MaskedLM(model, {}).eval()
        predictions = [module.masked_logits(b).argmax(-1) for b in batches]
        correct[name] = torch.cat(predictions).numpy() == labels
    limits = (0, *FREQUENCY_BANDS)
    names = ["never", *(f"{low + 1:,} to {high:,}" for low, high in zip(limits, FREQUENCY_BANDS))]
    names.append(f"more than {FREQUENCY_BANDS[-1]:,}")
    table = pd.DataFrame({"masked tokens": 1, **correct})
    table = table[labels != -100]  # -100 fills up the positions of a batch
    table["band"] = np.searchsorted(limits, counts[labels[labels != -100]])
    aggregates = {"masked tokens": "sum", **dict.fromkeys(correct, "mean")}
    bands = table.groupby("band").agg(aggregates).rename(index=dict(enumerate(names)))
    total = table.agg(aggregates).to_frame("all").T.astype(bands.dtypes)
    return pd.concat([bands, total]).rename_axis("times in the training text")
