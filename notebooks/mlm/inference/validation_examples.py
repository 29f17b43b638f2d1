"""Examples of predictions on the validation set of a run, chosen by a rule."""

import re
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.formats import text_lines
from mlm.data.normalization import is_word
from mlm.data.packing import VALIDATION_EPOCH
from mlm.data.token_ids import encode_lines
from mlm.data.tokenizer import token_names
from mlm.inference.validation_set import find_corpus, load_split
from mlm.training.evaluation import VALIDATION_MLM_PROBABILITY

# the rule for `validation_examples`
MIN_LINE_TOKENS, MAX_LINE_TOKENS = 8, 24
NO_LINE = (
    "there is no validation set here, or none of its lines of "
    f"{MIN_LINE_TOKENS} to {MAX_LINE_TOKENS} tokens can be used"
)
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
    occurs = np.zeros(len(codes), bool)
    for start in range(0, len(data.ids), CHUNK_TOKENS):  # the ids are on disk
        ids = data.ids[start : start + CHUNK_TOKENS + 1].astype(np.int64)
        occurs |= np.isin(codes, ids[:-1] * data.vocab_size + ids[1:])
    return occurs


def masked_sentence(
    line: str, ids: list[int], position: int, tokenizer: PreTrainedTokenizerBase
) -> str:
    """A line with [MASK] in place of the token at `position` of its `ids`."""
    encoded = tokenizer(
        line,
        add_special_tokens=False,
        split_special_tokens=True,
        verbose=False,
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
    options = dict(add_special_tokens=False, split_special_tokens=True, verbose=False)
    encoded = tokenizer(line, **options)
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
@torch.compiler.set_stance("force_eager")  # compiled layers would be compiled for each length
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
    num_tokens = np.diff(encode_lines(folder / "valid.txt", tokenizer)[1], prepend=0)
    with_tokens = compress(text_lines(folder / "valid.txt"), num_tokens)  # others are no examples
    numbered = enumerate(with_tokens)
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
            best = model(ids).logits[0, position + 1].topk(top_k).indices.tolist()
            predictions[name] = token_names(tokenizer, best)
        (answer,) = tokenizer.convert_ids_to_tokens(data[number][[position + 1]].tolist())
        line = line_as_read(lines[number], line_ids, tokenizer)
        examples.append(ValidationExample(sentence, answer, predictions, line))
    return examples


def format_examples(examples: list[ValidationExample]) -> str:
    """The examples as text: each sentence, then the answer and the predictions, one per line."""
    if not examples:
        return f"No examples: {NO_LINE}."
    blocks = []
    for example in examples:
        rows = {"answer": [example.answer], **example.predictions}
        width = max(map(len, rows))
        lines = [f"    {name:<{width}}  {', '.join(tokens)}" for name, tokens in rows.items()]
        blocks.append("\n".join([example.sentence, *lines]))
    return "\n\n".join(blocks)
