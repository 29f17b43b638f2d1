"""The CPU optimizations change no weight, no loss and no probability."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from helpers import masked_loss
from mlm.data.batches import MaskedBatches
from mlm.data.packing import PackingPlan
from mlm.env.products import reset_float32
from mlm.models.cpu import (
    DROPOUT_CLASSES,
    PACKED_ATTENTION,
    FastDropout,
    fast_dropout,
    undo_kernels,
    use_attention_and_dropout,
    use_kernels,
)
from mlm.models.kernels import KERNELS
from mlm.models.loading import load_model
from mlm.models.long_rows import LONG_SDPA
from mlm.training.evaluation import evaluate
from mlm.training.module import MaskedLM


@pytest.fixture
def make_batch(dataset):
    """A function that makes a batch of about 40 examples, packed or one per row."""

    def make(packed=True):
        plan = PackingPlan(dataset, 40, 0.15, 0, (0,))
        key = plan.keys(0)[0]
        if packed:
            return next(iter(MaskedBatches(dataset, [key], 0.15, 0, shape=plan.shape)))
        return next(iter(MaskedBatches(dataset, [key[:2]], 0.15, 0)))

    return make


def loss_and_gradients(model, batch):
    """(loss, {name: gradient}) of a batch, without dropout."""
    module = MaskedLM(model.eval(), {})
    model.zero_grad()
    loss = masked_loss(module, batch)[0]
    loss.backward()
    return loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def assert_same_gradients(gradients, expected):
    """Equal up to rounding."""
    for name, gradient in expected.items():
        difference = (gradients[name] - gradient).abs().max()
        assert difference <= 1e-4 + 1e-5 * gradient.abs().max(), name


def dropout_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]


# attention


@pytest.mark.parametrize("rows", ["packed", "one example each", "no mask"])
def test_attention_as_matrix_products_is_exact(bert, make_batch, rows):
    batch = make_batch(packed=rows == "packed")
    if rows == "no mask":
        del batch["sequence_ids"]
    fast_bert = use_attention_and_dropout(copy.deepcopy(bert), "matmul", "16bit")
    loss, gradients = loss_and_gradients(bert, batch)
    fast_loss, fast_gradients = loss_and_gradients(fast_bert, batch)
    assert fast_loss == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(fast_gradients, gradients)
    with torch.no_grad():
        logits, fast_logits = (
            MaskedLM(model, {}).masked_logits(batch) for model in (bert, fast_bert)
        )
    torch.testing.assert_close(fast_logits, logits, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("attention", PACKED_ATTENTION)
def test_packing_changes_neither_loss_nor_gradients(bert, make_batch, attention):
    bert.set_attn_implementation(attention)
    packed, unpacked = make_batch(packed=True), make_batch(packed=False)
    assert packed["input_ids"].shape[0] < unpacked["input_ids"].shape[0]
    loss, gradients = loss_and_gradients(bert, packed)
    expected_loss, expected = loss_and_gradients(bert, unpacked)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_same_gradients(gradients, expected)


def test_the_eager_attention_of_transformers_mixes_packed_examples(bert, make_batch):
    """So it is not in PACKED_ATTENTION, and the test above can fail."""
    bert.set_attn_implementation("eager")
    loss, _ = loss_and_gradients(bert, make_batch(packed=True))
    expected_loss, _ = loss_and_gradients(bert, make_batch(packed=False))
    assert loss != pytest.approx(expected_loss, rel=1e-3)


# a model with these kernels


def test_weights_and_names_stay_the_same(bert):
    before = {name: weight.clone() for name, weight in bert.state_dict().items()}
    fast_bert = use_attention_and_dropout(bert, "matmul", "16bit")
    assert fast_bert is bert and bert.config._attn_implementation == "matmul"
    assert {type(layer) for layer in dropout_layers(bert)} == {FastDropout}
    assert bert.state_dict().keys() == before.keys()
    assert all(torch.equal(bert.state_dict()[name], weight) for name, weight in before.items())
    assert bert.cls.predictions.decoder.weight is bert.bert.embeddings.word_embeddings.weight


def test_the_default_kernels_can_be_restored(bert):
    use_attention_and_dropout(use_attention_and_dropout(bert, "matmul", "16bit"), "sdpa", "torch")
    assert bert.config._attn_implementation == LONG_SDPA  # "sdpa" for rows below 1,024 tokens
    assert {type(layer) for layer in dropout_layers(bert)} == {torch.nn.Dropout}


def test_a_saved_fast_model_is_loaded_with_the_default_attention(
    bert, tokenizer, tmp_path, make_batch
):
    batch = make_batch()
    expected = masked_loss(MaskedLM(bert.eval(), {}), batch)[0].item()
    use_attention_and_dropout(bert, "matmul", "16bit").save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), tokenizer, 64)
    assert loaded.config._attn_implementation == "sdpa"
    loss = masked_loss(MaskedLM(loaded.eval(), {}), batch)[0].item()
    assert loss == pytest.approx(expected)


@pytest.fixture
def float32_products():
    """Afterwards, torch computes float32 products as before."""
    precision = torch.get_float32_matmul_precision()
    yield
    reset_float32()
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_line_says_which_kernels_are_used(bert, capsys, kernels, float32_products):
    products, attention, dropout = kernels.split("-")
    assert use_kernels(bert, kernels) is bert
    assert bert.config._attn_implementation == (LONG_SDPA if attention == "sdpa" else attention)
    assert {type(layer) for layer in dropout_layers(bert)} == {DROPOUT_CLASSES[dropout]}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("CPU kernels: freed memory is re") and len(line) <= 120
    uses_onednn = torch.get_float32_matmul_precision() == "medium"
    assert uses_onednn == ("oneDNN" in line) and uses_onednn <= (products == "onednn")


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_the_kernels_of_the_cpu_end_where_a_gpu_begins(bert, before, float32_products):
    """On a GPU, "medium" would round float32 products; what the user had set before comes back."""
    torch.set_float32_matmul_precision(before)
    for _ in range(2):  # also after two runs on the CPU
        use_kernels(bert, "onednn-matmul-16bit")
    undo_kernels(bert)
    assert torch.get_float32_matmul_precision() == before
    assert bert.config._attn_implementation == LONG_SDPA
    assert {type(layer) for layer in dropout_layers(bert)} == {torch.nn.Dropout}
    torch.set_float32_matmul_precision("high")  # by the user, after that
    undo_kernels(bert)
    assert torch.get_float32_matmul_precision() == "high"


def test_dropout_is_off_during_evaluation(bert, make_batch):
    model = use_attention_and_dropout(bert, "matmul", "16bit")
    for layer in dropout_layers(model):
        layer.p = 0.5
    module, batch = MaskedLM(model, {}), make_batch()
    assert evaluate(module, [batch]) == evaluate(module, [batch])
    module.train()
    assert masked_loss(module, batch)[0] != masked_loss(module, batch)[0]


# dropout


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_has_the_right_rate_and_scale_and_independent_elements(p, dtype):
    torch.manual_seed(0)
    x = torch.full((999, 1001), 2.0, dtype=dtype)  # the number of elements is no multiple of 4
    y = fast_dropout(x, p)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    is_kept, n = y != 0, x.numel()
    standard_error = np.sqrt(p * (1 - p) / n)
    accuracy = 2**-17  # p is rounded to multiples of 1/65,536
    assert abs(1 - is_kept.double().mean() - p) < 5 * standard_error + accuracy
    assert y[is_kept].unique().numel() == 1
    scale_error = 1e-2 if dtype == torch.bfloat16 else 1e-4
    assert y[is_kept][0].item() == pytest.approx(2 / (1 - p), rel=scale_error)
    for lane in range(4):  # four elements share a 64-bit random number
        rate = 1 - is_kept.flatten()[lane::4].double().mean()
        assert abs(rate - p) < 5 * 2 * standard_error + accuracy
    for lag in (1, 2, 3, 4, 1001):
        flat = is_kept.flatten().double()
        correlation = torch.corrcoef(torch.stack([flat[lag:], flat[:-lag]]))[0, 1]
        assert abs(correlation) < 5 / np.sqrt(n)


def test_the_gradient_of_dropout_is_its_scale_where_an_element_is_kept():
    x = torch.randn(50, 7, requires_grad=True)
    y = fast_dropout(x, 0.5)
    y.sum().backward()
    assert (x.grad == torch.where(y == 0, 0.0, 2.0)).all()
    assert (y.detach() == x.detach() * x.grad).all()


def test_a_dropout_rate_close_to_1_gives_finite_numbers():
    assert fast_dropout(torch.ones(1000), 1 - 1e-9).isfinite().all()


def test_dropout_that_is_off_returns_its_input():
    x = torch.randn(5)
    assert fast_dropout(x, 0.0) is x
    assert fast_dropout(x, 0.5, training=False) is x
    assert FastDropout(0.5).eval()(x) is x
    assert fast_dropout(torch.empty(0, 3), 0.5).shape == (0, 3)


def test_dropout_depends_on_the_seed():
    x = torch.ones(1000)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(fast_dropout(x, 0.5))
    assert (outputs[0] == outputs[1]).all() and (outputs[0] != outputs[2]).any()


@pytest.mark.parametrize("attention", PACKED_ATTENTION)
def test_heads_may_share_keys_and_values(attention):
    """As in EuroBERT: four heads of queries, two of keys and values."""
    torch.manual_seed(0)
    module = torch.nn.Module().eval()
    module.num_key_value_groups, module.is_causal = 2, False
    query, key, value = (torch.randn(2, heads, 8, 16) for heads in (4, 2, 2))
    mask = torch.rand(2, 1, 8, 8) < 0.7
    mask |= torch.eye(8, dtype=torch.bool)
    output, _ = ALL_ATTENTION_FUNCTIONS[attention](module, query, key, value, mask, scaling=0.25)
    repeated = (x.repeat_interleave(2, dim=1) for x in (key, value))
    expected = F.scaled_dot_product_attention(query, *repeated, mask, scale=0.25).transpose(1, 2)
    torch.testing.assert_close(output, expected)
