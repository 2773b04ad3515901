"""Where tasks wait: in one queue for all instances, or in a queue for each instance, which is chosen on submission."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from sim.kinds import Kind
from sim.streams import Stream


class Chooser(Protocol):
    """Chooses the instance whose queue a task joins."""

    def choose(self, loads: Sequence[int], avoid: Sequence[int]) -> int:
        """Return a place in `loads` (tasks queued or running at each instance) that is not in `avoid`."""
        ...


class Discipline(Kind):
    """How tasks wait for the instances of a pool."""

    family: ClassVar[str] = "queue discipline"

    @abstractmethod
    def chooser(self, uniforms: Stream) -> Chooser | None:
        """Return what chooses among the instances' queues; None: all instances share one queue."""


class SingleQueue(Discipline):
    """One first-in, first-out queue for the pool; the instance that has been idle longest takes the next task."""

    kind: Literal["single_queue"] = "single_queue"

    def chooser(self, uniforms: Stream) -> None:
        """Return None: all instances share the queue."""


class QueueEach(Discipline):
    """A queue discipline with a queue at every instance."""

    steal: bool = False
    """Whether an instance that has no tasks takes one that waits at another: the first one in the queue of the instance
    with the most (work stealing)."""


class RoundRobin(QueueEach):
    """A queue per instance; tasks join them in turn."""

    kind: Literal["round_robin"] = "round_robin"

    def chooser(self, uniforms: Stream) -> Chooser:
        """Return a chooser that cycles through the instances."""
        return _Turns()


class RandomQueue(QueueEach):
    """A queue per instance; tasks join one chosen uniformly at random."""

    kind: Literal["random"] = "random"

    def chooser(self, uniforms: Stream) -> Chooser:
        """Return a chooser that draws instances uniformly."""
        return _Best(Numbers(uniforms), 1)


class ShortestQueue(QueueEach):
    """A queue per instance; tasks join the shortest one (join the shortest queue; ties are broken in turn)."""

    kind: Literal["shortest_queue"] = "shortest_queue"

    def chooser(self, uniforms: Stream) -> Chooser:
        """Return a chooser of the least load."""
        return _Shortest()


class BestOf(QueueEach):
    """A queue per instance; tasks join the shortest of d queues chosen at random (power of d choices)."""

    kind: Literal["best_of"] = "best_of"
    d: int = Field(default=2, ge=1)
    """Queues that are compared."""

    def chooser(self, uniforms: Stream) -> Chooser:
        """Return a chooser of the least load among d random instances."""
        return _Best(Numbers(uniforms), self.d)


class IdleQueue(QueueEach):
    """A queue per instance; tasks join that of an idle instance, or of any at random if none is (join the idle queue).

    Source: Lu, Xie, Kliot, Geller, Larus, Greenberg, "Join-Idle-Queue: A novel load balancing algorithm for dynamically
    scalable web services", Performance Evaluation 2011, with one dispatcher, which picks an idle instance at random.
    """

    kind: Literal["idle_queue"] = "idle_queue"

    def chooser(self, uniforms: Stream) -> Chooser:
        """Return a chooser of idle instances."""
        return _Idle(Numbers(uniforms))


class Numbers:
    """A pool's own sequence of uniform numbers."""

    __slots__ = ("_next", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._next = 0

    def below(self, n: int) -> int:
        """Return a whole number from 0 to n - 1."""
        self._next += 1
        return int(self._stream.at(self._next - 1) * n)


class _Turns:
    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, loads: Sequence[int], avoid: Sequence[int]) -> int:
        while True:
            self._turn = (self._turn + 1) % len(loads)
            if self._turn not in avoid:
                return self._turn


class _Shortest:
    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, loads: Sequence[int], avoid: Sequence[int]) -> int:
        instances = len(loads)
        best, least = -1, 1 << 62
        for step in range(1, instances + 1):
            place = (self._turn + step) % instances
            if loads[place] < least and place not in avoid:
                best, least = place, loads[place]
        self._turn = best
        return best


class _Best:
    """The least loaded of d distinct queues drawn at random; the first drawn wins a tie."""

    __slots__ = ("_d", "_numbers")

    def __init__(self, numbers: Numbers, d: int) -> None:
        self._numbers = numbers
        self._d = d

    def choose(self, loads: Sequence[int], avoid: Sequence[int]) -> int:
        best, least = -1, 1 << 62
        drawn: list[int] = []
        eligible = len(loads) - len(set(avoid))
        while len(drawn) < min(self._d, eligible):
            place = self._numbers.below(len(loads))
            if place in avoid or place in drawn:
                continue
            drawn.append(place)
            if loads[place] < least:
                best, least = place, loads[place]
        return best


class _Idle:
    """One of the eligible places without load, or of all eligible ones, uniformly at random."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def choose(self, loads: Sequence[int], avoid: Sequence[int]) -> int:
        idle = [place for place, load in enumerate(loads) if not load and place not in avoid]
        eligible = idle or [place for place in range(len(loads)) if place not in avoid]
        return eligible[self._numbers.below(len(eligible))]


def uniform(generator: np.random.Generator, n: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Draw n uniforms for `Discipline.chooser`."""
    return generator.random(n)
