"""Muon for the hidden matrices of the tiny base models, in float32 throughout.

Momentum is made orthogonal by five Newton-Schulz steps before it is applied (Keller Jordan,
kellerjordan.github.io/posts/muon), at a rate that matches the size of AdamW's updates (arXiv
2502.16982). ``torch.optim.Muon`` is the same rule with the Newton-Schulz steps in bfloat16, which
processors without instructions for it emulate at a twentieth of the speed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd quintic polynomial whose iteration drives singular values towards 1."""
_ITERATIONS = 5
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay.

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate as for AdamW.
        weight_decay: share of a weight that is taken off per step, in units of ``lr``.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"].lerp_(matrix.grad, 1 - _MOMENTUM)
                update = orthogonal(matrix.grad.lerp(momentum, _MOMENTUM))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                # An orthogonal matrix has entries of size max(shape) ** -0.5; AdamW's have 0.2 to
                # 0.4 of the rate.
                matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """U S V^T with every singular value replaced by one near 1 (0.7 to 1.2), whatever its size."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)  # so that no singular value is above 1
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
