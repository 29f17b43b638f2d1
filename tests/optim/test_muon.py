"""Muon: orthogonalized updates for matrices, AdamW for the rest, in one optimizer."""

import copy

import pytest
import torch

from mlm.optim.muon import MuonAdamW, orthogonalize
from mlm.optim.optimizer import make_optimizer
from mlm.training.module import MaskedLM

OPTIONS = dict(lr=1e-3, weight_decay=0.01, schedule="linear", total_steps=20)


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16), (128, 128)])
def test_orthogonalize_keeps_singular_vectors_and_equalizes_singular_values(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrices)
    u, before, vt = torch.linalg.svd(matrices, full_matrices=False)
    rotated = u.mT @ result @ vt.mT  # diagonal if the singular vectors are the same
    after = rotated.diagonal(dim1=1, dim2=2)
    assert after.max() < 1.3
    assert after[before > 0.02 * before.max()].min() > 0.5  # tiny singular values stay small
    assert (rotated - torch.diag_embed(after)).abs().max() < 1e-3
    one_by_one = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(result, one_by_one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(orthogonalize(1000 * matrices), result, rtol=1e-4, atol=1e-4)


def test_a_zero_gradient_gives_a_zero_update():
    assert (orthogonalize(torch.zeros(2, 8, 4)) == 0).all()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon needs torch 2.9")
def test_muon_agrees_with_torch_optim_muon():
    """torch's version processes one matrix at a time, in bfloat16: they differ by its rounding."""
    random = torch.Generator().manual_seed(0)
    weights = [
        torch.nn.Parameter(torch.randn(shape, generator=random))
        for shape in [(32, 32), (64, 32)] * 2
    ]
    torch_weights = copy.deepcopy(weights)
    ours = MuonAdamW([{"params": weights, "muon": True}], lr=0.01, weight_decay=0.1)
    theirs = torch.optim.Muon(torch_weights, lr=0.01, weight_decay=0.1)
    before = [weight.detach().clone() for weight in weights]
    for _ in range(5):
        for weight, torch_weight in zip(weights, torch_weights):
            weight.grad = torch.randn(weight.shape, generator=random)
            torch_weight.grad = weight.grad.clone()
        ours.step()
        theirs.step()
    for weight, torch_weight, start in zip(weights, torch_weights, before):
        update, expected = weight.detach() - start, torch_weight.detach() - start
        assert (update - expected).norm() < 0.02 * expected.norm()


def test_lightnings_closure_works_with_muon(bert):
    """Lightning zeroes the gradients and computes new ones inside the step, for all groups."""
    module = MaskedLM(bert, {})
    optimizer, _ = make_optimizer(module, "muon", **OPTIONS)

    def closure():
        optimizer.zero_grad()
        assert torch.is_grad_enabled()
        assert all(weight.grad is None for weight in module.parameters())
        for weight in module.parameters():
            weight.grad = torch.ones_like(weight)
        return torch.tensor(7.0)

    for weight in module.parameters():
        weight.grad = torch.ones_like(weight)
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    assert optimizer.step(closure) == 7
    for name, weight in module.named_parameters():
        assert not torch.equal(weight, before[name]), name
