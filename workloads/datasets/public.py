"""Public data sets, looked for in several places: MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sim.errors import ParmError
from workloads.datasets.base import DEFAULT_FOLDER, Data, Dataset
from workloads.datasets.jpeg import is_jpeg_copy
from workloads.datasets.npz import load_npz

Pixels = NDArray[np.uint8]
Split = tuple[Pixels, NDArray[np.int64]]

PATIENCE = 20.0
"""Time-out of a download, in seconds without an answer."""


class Public(Dataset):
    """A public data set: searched in the data folder and elsewhere, downloaded if not found."""

    title: ClassVar[str]
    """Its name as its authors write it."""
    classes: ClassVar[int] = 10
    files: ClassVar[tuple[str, ...]]
    """Names of a .npz file under the data folder, the first one tried first."""
    torchvision_class: ClassVar[str]
    torchvision_folder: ClassVar[str]
    """Where torchvision keeps it, under the data folder."""

    def load(self, folder: Path | None) -> Data:
        """Return the data from the first place that has it; raises ParmError, naming all places, where none has."""
        folder = (DEFAULT_FOLDER if folder is None else folder).expanduser()
        for file in self.files:
            if (folder / file).is_file():
                return self._from_npz(folder / file)
        splits = self._elsewhere() or self._from_torchvision(folder)
        (x_train, y_train), (x_test, y_test) = splits
        return Data(self._name(), x_train, y_train, x_test, y_test, self.classes, self._noted())

    def _name(self) -> str:
        return self.name_in_yaml() or type(self).__name__

    def _from_npz(self, file: Path) -> Data:
        data = load_npz(file, self._name(), "auto", self._noted)
        if data.classes != self.classes:
            raise ParmError(f"{file} has {data.classes} classes, but {self.title} has {self.classes}")
        if not is_jpeg_copy(data.x_train):
            return data
        note = self._noted(data.note, f"JPEG copy of {self.title} (lossy)")
        return Data(data.name, data.x_train, data.y_train, data.x_test, data.y_test, data.classes, note)

    def _elsewhere(self) -> tuple[Split, Split] | None:
        """Return the splits from a place outside the data folder, or None."""
        return None

    def _places(self, folder: Path) -> list[str]:
        """Name the places where the data set is looked for."""
        return [*(str(folder / file) for file in self.files), str(folder / self.torchvision_folder)]

    def _from_torchvision(self, folder: Path) -> tuple[Split, Split]:
        import torchvision  # late: it brings torch

        dataset = getattr(torchvision.datasets, self.torchvision_class)
        failures = (RuntimeError, OSError, ValueError, AssertionError, EOFError, HTTPException)
        try:
            if (folder / self.torchvision_folder).is_dir():
                with contextlib.suppress(*failures):  # incomplete or damaged: the download mends it
                    return _split(dataset(folder, train=True)), _split(dataset(folder, train=False))
            with _downloading():
                return _split(dataset(folder, train=True, download=True)), _split(dataset(folder, train=False))
        except failures as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ParmError(
                f"{self.title} is not there: looked for {', '.join(self._places(folder))}, and the download failed "
                f"({reason}); save x_train, y_train, x_test and y_test into the first of these files by numpy.savez, "
                "or name another folder by --data, or run once where there is a network"
            ) from error


class Mnist(Public):
    """Handwritten digits, 28 x 28, 60,000 to train and 10,000 to test (LeCun, Cortes, Burges)."""

    kind: Literal["mnist"] = "mnist"
    title = "MNIST"
    files = ("mnist.npz",)
    torchvision_class = "MNIST"
    torchvision_folder = "MNIST/raw"


class FashionMnist(Public):
    """Clothes, 28 x 28 grey, 60,000 to train and 10,000 to test, 10 classes (Xiao, Rasul, Vollgraf)."""

    kind: Literal["fashion_mnist"] = "fashion_mnist"
    title = "Fashion-MNIST"
    files = ("fashion_mnist.npz", "fashion-mnist.npz")
    torchvision_class = "FashionMNIST"
    torchvision_folder = "FashionMNIST/raw"
    debian: ClassVar[Path] = Path("/usr/share/datasets/fashion-mnist")
    """Where Debian's package dataset-fashion-mnist puts it."""

    def _elsewhere(self) -> tuple[Split, Split] | None:
        if not self.debian.is_dir():
            return None
        try:
            return _idx_split(self.debian, "train"), _idx_split(self.debian, "t10k")
        except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
            raise ParmError(
                f"{self.title} in {self.debian} is damaged ({error}); reinstall dataset-fashion-mnist"
            ) from error

    def _places(self, folder: Path) -> list[str]:
        return [*super()._places(folder), f"{self.debian} (Debian's package dataset-fashion-mnist)"]


class Cifar10(Public):
    """Photographs, 32 x 32 colour, 50,000 to train and 10,000 to test, 10 classes (Krizhevsky)."""

    kind: Literal["cifar10"] = "cifar10"
    title = "CIFAR-10"
    files = ("cifar10.npz",)
    torchvision_class = "CIFAR10"
    torchvision_folder = "cifar-10-batches-py"


class Cifar100(Public):
    """Photographs, 32 x 32 colour, 50,000 to train and 10,000 to test, 100 classes (Krizhevsky)."""

    kind: Literal["cifar100"] = "cifar100"
    title = "CIFAR-100"
    classes = 100
    files = ("cifar100.npz",)
    torchvision_class = "CIFAR100"
    torchvision_folder = "cifar-100-python"


@contextlib.contextmanager
def _downloading() -> Iterator[None]:
    """Give up on a silent network, and keep torchvision's remarks out of the standard output."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _split(dataset: Any) -> Split:
    """Return a torchvision data set's images as (n, c, h, w) and its labels."""
    images, labels = np.asarray(dataset.data), np.asarray(dataset.targets, dtype=np.int64)
    images = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
    return np.ascontiguousarray(images), labels


def _idx_split(folder: Path, prefix: str) -> Split:
    images = _idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    return images[:, None], _idx(folder / f"{prefix}-labels-idx1-ubyte.gz").astype(np.int64)


def _idx(file: Path) -> Pixels:
    """Read a gzipped IDX file of bytes: two zeros, type 8, number of axes, each axis's length, the values."""
    with gzip.open(file) as stream:
        blob = stream.read()
    *_, axes = struct.unpack_from(">4B", blob)
    shape = struct.unpack_from(f">{axes}I", blob, 4)
    return np.frombuffer(blob, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()  # a writeable one
