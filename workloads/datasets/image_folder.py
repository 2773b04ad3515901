"""Data sets from folders of image files, one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from sim.errors import ParmError
from workloads.datasets.base import Data, Dataset, Labels, data_folder, fixed_order, scale_note, seeded_split
from workloads.datasets.pictures import SUFFIXES, read_pictures
from workloads.files import DataFolder


class ImageFolder(Dataset):
    """Image files in one folder per class, below train/ and test/ or all together."""

    kind: Literal["image_folder"] = "image_folder"
    path: DataFolder
    """Folder with train/CLASS/*.png and test/CLASS/*.png, or with CLASS/*.png only; may be in the data folder."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width to which images are resized, in pixels; default: none, images must have equal sizes."""
    grey: bool = False
    """Whether to load one grey channel instead of three."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of test images without train/ and test/; a fixed random choice, stratified by class."""

    def load(self, folder: Path | None) -> Data:
        """Return the images, see `read_pictures`, in a fixed random order. Raises as `Dataset.load`."""
        path = data_folder(self.path, folder)
        if (path / "train").is_dir() and (path / "test").is_dir():
            names = _class_names(path / "train")
            if unknown := set(_class_names(path / "test")) - set(names):
                raise ParmError(f"{path / 'test'} has the class {min(unknown)}, which {path / 'train'} lacks")
            train_files, train_labels = _listed(path / "train", names)
            test_files, test_labels = _listed(path / "test", names)
            train, test = fixed_order(len(train_files)), fixed_order(len(test_files)) + len(train_files)
            files, labels = train_files + test_files, np.concatenate([train_labels, test_labels])
        else:
            names = _class_names(path)
            files, labels = _listed(path, names)
            tested = round(self.test_fraction * len(files))
            if not 1 <= tested < len(files):
                raise ParmError(f"{path} has too few images ({len(files)}) to test {self.test_fraction:.0%} of them")
            train, test = seeded_split(labels, tested)
        images, _ = read_pictures(files, self.size, self.grey)
        x_train, x_test = images[train], images[test]
        note = self._noted(scale_note(x_train, x_test))
        return Data(path.name, x_train, labels[train], x_test, labels[test], len(names), note)


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
