"""What `model` may name, and which weights are a pretrained model: all others are refused in one line."""

import json
import math
import re
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from helpers import refused
from mlm.data.tokenizer import load_tokenizer
from mlm.models.loading import load_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(bert, tokenizer, tmp_path):
    """A pretrained model of 64 positions with its tokenizer."""
    bert.save_pretrained(tmp_path / "pretrained")
    tokenizer.save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


def rewrite(folder, change):
    """Give a folder other weights: `change` makes them from {name: weight}."""
    weights = change(load_file(folder / WEIGHTS))
    save_file(
        {name: w.contiguous() for name, w in weights.items()}, folder / WEIGHTS, {"format": "pt"}
    )


def set_config(folder, **values):
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | values))


# weights


@pytest.mark.fault
@pytest.mark.parametrize("prefix", ["", "encoder.", "module.bert."])
def test_an_encoder_that_is_not_found_is_not_trained(folder, tokenizer, prefix, capfd):
    """Keys under another prefix load as nothing at all, which transformers only reports."""
    names = [name for name in load_file(folder / WEIGHTS) if name.startswith("bert.")]
    rewrite(
        folder, lambda w: {f"lost.{prefix}{name}".removesuffix("."): v for name, v in w.items()}
    )
    every = f"{len(names)} of the encoder's {len(names)} weights are not in its files"
    with refused(f"model={str(folder)!r}", every, "save_pretrained", "bert.embeddings.LayerNorm"):
        load_model(str(folder), tokenizer, 64)
    assert capfd.readouterr() == ("", "")


@pytest.mark.fault
def test_no_weight_of_the_encoder_may_be_missing(folder, tokenizer):
    whole = load_file(folder / WEIGHTS)
    names = [name for name in whole if name.startswith("bert.")]
    assert len(names) > 30
    for name in names:
        rewrite(folder, lambda _, gone=name: {n: w for n, w in whole.items() if n != gone})
        with refused(f"1 of the encoder's {len(names)} weights", f"({name}, ...)"):
            load_model(str(folder), tokenizer, 64)


def test_a_head_alone_may_be_missing_and_that_is_said(folder, bert, tokenizer, capfd):
    load_model(str(folder), tokenizer, 64)
    assert capfd.readouterr() == ("", "")
    bert.bert.save_pretrained(folder)
    capfd.readouterr()
    loaded = load_model(str(folder), tokenizer, 64)
    line = f"{str(folder)!r} is an encoder without a masked-LM head: that one starts anew"
    assert capfd.readouterr() == (line + "\n", "")
    for name, weight in bert.bert.state_dict().items():
        assert torch.equal(loaded.bert.state_dict()[name], weight)


@pytest.mark.parametrize("said", [False, True])
def test_untied_stays_untied(folder, bert, tokenizer, said):
    """`said`: what its config says of it."""
    config = BertConfig(**{**bert.config.to_dict(), "tie_word_embeddings": False})
    BertForMaskedLM(config).save_pretrained(folder)
    weights = load_file(folder / WEIGHTS)
    decoder, words = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(weights[decoder], weights[words])
    set_config(folder, tie_word_embeddings=said)
    loaded = load_model(str(folder), tokenizer, 64)
    for name in (decoder, words):
        assert torch.equal(loaded.state_dict()[name], weights[name])
    assert not loaded.config.tie_word_embeddings
    loaded.save_pretrained(folder)
    assert load_file(folder / WEIGHTS).keys() >= {decoder, words}


@pytest.mark.fault
def test_no_weight_may_be_anything_but_a_number(folder, tokenizer):
    """Else the learning rate would be blamed for it, some steps later."""
    whole = load_file(folder / WEIGHTS)
    for number, (name, weight) in enumerate(whole.items()):
        harmed = weight.clone()
        harmed.view(-1)[-1] = (math.nan, math.inf, -math.inf)[number % 3]
        rewrite(folder, lambda _, name=name, harmed=harmed: {**whole, name: harmed})
        with refused(f"model={str(folder)!r}: its weight {name} is not finite", "copy or download"):
            load_model(str(folder), tokenizer, 64)


# names


def test_a_home_folder_is_found(folder, tokenizer, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    loaded = load_model("~/pretrained", load_tokenizer("~/pretrained", None), 64)
    again = load_model(str(folder), tokenizer, 64).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in loaded.state_dict().items())


FOREIGN = {  # a config.json that names other code, and what the line says of it
    "no such type": {"model_type": "quite-new"},
    "a decoder": {"model_type": "gpt2"},
    "an encoder of sentences that writes": {"model_type": "bart"},
    "an encoder without a masked-LM head": {"model_type": "t5"},
    "its own code": {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}},
    "no type at all": {"hidden_size": 32},
}


@pytest.mark.fault
@pytest.mark.parametrize("name", FOREIGN)
def test_another_models_code_is_not_run(folder, tokenizer, name, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    (folder / "config.json").write_text(json.dumps(FOREIGN[name]))
    for load in (load_tokenizer, load_model):
        with refused(
            f"model={str(folder)!r} is a {FOREIGN[name].get('model_type')!r} model", "BERT"
        ):
            load(str(folder), tokenizer)


@pytest.mark.fault
def test_code_beside_a_known_model_is_not_run(folder, tokenizer, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    set_config(folder, auto_map={"AutoConfig": "mine.Mine", "AutoModelForMaskedLM": "mine.Model"})
    assert type(load_model(str(folder), load_tokenizer(str(folder), None), 64)) is BertForMaskedLM


@pytest.mark.fault
def test_a_tokenizers_own_code_is_not_run(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    about = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    with refused(f"model={str(folder)!r}: ", "masked language model"):
        load_tokenizer(str(folder), None)


@pytest.mark.fault
def test_a_runs_folder_is_no_model(folder, tokenizer):
    run = folder.parent / "run"
    run.mkdir()
    folder.rename(run / "model")
    for load in (load_tokenizer, load_model):
        with refused(f"model={str(run)!r} is the folder of a run", f"pass {run / 'model'}"):
            load(str(run), tokenizer)
    load_model(str(run / "model"), load_tokenizer(str(run / "model"), None), 64)


@pytest.mark.fault
def test_what_no_model_can_be_called_is_refused_at_once(folder, tokenizer, monkeypatch):
    """Without asking the Hub, and never with a traceback."""
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
            began = time.monotonic()
            with refused("model=") as line:
                load(name, tokenizer)
            assert time.monotonic() - began < 1, name
            assert len(line()) < 600 and re.search(r"pass (the|a) ", line()), line()


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
    made = load_model(f"scratch:{size}", tokenizer)
    config = made.config
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
    made = load_model(model, tokenizer, 64)
    assert made.cls.predictions.decoder.weight is made.bert.embeddings.word_embeddings.weight
    assert made.cls.predictions.decoder.bias is made.cls.predictions.bias
    made.cls.predictions.decoder.weight.data[7] = 1.5
    assert (made.bert.embeddings.word_embeddings.weight[7] == 1.5).all()


@pytest.mark.parametrize("model", ["scratch:tiny", "folder"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_dropout_is_set_everywhere(model, dropout, folder, tokenizer):
    model = str(folder) if model == "folder" else model
    made = load_model(model, tokenizer, 64, dropout)
    found = {part.p for part in made.modules() if isinstance(part, torch.nn.Dropout)}
    assert found == {dropout}
    assert made.config.attention_probs_dropout_prob == dropout


@pytest.mark.fault
def test_a_model_with_fewer_tokens_than_its_tokenizer_is_refused(folder, tokenizer):
    set_config(folder, vocab_size=50)
    with refused("has 50 token embeddings", f"{len(tokenizer)} tokens", "same model"):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.fault
def test_max_len_above_the_models_positions_is_refused(folder, tokenizer):
    with refused("max_len=65", "64 positions", "at or below"):
        load_model(str(folder), tokenizer, 65)
    with refused("max_len=513", "512 positions"):
        load_model("scratch:tiny", tokenizer, 513)


@pytest.mark.fault
def test_a_model_without_a_masked_language_model_is_refused(folder, tokenizer):
    set_config(folder, model_type="gpt2")
    with refused(f"model={str(folder)!r}", "'gpt2'", "pass one such as BERT"):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.parametrize(
    "fault", ["no folder", "no config", "damaged config", "no weights", "cut weights"]
)
@pytest.mark.fault
def test_an_incomplete_or_damaged_folder_is_refused(folder, tokenizer, fault):
    weights = folder / "model.safetensors"
    if fault == "no folder":
        folder = folder / "gone"
    elif fault == "no config":
        (folder / "config.json").unlink()
    elif fault == "damaged config":
        (folder / "config.json").write_text('{"model_type": ')
    elif fault == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:5000])
    with refused(f"model={str(folder)!r} cannot be loaded", "pass", '"scratch:tiny"'):
        load_model(str(folder), tokenizer, 64)


@pytest.mark.fault
def test_weights_of_another_shape_are_refused(folder, tokenizer):
    set_config(folder, hidden_size=64)
    with refused(f"model={str(folder)!r} cannot be loaded", "pass", '"scratch:tiny"'):
        load_model(str(folder), tokenizer, 64)


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
