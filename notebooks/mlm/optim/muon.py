"""Muon for weight matrices and AdamW for all other weights, in one optimizer."""

from collections.abc import Callable
from typing import Any

import torch

# The polynomial a x + b x^3 + c x^5 of Keller Jordan. It is steepest at zero, so that small singular
# values grow fast. In return they end near 1, not at 1.
COEFFICIENTS = 3.4445, -4.7750, 2.0315


def orthogonalize(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Matrices (n, rows, columns) with the same singular vectors, and singular values of about 1.

    This is a Newton-Schulz iteration: it needs only matrix products, no decomposition (Jordan et al.
    2024, https://kellerjordan.github.io/posts/muon). It runs in float32, on n matrices at once.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the product x @ x.mT is then the smaller one
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class MuonAdamW(torch.optim.AdamW):
    """AdamW in which Muon updates the parameter groups with `muon=True`.

    Muon (Jordan et al. 2024; for masked language models arXiv:2603.17970) orthogonalizes the moving
    average of the gradient of a weight matrix. Rare directions are then learned as fast as frequent
    ones. A step has the size `lr` * sqrt(rows / columns), at least `lr`, as in torch.optim.Muon, which
    processes one matrix at a time.

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
        if (
            self.max_norm
        ):  # here the gradients of all processes are already averaged, on every device
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
        """Update the matrices of a group: Nesterov momentum, orthogonalized; equal shapes together."""
        weights_by_shape: dict[torch.Size, list[torch.Tensor]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                weights_by_shape.setdefault(weight.shape, []).append(weight)
        for (rows, columns), weights in weights_by_shape.items():
            updates = []
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros(())  # AdamW needs it when a state is loaded
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - self.momentum)
                updates.append(weight.grad.lerp(state["momentum"], self.momentum))
            step_size = group["lr"] * max(1, rows / columns) ** 0.5
            for weight, update in zip(weights, orthogonalize(torch.stack(updates))):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-step_size)
