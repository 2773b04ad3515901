"""When queries arrive, as the simulator sees it: fixed times, or clients who wait for their replies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class OpenSchedule:
    """Queries that arrive whatever the cluster does."""

    times: NDArray[np.float64]
    """Arrival times in seconds, never decreasing, shape (queries,)."""

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
