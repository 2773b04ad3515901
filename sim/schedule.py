"""When queries arrive, as the simulator sees it: fixed times, or clients who wait for their replies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.errors import ParmError


@dataclass(frozen=True, slots=True)
class OpenSchedule:
    """Queries that arrive whatever the cluster does."""

    times: NDArray[np.float64]
    """Arrival times in seconds, never decreasing, shape (queries,)."""

    def __post_init__(self) -> None:
        """Raise ParmError unless the times are as said."""
        times = self.times
        if len(times) and not (times[0] >= 0 and times[-1] < np.inf and (np.diff(times) >= 0).all()):
            raise ParmError("arrival times have to be finite, not negative, and never decrease")

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, slots=True)
class ClosedSchedule:
    """`clients` who each wait for a reply, think, and send the next query, until `len(think)` queries were sent."""

    clients: int
    think: NDArray[np.float64]
    """Seconds of thought before query number i, in the order in which the queries are sent; shape (queries,)."""

    def __len__(self) -> int:
        return len(self.think)


Schedule = OpenSchedule | ClosedSchedule
