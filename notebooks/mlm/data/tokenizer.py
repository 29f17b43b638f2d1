"""The tokenizer of a model, or a WordPiece vocabulary learned from a text. Taught in 03."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer

from mlm.env.hub import hub_is_away, load_error, model_source
from mlm.env.notebook import NotebookError

MAX_PIECE_CHARS = 2**16  # characters: only longer lines are cut before they are tokenized


MODEL_MAX_LENGTH = 512  # the longest text that BERT has positions for


def split_long_lines(text_file):
    """(text, whether a line ends there) of a file: its lines, long ones cut at spaces where they have any."""
    with open(text_file, encoding="utf-8") as lines:
        for line in lines:
            line, start = line.strip(), 0
            while len(line) - start > MAX_PIECE_CHARS:
                space = line.rfind(" ", start + 1, start + MAX_PIECE_CHARS)
                stop = space if space > 0 else start + MAX_PIECE_CHARS
                yield line[start:stop], False
                start = stop
            yield line[start:], True


def learn_wordpiece(text_file, vocab_size=8000, min_frequency=2):
    """Learn an uncased WordPiece vocabulary (Devlin et al. 2018, arXiv:1810.04805) from a text.

    Returns a BertTokenizer. The same text gives the same vocabulary: the trainer would number the
    inner letters ("##a") as a hash table yields them and break ties by number, so they come first.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    normalized = map(
        learner.normalizer.normalize_str, (text for text, _ in split_long_lines(text_file))
    )
    letters = {letter for text in normalized for letter in text if not letter.isspace()}
    inner = [f"##{letter}" for letter in sorted(letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(vocab_size, len(special) + 2 * len(inner)),
        min_frequency=min_frequency,
        special_tokens=special + inner,
        show_progress=False,
    )
    learner.train_from_iterator((text for text, _ in split_long_lines(text_file)), trainer)
    return BertTokenizer(vocab=learner.get_vocab(), model_max_length=MODEL_MAX_LENGTH)


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
        raise load_error(model, error, ": no tokenizer found") from None
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
