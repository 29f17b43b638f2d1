"""Muon: orthogonalized updates for matrices, AdamW for the rest, in one optimizer."""

import copy

import pytest
import torch

from mlm.optim.muon import POLYNOMIALS, SIZE, MuonAdamW, orthogonalize
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
    assert after[before > 0.02 * before.max()].min() > 0.7  # tiny singular values stay small
    assert (rotated - torch.diag_embed(after)).abs().max() < 1e-3
    one_by_one = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(result, one_by_one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(orthogonalize(1000 * matrices), result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fraction", [1, 0.3, 0.1, 0.03, 0.01])
@pytest.mark.parametrize("shape", [(32, 32), (32, 128)])
def test_singular_values_down_to_a_hundredth_of_the_largest_come_close_to_1(shape, fraction):
    """Also if one is much larger than all others, as in most gradients."""
    random = torch.Generator().manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(1, *shape, generator=random), full_matrices=False)
    values = torch.full((32,), float(fraction))
    values[0] = 1
    after = torch.linalg.svdvals(orthogonalize(u * values @ vt))
    assert after.min() > 0.7 and after.max() < 1.3


def test_the_polynomials_take_all_numbers_from_a_hundredth_to_1_close_to_1():
    x = torch.linspace(0.01, 1, 10_000, dtype=torch.float64)
    for a, b, c in POLYNOMIALS:
        x = a * x + b * x**3 + c * x**5
    assert 0.72 < x.min() < x.max() < 1.28


def test_a_zero_gradient_gives_a_zero_update():
    for shape in ((2, 8, 4), (2, 8, 8), (2, 4, 8)):
        assert (orthogonalize(torch.zeros(shape)) == 0).all()


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("shape", [(8, 8), (8, 32)])
def test_the_size_of_a_gradient_does_not_matter(shape, size):
    matrices = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    expected = orthogonalize(matrices)
    torch.testing.assert_close(orthogonalize(size * matrices), expected, rtol=1e-3, atol=1e-4)


def test_the_gram_matrix_of_a_rectangular_matrix_is_enough():
    """On a CPU, the factors are multiplied first; elsewhere each one is applied to the matrix."""

    class OtherDevice(torch.Tensor):
        device = torch.device("meta")

    matrices = torch.randn(3, 16, 64, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrices)
    expected = orthogonalize(matrices.as_subclass(OtherDevice)).as_subclass(torch.Tensor)
    assert not torch.equal(result, expected)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon needs torch 2.9")
def test_muon_agrees_with_torch_optim_muon(monkeypatch):
    """With the same function that orthogonalizes; torch's processes one matrix at a time, in bfloat16."""

    def jordan(matrices):
        x = matrices / matrices.flatten(1).norm(dim=1)[:, None, None]
        for _ in range(5):
            gram = x @ x.mT
            x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
        return x / SIZE

    monkeypatch.setattr("mlm.optim.muon.orthogonalize", jordan)
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
