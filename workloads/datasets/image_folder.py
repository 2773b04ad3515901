"""Data sets from folders of image files, one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from sim.errors import ParmError
from workloads.datasets.base import Data, Dataset, Labels, fixed_order, seeded_split
from workloads.files import ExistingFolder

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class ImageFolder(Dataset):
    """Image files in one folder per class, below train/ and test/ or all together."""

    kind: Literal["image_folder"] = "image_folder"
    path: ExistingFolder
    """Folder with train/CLASS/*.png and test/CLASS/*.png, or with CLASS/*.png alone."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width to resize to; without it every image has to have the same size."""
    grey: bool = False
    """One channel instead of three."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share that is tested, in a fixed random choice stratified by class, where there are no train/ and test/."""

    def load(self, folder: Path | None) -> Data:
        """Return the images as uint8, in a fixed random order; classes by alphabet. `folder` is not used."""
        del folder
        if (self.path / "train").is_dir() and (self.path / "test").is_dir():
            names = _class_names(self.path / "train")
            if unknown := set(_class_names(self.path / "test")) - set(names):
                raise ParmError(f"{self.path / 'test'} has the class {min(unknown)}, which {self.path / 'train'} lacks")
            train_files, train_labels = _listed(self.path / "train", names)
            test_files, test_labels = _listed(self.path / "test", names)
            train, test = fixed_order(len(train_files)), fixed_order(len(test_files)) + len(train_files)
            files, labels = train_files + test_files, np.concatenate([train_labels, test_labels])
        else:
            names = _class_names(self.path)
            files, labels = _listed(self.path, names)
            tested = round(self.test_fraction * len(files))
            if not 1 <= tested < len(files):
                raise ParmError(
                    f"{self.path} has too few images ({len(files)}) to test {self.test_fraction:.0%} of them"
                )
            train, test = seeded_split(labels, tested)
        images = self._read(files)
        note = self._noted()
        return Data(self.path.name, images[train], labels[train], images[test], labels[test], len(names), note)

    def _read(self, files: list[Path]) -> NDArray[np.uint8]:
        """Return the images, shape (n, c, h, w)."""
        first = self._image(files[0])
        images = np.empty((len(files), *first.shape), dtype=np.uint8)
        for row, file in enumerate(files):
            image = self._image(file)
            if image.shape != first.shape:
                here, there = (f"{x.shape[1]} x {x.shape[2]}" for x in (image, first))
                raise ParmError(f"{file} is {here} but {files[0]} is {there}; give 'size', and they are resized to it")
            images[row] = image
        return images

    def _image(self, file: Path) -> NDArray[np.uint8]:
        from PIL import Image  # late: only this kind of data set needs it

        try:
            with Image.open(file) as opened:
                image = opened.convert("L" if self.grey else "RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise ParmError(f"{file} cannot be read as an image: {error}") from error
        if self.size is not None:
            height, width = self.size
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        return np.moveaxis(pixels, 2, 0)


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise ParmError(f"{folder} has {len(names)} folders of images; it needs one for each class, two or more")
    return names


def _listed(folder: Path, names: list[str]) -> tuple[list[Path], Labels]:
    """Return all image files below the class folders that are there, and their labels."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if not (folder / name).is_dir():
            continue
        found = sorted(file for file in (folder / name).iterdir() if file.suffix.lower() in SUFFIXES)
        if not found:
            raise ParmError(f"{folder / name} has no image file ({' '.join(sorted(SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    return files, np.asarray(labels, dtype=np.int64)
