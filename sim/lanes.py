"""Several models on the same instances: each has a lane, and an idle instance takes work from the lanes by priority.

A lane is a pool whose instances are also those of other lanes. Its tasks have its role, parity row and service times.
So a policy sees one pool for each model, whether that has instances of its own or not.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque

from sim.clock import Clock
from sim.dispatching import Chooser
from sim.pool import Conditions, Pool, RoutedPool, SharedPool
from sim.recorder import Recorder
from sim.task import Task


class Lane(Pool):
    """Base of both kinds of lanes. Lanes of one rank share queues, first come, first served; tasks of a rank start only
    when none of a lower number waits."""

    __slots__ = ()

    _ranks: list[Lane]
    """The first lane of each rank, in the order of service; one list for all lanes of the same instances."""

    def _same_rank(self, rank: int) -> Lane:
        """Return the first lane of the rank, whose queues are shared: this one if there is none yet."""
        if rank == len(self._ranks):
            self._ranks.append(self)
        return self._ranks[rank]

    def _start(self, task: Task, instance: int) -> None:
        # It may have been taken from the queue by another lane of its rank.
        Pool._start(task.lane, task, instance)

    def _of(self, task: Task) -> Pool:
        pool: Pool = task.lane
        return pool

    def _idle(self, instance: int) -> None:
        if self._outages and self._down(instance):
            return
        for lane in self._ranks:
            if lane._take(instance):
                return
        self._rest(instance)

    @abstractmethod
    def _rest(self, instance: int) -> None:
        """Mark the instance as idle."""


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
            self._chooser, self._loads = joined._chooser, joined._loads
            self._free, self._failed = joined._free, joined._failed
        self._ranks = [] if joined is None else joined._ranks
        same = self._same_rank(rank)
        assert isinstance(same, RoutedLane)
        self._queues = same._queues

    def submit(self, task: Task) -> None:
        """Start the task on the chosen instance, or append it to that one's queue."""
        task.lane = self
        RoutedPool.submit(self, task)

    def _queues_at(self, instance: int) -> list[deque[Task]]:
        return [lane._queue_of(instance) for lane in self._ranks]

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
    kinds: tuple[type[SharedLane], type[RoutedLane]] = (SharedLane, RoutedLane),
) -> Lane:
    """Return a pool of `rank` that shares `instances` with the lane `joined`, or is the first there; one queue for each
    rank without a `chooser`. It is of one of the `kinds`."""
    shared, routed = kinds
    if chooser is None:
        assert joined is None or isinstance(joined, SharedLane)
        return shared(clock, recorder, label, instances, conditions, joined, rank)
    assert joined is None or isinstance(joined, RoutedLane)
    return routed(clock, recorder, label, instances, conditions, chooser, joined, rank)
