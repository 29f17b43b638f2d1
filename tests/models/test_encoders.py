"""Properties that hold for every kind of encoder, whatever its head, positions and tokenizer."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from IPython.display import Image
from transformers import AutoModelForMaskedLM, pipeline

import mlm.training.model_card
import mlm.training.results
import small_runs
from encoders import CONFIGS, OTHERS, ROBERTA, BertPred, make_model, make_tokenizer
from helpers import masked_loss, refused, unpack_examples
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import load_tokenizer
from mlm.inference.load import check_tied, load_pred
from mlm.inference.predict import (
    encode,
    pipeline_predictions,
    predict_masked,
    same_predictions,
    surprisals,
)
from mlm.models.cpu import use_attention_and_dropout
from mlm.models.encoders import ENCODERS, Encoder, supports_packing
from mlm.models.loading import DROPOUT_NAMES, choose_packing, load_model
from mlm.training.module import MaskedLM
from small_runs import SmallRuns, same, stop_at

KINDS = sorted(ENCODERS)
SAME_CODE_AS_ROBERTA = "camembert", "xlm-roberta"
EXAMPLES = np.arange(24)
SENTENCE = "the will [MASK] power; [MASK] was not human"

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def make_small(corpus_folder):
    """A function that makes a kind's tokenizer, dataset and model; only the model is new every time."""
    cache = {}

    def make(kind, **changes):
        torch.set_num_threads(1)
        if kind not in cache:
            tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
            dataset = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32)
            cache[kind] = tokenizer, dataset
        tokenizer, dataset = cache[kind]
        model = make_model(kind, tokenizer, **changes)
        return SimpleNamespace(tokenizer=tokenizer, dataset=dataset, model=model)

    return make


def make_batch(dataset, packed):
    """A batch of EXAMPLES with 30% of the tokens masked: four examples per row, or one."""
    key = (0, EXAMPLES, EXAMPLES // 4) if packed else (0, EXAMPLES)
    return next(iter(MaskedBatches(dataset, [key], 0.3, 0)))


def gradients(model):
    """{name: gradient} of the weights that have one."""
    return {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def assert_same_loss_and_gradients(small, packed):
    """Compare masked_logits with the model's own forward pass, which gets one example per row."""
    unpacked, other = make_batch(small.dataset, packed=False), copy.deepcopy(small.model)
    padding_mask = (unpacked["sequence_ids"] > 0).long()
    expected_loss = other(
        unpacked["input_ids"], attention_mask=padding_mask, labels=unpacked["labels"]
    ).loss
    expected_loss.backward()
    batch = make_batch(small.dataset, packed)
    loss_sum, _, labels = masked_loss(MaskedLM(small.model, {}), batch)
    loss = loss_sum / (labels != -100).sum()
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    ours, expected = gradients(small.model), gradients(other)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        tolerance = 1e-4 * gradient.abs().max() + 1e-6
        assert (ours[name] - gradient).abs().max() < tolerance, name


# the table


def test_every_kind_in_the_table_is_tested_and_can_be_packed(make_small):
    assert CONFIGS.keys() == ENCODERS.keys() and not OTHERS.keys() & ENCODERS.keys()
    unpackable = {
        kind for kind in [*KINDS, *OTHERS] if not supports_packing(make_small(kind).model.config)
    }
    assert unpackable == OTHERS.keys()


@pytest.mark.parametrize("packed", [False, True])
def test_one_entry_adds_a_kind(make_small, monkeypatch, packed):
    monkeypatch.setitem(CONFIGS, "roberta-prelayernorm", ROBERTA)
    small = make_small("roberta-prelayernorm")
    assert not supports_packing(small.model.config)
    entry = Encoder(head_layers=("lm_head",), positions_after_padding=True)
    monkeypatch.setitem(ENCODERS, "roberta-prelayernorm", entry)
    assert supports_packing(small.model.config)
    assert_same_loss_and_gradients(small, packed)


# masked positions only, packed rows


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_loss_and_gradients_equal_the_models_own_forward_pass(make_small, kind, packed):
    small = make_small(kind)
    if packed and not supports_packing(small.model.config):
        pytest.skip("this kind needs one example per row")
    assert_same_loss_and_gradients(small, packed)


@every_kind
@torch.no_grad()
def test_a_packed_example_is_read_as_if_it_were_alone(make_small, kind):
    small = make_small(kind)
    model, packed = small.model.eval(), supports_packing(small.model.config)
    batch = make_batch(small.dataset, packed)
    assert len(batch["input_ids"]) < len(EXAMPLES) / 2 or not packed
    logits = MaskedLM(model, {}).masked_logits(batch)  # (K, V), row by row
    expected = torch.cat(
        [
            model(torch.tensor([ids])).logits[0][torch.tensor(labels) != -100]
            for ids, labels in unpack_examples(batch, small.tokenizer.pad_token_id)
        ]
    )
    torch.testing.assert_close(logits[: len(expected)], expected, rtol=1e-4, atol=1e-4)


@every_kind
@torch.no_grad()
def test_the_cpu_kernels_do_not_change_the_logits(make_small, kind):
    small = make_small(kind)
    model = small.model.eval()
    batch = make_batch(small.dataset, supports_packing(model.config))
    before = MaskedLM(model, {}).masked_logits(batch)
    after = MaskedLM(use_attention_and_dropout(model, "matmul", "16bit"), {}).masked_logits(batch)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    has_own_attention = not model._supports_attention_backend
    assert (model.config._attn_implementation == "matmul") != has_own_attention
    assert has_own_attention == (kind == "deberta-v2")


@torch.no_grad()
def test_a_deberta_with_a_convolution_is_not_packed(make_small, tmp_path, capsys):
    """It mixes neighbouring tokens, which may belong to different examples of a row."""
    small = make_small("deberta-v2", conv_kernel_size=3)
    small.model.save_pretrained(tmp_path)
    assert not choose_packing(str(tmp_path)) and not supports_packing(small.model.config)
    assert "no packing: 'deberta-v2' models need one example per row" in capsys.readouterr().out
    assert_matches_own_logits(small)


@torch.no_grad()
def test_a_deberta_with_the_newer_head_uses_its_own_forward_pass(make_small):
    small = make_small("deberta-v2", legacy=False)
    assert not supports_packing(small.model.config)
    assert_matches_own_logits(small)


def assert_matches_own_logits(small):
    """Compare masked_logits with the model's own forward pass, for one example per row."""
    batch = make_batch(small.dataset, packed=False)
    padding_mask = (batch["sequence_ids"] > 0).long()
    expected = small.model(batch["input_ids"], attention_mask=padding_mask).logits.flatten(0, 1)
    logits = MaskedLM(small.model, {}).masked_logits(batch)
    torch.testing.assert_close(logits, expected[batch["positions"]])


# tokens


@every_kind
def test_special_tokens_in_the_text_are_plain_text(make_small, kind, tmp_path):
    small = make_small(kind)
    special_tokens = " ".join(small.tokenizer.all_special_tokens)
    text = f"the {special_tokens} will {'to power ' * 20}\n"
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    ids = MaskedLMDataset(tmp_path / "text.txt", small.tokenizer, 64).ids
    tokenizer = small.tokenizer  # additional special tokens of the owner stay tokens
    names = "mask_token_id", "cls_token_id", "sep_token_id", "pad_token_id"
    assert not {getattr(tokenizer, name) for name in names} & {*ids.tolist()}


@every_kind
def test_the_mask_token_takes_the_place_of_one_word(make_small, kind):
    small = make_small(kind)
    original, masked = (
        encode(small.model, small.tokenizer, sentence)["input_ids"][0]
        for sentence in ("the will to power", "the will [MASK] power")
    )
    assert len(original) == len(masked)
    (positions,) = torch.where(original != masked)
    assert masked[positions].tolist() == [small.tokenizer.mask_token_id]
    assert small.tokenizer.decode(original[positions]).strip() == "to"


@every_kind
@torch.no_grad()
def test_surprisals_equal_the_models_own_forward_pass(make_small, kind):
    small = make_small(kind)
    model = small.model.eval()
    ids = encode(model, small.tokenizer, "the will to power")["input_ids"]
    expected = []
    for position in range(1, ids.shape[1] - 1):
        masked = ids.clone()
        masked[0, position] = small.tokenizer.mask_token_id
        log_p = model(masked).logits[0, position].log_softmax(-1)
        expected.append(-log_p[ids[0, position]])
    _, nats = surprisals(model, small.tokenizer, "the will to power")
    torch.testing.assert_close(nats, torch.stack(expected), rtol=1e-4, atol=1e-4)


# from training to prediction


@pytest.fixture
def short_runs(monkeypatch):
    """Runs of 4 steps, without what takes longest: measuring the CPU's peak and drawing the curve."""
    monkeypatch.setattr(small_runs, "STEPS", 4)
    image = Image(b"\x89PNG\r\n\x1a\n", format="png")
    monkeypatch.setattr(mlm.training.results, "device_peak", lambda *_: (1e11, "measured"))
    monkeypatch.setattr(mlm.training.model_card, "curve_image", lambda *_: image)


@pytest.mark.parametrize(
    "kind, tied",
    [(kind, True) for kind in [*KINDS, *OTHERS]]
    + [(kind, False) for kind in KINDS if kind not in SAME_CODE_AS_ROBERTA],
)
@pytest.mark.slow
@pytest.mark.usefixtures("short_runs")
def test_a_run_resumes_and_all_its_copies_predict_the_same(
    make_small, kind, tied, corpus_folder, tmp_path
):
    """With dropout; saved.bin, model/, last.ckpt and the pipeline; tied matrices stay tied, untied untied."""
    dropout = {name: 0.1 for name in DROPOUT_NAMES if name in CONFIGS.get(kind, {})}
    whole_runs, cut_runs = (  # as in two kernels
        SmallRuns(corpus_folder, small.tokenizer, small.model)
        for small in (make_small(kind, **dropout, tie_word_embeddings=tied) for _ in range(2))
    )
    folder = whole_runs(tmp_path / "whole", evaluations=1)
    stop_at(cut_runs, tmp_path / "cut", 3, evaluations=1)
    assert same(folder, cut_runs(tmp_path / "cut", evaluations=1))

    pred = load_pred(folder / "saved.bin", folder / "model", BertPred)
    model, tokenizer = pred.bert, load_tokenizer(str(folder / "model"), None)
    decoder = model.get_output_embeddings().weight
    embeddings = model.get_input_embeddings().weight
    assert (decoder is embeddings) == tied and torch.equal(decoder, embeddings) == tied
    check_tied(folder / "saved.bin", model)
    batch = encode(model, tokenizer, SENTENCE)
    assert (batch["input_ids"] == tokenizer.mask_token_id).sum() == 2
    copies = [
        load_pred(folder / "checkpoints/last.ckpt", folder / "model", BertPred).bert,
        AutoModelForMaskedLM.from_pretrained(folder / "model").eval(),
        load_model(str(folder / "model"), tokenizer, 32).eval(),
    ]
    with torch.no_grad():
        expected = pred(**batch)
        assert all(torch.equal(other(**batch).logits, expected) for other in copies)
    fill_mask = pipeline("fill-mask", model=str(folder / "model"), device="cpu")
    ours = predict_masked(model, tokenizer, SENTENCE, 5)
    assert same_predictions(ours, pipeline_predictions(fill_mask, SENTENCE, 5))


# loading


@every_kind
def test_dropout_is_set_in_every_layer(make_small, kind, tmp_path):
    small = make_small(kind)
    small.model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), small.tokenizer, 32, 0.25)
    layers = [layer for layer in loaded.modules() if isinstance(layer, torch.nn.Dropout)]
    assert {layer.p for layer in layers} == {0.25}
    names = {name for name in loaded.config.to_dict() if "dropout" in name} & {*DROPOUT_NAMES}
    assert names and {getattr(loaded.config, name) for name in names} == {0.25}


@every_kind
def test_every_trained_weight_of_an_untied_model_gets_a_gradient(make_small, kind, tmp_path):
    """Its files contain two biases, of which only one is used; DDP would wait for the other."""
    small = make_small(kind, tie_word_embeddings=False)
    with torch.no_grad():
        small.model.get_output_embeddings().bias += 1
    small.model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), small.tokenizer, 32)
    batch = make_batch(small.dataset, supports_packing(loaded.config))
    masked_loss(MaskedLM(loaded, {}), batch)[0].backward()
    trained = {name for name, weight in loaded.named_parameters() if weight.requires_grad}
    assert gradients(loaded).keys() == trained
    expected = MaskedLM(small.model, {}).masked_logits(batch)
    torch.testing.assert_close(MaskedLM(loaded, {}).masked_logits(batch), expected)


@every_kind
@pytest.mark.fault
def test_more_tokens_than_positions_are_refused(make_small, kind, tmp_path):
    small = make_small(kind)
    small.model.save_pretrained(tmp_path)
    load_model(str(tmp_path), small.tokenizer, 64)
    with refused("max_len=65", "64 positions", "at or below"):
        load_model(str(tmp_path), small.tokenizer, 65)
    with refused("the sentence has ", "64"):
        encode(small.model, small.tokenizer, "the " * 70)
