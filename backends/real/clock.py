"""Real time with the interface of the simulator's clock."""

from __future__ import annotations

import math
from heapq import heappop
from time import perf_counter

from sim.clock import Clock


class RealClock(Clock):
    """Seconds since `start`; `now` is the time of the last `tick`.

    The frontend calls `tick` when it begins to handle an event, and after work of its own that takes time. In between
    `now` does not change, as in the simulator, so that simultaneous effects carry one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.origin = 0.0
        """The value of `perf_counter` at time 0."""

    def start(self, lead: float) -> None:
        """Set time 0 to `lead` seconds from now."""
        self.origin = perf_counter() + lead
        self.now = -lead

    def tick(self) -> float:
        """Set `now` to the present time and return it."""
        self.now = perf_counter() - self.origin
        return self.now

    def due(self) -> float:
        """Return when the next timer is due, infinity where there is none."""
        heap = self.heap
        while heap and not heap[0][3].callbacks:
            heappop(heap)
        return heap[0][0] if heap else math.inf

    def advance(self, until: float) -> None:
        """Run the timers that are due by `until`, perhaps a little late."""
        while self.due() <= until:
            entry = heappop(self.heap)[3]
            self.tick()
            for callback in entry.callbacks:
                callback(entry)
