"""Loaded data sets (`Data`), and the family of kinds that YAML can name (`Dataset`)."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sim.errors import ParmError
from sim.kinds import Kind

Labels = NDArray[np.int64]
Boxes = NDArray[np.float32]
Images = NDArray[np.uint8] | NDArray[np.float32]

DEFAULT_FOLDER = Path(".parm/data")
"""Folder of public data sets, also for downloads, unless `--data` names another."""

SPREADS, SHIFT = 1.8, 0.5
"""How far training and test pixels may be apart before `scale_note` says so: the ratio of their standard deviations,
and the difference of their means in standard deviations. Scaling to -1 .. 1 instead of 0 .. 1 doubles the former."""


@dataclass(frozen=True, eq=False)
class Data:
    """Images with labels or boxes, split into a training set and a test set, which queries carry."""

    name: str
    x_train: Images
    """Pixels, shape (n, c, h, w), uint8 or float32 as they were stored."""
    y_train: NDArray[Any]
    """Labels 0 .. classes-1, `Labels` of shape (n,); or, where the task is localisation, `Boxes` of shape (n, 4).

    A box is left, top, right and bottom, as fractions of the image's width and height; right and bottom are the edge
    after the last pixel.
    """
    x_test: Images
    """Of the same c, h and w."""
    y_test: NDArray[Any]
    classes: int
    """Number of classes; 4, the numbers of a box, for localisation."""
    note: str = ""
    """A caveat to print with results on this data, or empty."""
    task: Literal["classification", "localisation"] = "classification"
    """Whether the label or the bounding box of the one object is predicted."""

    @property
    def outputs(self) -> int:
        """Numbers that a model of this data returns for each image."""
        return self.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, c, h, w = self.x_train.shape
        return c, h, w

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """Each channel's mean over the training set, shape (c,)."""
        return self._channel_means(0, 1).astype(np.float32)

    @cached_property
    def std(self) -> NDArray[np.float32]:
        """Each channel's standard deviation over the training set, 1 for a constant channel; shape (c,)."""
        std = np.sqrt(self._channel_means(self._channel_means(0, 1), 2))
        return np.where(std > 0, std, 1).astype(np.float32)

    def normalised(self, x: Images) -> NDArray[np.float32]:
        """Return images (n, c, h, w) with the training set's mean taken off and divided by its standard deviation."""
        result = x.astype(np.float32)
        result -= self.mean[:, None, None]
        result /= self.std[:, None, None]
        return result

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shapes, types and all content, in hexadecimal: the same for the same rows in another order."""
        digest = hashlib.sha256(str(self.classes).encode())
        for x, rows in ((self.x_train, self._train_rows), (self.x_test, self._rows(self.x_test, self.y_test))):
            digest.update(f"{x.shape}{x.dtype.name}".encode())
            digest.update(np.sort(rows).astype("<u8").tobytes())
        return digest.hexdigest()

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Row numbers of the training set in an order of its content, so that training does not see the files' own.

        The same data set circulates in several orders.
        """
        return np.argsort(self._train_rows, kind="stable")

    @cached_property
    def _train_rows(self) -> NDArray[np.uint64]:
        return self._rows(self.x_train, self.y_train)

    def _rows(self, x: Images, y: NDArray[Any]) -> NDArray[np.uint64]:
        """Return a hash of each image with its label or box."""
        pixels = np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("<")).reshape(len(x), -1)
        labels = y.astype("<i8" if self.task == "classification" else "<f4")
        found = (
            hashlib.blake2b(label.tobytes() + row.tobytes(), digest_size=8).digest()
            for row, label in zip(pixels, labels, strict=True)
        )
        return np.frombuffer(b"".join(found), dtype="<u8").astype(np.uint64)

    def _channel_means(self, centre: NDArray[np.float64] | int, power: int) -> NDArray[np.float64]:
        """Mean of (x - centre) ** power per channel, in chunks: a float64 copy of the whole would be too large."""
        n, c, h, w = self.x_train.shape
        total = np.zeros(c)
        for start in range(0, n, 2048):
            chunk = self.x_train[start : start + 2048].reshape(-1, c, h * w).astype(np.float64)
            total += ((chunk - np.reshape(centre, (-1, 1))) ** power).sum(axis=(0, 2))
        means: NDArray[np.float64] = total / (n * h * w)
        return means


class Dataset(Kind):
    """Labelled images (or sounds as spectrograms) that models are trained on and queries carry."""

    family: ClassVar[str] = "dataset"

    note: str = ""
    """A caveat to print with results on this data."""

    @abstractmethod
    def load(self, folder: Path | None) -> Data:
        """Return the data, looked for in `folder` (`--data`) where it is not embedded and its path is not given.

        Raises ParmError if it is missing or invalid.
        """

    def _noted(self, *others: str) -> str:
        """Join this data set's caveats, each once."""
        return "; ".join(dict.fromkeys(text for text in (self.note, *others) if text))


def scale_note(train: Images, test: Images) -> str:
    """Return a caveat where training and test pixels look scaled differently, such as 0 .. 1 and 0 .. 255, else ''.

    Images are (n, c, h, w); a thousand of each are looked at.
    """
    (mean, std), (test_mean, test_std) = (
        (float(some.mean()), float(some.std()))
        for some in (x[:: max(1, len(x) // 1000)].astype(np.float64) for x in (train, test))
    )
    if max(std, test_std) <= SPREADS * min(std, test_std) and abs(mean - test_mean) <= SHIFT * max(std, test_std):
        return ""
    return (
        f"training and test images look scaled differently: pixels have mean {mean:.3g} and standard deviation "
        f"{std:.3g} in training, {test_mean:.3g} and {test_std:.3g} in test; scale both alike"
    )


def seeded_split(labels: Labels, test: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split row numbers into (train, test), stratified by label, in a fixed random order; `test` rows are tested.

    Each class gives its share of the test rows, rounded by largest remainder.
    """
    generator = np.random.default_rng(0)
    order = generator.permutation(len(labels))
    counts = np.bincount(labels)
    exact = counts * test / len(labels)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: test - quota.sum()]] += 1
    rank = np.empty(len(labels), dtype=np.int64)  # each row's place among the rows of its class, in `order`
    for label in np.flatnonzero(counts):
        rows = order[labels[order] == label]
        rank[rows] = np.arange(len(rows))
    tested = rank < quota[labels]
    return order[~tested[order]], order[tested[order]]


def data_folder(path: Path, folder: Path | None) -> Path:
    """Return the folder that YAML names by `path`: itself, or below `folder` (`--data`). Raises ParmError without one.

    A relative path is one that was not found beside the YAML file or in the working directory (`files.DataFolder`).
    """
    parent = (DEFAULT_FOLDER if folder is None else folder).expanduser()
    if not (parent / path).is_dir():
        beside = "" if path.is_absolute() else f" beside the YAML file, in the working directory or in {parent}"
        raise ParmError(f"there is no folder {path}{beside}; put it there, or name another folder by --data")
    return parent / path


def fixed_order(rows: int) -> NDArray[np.int64]:
    """Return a permutation that is always the same, for files that come sorted by class."""
    return np.random.default_rng(0).permutation(rows)
