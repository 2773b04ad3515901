"""Simulated time: SimPy's clock and heap, driven by callbacks.

The heap holds SimPy's own events as well as ours: rare things can be SimPy processes, while what every query needs is
one callback. An `Entry` has the minimum that the heap needs of an event.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

import simpy
from simpy.events import NORMAL

COMPACT_ABOVE = 64
"""The heap is compacted once more than this many entries, and more than half of it, are cancelled."""


class Entry:
    """A scheduled event: `callbacks` are called with the entry itself, unless it is cancelled."""

    __slots__ = ("callbacks",)

    callbacks: tuple[Callable[[Any], None], ...]
    _ok = True  # SimPy's flag for "has not failed"; an entry cannot fail


class Call(Entry):
    """An entry with an item for its callback."""

    __slots__ = ("item",)

    def __init__(self, callback: Callable[[Call], None], item: Any) -> None:
        self.callbacks = (callback,)
        self.item = item


class Clock(simpy.Environment):
    """A SimPy environment whose loop calls callbacks directly and can be advanced to a given time.

    SimPy cannot cancel events. `cancel` empties the entry's callbacks, and the heap is compacted before cancelled
    entries outnumber the others, so that cancelling costs O(log n) on average.
    """

    now: float = 0.0  # a plain attribute in place of SimPy's property: it is read several times per query

    @property
    def _now(self) -> float:
        return self.now

    @_now.setter
    def _now(self, time: float) -> None:
        self.now = time

    def __init__(self) -> None:
        super().__init__()
        self.heap = self._queue
        """(time, priority, id, entry); pools push onto it directly to save a call per task."""
        self.ids = self._eid
        self._cancelled = 0

    def at(self, time: float, entry: Entry) -> None:
        """Schedule `entry` at `time` (seconds, not in the past); entries of equal time run in the order of calls."""
        heappush(self._queue, (time, NORMAL, next(self._eid), entry))  # type: ignore[misc]

    def cancel(self, entry: Entry) -> None:
        """Cancel a scheduled entry."""
        entry.callbacks = ()
        self._cancelled += 1
        queue = self._queue
        if self._cancelled > COMPACT_ABOVE and 2 * self._cancelled > len(queue):
            queue[:] = [item for item in queue if item[3].callbacks]
            heapify(queue)
            self._cancelled = 0

    def advance(self, until: float) -> None:
        """Run all entries up to and including `until`, in order of time, and set the clock to it."""
        heap = self._queue
        while heap and heap[0][0] <= until:
            self.now, _, _, event = heappop(heap)
            callbacks = event.callbacks
            event.callbacks = None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value
        self.now = until

    def drain(self) -> None:
        """Run all remaining entries; the clock stops at the last one."""
        while self._queue:
            self.advance(self._queue[0][0])
