"""Several models on the same instances: a lane for each, from which whoever is idle takes work by priority.

A lane is a pool that has its instances in common with others. Its tasks have its role and parity row, its service times
and its hardware, so a policy sees one pool for each model, whether that has instances of its own or not.
"""

from __future__ import annotations

from abc import abstractmethod

from sim.clock import Clock
from sim.dispatching import Chooser
from sim.pool import Conditions, Pool, RoutedPool, SharedPool
from sim.recorder import Recorder
from sim.task import Task


class Lane(Pool):
    """What both kinds of lanes have in common.

    Lanes of one rank share their queues: among them, first come is first served. Lower ranks wait for those above.
    """

    __slots__ = ()

    _ranks: list[Lane]
    """A lane of each rank, the one to be served first in front; one list for all lanes of the same instances."""

    def _same_rank(self, rank: int) -> Lane:
        """Return the lane whose queues are this one's too: itself, where it is the first of its rank."""
        if rank == len(self._ranks):
            self._ranks.append(self)
        return self._ranks[rank]

    def _start(self, task: Task, instance: int) -> None:
        # Whichever lane of its rank took it from their queue, it is its own lane's work.
        Pool._start(task.lane, task, instance)

    def _idle(self, instance: int) -> None:
        if self._outages and self._down(instance):
            return
        for lane in self._ranks:
            if lane._take(instance):
                return
        self._rest(instance)

    @abstractmethod
    def _rest(self, instance: int) -> None:
        """Let the instance wait for work."""


class SharedLane(Lane, SharedPool):
    """A lane of a pool with one queue for each rank."""

    __slots__ = ("_ranks",)

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        label: int,
        instances: range,
        conditions: Conditions,
        joined: SharedLane | None,
        rank: int,
    ) -> None:
        super().__init__(clock, recorder, label, instances, conditions)
        if joined is not None:
            self._waiting = joined._waiting
        self._ranks = [] if joined is None else joined._ranks
        same = self._same_rank(rank)
        assert isinstance(same, SharedLane)
        self._queue = same._queue

    def submit(self, task: Task) -> None:
        """Start the task on the instance that has been idle longest, or append it to its rank's queue."""
        task.lane = self
        SharedPool.submit(self, task)

    def _rest(self, instance: int) -> None:
        self._waiting.append(instance)

    _idle = _released = Lane._idle


class RoutedLane(Lane, RoutedPool):
    """A lane of a pool in which each instance has a queue for each rank; the chooser sees the tasks of all ranks."""

    __slots__ = ("_ranks",)

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        label: int,
        instances: range,
        conditions: Conditions,
        chooser: Chooser,
        joined: RoutedLane | None,
        rank: int,
    ) -> None:
        super().__init__(clock, recorder, label, instances, conditions, chooser)
        if joined is not None:
            self._chooser, self._loads, self._free = joined._chooser, joined._loads, joined._free
        self._ranks = [] if joined is None else joined._ranks
        same = self._same_rank(rank)
        assert isinstance(same, RoutedLane)
        self._queues = same._queues

    def submit(self, task: Task) -> None:
        """Let the task join the chosen instance's queue, and start there if nothing is before it."""
        task.lane = self
        RoutedPool.submit(self, task)

    def _rest(self, instance: int) -> None:
        self._free[instance - self.instances.start] = True


def lane(
    clock: Clock,
    recorder: Recorder,
    label: int,
    instances: range,
    conditions: Conditions,
    chooser: Chooser | None,
    joined: Pool | None,
    rank: int,
) -> Lane:
    """Return a pool that shares `instances` with the lane `joined` and whoever else joined it, or is the first there.

    Tasks of a rank start only when none of a lower number waits. There is one queue where there is no chooser.
    """
    if chooser is None:
        assert joined is None or isinstance(joined, SharedLane)
        return SharedLane(clock, recorder, label, instances, conditions, joined, rank)
    assert joined is None or isinstance(joined, RoutedLane)
    return RoutedLane(clock, recorder, label, instances, conditions, chooser, joined, rank)
