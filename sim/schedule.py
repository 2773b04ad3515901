"""Arrivals as the simulator takes them: fixed times, or clients who wait for their replies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.errors import ParmError
from sim.streams import Streams


@dataclass(frozen=True, slots=True)
class OpenSchedule:
    """Arrival times that do not depend on replies."""

    times: NDArray[np.float64]
    """Seconds, never decreasing, shape (queries,)."""

    def __post_init__(self) -> None:
        """Raise ParmError unless the times are as said."""
        times = self.times
        if len(times) and not (times[0] >= 0 and times[-1] < np.inf and (np.diff(times) >= 0).all()):
            raise ParmError("arrival times have to be finite, not negative, and never decrease")

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def poisson(cls, rate: float, queries: int, streams: Streams) -> OpenSchedule:
        """Return Poisson arrivals at `rate` queries per second: those of a workload `{kind: poisson}`."""
        return cls(np.cumsum(streams.generator("arrivals").standard_exponential(queries)) / rate)


@dataclass(frozen=True, slots=True)
class ClosedSchedule:
    """A closed loop: each client thinks, sends a query, waits for its reply and repeats, for `len(think)` queries."""

    clients: int
    think: NDArray[np.float64]
    """Seconds of thought before query i, in the order in which queries are sent; shape (queries,)."""

    def __len__(self) -> int:
        return len(self.think)


Schedule = OpenSchedule | ClosedSchedule
