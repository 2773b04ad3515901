"""Pictures that show several queries in small: how they are made, and networks that look at them.

A query's place has three numbers for each of its h x w cells. With chroma subsampling, as in JPEG (4:2:0), they are the
brightness of two pixels, one above the other, and one of two colour differences, which alternate from cell to cell: an
image is kept at 2h x w pixels, where plain averaging keeps h x w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

BRIGHTNESS = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in an image's brightness (ITU-R BT.601, which JPEG uses)."""
DETAIL = 4.0
"""By which half the difference of two pixels is multiplied: that of neighbours in images varies about a quarter as much
as pixels do."""


class Place(NamedTuple):
    """Where a query stands in the picture: rows top .. bottom - 1 and columns left .. right - 1."""

    top: int
    bottom: int
    left: int
    right: int


def places(layout: Sequence[int], height: int, width: int) -> list[Place]:
    """Divide a picture into rows of `layout[row]` places, in the order of the slots."""
    return [
        Place(
            row * height // len(layout),
            (row + 1) * height // len(layout),
            column * width // columns,
            (column + 1) * width // columns,
        )
        for row, columns in enumerate(layout)
        for column in range(columns)
    ]


def shown(queries: Tensor, layout: Sequence[int], chroma: bool) -> Tensor:
    """Make the pictures, (g, k, c, height, width) -> (g, c, height, width), by averaging; with `chroma`, c is 3."""
    picture = queries.new_empty(len(queries), *queries.shape[2:])
    for slot, (top, bottom, left, right) in enumerate(places(layout, *queries.shape[3:])):
        cells = (bottom - top, right - left)
        query = queries[:, slot]
        small = _subsampled(query, *cells) if chroma else functional.interpolate(query, size=cells, mode="area")
        picture[:, :, top:bottom, left:right] = small
    return picture


def _subsampled(images: Tensor, height: int, width: int) -> Tensor:
    """(g, 3, ., .), red, green and blue, -> (g, 3, height, width): two pixels' mean brightness, their difference, and
    the colour differences blue and red in turn."""
    images = functional.interpolate(images, size=(2 * height, width), mode="area")
    red, green, blue = images.unbind(1)
    brightness = BRIGHTNESS[0] * red + BRIGHTNESS[1] * green + BRIGHTNESS[2] * blue
    above, below = brightness[:, 0::2], brightness[:, 1::2]
    third = torch.empty_like(above)
    for start, colour in ((0, blue - brightness), (1, red - brightness)):
        alternate = third[:, :, start::2]
        even = functional.pad(colour, (0, width % 2), mode="replicate")
        alternate.copy_(functional.avg_pool2d(even, 2)[..., : alternate.shape[-1]])
    return torch.stack([(above + below) / 2, (above - below) / 2 * DETAIL, third], dim=1)


def unpacked(cells: Tensor) -> Tensor:
    """Undo the subsampling of one place: (n, 3, h, w) -> (n, 4, h, w), red, green, blue, and the rows' difference.

    The first three channels are what plain averaging would show there, with colours of half the resolution.
    """
    width = cells.shape[-1]
    mean, detail, third = cells.unbind(1)
    blue, red = (third[..., start::2].repeat_interleave(2, dim=-1) for start in (0, 1))
    blue, red = blue[..., :width], functional.pad(red, (0, width - red.shape[-1]), mode="replicate")
    weight = BRIGHTNESS
    green = -(weight[0] * red + weight[2] * blue) / weight[1]
    return torch.stack([mean + red, mean + green, mean + blue, detail], dim=1)


class Unpacking(nn.Module):
    """A network that looks at the whole picture, whose colours were subsampled: (n, 3, h, w) -> (n, outputs)."""

    def __init__(self, network: nn.Module, layout: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.layout = tuple(layout)

    def forward(self, picture: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, outputs); the network takes (n, 4, h, w)."""
        n, _, *size = picture.shape
        whole = picture.new_empty(n, 4, *size)
        for top, bottom, left, right in places(self.layout, *size):
            whole[:, :, top:bottom, left:right] = unpacked(picture[:, :, top:bottom, left:right])
        answer: Tensor = self.network(whole)
        return answer


class PlaceByPlace(nn.Module):
    """A network that looks at one place after the other: (n, c, h, w) -> (n, k outputs), those of slot 0 first."""

    def __init__(self, network: nn.Module, layout: Sequence[int], chroma: bool) -> None:
        super().__init__()
        self.network = network
        self.layout = tuple(layout)
        self.chroma = chroma

    def forward(self, picture: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, k outputs). Smaller places repeat their last row and column up to the largest's size."""
        n, _, *size = picture.shape
        here = places(self.layout, *size)
        height, width = largest(here)
        cut = [
            functional.pad(
                picture[:, :, top:bottom, left:right],
                (0, width - (right - left), 0, height - (bottom - top)),
                mode="replicate",
            )
            for top, bottom, left, right in here
        ]
        images = torch.stack(cut, dim=1).flatten(0, 1)
        answers: Tensor = self.network(unpacked(images) if self.chroma else images)
        return answers.reshape(n, -1)


def largest(here: Sequence[Place]) -> tuple[int, int]:
    """Return the height and the width of the largest place."""
    return max(one.bottom - one.top for one in here), max(one.right - one.left for one in here)


def adopt(module: nn.Module, deployed: nn.Module) -> None:
    """Copy the deployed model's weights into a network of its architecture that may have more channels or outputs.

    Further outputs keep their fresh weights, further inputs begin without effect. Layers whose kernels or maps have
    other sizes are left as they are.
    """
    known = deployed.state_dict()
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, own in module.state_dict().items():
            value = known.get(name)
            if value is None:
                continue
            if own.shape == value.shape:
                own.copy_(value)
            elif name in parameters and _extends(own.shape, value.shape):
                rows = own[: len(value)]
                rows.zero_()
                (rows[:, : value.shape[1]] if value.dim() > 1 else rows).copy_(value)


def _extends(shape: torch.Size, other: torch.Size) -> bool:
    """Whether a layer's weights have the other's kernel, and no fewer outputs and inputs."""
    return len(shape) == len(other) and shape[2:] == other[2:] and all(map(int.__ge__, shape[:2], other[:2]))
