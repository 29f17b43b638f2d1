"""Laws that hold for every kind of masked language model, whatever its head, positions and tokens are."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from test_run import Suite, same
from transformers import AutoModelForMaskedLM, pipeline

from encoders import CONFIGS, OTHERS, make_model, make_tokenizer
from helpers import masked_loss, parts_of, refused
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import load_tokenizer
from mlm.env.notebook import NotebookError
from mlm.inference.load import check_tied, load_pred
from mlm.inference.predict import encode, pipeline_predictions, predict_masked, same_predictions, surprisals
from mlm.models.cpu import use_fast_kernels
from mlm.models.encoders import HEADS, head_logits, hidden_states, supports_packing
from mlm.models.loading import DROPOUTS, choose_packing, load_model
from mlm.optim.optimizer import make_optimizer
from mlm.training.evaluation import init_head_bias, log_frequencies
from mlm.training.module import MaskedLM
from mlm.training.checkpoint_callback import CheckpointingLogger

KINDS = sorted(HEADS)
EXAMPLES = np.arange(24)
SENTENCE = "the will [MASK] power; [MASK] was not human"

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def made(corpus_folder):
    """A function: a kind's tokenizer, dataset and model; the model is a copy of one's own."""
    kept = {}

    def get(kind, **changes):
        torch.set_num_threads(1)
        if kind not in kept:
            tokenizer = make_tokenizer(kind, corpus_folder / "train.txt")
            dataset = MaskedLMDataset(corpus_folder / "train.txt", tokenizer, 32)
            kept[kind] = tokenizer, dataset
        tokenizer, dataset = kept[kind]
        bert = make_model(kind, tokenizer, **changes)
        return SimpleNamespace(tokenizer=tokenizer, dataset=dataset, bert=bert)

    return get


def batch_of(dataset, rows):
    """The batch of some examples, a third of which are asked about, in "own" or "shared" rows."""
    key = 0, EXAMPLES, *([EXAMPLES // 4] if rows == "shared" else [])
    return next(iter(MaskedBatches(dataset, [key], 0.3, 0)))


def gradients(bert):
    """{name: gradient} of the weights that have one."""
    return {name: w.grad.clone() for name, w in bert.named_parameters() if w.grad is not None}


def rows_of(bert):
    """How a model's examples are laid out: in shared rows, where they may share them."""
    return "shared" if supports_packing(bert.config) else "own"


def test_every_kind_is_tried_and_shares_rows(made):
    assert CONFIGS.keys() == HEADS.keys() and not OTHERS.keys() & HEADS.keys()
    alone = {kind for kind in [*KINDS, *OTHERS] if rows_of(made(kind).bert) == "own"}
    old = Version(transformers.__version__) < Version("5.1")
    assert alone == OTHERS.keys() | ({"modernbert"} if old else set())


# the head on masked positions, rows that are shared


@pytest.mark.parametrize("rows", ["own", "shared"])
@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_loss_and_gradients_are_those_of_its_own_forward_pass(made, kind, rows):
    it = made(kind)
    if rows == "shared" and rows_of(it.bert) == "own":
        pytest.skip("each example has a row of its own")
    own, other = batch_of(it.dataset, "own"), copy.deepcopy(it.bert)
    mask = (own["sequence_ids"] > 0).long()
    theirs = other(own["input_ids"], attention_mask=mask, labels=own["labels"]).loss
    theirs.backward()
    loss, _, labels = masked_loss(MaskedLM(it.bert, {}), batch_of(it.dataset, rows))
    (loss / (labels != -100).sum()).backward()
    assert loss.item() / (labels != -100).sum() == pytest.approx(theirs.item(), rel=1e-5)
    ours, expected = gradients(it.bert), gradients(other)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        near = 1e-4 * gradient.abs().max() + 1e-6
        assert (ours[name] - gradient).abs().max() < near, name


@every_kind
@torch.no_grad()
def test_an_example_in_a_shared_row_is_read_as_if_alone(made, kind):
    it = made(kind)
    bert, batch = it.bert.eval(), batch_of(it.dataset, rows_of(it.bert))
    assert len(batch["input_ids"]) < len(EXAMPLES) / 2 or not supports_packing(bert.config)
    logits = MaskedLM(bert, {}).masked_logits(batch)  # (K, V), row by row
    parts = parts_of(batch, it.tokenizer.pad_token_id)
    alone = [
        bert(torch.tensor([ids])).logits[0][torch.tensor(labels) != -100] for ids, labels in parts
    ]
    expected = torch.cat(alone)
    torch.testing.assert_close(logits[: len(expected)], expected, rtol=1e-4, atol=1e-4)


@every_kind
@torch.no_grad()
def test_what_is_fast_on_a_cpu_is_exact(made, kind):
    it = made(kind)
    bert, batch = it.bert.eval(), batch_of(it.dataset, rows_of(it.bert))
    before = MaskedLM(bert, {}).masked_logits(batch)
    after = MaskedLM(use_fast_kernels(bert), {}).masked_logits(batch)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    own = not bert._supports_attention_backend  # DeBERTa's, ModernBERT's before transformers 5.1
    assert (bert.config._attn_implementation == "matmul") != own and (kind != "deberta-v2" or own)


@pytest.mark.parametrize("kind", ["deberta-v2"])
def test_a_model_that_mixes_neighbours_gets_a_row_an_example(made, kind, tmp_path, capsys):
    it = made(kind, conv_kernel_size=3)
    it.bert.save_pretrained(tmp_path)
    assert not choose_packing(str(tmp_path)) and not supports_packing(it.bert.config)
    assert capsys.readouterr().out.endswith("each example has a row of its own\n")
    batch = batch_of(it.dataset, "own")
    mask = (batch["sequence_ids"] > 0).long()
    theirs = it.bert(batch["input_ids"], attention_mask=mask).logits.flatten(0, 1)
    ours = MaskedLM(it.bert, {}).masked_logits(batch)
    torch.testing.assert_close(ours, theirs[batch["positions"]])


# the optimizer


@every_kind
def test_muon_takes_what_lies_between_hidden_states(made, kind):
    it = made(kind)
    module = MaskedLM(it.bert, {})
    optimizer, _ = make_optimizer(module, "muon", 1e-3, 0.1, "constant", 10)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == len(list(module.parameters()))
    tables = [part.weight for part in it.bert.modules() if isinstance(part, torch.nn.Embedding)]
    for name, weight in module.named_parameters():
        table = len(it.tokenizer) in weight.shape or any(weight is other for other in tables)
        assert bool(groups[id(weight)].get("muon")) == (weight.ndim == 2 and not table), name
        assert (groups[id(weight)]["weight_decay"] == 0) == (weight.ndim == 1), name


@every_kind
def test_dropout_is_set_everywhere(made, kind, tmp_path):
    it = made(kind)
    it.bert.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), it.tokenizer, 32, 0.25)
    found = {part.p for part in loaded.modules() if isinstance(part, torch.nn.Dropout)}
    assert found == {0.25}
    named = {name for name in loaded.config.to_dict() if "dropout" in name} & {*DROPOUTS}
    assert named and {getattr(loaded.config, name) for name in named} == {0.25}


# tokens


@every_kind
def test_what_looks_like_a_special_token_is_text(made, kind, tmp_path):
    it = made(kind)
    special = it.tokenizer.all_special_tokens
    text = f"the {' '.join(special)} will {'to power ' * 20}\n"
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    ids = MaskedLMDataset(tmp_path / "text.txt", it.tokenizer, 64).ids
    forbidden = {*it.tokenizer.all_special_ids} - {it.tokenizer.unk_token_id}
    assert not forbidden & {*ids.tolist()}


@every_kind
def test_a_mask_stands_where_its_word_stood(made, kind):
    it = made(kind)
    words = encode(it.bert, it.tokenizer, "the will to power")["input_ids"][0]
    masked = encode(it.bert, it.tokenizer, "the will [MASK] power")["input_ids"][0]
    assert len(words) == len(masked)
    (place,) = torch.where(words != masked)
    assert masked[place].tolist() == [it.tokenizer.mask_token_id]
    assert it.tokenizer.decode(words[place]).strip() == "to"


# a run, and what it leaves


@pytest.mark.parametrize("kind, tied", [*((kind, True) for kind in [*KINDS, *OTHERS]),
                                        *((kind, False) for kind in KINDS)])  # fmt: skip
def test_cut_resumed_saved_and_loaded_it_is_one_model(
    made, kind, tied, corpus_folder, tmp_path, monkeypatch
):
    """Dropout on; by saved.bin, model/, last.ckpt and the pipeline; tied stays tied, untied untied."""
    dropout = {name: 0.1 for name in DROPOUTS if name in CONFIGS.get(kind, {})}
    suites = []
    for _ in range(2):  # as two kernels would have them
        it = made(kind, **dropout, tie_word_embeddings=tied)
        suites.append(Suite(corpus_folder, it.tokenizer, it.bert))
    whole = suites[0](tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(NotebookError, match="stopped at step 3"):
        patch.setattr(CheckpointingLogger, "stop_requested", lambda logger: logger.saved_step >= 2)
        suites[1](tmp_path / "cut")
    assert same(whole, suites[1](tmp_path / "cut"))

    pred = load_pred(whole / "saved.bin", whole / "model")
    bert, tokenizer = pred.bert, load_tokenizer(str(whole / "model"), None)
    decoder, words = bert.get_output_embeddings().weight, bert.get_input_embeddings().weight
    assert (decoder is words) == tied and torch.equal(decoder, words) == tied
    check_tied(whole / "saved.bin", bert)
    batch = encode(bert, tokenizer, SENTENCE)
    assert (batch["input_ids"] == tokenizer.mask_token_id).sum() == 2
    copies = [
        load_pred(whole / "checkpoints/last.ckpt", whole / "model").bert,
        AutoModelForMaskedLM.from_pretrained(whole / "model").eval(),
        load_model(str(whole / "model"), tokenizer, 32).eval(),
    ]
    with torch.no_grad():
        expected = pred(**batch)
        assert all(torch.equal(copy(**batch).logits, expected) for copy in copies)
    fill_mask = pipeline("fill-mask", model=str(whole / "model"), device="cpu")
    guesses = predict_masked(bert, tokenizer, SENTENCE, 5)
    assert same_predictions(guesses, pipeline_predictions(fill_mask, SENTENCE, 5))


@every_kind
@torch.no_grad()
def test_the_score_of_a_sentence_is_that_of_its_own_forward_pass(made, kind):
    it = made(kind)
    bert = it.bert.eval()
    ids = encode(bert, it.tokenizer, "the will to power")["input_ids"]
    expected = []
    for place in range(1, ids.shape[1] - 1):
        masked = ids.clone()
        masked[0, place] = it.tokenizer.mask_token_id
        expected.append(-bert(masked).logits[0, place].log_softmax(-1)[ids[0, place]])
    _, nats = surprisals(bert, it.tokenizer, "the will to power")
    torch.testing.assert_close(nats, torch.stack(expected), rtol=1e-4, atol=1e-4)


# pretrained ones


@every_kind
def test_an_encoder_alone_gets_a_head_that_knows_the_frequencies(made, kind, tmp_path, capsys):
    it = made(kind)
    it.bert.base_model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), it.tokenizer, 32)
    assert loaded.head_was_missing and "without a masked-LM head" in capsys.readouterr().out
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = hidden_states(it.bert.eval(), ids)
        assert torch.equal(hidden_states(loaded.eval(), ids), expected)
        before = head_logits(loaded, expected)
        init_head_bias(loaded, it.dataset)
        rise = head_logits(loaded, expected) - before
    frequencies = torch.from_numpy(log_frequencies(it.dataset)).float()
    torch.testing.assert_close(rise, frequencies.expand_as(rise), rtol=1e-3, atol=1e-3)


@every_kind
def test_all_that_is_trained_of_an_untied_model_gets_a_gradient(made, kind, tmp_path):
    """Its file has two biases, too, and only one of them is read; DDP would wait for the other."""
    it = made(kind, tie_word_embeddings=False)
    with torch.no_grad():
        it.bert.get_output_embeddings().bias += 1
    it.bert.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), it.tokenizer, 32)
    batch = batch_of(it.dataset, rows_of(loaded))
    masked_loss(MaskedLM(loaded, {}), batch)[0].backward()
    trained = {name for name, weight in loaded.named_parameters() if weight.requires_grad}
    assert gradients(loaded).keys() == trained
    expected = MaskedLM(it.bert, {}).masked_logits(batch)
    torch.testing.assert_close(MaskedLM(loaded, {}).masked_logits(batch), expected)


@every_kind
@pytest.mark.fault
def test_max_len_above_its_positions(made, kind, tmp_path):
    it = made(kind)
    it.bert.save_pretrained(tmp_path)
    load_model(str(tmp_path), it.tokenizer, 64)
    with refused("max_len=65", "64 positions", "at or below"):
        load_model(str(tmp_path), it.tokenizer, 65)
    with refused("the sentence has ", "this model takes 64"):
        encode(it.bert, it.tokenizer, "the " * 70)
