"""Classification metrics, per query: what the top answer is, and whether the true label is among the top n."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_answer(outputs: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return the class with the largest output, the lowest-numbered one among equals; (n, classes) -> (n,)."""
    return np.asarray(outputs.argmax(axis=1), dtype=np.int16)


def in_top(outputs: NDArray[np.float32], labels: NDArray[np.int64], n: int = 5) -> NDArray[np.bool_]:
    """Say for each row whether its label is among the n classes with the largest outputs; (rows, classes) -> (rows,).

    Equal outputs rank by class number, so that `n=1` agrees with `top_answer`. With n classes or fewer all are in.
    """
    own = np.take_along_axis(outputs, labels[:, None], axis=1)
    earlier = np.arange(outputs.shape[1]) < labels[:, None]
    ahead = (outputs > own) | ((outputs == own) & earlier)
    return np.asarray(ahead.sum(axis=1) < n)
