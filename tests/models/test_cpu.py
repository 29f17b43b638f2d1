"""What makes a CPU fast changes no weight, no loss and no law of chance."""

import copy

import numpy as np
import pytest
import torch

from helpers import masked_loss
from mlm.data.batches import MaskedBatches
from mlm.data.packing import PackingPlan
from mlm.models.cpu import (
    PACKED_ATTENTION,
    FastDropout,
    fast_dropout,
    onednn_float32,
    use_fast_kernels,
)
from mlm.models.loading import load_model
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM


@pytest.fixture
def batch_of(dataset):
    """A function that gives a batch of 40 examples or so, in shared rows or with a row each."""

    def make(rows="shared"):
        plan = PackingPlan(dataset, 40, 0.15, 0, (0,))
        epoch, indices, shared = plan.keys(0)[0]
        how = {} if rows == "own" else dict(shape=plan.shape)
        made = MaskedBatches(dataset, [], 0.15, 0, **how)
        return made.batch(epoch, indices, shared if rows == "shared" else None)

    return make


# attention


@pytest.mark.parametrize("how", ["shared", "own", "no mask"])
def test_attention_as_matrix_products_is_exact(bert, batch_of, how):
    batch = batch_of("shared" if how == "shared" else "own")
    if how == "no mask":
        del batch["sequence_ids"]
    found = []
    for model in (bert, use_fast_kernels(copy.deepcopy(bert))):
        loss, logits, _ = masked_loss(MaskedLM(model, {}), batch)
        loss.backward()
        found.append(
            (loss.detach(), logits.detach(), {n: p.grad for n, p in model.named_parameters()})
        )
    (loss, logits, grads), (fast_loss, fast_logits, fast_grads) = found
    torch.testing.assert_close(fast_loss, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(fast_logits, logits, rtol=1e-5, atol=2e-5)
    for name, grad in grads.items():
        worst = (fast_grads[name] - grad).abs().max()
        assert worst <= 1e-4 + 1e-5 * grad.abs().max(), name


def gradients_of(bert, batch):
    """(loss, {name: gradient}) of a batch, dropout off."""
    module = MaskedLM(bert.eval(), {})
    bert.zero_grad()
    loss = masked_loss(module, batch)[0]
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in bert.named_parameters()}


def packed_and_alone(bert, batch_of):
    """((loss, gradients) of examples that share rows, those of the same with a row each)."""
    shared, own = (batch_of(rows=rows) for rows in ("shared", "own"))
    assert shared["input_ids"].shape[0] < own["input_ids"].shape[0]
    return gradients_of(bert, shared), gradients_of(bert, own)


@pytest.mark.parametrize("way", PACKED_ATTENTION)
def test_a_packed_example_is_read_as_alone(bert, batch_of, way):
    bert.set_attn_implementation(way)
    (loss, grads), (alone, theirs) = packed_and_alone(bert, batch_of)
    assert loss == pytest.approx(alone, rel=1e-6)
    for name, grad in grads.items():
        assert (grad - theirs[name]).abs().max() <= 1e-4 + 1e-5 * grad.abs().max(), name


def test_the_plain_way_of_transformers_lets_packed_examples_see_each_other(bert, batch_of):
    """So it is no choice here, and the law above can fail."""
    bert.set_attn_implementation("eager")
    (loss, _), (alone, _) = packed_and_alone(bert, batch_of)
    assert loss != pytest.approx(alone, rel=1e-3)


def test_a_fast_model_is_the_same_model(bert):
    before = {name: value.clone() for name, value in bert.state_dict().items()}
    quick = use_fast_kernels(bert)
    assert quick is bert and quick.config._attn_implementation == "matmul"
    assert quick.state_dict().keys() == before.keys()
    assert all((quick.state_dict()[name] == value).all() for name, value in before.items())
    kinds = {type(part).__name__ for part in bert.modules() if isinstance(part, torch.nn.Dropout)}
    assert kinds == {"FastDropout"}
    assert quick.cls.predictions.decoder.weight is quick.bert.embeddings.word_embeddings.weight


def test_what_a_fast_model_saves_is_loaded_as_any_other(bert, tokenizer, tmp_path, batch_of):
    batch = batch_of()
    expected = masked_loss(MaskedLM(bert.eval(), {}), batch)[0].item()
    use_fast_kernels(bert).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), tokenizer, 64)
    assert loaded.config._attn_implementation == "sdpa"
    found = masked_loss(MaskedLM(loaded.eval(), {}), batch)[0].item()
    assert found == pytest.approx(expected)


def test_dropout_is_off_in_evaluation(bert, batch_of):
    quick = use_fast_kernels(bert)
    for part in quick.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    module, batch = MaskedLM(quick, {}), batch_of()
    assert evaluate(module, [batch]) == evaluate(module, [batch])
    module.train()
    assert masked_loss(module, batch)[0] != masked_loss(module, batch)[0]


# dropout


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share(p, dtype):
    torch.manual_seed(0)
    x = torch.full((999, 1001), 2.0, dtype=dtype)  # no multiple of 4 elements
    y = fast_dropout(x, p)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    kept = y != 0
    n = x.numel()
    spread = np.sqrt(p * (1 - p) / n)
    assert abs(1 - kept.double().mean() - p) < 5 * spread + 2**-17  # p is kept to 1 in 65,536
    assert y[kept].unique().numel() == 1
    assert y[kept][0].item() == pytest.approx(
        2 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 1e-4
    )
    for lane in range(4):  # 16 bits each of a 64-bit number
        share = kept.flatten()[lane::4].double().mean()
        assert abs(1 - share - p) < 5 * 2 * spread + 2**-17
    for lag in (1, 2, 3, 4, 1001):
        pair = kept.flatten().double()
        both = torch.corrcoef(torch.stack([pair[lag:], pair[:-lag]]))[0, 1]
        assert abs(both) < 5 / np.sqrt(n)


def test_dropout_has_the_gradient_of_what_it_kept():
    x = torch.randn(50, 7, requires_grad=True)
    y = fast_dropout(x, 0.5)
    y.sum().backward()
    assert (x.grad == torch.where(y == 0, 0.0, 2.0)).all()
    assert (y.detach() == x.detach() * x.grad).all()


def test_dropout_of_nearly_everything_is_finite():
    assert fast_dropout(torch.ones(1000), 1 - 1e-9).isfinite().all()


def test_dropout_of_nothing():
    x = torch.randn(5)
    assert fast_dropout(x, 0.0) is x
    assert fast_dropout(x, 0.5, training=False) is x
    assert FastDropout(0.5).eval()(x) is x
    assert fast_dropout(torch.empty(0, 3), 0.5).shape == (0, 3)


def test_dropout_comes_from_the_seed():
    x = torch.ones(1000)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(fast_dropout(x, 0.5))
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()


# float32


@pytest.mark.parametrize("rounds", [False, True], ids=["", "rounds"])
def test_float32_products_stay_float32(monkeypatch, rounds):
    """Where oneDNN rounds inside (here it seems to: the numbers are so large), it is not used."""
    before, randn = torch.get_float32_matmul_precision(), torch.randn
    try:
        with monkeypatch.context() as patch:
            if rounds:
                patch.setattr(torch, "randn", lambda *size, **how: 1000 * randn(*size, **how))
            used = onednn_float32()
        assert not (used and rounds)
        assert torch.get_float32_matmul_precision() == ("medium" if used else "highest")
        rows, columns = torch.randn(2, 128, 512, generator=torch.Generator().manual_seed(1))
        exact = rows.double() @ columns.double().T
        assert (rows @ columns.T - exact).abs().max() < 1e-3
    finally:
        torch.set_float32_matmul_precision(before)
