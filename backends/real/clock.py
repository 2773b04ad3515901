"""Real time with the interface of the simulator's clock."""

from __future__ import annotations

import math
from heapq import heappop
from time import perf_counter

from sim.clock import Clock


class RealClock(Clock):
    """Seconds since `start`; `now` is the moment at which the frontend last looked.

    It looks at the beginning of everything that it takes up, and after work of its own that takes time. In between
    `now` stands still, as the simulator's does, so that what happens together carries one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.origin = 0.0
        """What `perf_counter` said, or will say, at 0."""

    def start(self, lead: float) -> None:
        """Let 0 be in `lead` seconds."""
        self.origin = perf_counter() + lead
        self.now = -lead

    def tick(self) -> float:
        """Look at the time and return it."""
        self.now = perf_counter() - self.origin
        return self.now

    def due(self) -> float:
        """Return when the next timer is due, infinity where there is none."""
        heap = self.heap
        while heap and not heap[0][3].callbacks:
            heappop(heap)
        return heap[0][0] if heap else math.inf

    def advance(self, until: float) -> None:
        """Let the timers that are due by `until` go off now, which may be a little late."""
        while self.due() <= until:
            entry = heappop(self.heap)[3]
            self.tick()
            for callback in entry.callbacks:
                callback(entry)
