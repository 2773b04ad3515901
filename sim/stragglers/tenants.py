"""A second service whose queries wait in one queue for several instances, or that is slowed down as we are.

Its queries depend on our tasks, and so cannot be a timeline of their own. Its state is kept as of a moment in the past;
when one of our tasks starts, it is played forward from there, with all our tasks that are known, until the new task is
finished. What our later tasks on other instances do to a shared queue before then is not known and not undone; with one
instance, or a queue for each, the result is exact.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

LAG = 0.1
"""Seconds that the kept state lies behind the latest start: tasks start slightly out of order, by their transfers."""

NOBODY = -1.0
"""The work left of the query on an instance that has none."""


@dataclass(slots=True)
class State:
    """The second service at a moment, in seconds."""

    now: float
    left: list[float]
    """Work left of the query that runs on each instance; negative where none does."""
    queues: list[deque[float]]
    """Work that waits: one queue for all instances, or one for each."""
    idle: deque[int]
    """Instances of a shared queue without a query, the one that was idle first in front."""
    seen: list[int]
    """Arrivals of each queue that are in."""

    def copy(self) -> State:
        """Return a copy that can be played forward."""
        return State(self.now, list(self.left), [deque(q) for q in self.queues], deque(self.idle), list(self.seen))


class Tenants:
    """The second service on some instances, which are numbered from 0 here."""

    def __init__(
        self, arrivals: list[Iterator[tuple[float, float]]], instances: int, slowdown: float, *, mutual: bool
    ) -> None:
        """Take each queue's queries as (arrival, work), one queue for all `instances` or one for each."""
        self._arrivals = arrivals
        self._known: list[deque[tuple[float, float]]] = [deque() for _ in arrivals]
        self._dropped = [0] * len(arrivals)
        self._shared = len(arrivals) == 1
        self._slowdown = slowdown
        self._mutual = mutual
        self._ours: list[deque[tuple[float, float]]] = [deque() for _ in range(instances)]
        """Our tasks on each instance that are known and not over, as (start, finish), in their order."""
        self._state = State(
            0.0, [NOBODY] * instances, [deque() for _ in arrivals], deque(range(instances)), [0] * len(arrivals)
        )

    def stretch(self, instance: int, start: float, seconds: float) -> float:
        """Return how long our task of `seconds` takes that begins at `start`; starts almost increase."""
        self._settle(start - LAG)
        state = self._state.copy()
        while state.now < start:
            self._step(state, start)
        spans = self._ours[instance]
        spans.append((start, math.inf))
        work = seconds
        while True:
            now = state.now
            pace = 1.0 / self._slowdown if state.left[instance] >= 0.0 else 1.0
            finish = now + work / pace
            self._step(state, finish)
            if state.now >= finish:
                break
            work -= (state.now - now) * pace
        spans[-1] = (start, finish)
        return finish - start

    def _settle(self, when: float) -> None:
        """Move the kept state to `when`, and forget what is before."""
        if when <= self._state.now:
            return
        while self._state.now < when:
            self._step(self._state, when)
        for spans in self._ours:
            while spans and spans[0][1] <= when:
                spans.popleft()
        for queue, seen in enumerate(self._state.seen):
            for _ in range(seen - self._dropped[queue]):
                self._known[queue].popleft()
            self._dropped[queue] = seen

    def _arrival(self, state: State, queue: int) -> tuple[float, float]:
        known, place = self._known[queue], state.seen[queue] - self._dropped[queue]
        while place >= len(known):
            known.append(next(self._arrivals[queue]))
        return known[place]

    def _pace(self, instance: int, now: float) -> tuple[float, float]:
        """Return how fast a query proceeds on an instance, and until when, for all that is known of our tasks there."""
        if self._mutual:
            for start, finish in self._ours[instance]:
                if now < start:
                    return 1.0, start
                if now < finish:
                    return 1.0 / self._slowdown, finish
        return 1.0, math.inf

    def _step(self, state: State, limit: float) -> None:
        """Move to the next change, or to `limit` if that is earlier, and do what happens there."""
        now, until = state.now, limit
        comes = [self._arrival(state, queue) for queue in range(len(state.queues))]
        for arrival, _ in comes:
            until = min(until, arrival)
        running: list[tuple[int, float, float]] = []
        for instance, left in enumerate(state.left):
            if left >= 0.0:
                pace, change = self._pace(instance, now)
                end = now + left / pace
                running.append((instance, pace, end))
                until = min(until, end, change)
        state.now = until
        for instance, pace, end in running:
            if end <= until:
                state.left[instance] = NOBODY
                self._free(state, instance)
            else:
                state.left[instance] = max(0.0, state.left[instance] - (until - now) * pace)
        for queue, (arrival, work) in enumerate(comes):
            if arrival <= until:
                state.seen[queue] += 1
                self._arrive(state, queue, work)

    def _free(self, state: State, instance: int) -> None:
        queue = state.queues[0 if self._shared else instance]
        if queue:
            state.left[instance] = queue.popleft()
        elif self._shared:
            state.idle.append(instance)

    def _arrive(self, state: State, queue: int, work: float) -> None:
        if self._shared and state.idle:
            state.left[state.idle.popleft()] = work
        elif not self._shared and state.left[queue] < 0.0:
            state.left[queue] = work
        else:
            state.queues[queue].append(work)
