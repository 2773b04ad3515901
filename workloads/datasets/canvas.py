"""A localisation task that needs no download: real images at a random place and scale on a larger empty canvas."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.errors import ParmError
from workloads.datasets.base import Boxes, Data, Dataset, Images
from workloads.datasets.digits import Digits


class Canvas(Dataset):
    """Localisation of another data set's images, placed at random positions and scales on an empty canvas."""

    kind: Literal["canvas"] = "canvas"
    of: Dataset = Digits()
    """Data set of the images; its background must be 0, as in digits, mnist or fashion_mnist."""
    side: int = Field(default=32, ge=8, le=1024)
    """Height and width of the canvas, in pixels."""
    smallest: float = Field(default=0.25, gt=0, le=1)
    """Least length of an image's longer side, as a fraction of the canvas; drawn uniformly up to `largest`."""
    largest: float = Field(default=0.75, gt=0, le=1)
    """Greatest length."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of normal noise on every pixel, as a fraction of full brightness."""
    train: int = Field(default=5000, gt=0)
    """Number of training canvases; images are reused at other positions if there are fewer of them."""
    test: int = Field(default=1000, gt=0)
    """Number of test canvases, made of the other data set's test images."""
    seed: int = Field(default=0, ge=0)
    """Seed of positions, scales and noise."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest ({self.smallest:g}) is above largest ({self.largest:g})")
        return self

    def load(self, folder: Path | None) -> Data:
        """Return canvases as uint8 of the other data set's channels, and each one's box around its lit pixels.

        Raises as `Dataset.load`.
        """
        source = self.of.load(folder)
        if source.task != "classification":
            raise ParmError(f"a canvas shows classified images, and {source.name} has boxes")
        parts: list[tuple[NDArray[np.uint8], Boxes]] = []
        for number, (images, count) in enumerate(((source.x_train, self.train), (source.x_test, self.test))):
            generator = np.random.default_rng([self.seed, number])
            parts.append(self._draw(_bytes(images, source), count, generator, source.name))
        (x_train, y_train), (x_test, y_test) = parts
        name = f"{source.name}-on-canvas"
        return Data(name, x_train, y_train, x_test, y_test, 4, self._noted(source.note), "localisation")

    def _draw(
        self, images: NDArray[np.uint8], count: int, generator: np.random.Generator, name: str
    ) -> tuple[NDArray[np.uint8], Boxes]:
        """Return canvases (n, c, side, side) and boxes (n, 4)."""
        canvases = np.zeros((count, images.shape[1], self.side, self.side), dtype=np.uint8)
        boxes = np.empty((count, 4), dtype=np.float32)
        longest = max(images.shape[2:])
        lengths = self.side * generator.uniform(self.smallest, self.largest, count)
        places = generator.random((count, 2))
        # Repeated permutations, so that images are used equally often.
        for row, choice in enumerate(np.resize(generator.permutation(len(images)), count)):
            height, width = (max(1, round(lengths[row] * side / longest)) for side in images.shape[2:])
            top, left = (places[row] * (self.side + 1 - np.array([height, width]))).astype(int).tolist()
            canvases[row, :, top : top + height, left : left + width] = _resized(images[choice], height, width)
            boxes[row] = _box(canvases[row], f"image {choice} of {name}, resized to {height}x{width},")
        if self.noise:
            for start in range(0, count, 1024):
                part = canvases[start : start + 1024]
                part[:] = np.clip(np.rint(part + generator.normal(0, 255 * self.noise, part.shape)), 0, 255)
        return canvases, boxes


def _bytes(images: Images, source: Data) -> NDArray[np.uint8]:
    """Scale an image to 0 .. 255, from the values that the training images span."""
    low, high = float(source.x_train.min()), float(source.x_train.max())
    if high <= low:
        raise ParmError(f"the images of {source.name} show nothing: every pixel has the same value")
    scaled = (images.astype(np.float32) - low) * np.float32(255 / (high - low))
    whole: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return whole


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(c, h, w) -> (c, height, width), bilinear, averaging where it shrinks."""
    from PIL import Image  # late: only this kind of data set needs it

    channels = [Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR) for channel in image]
    return np.stack([np.asarray(channel) for channel in channels])


def _box(canvas: NDArray[np.uint8], what: str) -> NDArray[np.float64]:
    """Return left, top, right and bottom of the lit pixels, as fractions of the canvas (c, side, side)."""
    columns, rows = (np.flatnonzero(canvas.any(axis=axes)) for axes in ((0, 1), (0, 2)))
    if not len(rows):
        raise ParmError(f"{what} has no lit pixel to draw a box around")
    edges: NDArray[np.float64] = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
    return np.divide(edges, canvas.shape[1])
