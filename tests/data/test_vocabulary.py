"""Own words: which the vocabulary breaks, and what a token of their own changes and what not."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer

from encoders import make_model, make_tokenizer
from helpers import refused
from mlm.data.dataset import MaskedLMDataset
from mlm.data.masking import masked_counts
from mlm.data.vocabulary import add_frequent_words, init_added_embeddings, split_words

NAMES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    ",",
    "_",
    "zara",
    "##thus",
    "##tra",
    "##s",
]
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
    return BertTokenizer(vocab={name: number for number, name in enumerate(NAMES)})


def test_broken_words_are_counted_and_the_most_telling_come_first(text, tokenizer, monkeypatch):
    expected = [
        ("zarathustras", 2, "zara ##thus ##tra ##s", 6),
        ("zaras", 4, "zara ##s", 4),  # of equals the first by the alphabet
        ("zarathustra", 2, "zara ##thus ##tra", 4),
        ("zarathus", 1, "zara ##thus", 1),
    ]
    assert list(split_words(text, tokenizer).itertuples(name=None)) == expected
    for step in (1, 2, 7):  # read so many tokens at a time
        monkeypatch.setattr("mlm.data.vocabulary.STEP", step)
        assert list(split_words(text, tokenizer).itertuples(name=None)) == expected


@pytest.mark.parametrize("number", [1, 2, 3])
def test_own_words_save_the_tokens_that_were_said_and_change_no_other_word(text, tokenizer, number):
    broken = split_words(text, tokenizer)
    larger = add_frequent_words(tokenizer, text, number, "a model")
    assert larger.convert_ids_to_tokens(range(12, 12 + number)) == list(broken.index[:number])
    assert len(tokenizer) == 12  # unchanged
    before, after = (MaskedLMDataset(text, each, 64) for each in (tokenizer, larger))
    assert len(before.ids) - len(after.ids) == broken["saved"][:number].sum()
    assert (before.word_counts == after.word_counts).all()
    kept = after.ids[after.ids < 12]
    lost = np.isin(before.ids, kept) | (before.ids >= 8)
    assert lost.all() and (after.ids >= 12).sum() == broken["times"][:number].sum()


def test_an_own_word_is_itself_in_any_case_and_never_part_of_another(text, tokenizer):
    larger = add_frequent_words(tokenizer, text, 3, "a model")
    found = larger.tokenize("ZARATHUSTRA, azaras zarathus")
    assert found == ["zarathustra", ",", "[UNK]", "zara", "##thus"]


def test_saved_and_loaded_it_is_the_same_tokenizer(text, tokenizer, tmp_path):
    larger = add_frequent_words(tokenizer, text, 3, "a model")
    larger.save_pretrained(tmp_path / "model")
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (len(again), again(TEXT)["input_ids"]) == (15, larger(TEXT)["input_ids"])


def test_the_same_words_are_asked_whatever_the_vocabulary(text, tokenizer):
    """With masking="word": so losses a word can be compared."""
    from mlm.data.batches import MaskedBatches

    asked = []
    for number in (0, 3):
        data = MaskedLMDataset(text, add_frequent_words(tokenizer, text, number, "a model"), 64)
        batches = MaskedBatches(data, [], 0.5, 0, masking="word")
        every, found = np.arange(3), []
        for epoch in range(20):
            counts = masked_counts(data.word_counts, 0, epoch, every, 0.5)
            _, labels = batches.masked_examples(epoch, every, counts)
            for i in every:
                where = slice(data.starts[i], data.starts[i] + data.lengths[i])
                word = data.word_starts[where].cumsum()
                found.append({*word[labels[i, 1 : 1 + data.lengths[i]] != -100]})
        asked.append(found)
    assert asked[0] == asked[1] and any(asked[0])


@pytest.mark.parametrize("spare", [0, 2, 8])
def test_a_new_row_is_the_mean_of_its_pieces_and_the_rest_is_as_before(text, tokenizer, spare):
    """Also where the model has rows to spare; decoder and embedding stay one, and the config knows."""
    from transformers import BertConfig, BertForMaskedLM

    size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    bert = BertForMaskedLM(BertConfig(vocab_size=12 + spare, **size)).eval()
    torch.nn.init.normal_(bert.cls.predictions.bias)
    larger = add_frequent_words(tokenizer, text, 3, "a model")
    ids = torch.tensor([[2, 8, 9, 3]])
    before = bert(ids).logits[..., :12]
    init_added_embeddings(bert, tokenizer, larger)
    weight, bias = bert.bert.embeddings.word_embeddings.weight, bert.cls.predictions.bias
    rows = max(15, 12 + spare)
    assert weight.shape == (rows, 8) and bias.shape == (rows,) and bert.config.vocab_size == rows
    assert bert.get_output_embeddings().weight is weight
    for new, pieces in zip(range(12, 15), ([8, 9, 10, 11], [8, 11], [8, 9, 10])):
        assert torch.equal(weight[new], weight[pieces].mean(0))
        assert torch.equal(bias[new], bias[pieces].mean())
    after = bert(ids).logits
    assert torch.equal(after[..., :12], before)
    torch.testing.assert_close(after[..., 13], after[..., [8, 11]].mean(-1))


@pytest.mark.fault
def test_own_words_that_there_are_not(text, tokenizer, tmp_path):
    (tmp_path / "b.txt").write_text("a a, a")
    assert len(split_words(tmp_path / "b.txt", tokenizer)) == 0
    assert add_frequent_words(tokenizer, text, 0, "scratch:tiny") is tokenizer
    with refused("add_words=5", "breaks only 4 words", "no more"):
        add_frequent_words(tokenizer, text, 5, "a model")
    with refused("add_words=1", "scratch:tiny", "learns its vocabulary", "add_words=0"):
        add_frequent_words(tokenizer, text, 1, "scratch:tiny")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_embedding_decoder_and_bias_begin_as_the_mean_of_the_pieces(text, tokenizer, tied, bias):
    larger = add_frequent_words(tokenizer, text, 2, "a model")
    bert = make_model("modernbert", tokenizer, tie_word_embeddings=tied, decoder_bias=bias)
    parts = {
        name: part
        for name, part in copy.deepcopy(bert).named_parameters()
        if len(part) == len(tokenizer)
    }
    assert len(parts) == 1 + (not tied) + bias
    init_added_embeddings(bert, tokenizer, larger)
    for name, before in parts.items():
        after = bert.get_parameter(name)
        assert len(after) == len(larger) and torch.equal(after[: len(tokenizer)], before)
        for new in range(len(tokenizer), len(larger)):
            pieces = tokenizer(larger.decode(new), add_special_tokens=False)["input_ids"]
            assert len(pieces) > 1
            torch.testing.assert_close(after[new], before[pieces].mean(0))


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["roberta", "albert"])
def test_only_wordpiece_gets_own_words(corpus_folder, kind):
    text = corpus_folder / "train.txt"
    with refused("add_words=3", "only WordPiece", "add_words=0"):
        add_frequent_words(make_tokenizer(kind, text), text, 3, "a model")
