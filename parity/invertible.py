"""An invertible classifier, z = f(x) with x = f^-1(z) and a linear head on z, and a network that fuses images for it.

Sources: Jacobsen, Smeulders, Oyallon, "i-RevNet: Deep Invertible Networks", ICLR 2018, for f: additive coupling between
halves of the channels, sides halved by moving pixels into channels. Dinh, Lee, "Coded-InvNet for Resilient Prediction
Serving Systems", ICML 2021, for the fusion network, which imitates f^-1(mean f(X_i)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from parity.codes.invnet import InvNet
from parity.codes.linear import Addition
from parity.networks import Network, Shape
from parity.parts import Part
from sim.errors import ParmError

SMALLEST_SIDE = 4
"""Pixels are moved into channels while the larger side of the map exceeds this and both sides are even."""
DILATIONS = (1, 2, 4, 2, 1)
"""Of the fusion network's inner convolutions: each of its pixels sees all of a 28x28 image's."""


class Coupling(nn.Module):
    """(a, b) -> (b, a + F(b)) for the halves a, b of the channels; F, two 3x3 convolutions, is never inverted."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels // 2, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels // 2, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same shape."""
        first, second = x.chunk(2, dim=1)
        return torch.cat([second, first + self.branch(second)], dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`, in evaluation mode."""
        second, mixed = y.chunk(2, dim=1)
        return torch.cat([mixed - self.branch(second), second], dim=1)


class InvertibleNetwork(nn.Module):
    """Couplings in stages, each after the sides were halved, then a linear head: (n, *shape) -> (n, outputs)."""

    def __init__(self, shape: Shape, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        stages: list[nn.ModuleList] = []
        while height % 2 == 0 and breadth % 2 == 0 and max(height, breadth) > SMALLEST_SIDE:
            channels, height, breadth = 4 * channels, height // 2, breadth // 2
            stages.append(nn.ModuleList(Coupling(channels, width * 2 ** len(stages)) for _ in range(blocks)))
        if not stages:
            raise ParmError(
                f"invertible needs images with even sides, one over {SMALLEST_SIDE} pixels, not {shape[1]}x{shape[2]}"
            )
        self.stages = nn.ModuleList(stages)
        self.map = (channels, height, breadth)
        self.head = nn.Linear(channels * height * breadth, outputs)

    def features(self, x: Tensor) -> Tensor:
        """z = f(x): (n, *shape) -> (n, numbers of an image)."""
        for stage in self._couplings():
            x = pixel_unshuffle(x, 2)
            for block in stage:
                x = block(x)
        return x.flatten(1)

    def inverse(self, z: Tensor) -> Tensor:
        """x = f^-1(z), in evaluation mode: (n, numbers of an image) -> (n, *shape)."""
        x = z.reshape(-1, *self.map)
        for stage in reversed(self._couplings()):
            for block in reversed(stage):
                x = block.inverse(x)
            x = pixel_shuffle(x, 2)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape) -> (n, outputs)."""
        answer: Tensor = self.head(self.features(x))
        return answer

    def _couplings(self) -> list[list[Coupling]]:
        return [[block for block in stage.children() if isinstance(block, Coupling)] for stage in self.stages]


class Fusion(nn.Module):
    """The queries' mean plus what convolutions over all of them add to it: (g, k, *shape) -> (g, *shape)."""

    def __init__(self, shape: Shape, k: int, width: int) -> None:
        super().__init__()
        self.step = 1 if shape[1] % 2 or shape[2] % 2 else 2
        channels = shape[0] * self.step**2
        layers: list[nn.Module] = []
        before = k * channels
        for dilation in DILATIONS:
            layers += [nn.Conv2d(before, width, 3, padding=dilation, dilation=dilation, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))

    def begin_with_mean(self) -> None:
        """Make the untrained network add nothing."""
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, queries: Tensor) -> Tensor:
        """(g, k, *shape) -> (g, *shape)."""
        change = self.layers(pixel_unshuffle(queries.flatten(1, 2), self.step))
        return queries.mean(1) + pixel_shuffle(change, self.step)


def fuse_exactly(deployed: nn.Module, queries: Tensor) -> Tensor:
    """f^-1(mean f(X_i)), (g, k, *shape) -> (g, *shape). Raises ParmError where the deployed network has no inverse."""
    if not isinstance(deployed, InvertibleNetwork):
        raise ParmError("code 'invnet' with fusion 'exact' needs the deployed network 'invertible'")
    z = deployed.features(queries.flatten(0, 1)).reshape(*queries.shape[:2], -1)
    return deployed.inverse(z.mean(1))


class FusionPart(Part[InvNet]):
    """The fusion network, trained through the deployed model, which stays as it is."""

    @property
    def role(self) -> str:
        """See `Part.role`."""
        return "fusion"

    def describe(self) -> str:
        """See `Part.describe`."""
        return f"k = {self.k}"

    def identity(self) -> dict[str, Any]:
        """See `Part.identity`."""
        return {"kind": self.code.name_in_yaml(), "k": self.k, "width": self.code.width}

    def build(self, network: Network, shape: Shape, outputs: int, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """See `Part.build`: layers of its own, whatever the network."""
        module = Fusion(shape, self.k, self.code.width)
        initialise(module)
        module.begin_with_mean()
        return module

    def start_from(self, module: nn.Module, deployed: nn.Module) -> None:
        """There is nothing in the deployed model that a fusion network could start from."""

    def reconstruct(
        self, module: nn.Module, deployed: nn.Module, queries: Tensor, outputs: Tensor, generator: Generator
    ) -> Tensor:
        """See `Part.reconstruct`: k times the fused query's prediction, less the others'."""
        answer = deployed(module(queries)).to(outputs.dtype)
        return Addition().single_losses(outputs, self.k * answer, 1, 0)
