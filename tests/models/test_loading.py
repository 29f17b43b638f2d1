"""What `model` may refer to, and which weights are accepted; everything else is refused in one line."""

import copy
import json
import math
import re
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
)
from transformers.utils import logging as transformers_logging

from encoders import SMALL, byte_level_bpe, make_model
from helpers import refused
from mlm.data.tokenizer import load_tokenizer
from mlm.models.encoders import head_logits, hidden_states
from mlm.models.loading import choose_packing, load_model, quiet_transformers

WEIGHTS = "model.safetensors"


@pytest.fixture
def bert(tokenizer):
    """A BertForMaskedLM with one narrow layer and without dropout."""
    torch.set_num_threads(1)  # with more, tiny models only wait
    return make_model("bert", tokenizer, num_hidden_layers=1)


@pytest.fixture
def folder(bert, tokenizer, tmp_path):
    """A pretrained model with 64 positions, and its tokenizer."""
    bert.save_pretrained(tmp_path / "pretrained")
    tokenizer.save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


def rewrite(folder, weights):
    """Replace the weights in a folder by others, {name: weight}."""
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def set_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


# weights


@pytest.mark.fault
@pytest.mark.parametrize("prefix", ["", "encoder.", "module.bert."])
def test_an_encoder_with_other_names_is_refused(folder, tokenizer, prefix, capfd):
    """transformers would load none of its weights and only report it."""
    weights = load_file(folder / WEIGHTS)
    names = [name for name in weights if name.startswith("bert.")]
    rewrite(folder, {f"lost.{prefix}{name}": weight for name, weight in weights.items()})
    all_lost = f"{len(names)} of the encoder's {len(names)} weights are not in its files"
    with refused(
        f"model={str(folder)!r}", all_lost, "save_pretrained", "bert.embeddings.LayerNorm"
    ):
        load_model(str(folder), tokenizer, 64)
    assert capfd.readouterr() == ("", "")


@pytest.mark.fault
def test_an_encoder_with_a_missing_weight_is_refused(folder, tokenizer):
    weights = load_file(folder / WEIGHTS)
    names = [name for name in weights if name.startswith("bert.")]
    assert len(names) > 20
    for missing in names:
        rewrite(folder, {name: weight for name, weight in weights.items() if name != missing})
        with refused(f"1 of the encoder's {len(names)} weights", f"({missing}, ...)"):
            load_model(str(folder), tokenizer, 64)


def test_a_missing_head_is_reported_in_one_line(folder, bert, tokenizer, capfd):
    assert not load_model(str(folder), tokenizer, 64).head_was_missing
    assert capfd.readouterr() == ("", "")
    bert.bert.save_pretrained(folder)
    capfd.readouterr()
    loaded = load_model(str(folder), tokenizer, 64)
    line = f"{str(folder)!r} is an encoder without a masked-LM head: the head starts with random weights"
    assert capfd.readouterr() == (line + "\n", "") and loaded.head_was_missing
    for name, weight in bert.bert.state_dict().items():
        assert torch.equal(loaded.bert.state_dict()[name], weight)


@pytest.mark.parametrize("tied_in_config", [False, True])
def test_separate_matrices_stay_separate(folder, bert, tokenizer, tied_in_config):
    """Decoder and embedding, whatever the config says about them."""
    config = BertConfig(**{**bert.config.to_dict(), "tie_word_embeddings": False})
    BertForMaskedLM(config).save_pretrained(folder)
    weights = load_file(folder / WEIGHTS)
    names = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(*(weights[name] for name in names))
    set_config(folder, tie_word_embeddings=tied_in_config)
    loaded = load_model(str(folder), tokenizer, 64)
    assert all(torch.equal(loaded.state_dict()[name], weights[name]) for name in names)
    assert not loaded.config.tie_word_embeddings
    loaded.save_pretrained(folder)
    assert load_file(folder / WEIGHTS).keys() >= {*names}


@pytest.mark.fault
def test_weights_that_are_not_finite_are_refused(folder, tokenizer):
    """Otherwise training would fail some steps later, and the learning rate would be blamed."""
    weights = load_file(folder / WEIGHTS)
    for number, (name, weight) in enumerate(weights.items()):
        damaged = weight.clone()
        damaged.view(-1)[-1] = (math.nan, math.inf, -math.inf)[number % 3]
        rewrite(folder, weights | {name: damaged})
        with refused(f"model={str(folder)!r}: its weight {name} is not finite", "copy or download"):
            load_model(str(folder), tokenizer, 64)


# names


def test_a_tilde_is_the_home_folder(folder, tokenizer, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    loaded = load_model("~/pretrained", load_tokenizer("~/pretrained", None), 64).state_dict()
    expected = load_model(str(folder), tokenizer, 64).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.items())


UNSUPPORTED = {  # a config.json for other code
    "an unknown type": {"model_type": "quite-new"},
    "a decoder": {"model_type": "gpt2"},
    "a sequence-to-sequence model": {"model_type": "bart"},
    "an encoder without a masked LM": {"model_type": "t5"},
    "a model with its own code": {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}},
}


@pytest.fixture
def foreign_code(folder, monkeypatch):
    """A folder with code of its own, which must not run; no question about it may be asked."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    return folder


@pytest.mark.fault
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_model_of_another_type_is_refused_and_its_code_is_not_run(foreign_code, tokenizer, name):
    (foreign_code / "config.json").write_text(json.dumps(UNSUPPORTED[name]))
    model_type = UNSUPPORTED[name].get("model_type")
    for load in (load_tokenizer, load_model):
        with refused(f"model={str(foreign_code)!r}", f"{model_type!r}", "such as BERT"):
            load(str(foreign_code), tokenizer)


@pytest.mark.fault
def test_code_next_to_a_known_model_is_not_run(foreign_code, tokenizer):
    folder = str(foreign_code)
    auto_map = {"AutoConfig": "mine.Mine", "AutoModelForMaskedLM": "mine.Model"}
    set_config(foreign_code, auto_map=auto_map)
    assert type(load_model(folder, load_tokenizer(folder, None), 64)) is BertForMaskedLM


@pytest.mark.fault
def test_the_code_of_a_tokenizer_is_not_run(foreign_code):
    config = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    (foreign_code / "tokenizer_config.json").write_text(json.dumps(config))
    with refused(f"model={str(foreign_code)!r}: ", "has no mask token"):
        load_tokenizer(str(foreign_code), None)


@pytest.mark.fault
def test_the_folder_of_a_run_is_refused_with_the_right_folder(folder, tokenizer):
    run = folder.parent / "run"
    run.mkdir()
    folder.rename(run / "model")
    for load in (load_tokenizer, load_model):
        with refused(f"model={str(run)!r} is the folder of a run", f"pass {run / 'model'}"):
            load(str(run), tokenizer)
    load_model(str(run / "model"), load_tokenizer(str(run / "model"), None), 64)


@pytest.mark.fault
def test_names_that_no_model_can_have_are_refused_without_asking_the_hub(
    folder, tokenizer, monkeypatch
):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr("requests.head", lambda *_, **__: pytest.fail("the Hub was asked"))
    loop, file = folder.parent / "loop", folder.parent / "a-file"
    loop.symlink_to(loop)
    file.write_text("text")
    names = [
        "a\0b", "a" * 300, "a/" * 3000 + "b", "~nosuchuser/m", "~/none", "./none", "../none", "/none", "a/b/c", "a b",
        "naïve name", "https://host/bert", "http://[bad/", "a\nb", "🤗", str(loop), "loop/model", "a-file",
        str(file), str(folder / WEIGHTS), "/dev/null", ".", "..", str(folder.parent), "C:\\bert", "$HOME/m",
    ]  # fmt: skip
    for name in names:
        for load in (load_tokenizer, load_model):
            start = time.monotonic()
            with refused("model=") as message:
                load(name, tokenizer)
            assert time.monotonic() - start < 1, name
            assert len(message()) < 600 and re.search(r"pass (the|a) ", message()), message()


def test_a_scratch_model_is_packed_without_loading_anything():
    assert choose_packing("scratch:tiny")


def test_transformers_is_quiet_only_inside_the_context():
    enabled = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    with pytest.raises(KeyError), quiet_transformers():
        assert not transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.get_verbosity() == transformers_logging.ERROR
        raise KeyError
    assert transformers_logging.is_progress_bar_enabled() == enabled
    assert transformers_logging.get_verbosity() == verbosity


# folders and scratch models


def test_a_folder_is_loaded_with_the_weights_that_were_saved(folder, bert, tokenizer):
    loaded = load_model(str(folder), tokenizer, 64)
    assert loaded.state_dict().keys() == bert.state_dict().keys()
    for name, weight in bert.state_dict().items():
        assert (loaded.state_dict()[name] == weight).all(), name
    assert loaded.dtype == torch.float32
    assert loaded.config._attn_implementation == "sdpa"


def test_half_precision_weights_are_loaded_as_float32(folder, bert, tokenizer):
    bert.to(torch.bfloat16).save_pretrained(folder)
    loaded = load_model(str(folder), tokenizer, 64)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("size, hidden, layers", [("tiny", 128, 2), ("mini", 256, 4)])
def test_scratch_is_a_bert_of_the_named_size(tokenizer, size, hidden, layers):
    config = load_model(f"scratch:{size}", tokenizer).config
    assert (config.hidden_size, config.num_hidden_layers) == (hidden, layers)
    assert config.num_attention_heads * 64 == hidden
    assert config.intermediate_size == 4 * hidden
    assert config.vocab_size == len(tokenizer)
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1


def test_scratch_weights_depend_on_the_seed_only(tokenizer):
    def weights(seed):
        torch.rand(3)
        return load_model("scratch:tiny", tokenizer, seed=seed).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all((first[name] == again[name]).all() for name in first)
    word = "bert.embeddings.word_embeddings.weight"
    assert (first[word] != other[word]).any()


def test_a_new_head_depends_on_the_seed_only(folder, bert, tokenizer):
    """A folder may contain only an encoder, as sentence-transformers models do."""
    bert.bert.save_pretrained(folder)
    set_config(folder, architectures=["BertModel"])
    first, again, other = (
        load_model(str(folder), tokenizer, 64, seed=seed).cls.predictions for seed in (0, 0, 1)
    )
    name = "transform.dense.weight"
    assert (first.state_dict()[name] == again.state_dict()[name]).all()
    assert (first.state_dict()[name] != other.state_dict()[name]).any()


@pytest.mark.parametrize("where", ["scratch", "folder", "folder untied"])
def test_decoder_and_embedding_are_one_tensor(where, folder, tokenizer):
    if where == "folder untied":
        set_config(folder, tie_word_embeddings=False)
    model = "scratch:tiny" if where == "scratch" else str(folder)
    loaded = load_model(model, tokenizer, 64)
    head, embeddings = loaded.cls.predictions, loaded.bert.embeddings.word_embeddings
    assert head.decoder.weight is embeddings.weight and head.decoder.bias is head.bias
    head.decoder.weight.data[7] = 1.5
    assert (embeddings.weight[7] == 1.5).all()


def test_dropout_is_set_in_a_model_from_scratch(tokenizer):  # for others, see test_encoders
    loaded = load_model("scratch:tiny", tokenizer, 64, 0.25)
    layers = [layer for layer in loaded.modules() if isinstance(layer, torch.nn.Dropout)]
    assert {layer.p for layer in layers} == {0.25}
    assert loaded.config.attention_probs_dropout_prob == 0.25


@pytest.mark.fault
def test_a_model_with_fewer_tokens_than_its_tokenizer_is_refused(folder, tokenizer):
    set_config(folder, vocab_size=50)
    with refused("has 50 token embeddings", f"{len(tokenizer)} tokens", "same model"):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.fault
def test_an_added_token_without_an_embedding_is_refused_by_name(folder, bert, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["[USER]", "[URL]"])
    size = len(tokenizer)
    with refused("such as '[USER]': if it was added", f"resize_token_embeddings({size})"):
        load_model(str(folder), tokenizer, 64)
    bert.resize_token_embeddings(size)
    bert.save_pretrained(folder)
    load_model(str(folder), tokenizer, 64)


@pytest.mark.fault
def test_max_len_above_the_models_positions_is_refused(folder, tokenizer):
    with refused("max_len=65", "64 positions", "at or below"):
        load_model(str(folder), tokenizer, 65)
    with refused("max_len=100000", "64 positions"):  # asked with 64 tokens, not with more
        load_model(str(folder), tokenizer, 100_000)


@pytest.mark.parametrize("fault", ["no folder", "damaged config", "damaged weights", "cut bin"])
@pytest.mark.fault
def test_an_unreadable_folder_is_refused(folder, bert, tokenizer, fault):
    weights = folder / WEIGHTS
    if fault == "no folder":
        folder = folder / "gone"
    elif fault == "damaged config":
        (folder / "config.json").write_text('{"model_type": ')
    elif fault == "damaged weights":
        weights.write_bytes(b"x" * 5000)
    else:
        weights.unlink()
        torch.save(bert.state_dict(), folder / "pytorch_model.bin")
        content = (folder / "pytorch_model.bin").read_bytes()
        (folder / "pytorch_model.bin").write_bytes(content[:5000])
    words = {
        "damaged config": ("has a damaged file: config.json", "copy it again"),
        "damaged weights": (f"has a damaged file: {WEIGHTS}", "copy or download it again"),
    }
    with refused(
        f"model={str(folder)!r} ", *words.get(fault, ("cannot be loaded", "pass", '"scratch:tiny"'))
    ):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.fault
@pytest.mark.parametrize("entry", ["hidden_size", "intermediate_size", "vocab_size"])
def test_weights_of_another_shape_are_refused_with_one_of_them(folder, tokenizer, entry):
    before = json.loads((folder / "config.json").read_text())[entry]
    set_config(folder, **{entry: 2 * before})
    with refused("of its weights do not fit its config.json", f"{2 * before}", "copy config.json"):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.fault
@pytest.mark.parametrize(
    "entry", [dict(hidden_size=33), dict(num_attention_heads=3), dict(pad_token_id=10**6)]
)
def test_a_config_that_no_model_can_have_is_refused(folder, tokenizer, entry):
    set_config(folder, **entry)
    with refused("the config of this 'bert' model is not valid", "copy config.json again"):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.parametrize("case", ["relative positions", "fewer layers"])
def test_weights_of_layers_that_a_config_lacks_are_said(folder, bert, tokenizer, case, capsys):
    """transformers 5 has no relative positions for BERT; a config may say fewer layers than the files have."""
    name = "bert.encoder.layer.0.attention.self.distance_embedding"
    if case == "relative positions":
        rewrite(folder, load_file(folder / WEIGHTS) | {f"{name}.weight": torch.ones(9, 16)})
    else:
        make_model("bert", tokenizer).save_pretrained(folder)
        set_config(folder, num_hidden_layers=1)
        name = "bert.encoder.layer.1.attention.output.LayerNorm"
    load_model(str(folder), tokenizer, 64)
    said = capsys.readouterr().out
    assert (
        f" parts of the files are not used, because no layer of this config.json has them ({name}"
        in said
    )
    assert said.count("\n") == 1


def test_a_head_without_a_bias_is_not_a_missing_head(folder, bert, tokenizer, capsys):
    """Token frequencies as its bias would spoil the predictions of a trained head."""
    bias = "cls.predictions.bias", "cls.predictions.decoder.bias"
    weights = {name: weight for name, weight in bert.state_dict().items() if name not in bias}
    del weights["cls.predictions.decoder.weight"]  # tied
    rewrite(folder, weights)
    loaded = load_model(str(folder), tokenizer, 64)
    assert not loaded.head_was_missing and not loaded.cls.predictions.bias.any()
    said = capsys.readouterr().out
    assert "not in the files" in said and bias[0] in said and "encoder without" not in said


@pytest.mark.parametrize("name, value", [("output_attentions", True), ("return_dict", False)])
def test_what_a_config_says_about_outputs_does_not_matter(
    folder, bert, tokenizer, name, value, capsys
):
    """transformers does not save a model that shall output attentions: this would end a run without a result."""
    set_config(folder, **{name: value})
    loaded = load_model(str(folder), tokenizer, 64).eval()
    assert capsys.readouterr().out.startswith(
        f"{name} is {value} in config.json: it is now {not value}"
    )
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.equal(loaded(ids).logits, bert.eval()(ids).logits)
    loaded.save_pretrained(folder)
    load_model(str(folder), tokenizer, 64)
    assert capsys.readouterr().out == ""


def test_what_is_dropped_on_saving_is_said(folder, bert, tokenizer, capsys):
    """Such as the pooler and the next-sentence head of the original BERT."""
    full = BertForPreTraining(bert.config)
    full.save_pretrained(folder)
    capsys.readouterr()
    loaded = load_model(str(folder), tokenizer, 64)
    line = "not used for masked language modelling and not saved again: bert.pooler.dense, cls.seq_relationship"
    assert capsys.readouterr().out == line + "\n"
    loaded.save_pretrained(folder)
    dropped = full.state_dict().keys() - load_file(folder / WEIGHTS).keys()
    capsys.readouterr()
    assert {"bert.pooler.dense.weight", "cls.seq_relationship.weight"} <= dropped
    load_model(str(folder), tokenizer, 64)
    assert capsys.readouterr().out == ""  # nothing more is dropped


# padding


@pytest.fixture
def save_roberta(corpus_folder, tmp_path):
    """A function that saves a RoBERTa whose tokenizer numbers its special tokens in this order."""

    def save(pad_token_id, special_tokens):
        lines = (corpus_folder / "train.txt").read_text("utf-8").split("\n")
        vocab, merges = byte_level_bpe(lines, special_tokens)
        tokenizer = RobertaTokenizer(vocab=vocab, merges=merges)
        config = RobertaConfig(
            vocab_size=len(tokenizer),
            pad_token_id=pad_token_id,
            **SMALL | {"initializer_range": 0.3},
        )
        torch.manual_seed(0)
        RobertaForMaskedLM(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path), load_tokenizer(str(tmp_path), None)

    return save


PAD_FIRST = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]


def test_a_padding_id_that_differs_from_the_tokenizers_is_repaired(save_roberta, capsys):
    """A config from scratch often keeps pad_token_id=1, which is <s> in the new tokenizer."""
    folder, tokenizer = save_roberta(1, PAD_FIRST)
    loaded = load_model(folder, tokenizer, 32).eval()
    out = capsys.readouterr().out
    assert "pad_token_id is 1 in config.json, which is '<s>'" in out and "it is now 0" in out
    assert loaded.config.pad_token_id == 0
    original = RobertaForMaskedLM.from_pretrained(folder).eval()
    for text in ("the will to power", "a"):
        batch = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            assert torch.equal(loaded(**batch).logits, original(**batch).logits)
            ours = head_logits(loaded, hidden_states(loaded, batch["input_ids"]))
        torch.testing.assert_close(ours, original(**batch).logits)
    loaded.save_pretrained(folder)
    load_model(folder, tokenizer, 32)
    assert "pad_token_id" not in capsys.readouterr().out


@pytest.mark.fault
def test_a_padding_id_that_moves_the_positions_is_refused(save_roberta):
    """A word of the text has the id of the config's padding: positions after it depend on it."""
    folder, tokenizer = save_roberta(20, PAD_FIRST)
    with refused("pad_token_id is 20 in config.json, but 0", '"pad_token_id": 0', "tokenizer"):
        load_model(folder, tokenizer, 32)


def test_a_padding_id_that_no_text_contains_is_kept(save_roberta, capsys):
    folder, tokenizer = save_roberta(0, ["<old pad>", "<pad>", "<s>", "</s>", "<unk>", "<mask>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<old pad>"]})
    assert load_model(folder, tokenizer, 32).config.pad_token_id == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("pad", [None, 60])
def test_berts_padding_id_becomes_the_tokenizers(folder, bert, tokenizer, pad, capsys):
    """Its positions do not depend on it, but the embedding of id 60 would never be trained."""
    set_config(folder, pad_token_id=pad)
    loaded = load_model(str(folder), tokenizer, 64)
    assert f"now {tokenizer.pad_token_id}, the tokenizer's" in capsys.readouterr().out
    assert loaded.config.pad_token_id == loaded.get_input_embeddings().padding_idx == 0
    assert all(torch.equal(w, bert.state_dict()[name]) for name, w in loaded.state_dict().items())


@pytest.mark.fault
def test_pickled_weights_are_not_executed(folder, tokenizer, tmp_path):
    """The weights are a pickle that runs code when it is loaded: it must not run."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({"bert.embeddings.word_embeddings.weight": Bomb()}, folder / "pytorch_model.bin")
    with refused(f"model={str(folder)!r} cannot be loaded", "pass", '"scratch:tiny"'):
        load_model(str(folder), tokenizer, 64)
    assert not (tmp_path / "executed").exists()
