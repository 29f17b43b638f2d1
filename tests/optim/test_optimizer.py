"""make_optimizer: parameter groups, schedule, gradient clipping, saved state."""

import copy

import pytest
import torch

from encoders import CONFIGS, make_model
from mlm.optim.optimizer import MUON_LR, OPTIMIZERS, head_size, make_optimizer
from mlm.optim.schedule import SCHEDULES
from mlm.training.module import MaskedLM

OPTIONS = dict(lr=1e-3, weight_decay=0.01, schedule="linear", total_steps=20)


@pytest.fixture
def module(bert):
    return MaskedLM(bert, {})


def set_gradients(module, seed=0):
    """Give all weights random gradients, the same for every module of this size."""
    random = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.grad = torch.randn(weight.shape, generator=random)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_applies_to_all_groups_from_the_first_step(module, name, schedule):
    optimizer, scheduler = make_optimizer(module, name, **OPTIONS | {"schedule": schedule})
    peaks = [1e-3, 1e-3, MUON_LR * 1e-3][: len(optimizer.param_groups)]
    for step in range(20):
        expected = [peak * SCHEDULES[schedule](step, 20) for peak in peaks]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("unknown", [{"optimizer": "sgd"}, {"schedule": "cosine"}])
def test_an_unknown_name_is_an_error(module, unknown):
    with pytest.raises(KeyError, match=next(iter(unknown.values()))):
        make_optimizer(module, **{"optimizer": "adamw", **OPTIONS, **unknown})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_biases_and_layernorm_do_not_decay_and_each_weight_is_in_one_group(module, name):
    options = OPTIONS | {"schedule": "constant", "lr": 0.1, "weight_decay": 0.5}
    optimizer, _ = make_optimizer(module, name, **options)
    groups = {id(w): group for group in optimizer.param_groups for w in group["params"]}
    weights = dict(module.named_parameters())
    assert len(groups) == len(weights)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(weights)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()  # with zero gradients only weight decay changes a weight
    for weight_name, weight in weights.items():
        is_vector = weight_name.endswith("bias") or "LayerNorm" in weight_name
        factor = 1 if is_vector else 1 - groups[id(weight)]["lr"] * 0.5
        torch.testing.assert_close(weight.detach(), before[weight_name] * factor, msg=weight_name)


@pytest.mark.parametrize("kind", CONFIGS)
def test_muon_updates_the_matrices_between_hidden_states(kind, tokenizer):
    """Not the embeddings, the decoder and the vectors, for any kind of encoder."""
    model = make_model(kind, tokenizer)
    module = MaskedLM(model, {})
    optimizer, _ = make_optimizer(module, "muon", 1e-3, 0.1, "constant", 10)
    groups = {id(w): group for group in optimizer.param_groups for w in group["params"]}
    assert len(groups) == len(list(module.parameters()))
    tables = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Embedding)]
    for name, weight in module.named_parameters():
        is_table = len(tokenizer) in weight.shape or any(weight is table for table in tables)
        is_muon = bool(groups[id(weight)].get("muon"))
        assert is_muon == (weight.ndim == 2 and not is_table), name
        assert (groups[id(weight)]["weight_decay"] == 0) == (weight.ndim == 1), name


def test_adamw_agrees_with_torch_optim_adamw(module):
    """Five steps of the fused optimizer, compared with torch's plain one."""
    torch_module = copy.deepcopy(module)
    optimizer, scheduler = make_optimizer(module, "adamw", **OPTIONS)
    assert all(group["fused"] for group in optimizer.param_groups)
    plain = torch.optim.AdamW(
        [
            {"params": [w for w in torch_module.parameters() if w.ndim > 1], "weight_decay": 0.01},
            {"params": [w for w in torch_module.parameters() if w.ndim == 1], "weight_decay": 0.0},
        ],
        foreach=False,
        fused=False,
    )
    for step in range(5):
        for group in plain.param_groups:
            group["lr"] = 1e-3 * SCHEDULES["linear"](step, 20)
        set_gradients(module, step)
        set_gradients(torch_module, step)
        optimizer.step()
        scheduler.step()
        plain.step()
    for (name, ours), theirs in zip(module.named_parameters(), torch_module.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_a_saved_optimizer_resumes_bit_for_bit(tokenizer, kind):
    """Five steps, saved with the momentum, loaded into a new optimizer, five more steps."""
    module = MaskedLM(make_model(kind, tokenizer), {})
    other = copy.deepcopy(module)
    results = []
    for model in (module, other):
        optimizer, scheduler = make_optimizer(model, "muon", **OPTIONS)
        for step in range(10):
            if step == 5 and model is other:
                saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
                optimizer, scheduler = make_optimizer(model, "muon", **OPTIONS)
                optimizer.load_state_dict(saved[0])
                scheduler.load_state_dict(saved[1])
            set_gradients(model, step)
            optimizer.step()
            scheduler.step()
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_state_has_the_names_of_earlier_versions(module):
    """So their checkpoints can be resumed: each matrix has its momentum, all others AdamW's averages."""
    optimizer, _ = make_optimizer(module, "muon", **OPTIONS)
    set_gradients(module)
    optimizer.step()
    for group in optimizer.param_groups:
        names = {"momentum"} if group.get("muon") else {"exp_avg", "exp_avg_sq"}
        for weight in group["params"]:
            state = optimizer.state[weight]
            assert state.keys() == names | {"step"}
            assert all(state[name].shape == weight.shape for name in names)


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("clip, is_clipped", [(0.5, True), (1e9, False), (0.0, False)])
def test_clipping_limits_the_norm_of_all_gradients(module, optimizer_name, clip, is_clipped):
    """Smaller gradients keep their bits; the norm before clipping is available for the logs."""
    optimizer, _ = make_optimizer(module, optimizer_name, **OPTIONS, clip=clip)
    set_gradients(module)
    before = [weight.grad.clone() for weight in module.parameters()]
    norm = torch.stack([gradient.norm() for gradient in before]).norm()
    optimizer.step()
    after = [weight.grad for weight in module.parameters()]
    if is_clipped:
        norm_after = torch.stack([gradient.norm() for gradient in after]).norm()
        assert norm_after.item() == pytest.approx(clip, rel=1e-3)
    else:
        assert all(map(torch.equal, before, after))
    if clip == 0:
        assert optimizer.norm is None
    else:
        assert optimizer.norm.item() == pytest.approx(norm.item())


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_muon_updates_each_head_by_itself(kind, tokenizer):
    """Also where ModernBERT has queries, keys and values in one weight, and two inputs of a gated layer."""
    start = MaskedLM(make_model(kind, tokenizer), {})
    size = head_size(start.bert.config)
    optimizer, _ = make_optimizer(start, "muon", **OPTIONS)
    *_, group = optimizer.param_groups
    numbers = {id(weight): number for weight, number in zip(group["params"], group["parts"])}
    blocks = {
        name: numbers[id(weight)]
        for name, weight in start.named_parameters()
        if numbers.get(id(weight), 1) > 1
    }
    for name, weight in start.named_parameters():
        if any(part in name for part in ("query", "key", "value", "Wqkv")) and weight.ndim == 2:
            assert blocks[name] == len(weight) // size

    def update(scale, earlier=None):
        """The change of the weights in a step in which the gradient of the first block is scaled."""
        module = copy.deepcopy(start)
        optimizer, _ = make_optimizer(module, "muon", **OPTIONS)
        set_gradients(module)
        for name, number in blocks.items():
            module.get_parameter(name).grad.chunk(number)[0].mul_(scale)
        if earlier:
            optimizer.load_state_dict(earlier)
        optimizer.step()
        return {
            name: module.get_parameter(name).detach() - start.get_parameter(name).detach()
            for name in blocks
        }

    scaled = update(100.0)
    for name, change in update(1.0).items():
        torch.testing.assert_close(change, scaled[name], rtol=1e-3, atol=1e-4)
        largest = [torch.linalg.matrix_norm(part, 2).item() for part in change.chunk(blocks[name])]
        assert max(largest) < 1.5 * min(largest)

    before = make_optimizer(start, "muon", **OPTIONS)[0].state_dict()
    del before["param_groups"][-1][
        "parts"
    ]  # an earlier version's: whole weights, as when its run began
    one, other = update(1.0, before), update(100.0, before)
    assert not any(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-4) for name in blocks)


@pytest.mark.parametrize("kind", CONFIGS)
def test_blocks_divide_every_matrix_and_change_no_step_size(kind, tokenizer):
    """The norm of an update is that of the whole matrix's update, so learning rates need no change."""
    module = MaskedLM(make_model(kind, tokenizer), {})
    optimizer, _ = make_optimizer(module, "muon", **OPTIONS | {"weight_decay": 0.0})
    *_, group = optimizer.param_groups
    assert all(len(weight) % number == 0 for weight, number in zip(group["params"], group["parts"]))
    set_gradients(module)
    before = [weight.detach().clone() for weight in group["params"]]
    optimizer.step()
    for weight, start in zip(group["params"], before):
        whole = (
            group["lr"] * max(1, len(weight) / weight.shape[1]) ** 0.5 * min(weight.shape) ** 0.5
        )
        assert (weight - start).norm().item() == pytest.approx(whole, rel=0.3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_number_that_is_a_weight_is_trained(module, name):
    """For example a temperature that an edit of MaskedLM adds."""
    module.temperature = torch.nn.Parameter(torch.tensor(1.0))
    optimizer, _ = make_optimizer(module, name, 1e-3, 0.1, "constant", total_steps=10)
    updated = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert updated == {id(weight) for weight in module.parameters()}
