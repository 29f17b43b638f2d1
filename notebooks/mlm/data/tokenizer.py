"""The tokenizer of a model, or a WordPiece vocabulary learned from a text. Taught in 03."""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from mlm.env.hub import hub_is_unreachable, load_error, model_source
from mlm.env.model_folder import check_vocabulary
from mlm.env.notebook import NotebookError

MODEL_MAX_LENGTH = 512  # tokens: BERT has no more position embeddings
MAX_PIECE_CHARS = (
    2**16
)  # characters; longer lines are cut before they are tokenized, to save memory
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


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


def learn_wordpiece(
    text_file: str | Path, vocab_size: int = 8000, min_frequency: int = 2
) -> BertTokenizer:
    """Learn an uncased WordPiece vocabulary (Devlin et al. 2018, arXiv:1810.04805) from a text.

    The same text always gives the same vocabulary. For that the pieces of one letter ("##a") are
    added first, in sorted order: the trainer would number them in the order of a hash table, and it
    breaks ties by these numbers.
    """
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    letters: set[str] = set()
    for text, _ in split_long_lines(text_file):
        letters.update(learner.normalizer.normalize_str(text))
    letter_pieces = [f"##{letter}" for letter in sorted(letters) if not letter.isspace()]

    trainer = trainers.WordPieceTrainer(
        vocab_size=max(vocab_size, len(SPECIAL_TOKENS) + 2 * len(letter_pieces)),
        min_frequency=min_frequency,
        special_tokens=SPECIAL_TOKENS + letter_pieces,
        show_progress=False,
    )
    learner.train_from_iterator((text for text, _ in split_long_lines(text_file)), trainer)
    return BertTokenizer(vocab=learner.get_vocab(), model_max_length=MODEL_MAX_LENGTH)


def load_tokenizer(model: str, text_file: str | Path | None) -> PreTrainedTokenizerFast:
    """The tokenizer of `model` (a Hub name or a folder); "scratch:..." learns one from the text.

    Raises NotebookError if there is no such model, or if its tokenizer cannot be used for masking.
    """
    if model.startswith("scratch:"):
        assert text_file is not None, "a vocabulary is learned from a text"
        return learn_wordpiece(text_file)
    source = model_source(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, local_files_only=hub_is_unreachable(source), trust_remote_code=False
        )
    except Exception as error:
        raise load_error(model, error, ": no tokenizer found") from None
    check_vocabulary(model, tokenizer, Path(source))
    tokenizer.cls_token = tokenizer.cls_token or tokenizer.bos_token
    tokenizer.sep_token = tokenizer.sep_token or tokenizer.eos_token
    for role in ("mask", "pad", "cls", "sep"):
        if getattr(tokenizer, f"{role}_token_id") is None:
            raise NotebookError(
                f"model={model!r}: its tokenizer has no {role} token, so it is not a masked language "
                "model; pass one, such as bert-base-uncased"
            )
    if not tokenizer.is_fast:
        raise NotebookError(
            f"model={model!r}: its tokenizer, {type(tokenizer).__name__}, has no fast version "
            "(tokenizer.json); pass a model that has one, such as bert-base-multilingual-cased"
        )
    return tokenizer
