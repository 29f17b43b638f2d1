"""Muon for weight matrices, AdamW for the rest, as one optimizer."""

import torch

# Keller Jordan's polynomial, steepest at zero: it pushes singular values to about 1, not to 1
COEFFICIENTS = 3.4445, -4.7750, 2.0315


def orthogonalize(matrices, steps=5):
    """The matrices (n, rows, columns) with all their singular values pushed to about 1.

    A Newton-Schulz iteration: only matrix products, no decomposition (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). Computed in float32, n matrices of one shape at once.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the Gram matrix is then the smaller of the two
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class MuonAdamW(torch.optim.AdamW):
    """AdamW, but for groups with `muon=True`: their matrices are stepped by Muon.

    Muon (Jordan et al. 2024; for masked language models arXiv:2603.17970) replaces the gradient's
    moving average by the nearest matrix that turns and mirrors but stretches nothing, so that rare
    directions are learned as fast as frequent ones. A step's size is `lr` times sqrt(rows / columns),
    at least `lr`, as in torch.optim.Muon, which takes one matrix at a time.
    """

    momentum = 0.95
    clip = 0.0  # the largest norm of all gradients together; 0: any
    norm = None  # what it was in the last step that was taken, before it was clipped

    def __init__(self, params, **options):
        super().__init__(params, **options)
        # torch's fused AdamW unscales float16 gradients by itself, after the clip and not for Muon: a
        # scaler is to unscale them before the step, and to leave it out where they are not finite.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.clip:  # here, where the gradients of all processes have met, on every device
            weights = [weight for group in self.param_groups for weight in group["params"]]
            self.norm = torch.nn.utils.clip_grad_norm_(weights, self.clip)
        groups = self.param_groups
        try:  # torch's own step, for its own groups
            self.param_groups = [group for group in groups if not group.get("muon")]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self.step_matrices(group)
        return loss

    def step_matrices(self, group):
        """Muon's step: Nesterov's momentum, orthogonalized, for all matrices of a shape together."""
        shapes = {}
        for weight in group["params"]:
            if weight.grad is not None:
                shapes.setdefault(weight.shape, []).append(weight)
        for (rows, columns), weights in shapes.items():
            updates = []
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros(())  # AdamW looks for it when it is loaded
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - self.momentum)
                updates.append(weight.grad.lerp(state["momentum"], self.momentum))
            size = group["lr"] * max(1, rows / columns) ** 0.5
            for weight, update in zip(weights, orthogonalize(torch.stack(updates))):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-size)
