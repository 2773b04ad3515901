"""Reading image files into one array, for the data sets that are folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.errors import ParmError
from workloads.datasets.base import Images

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def read_pictures(
    files: Sequence[Path], size: tuple[int, int] | None, grey: bool = False
) -> tuple[Images, NDArray[np.int64]]:
    """Return the images, shape (n, c, h, w), and the height and width that each had in its file, shape (n, 2).

    `size` is the height and width to resize to; without it all have to have the same. One channel where `grey`, else
    three. Pixels are 0 .. 255: uint8, or float32 where a file has grey levels of 16 bits, which keep their fractions.
    Raises ParmError, naming the file, for one that is no image, of another size, or whose range of pixels is unknown.
    """
    first, _ = _read(files[0], size, grey)
    images: Images = np.empty((len(files), *first.shape), dtype=np.uint8)
    before = np.empty((len(files), 2), dtype=np.int64)
    for row, file in enumerate(files):
        image, before[row] = _read(file, size, grey)
        if image.shape != first.shape:
            here, there = (f"{x.shape[1]} x {x.shape[2]}" for x in (image, first))
            raise ParmError(f"{file} is {here} but {files[0]} is {there}; give 'size', and they are resized to it")
        if image.dtype == np.float32 and images.dtype != np.float32:
            images = images.astype(np.float32)
        images[row] = image
    return images, before


def _read(file: Path, size: tuple[int, int] | None, grey: bool) -> tuple[Images, tuple[int, int]]:
    from PIL import Image  # late: only these data sets need it

    try:
        with Image.open(file) as opened:
            image = _sixteen_bits(opened, file)
            if image is None:
                image = opened.convert("L" if grey else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ParmError(f"{file} cannot be read as an image: {error}") from error
    before = image.height, image.width
    if size is not None:
        height, width = size
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    if image.mode == "F" and not grey:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.moveaxis(pixels, 2, 0), before


def _sixteen_bits(opened: Image.Image, file: Path) -> Image.Image | None:
    """Return grey levels of 16 bits as fractions 0 .. 255, None for 8 bits. Pillow would clip them to 255.

    Raises ParmError for pixels of which nothing says what is white.
    """
    from PIL import Image

    # Depending on its version Pillow opens 16-bit PNG and PGM files as 32-bit whole numbers.
    if opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM")):
        return Image.fromarray(np.asarray(opened).astype(np.float32) / 257)
    if opened.mode in ("I", "F"):
        what = "whole numbers of 32 bits" if opened.mode == "I" else "fractions"
        raise ParmError(
            f"{file} has {what} as pixels, and nothing says which of them is white; save it with 8 or 16 bits, "
            "or put the data set into a .npz file"
        )
    return None
