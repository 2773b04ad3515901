"""Muon: steepest descent of convolutions under the spectral norm, and AdamW for the other weights.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. The momentum of each layer's
gradient, as a matrix with a row per output channel, is replaced by the nearest semi-orthogonal matrix, so that no
direction of a layer is learned much faster than another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the source's polynomial a x + b x^3 + c x^5, which takes singular values in (0, 1] to about 1 in few rounds."""
BETAS, TINY = (0.9, 0.95), 1e-8
"""Of AdamW: the decay of its two means, and what keeps it from dividing by zero."""


class MuonOptimiser(Optimizer):
    """Muon for weights of four dimensions, which keep the norm sqrt(output channels); AdamW for all others.

    So a learning rate is the share of a layer's norm that one step changes. The rate of AdamW is `others` times that.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, others: float, weight_decay: float
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "others": others, "weight_decay": weight_decay}
        super().__init__(parameters, options)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every weight that has a gradient; there is no closure to call."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    update = self._muon if weight.dim() == 4 else self._adamw
                    update(weight, weight.grad, self.state[weight], group)

    def _muon(self, weight: Tensor, gradient: Tensor, state: dict[str, Tensor], options: dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].mul_(options["momentum"]).add_(gradient)
        ahead = gradient.add(momentum, alpha=options["momentum"])  # Nesterov's
        weight.mul_(len(weight) ** 0.5 / weight.norm())
        weight.sub_(orthogonal(ahead.flatten(1)).view(weight.shape), alpha=options["lr"])

    def _adamw(self, weight: Tensor, gradient: Tensor, state: dict[str, Tensor], options: dict[str, Any]) -> None:
        if not state:
            state |= {"step": torch.zeros(()), "first": torch.zeros_like(weight), "second": torch.zeros_like(weight)}
        state["step"] += 1
        first = state["first"].lerp_(gradient, 1 - BETAS[0])
        second = state["second"].lerp_(gradient.square(), 1 - BETAS[1])
        steps, rate = float(state["step"]), options["lr"] * options["others"]
        deviation = (second / (1 - BETAS[1] ** steps)).sqrt_().add_(TINY)
        weight.mul_(1 - rate * options["weight_decay"])
        weight.addcdiv_(first, deviation, value=-rate / (1 - BETAS[0] ** steps))


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U V^T of the singular value decomposition U S V^T of a matrix (n, m), by Newton and Schulz's iteration.

    Computed in bfloat16: the singular values end within 0.3 of 1, so that rounding does not matter.
    """
    a, b, c = COEFFICIENTS
    tall = len(matrix) > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = (x.T if tall else x).to(matrix.dtype)
    return result
