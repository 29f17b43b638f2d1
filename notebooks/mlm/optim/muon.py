"""Muon for weight matrices and AdamW for all other weights, in one optimizer."""

from collections.abc import Callable
from typing import Any

import torch

# Polar Express (Amsel et al. 2025, arXiv:2505.16932): the odd polynomials a x + b x^3 + c x^5 that,
# one after the other, take the numbers from 0.01 to 1 closest to 1: to between 0.73 and 1.27.
POLYNOMIALS = (
    (8.0934, -23.6204, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)
# Jordan's polynomial, with which the learning rates were chosen, takes numbers to about 0.85.
SIZE = 0.85
# Rounding must not push a singular value far above 1, where the polynomials grow fast.
SAFETY = 1.02


def polynomial(gram: torch.Tensor, a: float, b: float, c: float) -> torch.Tensor:
    """a I + b gram + c gram^2 of symmetric matrices (n, rows, rows)."""
    result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal(dim1=1, dim2=2).add_(a)
    return result


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (n, rows, columns) with the same singular vectors, and singular values of about 1.

    It needs only matrix products, no decomposition (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). It runs in float32, on n matrices at once.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the product x @ x.mT is then the smaller one
    gram = x @ x.mT  # its eigenvalues are the squares of the singular values
    norm = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-30)[:, None, None]
    gram /= norm  # the largest eigenvalue is now at most 1
    square = gram @ gram
    # A closer bound is the fourth root of the sum of their fourth powers.
    bound = square.flatten(1).norm(dim=1).sqrt().clamp(min=1e-6)[:, None, None] * SAFETY
    (a, b, c), *others = POLYNOMIALS
    factor = (gram * (b / bound)).addcmul_(square, c / bound**2)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    product = factor * (norm * bound).rsqrt()
    if x.device.type == "cpu" and x.shape[2] > x.shape[1]:
        # All factors are polynomials of one small matrix, so they commute: multiply them first, and x
        # last. This needs exact products, but TPUs round them to bfloat16.
        gram /= bound
        for coefficients in others:
            gram = factor @ (gram @ factor)
            factor = polynomial(gram, *coefficients)
            product = factor @ product
        x = product @ x
    else:
        x = product @ x
        for coefficients in others:
            x = polynomial(x @ x.mT, *coefficients) @ x
    return x.mT if tall else x


class MuonAdamW(torch.optim.AdamW):
    """AdamW in which Muon updates the parameter groups with `muon=True`.

    Muon (Jordan et al. 2024; for masked language models arXiv:2603.17970) orthogonalizes the moving
    average of the gradient of a weight matrix. Rare directions are then learned as fast as frequent
    ones. A step has the size `lr` * sqrt(rows / columns), at least `lr`, as in torch.optim.Muon, which
    processes one matrix at a time, with five iterations of Jordan's polynomial instead of three.
    Here a matrix may be divided into blocks of rows, which costs less (Khaled et al. 2025,
    arXiv:2510.16981, also orthogonalize the whole matrix now and then; docs/experiments.md).

    max_norm: the gradients are scaled down to this norm; 0 turns clipping off.
    norm: the norm of all gradients before clipping, at the last step; None without clipping.
    """

    param_groups: list[dict[str, Any]]
    momentum = 0.95
    max_norm = 0.0
    norm: torch.Tensor | None = None

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        # torch's fused AdamW can unscale float16 gradients inside its step. That is too late for
        # clipping and does not cover Muon. So the gradient scaler must unscale them before the step,
        # and skip the step if a gradient is not finite.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all weights; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.max_norm:  # the gradients of all processes are already averaged here
            weights = [weight for group in self.param_groups for weight in group["params"]]
            self.norm = torch.nn.utils.clip_grad_norm_(weights, self.max_norm)
        groups = self.param_groups
        try:  # AdamW's step must only see its own groups
            self.param_groups = [group for group in groups if not group.get("muon")]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self.muon_step(group)
        return loss

    def muon_step(self, group: dict[str, Any]) -> None:
        """Update the matrices of a group: Nesterov momentum, orthogonalized; equal blocks together.

        group["parts"]: for each weight, the number of blocks of rows in it. Checkpoints of earlier versions
        keep theirs, or have none: then each weight is one block, as when their run began.
        """
        parts = group.get("parts", [1] * len(group["params"]))
        weights_by_block: dict[tuple[int, int], list[torch.Tensor]] = {}
        for weight, number in zip(group["params"], parts):
            if weight.grad is not None:
                rows, columns = weight.shape
                weights_by_block.setdefault((rows // number, columns), []).append(weight)
        for (rows, columns), weights in weights_by_block.items():
            momenta, gradients = [], []
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros(())  # AdamW needs it when a state is loaded
                    state["momentum"] = torch.zeros_like(weight)
                momenta.append(state["momentum"])
                gradients.append(weight.grad)
            torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
            updates = torch.cat(torch._foreach_lerp(gradients, momenta, self.momentum))
            updates = orthogonalize(updates.view(-1, rows, columns)).reshape(-1, columns)
            step_size = SIZE * group["lr"] * max(1, rows / columns) ** 0.5
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            pieces = updates.split([len(weight) for weight in weights])
            torch._foreach_add_(weights, pieces, alpha=-step_size)
