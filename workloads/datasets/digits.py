"""The default data set: real images, small enough to be part of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from workloads.datasets.base import Data, Dataset, seeded_split

FILE = Path(__file__).parent.parent / "data" / "digits.npz"
TEST = 500


class Digits(Dataset):
    """Handwritten digits, 8 x 8, 1,797 images in 10 classes, part of this package; 500 of them for testing."""

    kind: Literal["digits"] = "digits"

    def load(self, folder: Path | None) -> Data:
        """Return 1,297 training and 500 test images with pixels 0 .. 16; `folder` is not used."""
        with np.load(FILE) as arrays:
            images, labels = arrays["images"][:, None], arrays["labels"].astype(np.int64)
        train, test = seeded_split(labels, TEST)
        return Data("digits", images[train], labels[train], images[test], labels[test], 10, self._noted())
