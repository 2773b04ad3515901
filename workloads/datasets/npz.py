"""Data sets from a .npz file with the arrays x_train, y_train, x_test and y_test."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim.errors import ParmError
from workloads.datasets.base import Data, Dataset, Images, Labels, scale_note
from workloads.files import ExistingFile

NAMES = ("x_train", "y_train", "x_test", "y_test")
DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    KeyError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""Exceptions of NumPy and zipfile for damaged files."""
Layout = Literal["auto", "channels_first", "channels_last"]


class Npz(Dataset):
    """A .npz file with arrays x_train, y_train, x_test, y_test."""

    kind: Literal["npz"] = "npz"
    file: ExistingFile
    """The file. Images are (n, features), (n, h, w), (n, h, w, c) or (n, c, h, w); labels whole numbers from 0."""
    layout: Layout = "auto"
    """Axis of the channels of four-dimensional images; `auto` takes the axis of length at most 4."""

    def load(self, folder: Path | None) -> Data:
        """Return the file's arrays; an optional text array `note` is kept as a caveat. `folder` is not used."""
        return load_npz(self.file, self.file.stem, self.layout, self._noted)


def load_npz(file: Path, name: str, layout: Layout, noted: Any) -> Data:
    """Read and check a .npz data set; `noted` joins caveats. Raises ParmError, one sentence, where it is unsound."""
    arrays = _read(file)
    x_train, x_test = (_images(arrays[key], f"{key} in {file}", layout) for key in ("x_train", "x_test"))
    y_train, y_test = (_labels(arrays[key], f"{key} in {file}") for key in ("y_train", "y_test"))
    for split, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y):
            raise ParmError(f"x_{split} in {file} has {len(x)} images, but y_{split} has {len(y)} labels")
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = " and ".join(str(x.shape[1:]) for x in (x_train, x_test))
        raise ParmError(f"training and test images in {file} differ in shape (c, h, w): {shapes}")
    if (arrays["x_train"].dtype.kind == "f") != (arrays["x_test"].dtype.kind == "f"):
        raise ParmError(
            f"one of x_train and x_test in {file} has whole numbers and the other fractions: scale both alike"
        )
    if x_train.dtype != x_test.dtype:
        x_train, x_test = x_train.astype(np.float32), x_test.astype(np.float32)
    classes = 1 + int(max(y_train.max(), y_test.max()))
    if not 2 <= classes <= len(x_train):
        raise ParmError(f"labels in {file} go up to {classes - 1}; they should number the classes from 0, two or more")
    return Data(name, x_train, y_train, x_test, y_test, classes, noted(arrays["note"], scale_note(x_train, x_test)))


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ParmError(f"there is no file {file}")
    if not zipfile.is_zipfile(file):
        raise ParmError(f"{file} is not a .npz file, or it is cut short; write it with numpy.savez")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if missing := [name for name in NAMES if name not in arrays.files]:
                there = " ".join(", ".join(arrays.files).split()) or "nothing"
                raise ParmError(f"{file} lacks the arrays {', '.join(missing)}; it has {there}")
            read = {name: arrays[name] for name in NAMES}
            return read | {"note": str(arrays["note"]) if "note" in arrays.files else ""}
    except DAMAGE as error:
        if "Object arrays" in str(error):
            raise ParmError(
                f"{file} holds an array of Python objects, which is never read; save plain numbers"
            ) from error
        raise ParmError(f"{file} is damaged ({' '.join(str(error).split())}); get it again") from error


def _images(x: NDArray[Any], where: str, layout: Layout) -> Images:
    """Return images as (n, c, h, w), uint8 where every pixel is a whole number type within 0 .. 255, else float32."""
    if x.dtype.kind not in "buif":
        raise ParmError(f"{where} holds {x.dtype}, not numbers")
    if not 2 <= x.ndim <= 4 or x.size == 0:
        raise ParmError(
            f"{where} has shape {x.shape}; images are (n, features), (n, h, w), (n, h, w, c) or (n, c, h, w)"
        )
    if x.ndim == 2:
        x = x[:, None, None, :]
    elif x.ndim == 3:
        x = x[:, None]
    elif _channels_last(x.shape, where, layout):
        x = np.moveaxis(x, 3, 1)
    if x.dtype.kind == "b" or (x.dtype.kind in "ui" and x.min() >= 0 and x.max() <= 255):
        return np.ascontiguousarray(x, dtype=np.uint8)
    with np.errstate(over="ignore"):
        pixels = np.ascontiguousarray(x, dtype=np.float32)
    finite = np.isfinite(pixels.reshape(len(pixels), -1)).all(axis=1)
    if not finite.all():
        raise ParmError(f"image {np.argmin(finite)} of {where} has a pixel that is NaN or infinite")
    return pixels


def _channels_last(shape: tuple[int, ...], where: str, layout: Layout) -> bool:
    if layout != "auto":
        return layout == "channels_last"
    first, last = shape[1] <= 4, shape[3] <= 4
    if first == last:
        raise ParmError(
            f"{where} has shape {shape}: say where its channels are by layout: channels_first or channels_last"
        )
    return last


def _labels(y: NDArray[Any], where: str) -> Labels:
    """Return labels as (n,)."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.size == 0:
        raise ParmError(f"{where} has shape {y.shape}; labels are (n,) or (n, 1), one whole number for each image")
    if y.dtype.kind not in "uif" or (y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.floor(y))).all()):
        raise ParmError(f"{where} holds labels that are not whole numbers")
    if y.min() < 0:
        raise ParmError(f"{where} holds the negative label {int(y.min())}; labels number the classes from 0")
    return y.astype(np.int64)
