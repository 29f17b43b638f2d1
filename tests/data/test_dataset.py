"""Examples: lines or blocks, equal to what the tokenizer itself makes of the text."""

import copy
import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, normalizers, processors
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from helpers import refused
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import EXAMPLES, MaskedLMDataset, cut_into_blocks, cut_off
from mlm.data.token_frequencies import log_frequencies


@pytest.fixture
def reference(tokenizer, tmp_path):
    """A copy of the tokenizer: calls with truncation leave their settings in it."""
    tokenizer.save_pretrained(tmp_path / "reference")
    return AutoTokenizer.from_pretrained(tmp_path / "reference")


# lines


@pytest.mark.parametrize("max_len", [8, 16, 128])
def test_a_line_has_the_tokens_of_the_tokenizer(odd_text, tokenizer, reference, max_len):
    dataset = MaskedLMDataset(odd_text, tokenizer, max_len)
    lines = odd_text.read_text("utf-8").split("\n")
    options = dict(split_special_tokens=True, truncation=True, max_length=max_len)
    expected = [reference(line, **options)["input_ids"] for line in lines]
    expected = [ids for ids in expected if len(ids) > 2]  # more than [CLS] [SEP]
    assert len(dataset) == len(expected)
    assert [example.tolist() for example in dataset] == expected
    assert dataset.lengths.tolist() == [len(ids) - 2 for ids in expected]
    options = dict(split_special_tokens=True, add_special_tokens=False)
    num_tokens = sum(len(reference(line, **options)["input_ids"]) for line in lines)
    assert dataset.num_truncated == num_tokens - sum(dataset.lengths) > 0


def test_nothing_is_truncated_if_every_line_fits(corpus_folder, tokenizer):
    assert MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 512).num_truncated == 0


def test_an_example_is_a_1d_int64_tensor(dataset):
    example = dataset[3]
    assert (example.dtype, example.ndim) == (torch.int64, 1)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


# blocks


@pytest.mark.parametrize("max_len", [8, 33, 128])
def test_blocks_contain_all_tokens_in_order(odd_text, tokenizer, reference, max_len):
    dataset = MaskedLMDataset(odd_text, tokenizer, max_len, "block")
    lines = odd_text.read_text("utf-8").split("\n")
    options = dict(split_special_tokens=True, add_special_tokens=False)
    expected = [i for line in lines for i in reference(line, **options)["input_ids"]]
    blocks = [example.tolist() for example in dataset]
    assert [i for block in blocks for i in block[1:-1]] == expected
    special = reference.cls_token_id, reference.sep_token_id
    assert {(block[0], block[-1]) for block in blocks} == {special}
    assert {len(block) for block in blocks[:-1]} == {max_len}
    assert 3 <= len(blocks[-1]) <= max_len
    assert dataset.lengths.tolist() == [len(block) - 2 for block in blocks]
    assert dataset.num_truncated == 0


def test_a_document_can_fill_its_blocks_exactly(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("a\n" * 12)
    dataset = MaskedLMDataset(tmp_path / "a.txt", tokenizer, 8, "block")
    assert [len(example) for example in dataset] == [8, 8]


# the table of options


ENDS = np.array([5, 7, 7, 8, 18])  # units of 5, 2, 0, 1 and 10 tokens


@pytest.mark.parametrize(
    "make_examples, expected",
    [
        (cut_off, [(0, 4), (5, 2), (7, 1), (8, 4)]),
        (cut_into_blocks, [(0, 4), (4, 1), (5, 2), (7, 1), (8, 4), (12, 4), (16, 2)]),
    ],
)
def test_start_and_length_of_examples_of_at_most_four_tokens(make_examples, expected):
    starts, lengths = make_examples(ENDS, 4)
    assert list(zip(starts.tolist(), lengths.tolist())) == expected


@pytest.mark.parametrize("examples, expected", [("line", 5), ("block", 3), ("stream", 1)])
def test_examples_are_made_of_lines_documents_or_the_whole_text(
    tmp_path, tokenizer, examples, expected
):
    (tmp_path / "a.txt").write_text("a\nb\n\n\nc\n \nd\ne\n")
    assert len(MaskedLMDataset(tmp_path / "a.txt", tokenizer, 32, examples)) == expected


def test_unknown_kinds_of_examples_are_an_error(corpus_folder, tokenizer):
    assert [*EXAMPLES] == ["line", "block", "stream"]
    with pytest.raises(KeyError, match="sentence"):
        MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32, "sentence")


# counts


@pytest.mark.parametrize("examples", EXAMPLES)
def test_word_and_token_counts_leave_out_unknown_words(long_words, examples):
    data = MaskedLMDataset(*long_words, 16, examples)
    for i in range(0, len(data), 10):
        tokens = slice(data.starts[i], data.starts[i] + data.lengths[i])
        is_unk = data.ids[tokens] == data.tokenizer.unk_token_id
        starts_word = data.word_starts[tokens].copy()
        starts_word[0] = True
        assert data.maskable[i] == (~is_unk).sum()
        assert data.word_counts[i] == (starts_word & ~is_unk).sum()
    letters = "".join(long_words[0].read_text("utf-8").split())
    assert data.unk_fraction == letters.count("unknown") * len("unknown") / len(letters) > 0.1
    assert data.word_starts.dtype == bool and len(data.word_starts) == len(data.ids)
    assert data.num_truncated == len(data.ids) - data.lengths.sum()


# refused texts and unusual tokenizers


@pytest.mark.fault
@pytest.mark.parametrize("examples", ["line", "block"])
def test_padding_and_truncation_in_tokenizer_json_change_nothing(
    tmp_path, odd_text, tokenizer, examples
):
    expected = MaskedLMDataset(odd_text, tokenizer, 64, examples)
    tokenizer.save_pretrained(tmp_path / "padded")
    path = tmp_path / "padded" / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["padding"] = {
        "strategy": {"Fixed": 128},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    content["truncation"] = {
        "direction": "Right",
        "max_length": 20,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(content), "utf-8")
    padded = AutoTokenizer.from_pretrained(tmp_path / "padded")
    loaded = json.loads(padded.backend_tokenizer.to_str())
    assert loaded["padding"]["strategy"] == {"Fixed": 128}
    assert loaded["truncation"]["max_length"] == 20
    dataset = MaskedLMDataset(odd_text, padded, 64, examples)
    assert [example.tolist() for example in dataset] == [example.tolist() for example in expected]


@pytest.mark.fault
def test_a_text_without_tokens_is_refused(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("\u200b\n" * 20, "utf-8")
    for _ in range(2):
        with refused("a.txt", "finds no token", "really text?"):
            MaskedLMDataset(tmp_path / "a.txt", tokenizer)


@pytest.mark.fault
@pytest.mark.parametrize("letters", ["ACGT", "acgt", "LAGVSERTIDPKQNFYMHWC"])
def test_sequences_are_not_told_to_have_spaces(tmp_path, tokenizer, letters):
    random = np.random.default_rng(0)
    lines = ["".join(random.choice([*letters], 120)) for _ in range(20)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    pretrained = copy.deepcopy(tokenizer)
    pretrained.name_or_path = "a model"  # a vocabulary that was learned here has no name
    with refused("are [UNK]", "nucleotides or amino acids", "esm2") as message:
        MaskedLMDataset(tmp_path / "a.txt", pretrained)
    assert "spaces" not in message()


# special tokens


@pytest.mark.fault
@pytest.mark.parametrize("knows_letter", [True, False])
def test_a_tokenizer_that_adds_no_special_tokens_is_refused(tmp_path, tokenizer, knows_letter):
    """In use, the model would get other input than in training."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if not knows_letter:
        backend.normalizer = normalizers.Replace("a", "")
    backend.post_processor = processors.ByteLevel()
    roles = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    (tmp_path / "a.txt").write_text("a b c\n" * 20)
    with refused(
        "one special token before a text and one after",
        "['a']" if knows_letter else "[]",
        "post_processor",
    ):
        MaskedLMDataset(tmp_path / "a.txt", bare)


def test_examples_have_the_special_tokens_that_the_tokenizer_adds(tmp_path, tokenizer):
    """They need not be those that are called cls and sep."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[PAD]", "[MASK]")]
    backend.post_processor = processors.TemplateProcessing("[PAD] $A [MASK]", None, special)
    roles = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    unusual = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    (tmp_path / "a.txt").write_text("a b c\n" * 20)
    data = MaskedLMDataset(tmp_path / "a.txt", unusual)
    assert data[0].tolist() == unusual("a b c")["input_ids"] != tokenizer("a b c")["input_ids"]


# ids without a token


def test_random_tokens_have_ids_that_are_used(tmp_path):
    """A vocabulary file with a line twice has an id without a token."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x", "y", "b", "c", "d"]
    vocabulary = {name: number for number, name in enumerate(names)} | {"y": 17, "d": 30}
    tokenizer = BertTokenizer(vocab=vocabulary)
    (tmp_path / "a.txt").write_text("b c d y x d\n" * 2000)
    data = MaskedLMDataset(tmp_path / "a.txt", tokenizer)
    assert data.vocab_size == 31 and len(log_frequencies(data)) == 31
    assert data.used_ids.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 17, 30]
    keys = [(0, np.arange(len(data)))]
    (batch,) = MaskedBatches(data, keys, 0.5, seed=0, replace="0/100/0")
    assert {*batch["input_ids"].unique().tolist()} == {*data.used_ids.tolist()}
