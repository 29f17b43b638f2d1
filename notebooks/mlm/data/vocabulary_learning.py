"""A vocabulary learned from a text: WordPiece, BPE or Unigram. The same text always gives the same one.

Learning takes time and memory for each distinct word. A text with more than MAX_WORD_LETTERS letters in
distinct words is learned from lines that are spread evenly over it; its letters are always all included.
"""

import json
import math
from collections import Counter
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import BertTokenizer, PreTrainedTokenizerFast

from mlm.data.lengths import BERT_POSITIONS
from mlm.data.normalization import (
    SPACE,
    bert_normalizer,
    make_normalizer,
    space_marker,
    word_splitter,
)
from mlm.data.vocabulary_choice import VocabularyChoice
from mlm.data.word_counts import Lines, TextCounts, count_words, take_evenly

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNK = "[UNK]"
MAX_WORD_LETTERS = 10**6  # letters in distinct words that a vocabulary is learned from
MAX_TOKEN_CHARS = 16  # the longest token of BPE and Unigram
MIN_FREQUENCY = 2
UNIGRAM_ROUNDS = 4  # of counting and dropping tokens


def learning_lines(lines: Lines, counts: TextCounts) -> Any:
    """The lines to learn from: all, or about as many as have MAX_WORD_LETTERS letters in distinct words."""
    distinct = sum(map(len, counts.words))
    sampled = sum(count * len(word) for word, count in counts.words.items())
    max_chars = int(MAX_WORD_LETTERS * sampled / max(1, distinct))
    return take_evenly(lines(), counts.num_chars, max_chars)


def normalized_letters(letters: set[str], normalizer: Any) -> list[str]:
    """All letters that a text with these letters can have after normalization, sorted."""
    found = {new for letter in letters for new in normalizer.normalize_str(letter)}
    if "σ" in found:
        found.add("ς")  # depends on the letters around it
    return sorted(letter for letter in found if not letter.isspace())


def train(model: Any, trainer: Any, texts: Any, normalizer: Any, splitter: Any) -> dict[str, Any]:
    """The "model" part of a tokenizer that is trained on texts."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"]


def wordpiece_vocabulary(
    texts: Any, normalizer: Any, splitter: Any, letters: list[str], size: int
) -> dict[str, int]:
    """{token: id} of a WordPiece vocabulary (Devlin et al. 2018, arXiv:1810.04805).

    The pieces of one letter ("##a") are added first, in sorted order: the trainer would number them in
    the order of a hash table, and it breaks ties by these numbers.
    """
    pieces = [f"##{letter}" for letter in letters]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(size, len(SPECIAL_TOKENS) + 2 * len(pieces)),
        min_frequency=MIN_FREQUENCY,
        special_tokens=SPECIAL_TOKENS + pieces,
        show_progress=False,
    )
    return train(models.WordPiece(unk_token=UNK), trainer, texts, normalizer, splitter)["vocab"]


def bpe_model(
    texts: Any, normalizer: Any, splitter: Any, letters: list[str], size: int
) -> dict[str, Any]:
    """The vocabulary and merges of a byte pair encoding of characters (Sennrich et al. 2016)."""
    alphabet = [SPACE, *letters]
    trainer = trainers.BpeTrainer(
        vocab_size=max(size, len(SPECIAL_TOKENS) + len(alphabet)),
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=alphabet,
        special_tokens=SPECIAL_TOKENS,
        max_token_length=MAX_TOKEN_CHARS,
        show_progress=False,
    )
    return train(models.BPE(unk_token=UNK), trainer, texts, normalizer, splitter)


def unigram_scores(
    words: Counter[str], pieces: list[str], letters: list[str], size: int
) -> list[tuple[str, float]]:
    """[(token, log probability)] of a unigram model (Kudo 2018, arXiv:1804.10959), most likely first.

    It starts with `pieces` and single letters. Each round splits the words in the most likely way and
    drops the least frequent of the tokens that are too many. The trainer of the package tokenizers
    would need minutes for a text without spaces, and give other scores each time.
    """
    single = [SPACE, *letters]
    multiple = sorted(set(pieces) - set(single) - set(SPECIAL_TOKENS))
    texts = sorted(words)
    wanted = max(0, size - len(SPECIAL_TOKENS) - len(single))
    scores = dict.fromkeys(single + multiple, -1.0)  # at first, the fewest tokens
    for remaining in range(UNIGRAM_ROUNDS, -1, -1):
        tokens = [(UNK, 0.0), *scores.items()]
        model = Tokenizer(models.Unigram(tokens, unk_id=0))
        counts = Counter(dict.fromkeys(scores, 0))
        for text, encoding in zip(texts, model.encode_batch(texts, add_special_tokens=False)):
            for token in encoding.tokens:
                counts[token] += words[text]
        ranked = sorted((p for p in multiple if counts[p]), key=lambda p: (-counts[p], p))
        extra = max(0, len(ranked) - wanted)
        multiple = ranked[: wanted + extra * remaining // (remaining + 1)]
        kept = single + multiple
        total = math.log(sum(counts[piece] + 1 for piece in kept))
        scores = {piece: math.log(counts[piece] + 1) - total for piece in kept}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def make_fast_tokenizer(model: Any, normalizer: Any, splitter: Any, decoder: Any) -> Any:
    """A tokenizer with BERT's special tokens. All of it is in tokenizer.json, so it loads as it is."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoder
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIAL_TOKENS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    takes_space = isinstance(decoder, decoders.Metaspace)  # [MASK] replaces a word with its space
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token=UNK,
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token=AddedToken("[MASK]", lstrip=takes_space, special=True),
        model_max_length=BERT_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def learn_vocabulary(lines: Lines, counts: TextCounts, choice: VocabularyChoice) -> Any:
    """A fast tokenizer with a vocabulary learned from a text, as chosen for it.

    Without accents it is BERT's own: WordPiece without case.
    """
    normalizer: Any = bert_normalizer
    splitter: Any = pre_tokenizers.BertPreTokenizer()
    if choice.keeps_accents:
        normalizer, splitter = make_normalizer(choice.cased, choice.dotless_i), word_splitter()
    letters = normalized_letters(counts.letters, normalizer)
    texts = learning_lines(lines, counts)
    model: Any
    if choice.kind == "wordpiece":
        vocab = wordpiece_vocabulary(texts, normalizer, splitter, letters, choice.size)
        if not choice.keeps_accents:
            return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=BERT_POSITIONS)
        model = models.WordPiece(vocab, unk_token=UNK)
        return make_fast_tokenizer(model, normalizer, splitter, decoders.WordPiece())

    one_space = normalizers.Replace(Regex(r"\s+"), " ")  # every other kind of space as well
    normalizer, splitter = normalizers.Sequence([normalizer, one_space]), space_marker()
    decoder = decoders.Metaspace(SPACE, prepend_scheme="first")
    if choice.kind == "bpe":
        learned = bpe_model(texts, normalizer, splitter, letters, choice.size)
        merges = [*map(tuple, learned["merges"])]
        model = models.BPE(learned["vocab"], merges, unk_token=UNK)
    else:
        seeds = bpe_model(texts, normalizer, splitter, letters, 2 * choice.size)["vocab"]
        words = count_words(learning_lines(lines, counts), normalizer, splitter)
        scores = unigram_scores(words, list(seeds), letters, choice.size)
        special = [(token, 0.0) for token in SPECIAL_TOKENS]
        model = models.Unigram([*special, *scores], unk_id=SPECIAL_TOKENS.index(UNK))
    return make_fast_tokenizer(model, normalizer, splitter, decoder)
