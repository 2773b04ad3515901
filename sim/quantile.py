"""A quantile of what has been seen lately."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque


class RunningQuantile:
    """The exact quantile of the last `window` values: the least of them that `share` of them do not exceed.

    A sorted list, since moving the rest of a list of a thousand costs less than any tree would.
    """

    __slots__ = ("_latest", "_least", "_share", "_sorted", "_window")

    def __init__(self, share: float, window: int = 1000, least: int = 100) -> None:
        """Keep `window` values; there is no quantile before the first `least` of them."""
        self._share = share
        self._window = window
        self._least = least
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def see(self, value: float) -> None:
        """Take a value in, and drop the oldest where there are more than the window holds."""
        ordered, latest = self._sorted, self._latest
        if len(latest) == self._window:
            del ordered[bisect_left(ordered, latest.popleft())]
        latest.append(value)
        insort(ordered, value)

    def now(self) -> float | None:
        """Return the quantile, or None where too few values have been seen."""
        count = len(self._sorted)
        return self._sorted[math.ceil(self._share * count) - 1] if count >= self._least else None
