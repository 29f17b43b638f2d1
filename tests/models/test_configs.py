"""Configs of models from scratch: they fit the tokenizer and `max_len`, whatever they come from."""

import json

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, ModernBertConfig

from encoders import CONFIGS, make_model, make_tokenizer
from helpers import refused
from mlm.data.tokenizer import learns_vocabulary, load_tokenizer, save_tokenizer
from mlm.env.scratch import SIZES
from mlm.models.configs import encoder_size, size_config, source_digest
from mlm.models.encoders import head_logits, hidden_states, packed_attention_mask
from mlm.models.loading import choose_packing, load_model

KINDS = "bert", "roberta", "modernbert", "deberta-v2", "electra", "distilbert", "albert"
ROLES = "pad", "cls", "sep", "bos", "eos", "mask", "unk"


@pytest.fixture
def make_folder(corpus_folder, tmp_path):
    """A function that writes the config of a small model of a kind, with its tokenizer or without."""

    def make(kind, with_tokenizer=True, **changes):
        tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
        folder = tmp_path / kind
        make_model(kind, tokenizer, **changes).config.save_pretrained(folder)
        if with_tokenizer:
            tokenizer.save_pretrained(folder)
        return folder

    return make


def set_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def load(folder, corpus_folder, vocabulary=None, max_len=32, **options):
    """(model, tokenizer) of "scratch:" and a folder."""
    name = f"scratch:{folder}"
    tokenizer = load_tokenizer(name, corpus_folder / "train.txt", vocabulary, max_len)
    return load_model(name, tokenizer, max_len, **options), tokenizer


# sizes


@pytest.mark.parametrize("size", ["modern-tiny", "modern-mini"])
def test_a_modern_size_is_a_modernbert_that_fits_the_tokenizer(tokenizer, size, capfd):
    model = load_model(f"scratch:{size}", tokenizer, 128)
    config, hidden = model.config, SIZES[size].hidden
    assert type(config) is ModernBertConfig and choose_packing(f"scratch:{size}")
    assert (config.hidden_size, config.num_hidden_layers) == (hidden, SIZES[size].layers)
    assert config.num_attention_heads * 64 == hidden
    assert config.vocab_size == len(tokenizer)
    ids = {role: getattr(config, f"{role}_token_id", None) for role in ROLES}
    assert (ids["pad"], ids["cls"], ids["sep"]) == (0, 2, 3) == (0, ids["bos"], ids["eos"])
    assert config.layer_types[:2] == ["full_attention", "sliding_attention"]
    assert {name for name, _ in model.named_parameters() if name.endswith("bias")} == {
        "decoder.bias"
    }
    bert = load_model(f"scratch:{size.removeprefix('modern-')}", tokenizer, 128)
    assert model.num_parameters() == pytest.approx(bert.num_parameters(), rel=0.2)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""  # transformers warns of ids outside the vocabulary


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_positions_for_max_len(tokenizer, size):
    for max_len, positions in ((0, 512), (128, 512), (512, 512), (700, 700)):
        config = size_config(SIZES[size], tokenizer, max_len)
        assert config.max_position_embeddings == positions
    with refused("max_len must be at most 65,536", f"model='scratch:{size}'"):
        load_model(f"scratch:{size}", tokenizer, 70_000)


def test_the_base_of_rotary_positions_fits_the_length_of_rows(tokenizer):
    for max_len, base in ((128, 10_000), (1023, 10_000), (1024, 160_000)):
        rotary = size_config(SIZES["modern-tiny"], tokenizer, max_len).rope_parameters
        assert rotary["full_attention"]["rope_theta"] == base
        assert rotary["sliding_attention"]["rope_theta"] == 10_000


@pytest.mark.parametrize("size", ["modern-tiny"])
def test_a_packed_example_reads_as_if_alone(tokenizer, size):
    """Also if the row is longer than the window of local layers."""
    torch.set_num_threads(1)
    model = load_model(f"scratch:{size}", tokenizer, 256).eval()
    lengths = 100, 150, 6
    ids = torch.arange(sum(lengths))[None] % (len(tokenizer) - 10) + 5
    sequence_ids = torch.repeat_interleave(torch.arange(1, 4), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad():
        hidden = hidden_states(model, ids, packed_attention_mask(sequence_ids), positions)
        packed = head_logits(model, hidden)[0].split(lengths)
        for example, logits in zip(ids[0].split(lengths), packed):
            torch.testing.assert_close(logits, model(example[None]).logits[0])


# sources


@pytest.mark.parametrize("vocabulary", [None, "wordpiece:300", "bpe-cased:300"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_the_same_in_plain_transformers(
    make_folder, corpus_folder, kind, vocabulary, capfd
):
    """The architecture is the folder's; the vocabulary its own, or learned."""
    folder = make_folder(kind)
    model, tokenizer = load(folder, corpus_folder, vocabulary)
    assert "token_id must be" not in capfd.readouterr().err  # a warning of transformers
    assert model.config.model_type == kind and choose_packing(f"scratch:{folder}")
    assert model.config.vocab_size == len(tokenizer)
    original = AutoTokenizer.from_pretrained(folder).get_vocab()
    assert (tokenizer.get_vocab() == original) == (vocabulary is None)
    for role in ROLES:
        in_config = getattr(model.config, f"{role}_token_id", None)
        assert in_config in (None, *(getattr(tokenizer, f"{r}_token_id") for r in ROLES)), role
    assert model.config.pad_token_id == tokenizer.pad_token_id
    again, _ = load(folder, corpus_folder, vocabulary)
    weights = again.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())

    model.save_pretrained(folder / "saved")
    save_tokenizer(tokenizer, folder / "saved")
    loaded = AutoModelForMaskedLM.from_pretrained(folder / "saved").eval()
    read = AutoTokenizer.from_pretrained(folder / "saved")
    text = "the will to power is the " + read.mask_token
    with torch.no_grad():
        expected = model.eval()(**tokenizer(text, return_tensors="pt")).logits
        assert torch.equal(loaded(**read(text, return_tensors="pt")).logits, expected)


def test_a_folder_without_a_tokenizer_learns_a_vocabulary(make_folder, corpus_folder, capsys):
    folder = make_folder("roberta", with_tokenizer=False)
    model, tokenizer = load(folder, corpus_folder)
    line = "'scratch:roberta' has no tokenizer: a vocabulary is learned from the text"
    assert line in capsys.readouterr().out
    assert learns_vocabulary(f"scratch:{folder}") and model.config.vocab_size == len(tokenizer)
    assert model.config.bos_token_id == tokenizer.cls_token_id == 2
    assert model.config.eos_token_id == tokenizer.sep_token_id == 3


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "modernbert"])
def test_positions_are_added_if_max_len_needs_them(make_folder, corpus_folder, kind):
    folder = make_folder(kind, max_position_embeddings=66)
    for max_len in (32, 100):
        model, tokenizer = load(folder, corpus_folder, "wordpiece:300", max_len)
        ids = torch.full((1, max(max_len, 64)), 7)
        with torch.no_grad():
            model(ids)
        assert max_len <= tokenizer.model_max_length <= model.config.max_position_embeddings
    with refused("max_len must be at most 65,536"):
        load_model(f"scratch:{folder}", tokenizer, 70_000)


def test_only_the_architecture_counts_not_how_weights_were_stored(make_folder, corpus_folder):
    folder = make_folder("bert")
    digest = source_digest(f"scratch:{folder}")
    quantized = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    set_config(folder, dtype="bfloat16", architectures=["BertForPreTraining"])
    assert source_digest(f"scratch:{folder}") == digest
    set_config(folder, quantization_config=quantized)
    model, _ = load(folder, corpus_folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    model.save_pretrained(folder / "saved")
    saved = json.loads((folder / "saved/config.json").read_text())
    assert saved["dtype"] == "float32" and "quantization_config" not in saved


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_and_embedding_are_tied_as_the_config_says(make_folder, corpus_folder, tied):
    model, _ = load(make_folder("bert", tie_word_embeddings=tied), corpus_folder)
    decoder, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    assert (decoder.weight is embeddings.weight) == tied == model.config.tie_word_embeddings


def test_dropout_and_the_recipe_know_the_source(make_folder, corpus_folder):
    folder = make_folder("distilbert")
    model, _ = load(folder, corpus_folder, dropout=0.25)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]
    assert {layer.p for layer in layers} == {0.25}
    assert encoder_size(f"scratch:{folder}") == encoder_size(str(folder)) == (32, 2)
    assert encoder_size("scratch:modern-mini") == (256, 4)


def test_another_configuration_has_another_digest(make_folder):
    folder = make_folder("bert")
    before = source_digest(f"scratch:{folder}")
    set_config(folder, num_attention_heads=4)  # the weights have the same shapes
    assert source_digest(f"scratch:{folder}") != before
    assert source_digest("scratch:tiny") is None and source_digest(str(folder)) is None


# what is refused


@pytest.mark.fault
@pytest.mark.parametrize(
    "config, words",
    [
        ({"model_type": "gpt2"}, ("has the type 'gpt2'", "such as BERT")),
        ({"model_type": "bart"}, ("has the type 'bart'", "such as BERT")),
        ({"model_type": "quite-new"}, ("has the type 'quite-new'",)),
        ({"hidden_size": 32}, ("has no model_type", "add ")),
        ({"model_type": "bert", "hidden_size": 33, "num_attention_heads": 2}, ("is not valid",)),
        ({"model_type": "bert", "hidden_size": "wide"}, ("config.json that is not valid",)),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused(tmp_path, corpus_folder, config, words):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with refused(*words):
        load(tmp_path, corpus_folder)


@pytest.mark.fault
def test_a_source_that_is_no_model_is_refused_before_a_vocabulary_is_learned(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "only-a-tokenizer")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text('{"model_type":')
    for name, reason in {
        "only-a-tokenizer": "contains no config.json; pass a folder",
        "empty": "contains no config.json; pass a folder",
        "run": f"pass {tmp_path / 'run/model'}",
        "damaged": "has a damaged file: config.json",
        "gone": "cannot be loaded",
    }.items():
        model = f"scratch:{tmp_path / name}"
        for vocabulary in (None, "wordpiece"):
            with refused(f"model={model!r}", reason):
                load_tokenizer(model, tmp_path / "no text is read", vocabulary)
        with refused(f"model={model!r}", reason):
            load_model(model, tokenizer)


@pytest.mark.fault
def test_a_tokenizer_that_cannot_mask_says_how_to_learn_one(make_folder, corpus_folder):
    folder = make_folder("bert")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with refused("has no mask token", 'vocabulary="wordpiece" learns one'):
        load(folder, corpus_folder)
    model, tokenizer = load(folder, corpus_folder, "wordpiece:300")
    assert model.config.vocab_size == len(tokenizer)
