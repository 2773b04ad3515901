"""Reading image files into one array, for the data sets that are folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.errors import ParmError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def read_pictures(
    files: Sequence[Path], size: tuple[int, int] | None, grey: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images, shape (n, c, h, w), and the height and width that each had in its file, shape (n, 2).

    `size` is the height and width to resize to; without it all have to have the same. One channel where `grey`, else
    three. Raises ParmError, naming the file, for one that is no image or of another size.
    """
    first, _ = _read(files[0], size, grey)
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    before = np.empty((len(files), 2), dtype=np.int64)
    for row, file in enumerate(files):
        image, before[row] = _read(file, size, grey)
        if image.shape != first.shape:
            here, there = (f"{x.shape[1]} x {x.shape[2]}" for x in (image, first))
            raise ParmError(f"{file} is {here} but {files[0]} is {there}; give 'size', and they are resized to it")
        images[row] = image
    return images, before


def _read(file: Path, size: tuple[int, int] | None, grey: bool) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    from PIL import Image  # late: only these data sets need it

    try:
        with Image.open(file) as opened:
            image = opened.convert("L" if grey else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ParmError(f"{file} cannot be read as an image: {error}") from error
    before = image.height, image.width
    if size is not None:
        height, width = size
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    return np.moveaxis(pixels, 2, 0), before
