"""Caltech-UCSD Birds: images of birds with bounding boxes, the paper's data set for object localisation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from sim.errors import ParmError
from workloads.datasets.base import Boxes, Data, Dataset, data_folder
from workloads.datasets.pictures import read_pictures
from workloads.files import DataFolder


class Cub200(Dataset):
    """Caltech-UCSD Birds: 11,788 photographs with bounding boxes, half of them for testing (Wah et al. 2011)."""

    kind: Literal["cub200"] = "cub200"
    path: DataFolder = Path("CUB_200_2011")
    """The unpacked archive's folder: images/, images.txt, bounding_boxes.txt, train_test_split.txt."""
    size: PositiveInt = 224
    """Height and width to which photographs are resized, in pixels."""

    def load(self, folder: Path | None) -> Data:
        """Return the photographs as uint8 in the order of their numbers, with boxes; the split is the authors'.

        Raises as `Dataset.load`.
        """
        path = data_folder(self.path, folder)
        names = _table(path / "images.txt", 1)
        boxes = _table(path / "bounding_boxes.txt", 4)
        trains = _table(path / "train_test_split.txt", 1)
        for other in ("bounding_boxes.txt", "train_test_split.txt"):
            if lost := set(names) - set(boxes if other.startswith("b") else trains):
                raise ParmError(f"{path / other} has no line for image {min(lost)} of images.txt")
        files = [path / "images" / name for (name,) in names.values()]
        images, before = read_pictures(files, (self.size, self.size))
        pixels = _numbers([boxes[number] for number in names], path / "bounding_boxes.txt")
        train = _numbers([trains[number] for number in names], path / "train_test_split.txt")[:, 0] == 1
        if train.all() or not train.any():
            raise ParmError(f"{path / 'train_test_split.txt'} leaves nothing to {'test' if train.all() else 'train'}")
        where = _fractions(pixels, before)
        if not (sound := (where[:, 2:] > where[:, :2]).all(axis=1)).all():
            raise ParmError(
                f"the box of image {list(names)[int(sound.argmin())]} in {path / 'bounding_boxes.txt'} has no area "
                "inside its image"
            )
        return Data(
            path.name, images[train], where[train], images[~train], where[~train], 4, self._noted(), "localisation"
        )


def _table(file: Path, columns: int) -> dict[str, list[str]]:
    """Read lines of an image's number and so many columns."""
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ParmError(f"{file} cannot be read ({error}); it is part of the CUB-200-2011 archive") from error
    for number, line in enumerate(lines, start=1):
        if len(line) != 1 + columns:
            raise ParmError(f"line {number} of {file} has {len(line)} columns, not {1 + columns}")
    if not lines:
        raise ParmError(f"{file} is empty")
    return {line[0]: line[1:] for line in lines}


def _numbers(rows: list[list[str]], file: Path) -> NDArray[np.float64]:
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise ParmError(f"{file} holds something that is no number ({error})") from error


def _fractions(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> Boxes:
    """Turn x, y, width, height in pixels into left, top, right, bottom as fractions, cut off at the image's edges."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return np.clip(corners / sizes[:, [1, 0, 1, 0]], 0, 1).astype(np.float32)
