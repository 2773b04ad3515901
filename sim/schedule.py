"""Arrivals as the simulator takes them: fixed times, or clients who wait for their replies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class OpenSchedule:
    """Arrival times that do not depend on replies."""

    times: NDArray[np.float64]
    """Seconds, never decreasing, shape (queries,)."""

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, slots=True)
class ClosedSchedule:
    """A closed loop: each client thinks, sends a query, waits for its reply and repeats, until `len(think)` are sent."""

    clients: int
    think: NDArray[np.float64]
    """Seconds of thought before query i, in the order in which queries are sent; shape (queries,)."""

    def __len__(self) -> int:
        return len(self.think)


Schedule = OpenSchedule | ClosedSchedule
