"""A quantile of what has been seen lately."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque


class RunningQuantile:
    """The exact quantile of the last `window` values: the least of them that `share` of them do not exceed.

    A sorted list, since moving the rest of a list of a thousand costs less than any tree would.
    """

    __slots__ = ("_count", "_latest", "_least", "_place", "_share", "_sorted", "_window")

    def __init__(self, share: float, window: int = 1000, least: int = 100) -> None:
        """Keep `window` values; there is no quantile before the first `least` of them."""
        self._share = share
        self._window = window
        self._least = least
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []
        self._count = 0
        """Values for which `_place` holds: where the quantile is among them, or -1."""
        self._place = -1

    def beside(self, share: float) -> RunningQuantile:
        """Return another quantile of the values that this one sees."""
        other = RunningQuantile(share, self._window, self._least)
        other._latest, other._sorted = self._latest, self._sorted
        return other

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
        if count != self._count:
            self._count = count
            self._place = math.ceil(self._share * count) - 1 if count >= self._least else -1
        return self._sorted[self._place] if self._place >= 0 else None
