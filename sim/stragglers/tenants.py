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
from dataclasses import dataclass, field

LAG = 0.1
"""Seconds that the kept state lies behind the latest start: tasks start slightly out of order, by their transfers."""


@dataclass(slots=True)
class Ours:
    """Our tasks on one instance that are known and not over, as (start, finish), in their order."""

    spans: deque[tuple[float, float]] = field(default_factory=deque)

    def busy(self, now: float) -> bool:
        """Return whether one of them runs."""
        return any(start <= now < finish for start, finish in self.spans)

    def change(self, now: float) -> float:
        """Return when that changes next."""
        return min((edge for span in self.spans for edge in span if edge > now), default=math.inf)


@dataclass(slots=True)
class State:
    """The second service at a moment, in seconds."""

    now: float
    left: list[float]
    """Work left of the query that runs on each instance; 0 where none does."""
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
        self._ours = [Ours() for _ in range(instances)]
        self._state = State(
            0.0, [0.0] * instances, [deque() for _ in arrivals], deque(range(instances)), [0] * len(arrivals)
        )

    def stretch(self, instance: int, start: float, seconds: float) -> float:
        """Return how long our task of `seconds` takes that begins at `start`; starts almost increase."""
        self._settle(start - LAG)
        state = self._state.copy()
        self._play(state, start)
        spans = self._ours[instance].spans
        spans.append((start, math.inf))
        work = seconds
        while True:
            until = self._next(state)
            pace = 1.0 / self._slowdown if state.left[instance] > 0.0 else 1.0
            if state.now + work / pace <= until:
                finish = state.now + work / pace
                break
            work -= (until - state.now) * pace
            self._advance(state, until)
        spans[-1] = (start, finish)
        return finish - start

    def _settle(self, when: float) -> None:
        """Move the kept state to `when`, and forget what is before."""
        if when <= self._state.now:
            return
        self._play(self._state, when)
        for ours in self._ours:
            while ours.spans and ours.spans[0][1] <= when:
                ours.spans.popleft()
        for queue, seen in enumerate(self._state.seen):
            for _ in range(seen - self._dropped[queue]):
                self._known[queue].popleft()
            self._dropped[queue] = seen

    def _play(self, state: State, when: float) -> None:
        while state.now < when:
            self._advance(state, min(when, self._next(state)))

    def _arrival(self, state: State, queue: int) -> tuple[float, float]:
        known, place = self._known[queue], state.seen[queue] - self._dropped[queue]
        while place >= len(known):
            known.append(next(self._arrivals[queue]))
        return known[place]

    def _pace(self, state: State, instance: int) -> float:
        slowed = self._mutual and self._ours[instance].busy(state.now)
        return 1.0 / self._slowdown if slowed else 1.0

    def _next(self, state: State) -> float:
        """Return when the next query arrives or is done, or one of our tasks starts or ends."""
        until = min(self._arrival(state, queue)[0] for queue in range(len(state.queues)))
        for instance, left in enumerate(state.left):
            if left > 0.0:
                until = min(until, state.now + left / self._pace(state, instance))
                if self._mutual:
                    until = min(until, self._ours[instance].change(state.now))
        return until

    def _advance(self, state: State, until: float) -> None:
        """Move to `until`, at most the next change, and do what happens there."""
        for instance, left in enumerate(state.left):
            if left > 0.0:
                pace = self._pace(state, instance)
                done = until >= state.now + left / pace
                state.left[instance] = 0.0 if done else left - (until - state.now) * pace
                if done:
                    self._free(state, instance)
        state.now = until
        for queue in range(len(state.queues)):
            arrival, work = self._arrival(state, queue)
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
        elif not self._shared and state.left[queue] == 0.0:
            state.left[queue] = work
        else:
            state.queues[queue].append(work)
