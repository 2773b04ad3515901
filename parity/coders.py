"""The networks of codes that have some: a parity model with its conditional decoder, a learned encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

LOGITS_SCALE = 0.3
"""Raw outputs are of the order of one, after training with smoothed labels, to ten; decoders see them nearer to one."""
DILATIONS = (1, 1, 2, 4, 8, 1)
"""Of the 3x3 convolutions of the convolutional encoder; a 1x1 convolution follows."""


class ConditionalParity(nn.Module):
    """A parity model with `features` outputs more than classes, and the decoder that corrects the subtraction.

    As a module it answers parity queries: (n, *shape) -> (n, classes + features).
    """

    def __init__(self, network: nn.Module, k: int, classes: int, features: int, hidden: int) -> None:
        super().__init__()
        self.network = network
        self.k = k
        self.decoder = nn.Sequential(
            nn.Linear(3 * classes + features + k, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def begin_with_subtraction(self) -> None:
        """Make the untrained decoder correct nothing."""
        last = self.decoder[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape) -> (n, classes + features)."""
        answer: Tensor = self.network(x)
        return answer

    def correction(self, outputs: Tensor, parity: Tensor, slot: int) -> Tensor:
        """Say what is to be added to the subtraction's prediction of the one lost slot.

        `outputs` (g, k, c), of which that slot is not read, and `parity` (g, c + features) give (g, c).
        """
        others = outputs[:, [one for one in range(self.k) if one != slot]]
        place = torch.zeros(len(outputs), self.k, device=outputs.device, dtype=outputs.dtype)
        place[:, slot] = 1
        seen = (parity * LOGITS_SCALE, others.softmax(-1).mean(1), others.mean(1) * LOGITS_SCALE, place)
        result: Tensor = self.decoder(torch.cat([one.to(outputs.dtype) for one in seen], dim=-1))
        return result


class LearnedCoder(nn.Module):
    """An encoder of k queries into r coded ones, and a decoder of k + r answers into k predictions."""

    def __init__(
        self, shape: Sequence[int], k: int, r: int, classes: int, encoder: Literal["mlp", "conv"], width: int
    ) -> None:
        super().__init__()
        self.k, self.r = k, r
        self.shape = tuple(shape)
        channels, height, width_pixels = self.shape
        if encoder == "mlp":
            pixels = channels * height * width_pixels
            self.encoder: nn.Module = nn.Sequential(
                nn.Flatten(), nn.Linear(k * pixels, k * pixels), nn.ReLU(), nn.Linear(k * pixels, r * pixels)
            )
        else:
            layers: list[nn.Module] = []
            before = k * channels
            for dilation in DILATIONS:
                layers += [nn.Conv2d(before, width * k, 3, padding=dilation, dilation=dilation), nn.ReLU()]
                before = width * k
            self.encoder = nn.Sequential(*layers, nn.Conv2d(before, r * channels, 1))
        n, m = (k + r) * classes, k * classes
        self.decoder = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, m), nn.ReLU(), nn.Linear(m, m))

    def encode(self, queries: Tensor) -> Tensor:
        """(g, k, *shape) -> (g, r, *shape)."""
        coded: Tensor = self.encoder(queries.flatten(1, 2))
        return coded.reshape(len(queries), self.r, *self.shape)

    def decode(self, outputs: Tensor, parities: Tensor, there: Tensor) -> Tensor:
        """(g, k, c), (g, r, c) and which of them are there, bool (g, k + r), -> (g, k, c). Others are not read."""
        answers = torch.cat([outputs, parities], dim=1)
        seen = torch.where(there[..., None], answers, 0.0) * LOGITS_SCALE
        decoded: Tensor = self.decoder(seen.flatten(1))
        return decoded.reshape(outputs.shape) / LOGITS_SCALE
