"""The tokenizer of a model, or a vocabulary learned from a text. Taught in 03."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertTokenizer, BertweetTokenizer, PreTrainedTokenizerBase

from mlm.data.lengths import num_positions
from mlm.data.vocabulary_choice import VocabularyChoice, choose_vocabulary
from mlm.data.vocabulary_learning import learn_vocabulary
from mlm.data.vocabulary_names import DEFAULT_SIZE
from mlm.data.word_counts import count_text
from mlm.env.hub import load_error, model_source
from mlm.env.model_folder import check_vocabulary, has_tokenizer
from mlm.env.names import public_name
from mlm.env.network import hub_is_unreachable
from mlm.env.notebook import NotebookError
from mlm.env.scratch import PREFIX, scratch_source

USUAL_TOKENS = {  # roles that masking needs: how vocabularies name them
    "mask": ("[MASK]", "<mask>"),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
}
MAX_PIECE_CHARS = 2**16  # longer lines are cut before they are tokenized, to save memory


def split_long_lines(text_file: str | Path) -> Iterator[tuple[str, bool]]:
    """The lines of a file as (text, whether it ends a line); long lines are cut, at spaces if possible."""
    with open(text_file, encoding="utf-8") as lines:
        for line in lines:
            line, start = line.strip(), 0
            while len(line) - start > MAX_PIECE_CHARS:
                space = line.rfind(" ", start + 1, start + MAX_PIECE_CHARS)
                stop = space if space > 0 else start + MAX_PIECE_CHARS
                yield line[start:stop], False
                start = stop
            yield line[start:], True


def read_lines(text_file: str | Path) -> Iterable[str]:
    """The lines of a file, long ones in pieces."""
    return (text for text, _ in split_long_lines(text_file))


def learn_wordpiece(text_file: str | Path, vocab_size: int = DEFAULT_SIZE) -> BertTokenizer:
    """Learn an uncased WordPiece vocabulary without accents from a text, as bert-base-uncased has."""
    lines = partial(read_lines, text_file)
    choice = VocabularyChoice("wordpiece", vocab_size, cased=False, keeps_accents=False)
    return learn_vocabulary(lines, count_text(lines), choice)


def learn_tokenizer(text_file: str | Path, vocabulary: str | None) -> Any:
    """Learn a vocabulary from a text; prints which kind, and why. `vocabulary` None: chosen from the text."""
    lines = partial(read_lines, text_file)
    counts = count_text(lines)
    choice = choose_vocabulary(counts, vocabulary)
    print(f"vocabulary: {choice.reasons}")
    return learn_vocabulary(lines, counts, choice)


def learns_vocabulary(model: str, vocabulary: str | None = None) -> bool:
    """Whether `model` learns its vocabulary from the text.

    A size such as "scratch:tiny" does. A model with the configuration of another does if `vocabulary` is
    given, or if the other's folder contains no tokenizer. Raises NotebookError if there is no such model.
    """
    if scratch_source(model) is None:
        return model.startswith(PREFIX)
    folder = Path(model_source(model))
    return vocabulary is not None or (folder.is_dir() and not has_tokenizer(folder))


def load_tokenizer(
    model: str, text_file: str | Path | None, vocabulary: str | None = None, max_len: int = 0
) -> PreTrainedTokenizerBase:
    """The tokenizer of `model` (a Hub name or a folder), or one that is learned from the text.

    Which models learn one: see `learns_vocabulary`. `vocabulary` says which kind to learn, None: what fits
    the text. `max_len`: the longest example; the `model_max_length` of a learned tokenizer is no smaller.
    Prints what is changed (`use_as_in_training`). Raises NotebookError if there is no such model, if its
    tokenizer cannot be used for masking, or if it has a vocabulary and another is passed.
    """
    if learns_vocabulary(model, vocabulary):
        assert text_file is not None, "a vocabulary is learned from a text"
        if scratch_source(model) and vocabulary is None:
            print(f"{public_name(model)!r} has no tokenizer: a vocabulary is learned from the text")
        learned = learn_tokenizer(text_file, vocabulary)
        learned.model_max_length = num_positions(max_len)
        return learned
    if vocabulary is not None:
        raise NotebookError(
            f"vocabulary must be None with model={model!r}, got {vocabulary!r}: a pretrained model has "
            'its own vocabulary; pass model="scratch:tiny" to learn one, or leave vocabulary out'
        )
    source = model_source(model, needs_weights=False)
    advice = ' (vocabulary="wordpiece" learns one)' if scratch_source(model) else ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, local_files_only=hub_is_unreachable(source), trust_remote_code=False
        )
    except Exception as error:
        raise load_error(model, error, f": no tokenizer found{advice}") from None
    check_vocabulary(model, tokenizer, Path(source))
    tokenizer.cls_token = tokenizer.cls_token or tokenizer.bos_token
    tokenizer.sep_token = tokenizer.sep_token or tokenizer.eos_token
    check_roles(model, tokenizer, advice)
    use_as_in_training(tokenizer)
    return tokenizer


def check_roles(model: str, tokenizer: PreTrainedTokenizerBase, advice: str) -> None:
    """Raise NotebookError if a tokenizer lacks a special token that masking needs."""
    missing = [role for role in USUAL_TOKENS if getattr(tokenizer, f"{role}_token_id") is None]
    if not missing:
        return
    vocabulary = tokenizer.get_vocab()
    found = {
        f"{role}_token": next(token for token in USUAL_TOKENS[role] if token in vocabulary)
        for role in missing
        if any(token in vocabulary for token in USUAL_TOKENS[role])
    }
    reason = f"so it is not a masked language model{advice}; pass one, such as bert-base-uncased"
    if len(found) == len(missing):
        reason = (
            "although its vocabulary contains one that looks so; add "
            f"{json.dumps(found)[1:-1]} to its tokenizer_config.json{advice}"
        )
    raise NotebookError(f"model={model!r}: its tokenizer has no {missing[0]} token, {reason}")


def use_as_in_training(tokenizer: PreTrainedTokenizerBase) -> None:
    """Turn off what would make a tokenizer give other ids, or a model other predictions, than in training.

    A BPE may leave out merges at random. Padding on the left moves the positions of the text in BERT.
    """
    bpe: Any = tokenizer.backend_tokenizer.model if tokenizer.is_fast else None
    if getattr(bpe, "dropout", None):
        print(
            f"dropout is {bpe.dropout:.2g} in tokenizer.json: it is now off, a text always has the same ids"
        )
        bpe.dropout = None
    if tokenizer.padding_side != "right":
        print("padding_side is 'left' in tokenizer_config.json: it is now 'right', as in training")
        tokenizer.padding_side = "right"


def token_names(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> list[str]:
    """The tokens of ids; "id 1234" for one without a token: models may have more embeddings than tokens."""
    return [tokenizer.convert_ids_to_tokens(i) or f"id {i}" for i in ids]


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer so that the loaded one gives the same ids."""
    tokenizer.save_pretrained(folder)
    if isinstance(tokenizer, BertweetTokenizer):
        # transformers 5 writes the merges without the last column, but drops it when it reads them.
        merges = sorted(tokenizer.bpe_ranks, key=lambda merge: tokenizer.bpe_ranks[merge])
        lines = "".join(f"{' '.join(merge)} 0\n" for merge in merges)
        (folder / "bpe.codes").write_text(lines, encoding="utf-8", newline="\n")
