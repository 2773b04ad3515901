"""The layers of `networks.Speedrun`: fixed whitening filters, three blocks of two convolutions, scaled outputs.

Source of the plan: K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498, 2024.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from parity.shape import Shape

NEIGHBOURS, COLOURS, NOISE = 0.9, 0.9, 0.01
"""The model of images that the first layer whitens: correlation of neighbouring pixels, correlation of colour channels,
and variance of what every pixel has for itself, as shares of a pixel's variance."""
OUTPUT_SCALE = 1 / 9
"""Of the last layer's outputs, so that the softmax of an untrained network is nearly flat; the source's value."""


class Whitening(nn.Module):
    """A convolution without padding whose filters are fixed: `whitening_filters`."""

    filters: Tensor

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.register_buffer("filters", whitening_filters(channels, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, 2 channels kernel^2, h - kernel + 1, w - kernel + 1)."""
        return functional.conv2d(x, self.filters)


def whitening_filters(channels: int, kernel: int) -> Tensor:
    """Filters (2 channels kernel^2, channels, kernel, kernel) whose responses vary alike, and nearly independently.

    They are the cosines of a patch's rows, columns and channels, which are close to the principal components of natural
    images (Ahmed, Natarajan and Rao 1974), each over the standard deviation of its response to standardised images
    that correlate as `NEIGHBOURS`, `COLOURS` and `NOISE` say; and their negatives, for a rectifier to keep both signs.
    The source takes principal components of training images, which would tie an architecture to a data set. Channels
    after the third are taken for something else than colours, and whitened each by itself, after the others.
    """
    if channels > 3:
        colours, other = whitening_filters(3, kernel), whitening_filters(1, kernel)
        further = channels - 3
        filters = torch.zeros(len(colours) + further * len(other), channels, kernel, kernel)
        filters[: len(colours), :3] = colours
        for number in range(further):
            start = len(colours) + number * len(other)
            filters[start : start + len(other), 3 + number] = other[:, 0]
        return filters
    place = torch.arange(kernel, dtype=torch.float64)
    line = NEIGHBOURS ** (place[:, None] - place).abs()
    colour = torch.full((channels, channels), COLOURS, dtype=torch.float64).fill_diagonal_(1)
    covariance = torch.kron(colour, torch.kron(line, line))
    waves = torch.kron(_cosines(channels), torch.kron(_cosines(kernel), _cosines(kernel)))
    deviation = ((waves @ covariance * waves).sum(1) + NOISE).sqrt()
    filters = (waves / deviation[:, None]).reshape(-1, channels, kernel, kernel)
    return torch.cat([filters, -filters]).float()


def _cosines(n: int) -> Tensor:
    """The orthonormal discrete cosine transform, (n, n)."""
    place = torch.arange(n, dtype=torch.float64)
    waves = torch.cos(math.pi / n * place[:, None] * (place + 0.5)) * math.sqrt(2 / n)
    waves[0] /= math.sqrt(2)
    return waves


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return x * self.factor


class SpeedrunNetwork(nn.Sequential):
    """Whitening, then blocks of 3x3 convolution, 2x2 max pooling, 3x3 convolution; max pooling to a pixel; linear.

    The pooling of a block is left out where a side is down to one pixel. In evaluation mode a `mirrored` network
    answers with the mean of its outputs for an image and for its mirror image.
    """

    def __init__(self, shape: Shape, outputs: int, width: int, mirrored: bool = False) -> None:
        channels, *sides = shape
        kernel = 2 if channels > 1 else 3
        whitening = Whitening(channels, kernel)
        layers: OrderedDict[str, nn.Module] = OrderedDict(whitening=whitening, gelu=nn.GELU())
        before, side = len(whitening.filters), min(sides) - kernel + 1
        for number, after in enumerate((width, 4 * width, 4 * width), start=1):
            layers[f"block{number}"] = _block(before, after, pooled=side > 1)
            before, side = after, max(1, side // 2)
        layers.update(
            pool=nn.AdaptiveMaxPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(before, outputs, bias=False),
            scale=Scale(OUTPUT_SCALE),
        )
        super().__init__(layers)
        self.mirrored = mirrored

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape) -> (n, outputs)."""
        answer = self._once(x)
        return (answer + self._once(x.flip(-1))) / 2 if self.mirrored and not self.training else answer

    def _once(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def _block(before: int, after: int, pooled: bool) -> nn.Sequential:
    """(n, before, h, w) -> (n, after, h // 2, w // 2), or without pooling (n, after, h, w)."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(before, after, 3, padding=1, bias=False),
        pool=nn.MaxPool2d(2) if pooled else nn.Identity(),
        bn1=nn.BatchNorm2d(after),
        gelu1=nn.GELU(),
        conv2=nn.Conv2d(after, after, 3, padding=1, bias=False),
        bn2=nn.BatchNorm2d(after),
        gelu2=nn.GELU(),
    )
    return nn.Sequential(layers)
