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

    @property
    def height(self) -> int:
        """Its rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Its columns."""
        return self.right - self.left

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    def cut(self, pictures: Tensor) -> Tensor:
        """Return what stands there: (n, c, height, width) of the pictures -> (n, c, rows, columns)."""
        return pictures[:, :, self.top : self.bottom, self.left : self.right]


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
    for slot, place in enumerate(places(layout, *queries.shape[3:])):
        query, size = queries[:, slot], place.size
        place.cut(picture).copy_(
            _subsampled(query, *size) if chroma else functional.interpolate(query, size=size, mode="area")
        )
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


def unpacked(cells: Tensor, width: int) -> Tensor:
    """Undo the subsampling of a place of that width: (n, 3, h, width) -> (n, 4, h, width).

    These are red, green and blue, as plain averaging would show them but for colours of half the resolution, and the
    difference between rows.
    """
    mean, detail, third = cells[:, 0], cells[:, 1], cells[:, 2]
    blue, red = (torch.stack([third[..., start::2]] * 2, dim=-1).flatten(-2) for start in (0, 1))
    if width % 2:
        blue, red = blue[..., :width], functional.pad(red, (0, 1), mode="replicate")
    weight = BRIGHTNESS
    green = -(weight[0] * red + weight[2] * blue) / weight[1]
    return torch.stack([mean + red, mean + green, mean + blue, detail], dim=1)


class Unpacking(nn.Module):
    """A network that looks at the whole picture, whose colours were subsampled: (n, 3, h, w) -> (n, outputs).

    As `PlaceByPlace` it asks no tensor for its shape, so that it can be traced and exported.
    """

    def __init__(self, network: nn.Module, layout: Sequence[int], height: int, width: int) -> None:
        super().__init__()
        self.network = network
        here = iter(places(layout, height, width))
        self.rows = [[next(here) for _ in range(columns)] for columns in layout]

    def forward(self, picture: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, outputs); the network takes (n, 4, h, w)."""
        rows = [torch.cat([unpacked(one.cut(picture), one.width) for one in row], dim=-1) for row in self.rows]
        answer: Tensor = self.network(torch.cat(rows, dim=-2))
        return answer


class PlaceByPlace(nn.Module):
    """A network that looks at one place after the other: (n, c, h, w) -> (n, k outputs), those of slot 0 first."""

    def __init__(self, network: nn.Module, layout: Sequence[int], height: int, width: int, chroma: bool) -> None:
        super().__init__()
        self.network = network
        self.places = places(layout, height, width)
        self.size = largest(self.places)
        self.chroma = chroma

    def forward(self, picture: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, k outputs). Smaller places repeat their last row and column up to the largest's size."""
        images = torch.stack([self._cut(picture, one) for one in self.places], dim=1).flatten(0, 1)
        answers: Tensor = self.network(unpacked(images, self.size[1]) if self.chroma else images)
        return torch.unflatten(answers, 0, (-1, len(self.places))).flatten(1)

    def _cut(self, picture: Tensor, place: Place) -> Tensor:
        image, (height, width) = place.cut(picture), self.size
        if place.size == self.size:
            return image
        return functional.pad(image, (0, width - place.width, 0, height - place.height), mode="replicate")


def largest(here: Sequence[Place]) -> tuple[int, int]:
    """Return the height and the width of the largest place."""
    return max(one.height for one in here), max(one.width for one in here)


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
