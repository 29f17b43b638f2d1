"""Frequent words added as tokens: which words, what changes and what does not."""

import copy
import re
from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertTokenizer

from encoders import make_model, make_tokenizer
from helpers import refused
from languages import sentences_in
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import learn_tokenizer
from mlm.data.vocabulary import add_frequent_words, find_split_words, init_added_embeddings

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = [*SPECIAL, "a", ",", "_", "zara", "##thus", "##tra", "##s"]
TEXT = """Zarathustra, a ZARATHUSTRA a
a zarathustras a, zarathustras 本 本a
zaras zaras zaras zaras azara a a zarathus"""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, "utf-8")
    return path


@pytest.fixture
def tokenizer():
    return BertTokenizer(
        vocab={token: number for number, token in enumerate(TOKENS)}, do_lower_case=True
    )


# words


def test_split_words_are_counted_and_those_that_save_most_tokens_come_first(text, tokenizer):
    expected = [
        ("zarathustras", 2, "zara ##thus ##tra ##s", 6),
        ("zaras", 4, "zara ##s", 4),  # of equals, the first in the alphabet
        ("zarathustra", 2, "zara ##thus ##tra", 4),
        ("zarathus", 1, "zara ##thus", 1),
    ]
    found = find_split_words(text, tokenizer)
    assert list(found.columns) == ["count", "tokens", "saved"]
    assert list(found.itertuples(name=None)) == expected


@pytest.mark.parametrize("number", [1, 2, 3])
def test_added_words_save_the_stated_tokens_and_change_no_other_word(text, tokenizer, number):
    words = find_split_words(text, tokenizer)
    extended = add_frequent_words(tokenizer, text, number, "a model")
    assert extended.convert_ids_to_tokens(range(12, 12 + number)) == list(words.index[:number])
    assert len(tokenizer) == 12  # unchanged
    before, after = (MaskedLMDataset(text, each, 64) for each in (tokenizer, extended))
    assert len(before.ids) - len(after.ids) == words["saved"][:number].sum()
    assert (before.word_counts == after.word_counts).all()
    kept = after.ids[after.ids < 12]
    assert (np.isin(before.ids, kept) | (before.ids >= 8)).all()
    assert (after.ids >= 12).sum() == words["count"][:number].sum()


def test_an_added_word_is_found_in_any_case_and_never_inside_another_word(text, tokenizer):
    extended = add_frequent_words(tokenizer, text, 3, "a model")
    found = extended.tokenize("ZARATHUSTRA, azaras zarathus")
    assert found == ["zarathustra", ",", "[UNK]", "zara", "##thus"]


def test_an_extended_tokenizer_is_the_same_after_saving_and_loading(text, tokenizer, tmp_path):
    extended = add_frequent_words(tokenizer, text, 3, "a model")
    extended.save_pretrained(tmp_path / "model")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (len(loaded), loaded(TEXT)["input_ids"]) == (15, extended(TEXT)["input_ids"])


def test_whole_word_masking_chooses_the_same_words_with_any_vocabulary(text, tokenizer):
    """So losses per word can be compared."""
    masked = []
    for number in (0, 3):
        data = MaskedLMDataset(text, add_frequent_words(tokenizer, text, number, "a model"), 64)
        examples, words = np.arange(3), []
        keys = [(epoch, examples) for epoch in range(20)]
        for batch in MaskedBatches(data, keys, 0.5, 0, masking="word"):
            labels = batch["labels"].numpy()
            for i in examples:
                tokens = slice(data.starts[i], data.starts[i] + data.lengths[i])
                word = data.word_starts[tokens].cumsum()
                words.append({*word[labels[i, 1 : 1 + data.lengths[i]] != -100]})
        masked.append(words)
    assert masked[0] == masked[1] and any(masked[0])


# embeddings


@pytest.mark.parametrize("spare", [0, 2, 8])
def test_a_new_row_is_the_mean_of_the_words_tokens_and_the_rest_is_unchanged(
    text, tokenizer, spare
):
    """Even if the model has `spare` rows; embedding and decoder stay tied, and the config fits."""
    size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = BertForMaskedLM(BertConfig(vocab_size=12 + spare, **size)).eval()
    torch.nn.init.normal_(model.cls.predictions.bias)
    extended = add_frequent_words(tokenizer, text, 3, "a model")
    ids = torch.tensor([[2, 8, 9, 3]])
    before = model(ids).logits[..., :12]
    init_added_embeddings(model, tokenizer, extended)
    weight, bias = model.bert.embeddings.word_embeddings.weight, model.cls.predictions.bias
    rows = max(15, 12 + spare)
    assert weight.shape == (rows, 8) and bias.shape == (rows,) and model.config.vocab_size == rows
    assert model.get_output_embeddings().weight is weight
    for new, tokens in zip(range(12, 15), ([8, 9, 10, 11], [8, 11], [8, 9, 10])):
        assert torch.equal(weight[new], weight[tokens].mean(0))
        assert torch.equal(bias[new], bias[tokens].mean())
    after = model(ids).logits
    assert torch.equal(after[..., :12], before)
    torch.testing.assert_close(after[..., 13], after[..., [8, 11]].mean(-1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_of_embedding_decoder_and_bias_are_means(text, tokenizer, tied, bias):
    extended = add_frequent_words(tokenizer, text, 2, "a model")
    model = make_model("modernbert", tokenizer, tie_word_embeddings=tied, decoder_bias=bias)
    parts = {
        name: part
        for name, part in copy.deepcopy(model).named_parameters()
        if len(part) == len(tokenizer)
    }
    assert len(parts) == 1 + (not tied) + bias
    init_added_embeddings(model, tokenizer, extended)
    for name, before in parts.items():
        after = model.get_parameter(name)
        assert len(after) == len(extended) and torch.equal(after[: len(tokenizer)], before)
        for new in range(len(tokenizer), len(extended)):
            tokens = tokenizer(extended.decode(new), add_special_tokens=False)["input_ids"]
            assert len(tokens) > 1
            torch.testing.assert_close(after[new], before[tokens].mean(0))


# refused


@pytest.mark.fault
def test_more_words_than_the_tokenizer_splits_are_refused(text, tokenizer, tmp_path):
    (tmp_path / "b.txt").write_text("a a, a")
    assert len(find_split_words(tmp_path / "b.txt", tokenizer)) == 0
    with refused("add_words must be at most 4, got 5", "splits only 4 words"):
        add_frequent_words(tokenizer, text, 5, "a model")
    (tmp_path / "b.txt").write_text("1 + 1 = 2\n🙂")
    with refused("add_words must be at most 0, got 5", "splits only 0 words"):
        add_frequent_words(tokenizer, tmp_path / "b.txt", 5, "a model")


@pytest.mark.fault
def test_words_for_a_vocabulary_that_is_learned_from_the_text_are_refused(text, tokenizer):
    assert add_frequent_words(tokenizer, text, 0, "scratch:tiny") is tokenizer
    with refused("add_words must be 0", "scratch:tiny", "got 1", "learned from the text"):
        add_frequent_words(tokenizer, text, 1, "scratch:tiny")


@pytest.mark.fault
def test_words_for_a_vocabulary_with_an_unused_id_are_refused(tmp_path):
    """vocab.txt with a line twice: new words would get ids that tokens of the text have."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    lines = [*special, ".", ",", ",", "river", "##stone", "##s", "island"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    (tmp_path / "text.txt").write_text("riverstone rivers island\n" * 9)
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    with refused("add_words must be 0", "got 2", "1 id(s)", "unused", "pass add_words=0"):
        add_frequent_words(tokenizer, tmp_path / "text.txt", number=2, model="a folder")


@pytest.mark.fault
def test_words_for_a_tokenizer_that_cannot_get_them_are_refused(corpus_folder, tokenizer):
    text = corpus_folder / "train.txt"
    prefixed = make_tokenizer("roberta", text)
    prefixed.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.model = models.WordLevel({"a": 0}, "a")
    for unsuitable, reason in ((prefixed, "add_prefix_space"), (tokenizer, "WordLevel")):
        with refused("add_words must be 0", "got 3", reason, "pass add_words=0"):
            add_frequent_words(unsuitable, text, 3, "a model")


# other tokenizers, other scripts


@pytest.mark.parametrize(
    "kind", ["roberta", "modernbert", "albert", "camembert", "xlm-roberta", "deberta-v2"]
)
def test_bpe_and_unigram_tokenizers_get_words_and_split_all_others_as_before(
    corpus_folder, tmp_path, kind
):
    text = corpus_folder / "train.txt"
    tokenizer = make_tokenizer(kind, text)
    found = find_split_words(text, tokenizer)
    extended = add_frequent_words(tokenizer, text, 4, "a model")
    assert len(extended) == len(tokenizer) + 4
    extended.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    words = [*found.index[:4]]
    lines = [line for line in text.read_text("utf-8").split("\n") if line][:200]
    before, after = (t(lines, add_special_tokens=False)["input_ids"] for t in (tokenizer, extended))
    assert loaded(lines)["input_ids"] == extended(lines)["input_ids"]
    assert extended(lines[0])["input_ids"][0] == tokenizer(lines[0])["input_ids"][0]  # <s>
    saved = 0
    for line, old, new in zip(lines, before, after):
        added = [extended.convert_ids_to_tokens(i) for i in new if i >= len(tokenizer)]
        expected = [w for w in re.findall(r"[^\W\d_]+", normalized(tokenizer, line)) if w in words]
        assert added == expected, line
        kept = Counter(i for i in new if i < len(tokenizer))
        assert not kept - Counter(old), line  # no token that was not there before
        saved += len(old) - len(new)
    assert saved >= len(words)


def normalized(tokenizer, line):
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer.normalize_str(line) if normalizer else line


@pytest.mark.parametrize(
    "language", ["hindi", "vietnamese", "persian", "turkish", "korean", "hebrew"]
)
@pytest.mark.parametrize(
    "vocabulary", ["wordpiece-cased:100", "bpe-cased:100", "unigram-cased:100"]
)
def test_words_with_combining_marks_and_joiners_get_tokens(tmp_path, language, vocabulary):
    lines = sentences_in(language)
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf-8")
    letters = " ".join(sorted(set("".join(lines))))
    (tmp_path / "other.txt").write_text(f"{lines[0]}\n{letters}", "utf-8")
    tokenizer = learn_tokenizer(tmp_path / "other.txt", vocabulary)
    found = find_split_words(tmp_path / "a.txt", tokenizer)
    extended = add_frequent_words(tokenizer, tmp_path / "a.txt", 4, "a model")
    words = set(found.index[:4])
    old, new = (
        sum(map(len, t(lines, add_special_tokens=False)["input_ids"]))
        for t in (tokenizer, extended)
    )
    assert old - new == found["saved"][:4].sum() > 0
    ids = extended(" ".join(lines))["input_ids"]
    assert {extended.convert_ids_to_tokens(i) for i in ids if i >= len(tokenizer)} == words
    assert tokenizer.unk_token_id not in ids
