"""How long a policy waits before it does more: a fixed time, or a running quantile of latencies."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from pydantic import Field, NonNegativeFloat, model_validator

from sim.kinds import Options


class Wait(Options):
    """A wait in seconds or as a quantile of latencies."""

    after: NonNegativeFloat | None = None
    """Seconds."""
    after_quantile: float | None = Field(default=None, gt=0, lt=1)
    """The same wait as a quantile of the latest 1000 latencies."""

    @model_validator(mode="after")
    def _one_wait(self) -> Wait:
        if self.after is not None and self.after_quantile is not None:
            raise ValueError("give 'after' or 'after_quantile', not both: there is one wait")
        return self

    def waiting(self, otherwise: float) -> Waiting:
        """Return the wait in one simulation; if neither option is given, the quantile `otherwise`."""
        return Waiting(self.after, self.after_quantile or otherwise)


class Waiting:
    """A wait in one simulation."""

    __slots__ = ("_fixed", "_latencies", "_quantile", "_sees")

    def __init__(self, fixed: float | None, quantile: float) -> None:
        self._fixed = fixed
        self._quantile = quantile
        self._latencies = RunningQuantile(quantile)
        self._sees = fixed is None

    def beside(self, other: Waiting) -> None:
        """Share the latencies that `other` sees, if both need them."""
        if self._sees and other._sees:
            self._latencies = other._latencies.beside(self._quantile)
            self._sees = False

    def now(self) -> float | None:
        """Return the current wait in seconds, or None if too few latencies have been seen."""
        return self._latencies.now() if self._fixed is None else self._fixed

    def see(self, latency: float) -> None:
        """Add a latency, if the wait depends on it."""
        if self._sees:
            self._latencies.see(latency)


class RunningQuantile:
    """The exact quantile of the last `window` values: the least of them that `share` of them do not exceed.

    It keeps a sorted list, which is faster than a tree at a thousand values.
    """

    __slots__ = ("_count", "_latest", "_least", "_place", "_share", "_sorted", "_window")

    def __init__(self, share: float, window: int = 1000, least: int = 100) -> None:
        """Keep `window` values; there is no quantile before the first `least` values."""
        self._share = share
        self._window = window
        self._least = least
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []
        self._count = 0
        """Number of values for which `_place` is valid: the index of the quantile, or -1."""
        self._place = -1

    def beside(self, share: float) -> RunningQuantile:
        """Return another quantile of the same values."""
        other = RunningQuantile(share, self._window, self._least)
        other._latest, other._sorted = self._latest, self._sorted
        return other

    def see(self, value: float) -> None:
        """Add a value, and drop the oldest if the window is full."""
        ordered, latest = self._sorted, self._latest
        if len(latest) == self._window:
            del ordered[bisect_left(ordered, latest.popleft())]
        latest.append(value)
        insort(ordered, value)

    def now(self) -> float | None:
        """Return the quantile, or None if too few values have been seen."""
        count = len(self._sorted)
        if count != self._count:
            self._count = count
            self._place = math.ceil(self._share * count) - 1 if count >= self._least else -1
        return self._sorted[self._place] if self._place >= 0 else None
