"""The checks of a model before training: what is refused or repaired."""

import copy
import json

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from torch import nn

from encoders import CONFIGS, OTHERS, SMALL, make_model, make_tokenizer
from helpers import refused
from mlm.data.dataset import MaskedLMDataset
from mlm.models import encoders, probe
from mlm.models.cpu import use_attention_and_dropout
from mlm.models.encoders import Encoder, supports_packing
from mlm.models.loading import load_model
from mlm.models.probe import ForwardCheck, freeze_unused_weights, longest_input

# packed and unpacked, masked positions, own kernels: training computes what the model computes


@pytest.mark.parametrize("kind", [*CONFIGS, *OTHERS])
def test_every_kind_passes_and_nothing_about_it_changes(kind, corpus_folder, capsys):
    tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
    dataset = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32)
    model = make_model(kind, tokenizer).train()
    weights, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check = ForwardCheck(model, dataset)
    freeze_unused_weights(model, dataset)
    check()
    assert torch.equal(torch.get_rng_state(), random_state) and model.training
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    if kind not in OTHERS:
        assert capsys.readouterr().out == ""
    use_attention_and_dropout(model, "matmul", "16bit")
    check()


@pytest.mark.fault
@pytest.mark.parametrize("kind, wrong", [("roberta", "bert"), ("bert", "roberta")])
def test_other_positions_than_the_models_own_are_refused(
    kind, wrong, corpus_folder, monkeypatch, dataset, tokenizer
):
    """As if an entry of ENCODERS were wrong, or a config changed what the entry says."""
    model = make_model(kind, tokenizer)
    entry = Encoder(
        encoders.ENCODERS[kind].head_layers,
        positions_after_padding=encoders.ENCODERS[wrong].positions_after_padding,
    )
    monkeypatch.setitem(encoders.ENCODERS, kind, entry)
    check = ForwardCheck(model, dataset)
    with refused("training would not compute what", type(model).__name__, "pad_token_id"):
        check()


@pytest.mark.fault
def test_examples_that_are_not_kept_apart_are_refused(dataset, tokenizer, monkeypatch):
    model = make_model("bert", tokenizer)
    monkeypatch.setattr(probe, "packed_attention_mask", lambda sequence_ids: None)
    check = ForwardCheck(model, dataset)
    with refused("training would not compute what BertForMaskedLM itself computes"):
        check()


@pytest.mark.fault
@pytest.mark.parametrize("kind, name", [("bert", "is_decoder"), ("xlm", "causal")])
def test_a_causal_model_is_refused(kind, name, dataset, tokenizer, monkeypatch):
    monkeypatch.setitem(OTHERS, "xlm", dict(emb_dim=32, n_layers=2, n_heads=2))
    model = make_model(kind, tokenizer, **{name: True})
    with refused("does not read the text after a masked token", f"{name} set to true"):
        ForwardCheck(model, dataset)


@pytest.mark.fault
def test_a_model_with_random_predictions_is_refused(dataset, bert):
    bert.cls.register_forward_hook(lambda _, __, logits: logits + torch.randn_like(logits))
    with refused("the same input gives other predictions each time"):
        ForwardCheck(bert, dataset)


@pytest.mark.fault
def test_finite_weights_with_predictions_that_are_not_finite_are_refused(dataset, bert):
    for weight in bert.parameters():
        weight.data.mul_(1e18)
    with refused("BertForMaskedLM predicts NaN or infinity", "copy or download the model again"):
        ForwardCheck(bert, dataset)


@pytest.mark.fault
def test_the_reason_of_a_failing_forward_pass_is_given(dataset, bert):
    def fail(*_):
        raise RuntimeError("no kernel\nfor this card")

    bert.cls.register_forward_hook(fail)
    with refused("own forward pass fails", "RuntimeError: no kernel for this card", "pass another"):
        ForwardCheck(bert, dataset)


# what the tokenizer gives


def test_inputs_that_the_model_does_not_take_are_left_out(corpus_folder, tokenizer, capsys):
    """Otherwise `model(**tokenizer(text))` and pipelines would end in a TypeError."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    model = make_model("distilbert", tokenizer)
    dataset = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32)
    accepts_anything = "kwargs" in type(model).forward.__code__.co_varnames
    ForwardCheck(model, dataset)()
    model(**tokenizer("the will to power", return_tensors="pt"))
    assert ("token_type_ids" in capsys.readouterr().out) != accepts_anything


@pytest.mark.fault
def test_token_types_other_than_0_are_refused_as_the_reason(corpus_folder, tokenizer):
    """Training gives no token types, which is 0."""
    tokenizer = copy.deepcopy(tokenizer)
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    template = TemplateProcessing("[CLS]:1 $A:1 [SEP]:1", None, special)
    tokenizer.backend_tokenizer.post_processor = template
    model = make_model("bert", tokenizer)
    check = ForwardCheck(model, MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32))
    with refused(
        "training would not compute", "token_type_ids [1, 1, 1]", "only 0", "pass "
    ) as said:
        check()
    assert "pad_token_id" not in said()


@pytest.mark.fault
def test_inputs_that_training_does_not_give_are_refused(corpus_folder, tmp_path):
    """The shapes and pronunciations of RoCBert's tokenizer."""
    words = [*["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{word}" for word in words[5:]]
    paths = [tmp_path / name for name in ("vocab.txt", "shape.json", "pronunciation.json")]
    paths[0].write_text("\n".join(words))
    for path in paths[1:]:
        path.write_text(json.dumps({word: i for i, word in enumerate(words)}))
    tokenizer = transformers.RoCBertTokenizer(*map(str, paths))
    dataset = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32)
    config = transformers.RoCBertConfig(**SMALL, vocab_size=len(words))
    with refused("RoCBertForMaskedLM", "input_pronunciation_ids, input_shape_ids", "pass another"):
        ForwardCheck(transformers.RoCBertForMaskedLM(config), dataset)


def test_token_types_are_those_of_the_tokenizer(dataset):
    ids = torch.tensor([2, 9, 9, 3])

    def tokenize(text):  # as Funnel's tokenizer does
        return {"token_type_ids": [2, 0, 0, 0]}

    tokenize.model_input_names = ["input_ids", "token_type_ids"]
    batch = probe.tokenizer_output(tokenize, ids)
    assert batch["token_type_ids"].tolist() == [[2, 0, 0, 0]] and "attention_mask" not in batch


# unused weights


def test_weights_without_a_gradient_are_frozen_with_a_line(bert, dataset, capsys):
    bert.extra = nn.Linear(4, 4)
    total = len([*bert.parameters()])
    freeze_unused_weights(bert, dataset)
    frozen = {name for name, weight in bert.named_parameters() if not weight.requires_grad}
    assert frozen == {"extra.weight", "extra.bias"}
    assert capsys.readouterr().out == (
        f"2 of {total} weights get no gradient from text and stay as they are (extra.weight, ...)\n"
    )
    freeze_unused_weights(bert, dataset)
    assert capsys.readouterr().out == ""


# lengths


@pytest.mark.parametrize("longest", [1, 7, 40, 64])
def test_the_longest_input_is_found_by_halving(bert, longest):
    def refuse_longer(_, args, kwargs):
        if [*args, *kwargs.values()][0].shape[1] > longest:
            raise ValueError("too long")

    bert.bert.register_forward_pre_hook(refuse_longer, with_kwargs=True)  # its head is not asked
    assert [longest_input(bert, n) for n in (1, longest, 64, 1000)] == [
        1,
        longest,
        longest,
        longest,
    ]


def test_a_model_without_a_limit_takes_any_length(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(OTHERS, "funnel", dict(block_sizes=[1, 1], d_model=32, n_head=2, d_head=16))
    make_model("funnel", tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    load_model(str(tmp_path), tokenizer, 700)


def test_bigbird_is_as_it_was(tokenizer, corpus_folder, monkeypatch):
    """Its forward pass turns sparse attention off for good when it reads a short text."""
    small = CONFIGS["bert"] | dict(block_size=4)
    monkeypatch.setitem(OTHERS, "big_bird", small)
    model = make_model("big_bird", tokenizer)
    dataset = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 64)
    check = ForwardCheck(model, dataset)
    freeze_unused_weights(model, dataset)
    check()
    assert model.bert.attention_type == "block_sparse" and not supports_packing(model.config)


def test_layers_that_are_skipped_at_random_are_not_frozen(tokenizer, dataset, tmp_path, capsys):
    """FlauBERT's layerdrop: a layer that one batch skips is used by the next."""
    config = dict(emb_dim=32, n_layers=2, n_heads=2, layerdrop=0.99)
    config = transformers.FlaubertConfig(vocab_size=len(tokenizer), pad_token_id=0, **config)
    model = transformers.FlaubertWithLMHeadModel(config)
    freeze_unused_weights(model, dataset)
    assert all(weight.requires_grad for weight in model.parameters())
    model.save_pretrained(tmp_path)
    capsys.readouterr()
    loaded = load_model(str(tmp_path), tokenizer, 32)
    assert loaded.config.layerdrop == loaded.transformer.layerdrop == 0
    assert "layerdrop is 0.99 in config.json: it is now 0" in capsys.readouterr().out
