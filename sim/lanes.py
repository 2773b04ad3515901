"""Several models on the same instances: each has a lane, and an idle instance takes work from the lanes in their turn.

A lane is a pool whose instances are also those of other lanes. Its tasks have its service's queries, its role, parity
row and service times. So a policy sees one pool for each model, whether that has instances of its own or not. `Turns`
decide which lane is asked first: by a fixed order, or by what each service has had so far.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from sim.clock import Clock
from sim.dispatching import Chooser
from sim.pool import Conditions, Pool, SharedPool
from sim.recorder import Recorder
from sim.routed import RoutedPool
from sim.task import Task

Key = tuple[int, int]
"""The place of a lane: of its service, then of its rank within the policy; lower numbers are served first."""


class Turns:
    """The order in which the lanes of the same instances are asked for work: by key, the lowest first.

    Lanes of one key share queues, first come, first served; tasks of a key start only when none of a lower one waits.
    """

    __slots__ = ("_keys", "lanes")

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self.lanes: list[Lane] = []
        """The first lane of each key, in the order in which an idle instance asks them."""

    def join(self, lane: Lane, key: Key) -> Lane:
        """Add a lane; return the first one of its key, whose queues it shares: itself if there is none yet."""
        place = bisect_left(self._keys, key)
        if place == len(self._keys) or self._keys[place] != key:
            self._keys.insert(place, key)
            self.lanes.insert(place, lane)
        return self.lanes[place]


class FairTurns(Turns):
    """Start-time fair queueing: services that wait share the time of the instances in proportion to their weights.

    Source: Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996; for several servers, Jin, Chase and Kaur,
    "Interposed Proportional Sharing for a Storage Service Utility", SIGMETRICS 2004. Each service has a tag in virtual
    time: the seconds for which its tasks occupied instances, divided by its weight. The lowest tag is served first. A
    service without work does not save up: when a task of it comes, the tag is raised to the greatest one with which a
    task has started. How long a task takes is not known when it starts; the service's mean so far is charged then, and
    the difference when its instance is free again.
    """

    __slots__ = ("_charged", "_ended", "_now", "_seconds", "_tags", "_weights")

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self._weights = weights
        self._tags = [0.0] * len(weights)
        self._now = 0.0
        """Virtual time: the greatest tag with which a task has started."""
        self._seconds = [0.0] * len(weights)
        """Seconds for which tasks of each service that ended occupied their instances."""
        self._ended = [0] * len(weights)
        self._charged: dict[int, tuple[int, float, float]] = {}
        """For each busy instance its service, when it was taken, and the seconds that were charged."""

    def sort(self) -> None:
        """Put the lanes of the service with the lowest tag first, those of a service by their ranks."""
        tags = self._tags
        self.lanes.sort(key=lambda lane: (tags[lane.key[0]], lane.key))

    def woken(self, service: int) -> None:
        """Note that a service without work has a task again."""
        self._tags[service] = max(self._tags[service], self._now)

    def started(self, service: int, instance: int, now: float) -> None:
        """Charge a service for a task that starts."""
        ended = self._ended[service]
        mean = self._seconds[service] / ended if ended else 0.0
        self._charged[instance] = service, now, mean
        self._now = max(self._now, self._tags[service])
        self._tags[service] += mean / self._weights[service]

    def released(self, instance: int, now: float) -> None:
        """Correct the charge for the task that occupied an instance until now."""
        service, since, charged = self._charged.pop(instance)
        taken = now - since
        self._seconds[service] += taken
        self._ended[service] += 1
        self._tags[service] += (taken - charged) / self._weights[service]


class Lane(Pool):
    """Base of both kinds of lanes."""

    __slots__ = ()

    key: Key
    _turns: Turns

    def _start(self, task: Task, instance: int) -> None:
        # It may have been taken from the queue by another lane of its key.
        Pool._start(task.lane, task, instance)

    def _of(self, task: Task) -> Pool:
        pool: Pool = task.lane
        return pool

    def _idle(self, instance: int) -> None:
        if self._outages and self._down(instance):
            return
        for lane in self._turns.lanes:
            if lane._take(instance):
                return
        self._rest(instance)

    @abstractmethod
    def _rest(self, instance: int) -> None:
        """Mark the instance as idle."""


class SharedLane(Lane, SharedPool):
    """A lane of a pool with one queue for each key."""

    __slots__ = ("_turns", "key")

    def __init__(
        self, clock: Clock, recorder: Recorder, label: int, conditions: Conditions, group: Group, key: Key
    ) -> None:
        super().__init__(clock, recorder, label, group.instances, conditions)
        self._turns, self.key = group.turns, key
        if group.first is not None:
            assert isinstance(group.first, SharedLane)
            self._waiting = group.first._waiting
        same = group.turns.join(self, key)
        assert isinstance(same, SharedLane)
        self._queue = same._queue

    def submit(self, task: Task) -> None:
        """Start the task on the instance that has been idle longest, or append it to its key's queue."""
        task.lane = self
        SharedPool.submit(self, task)

    def _rest(self, instance: int) -> None:
        self._waiting.append(instance)

    _idle = _released = Lane._idle


class RoutedLane(Lane, RoutedPool):
    """A lane of a pool in which each instance has a queue for each key; the chooser sees the tasks of all lanes."""

    __slots__ = ("_turns", "key")

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        label: int,
        conditions: Conditions,
        chooser: Chooser,
        group: Group,
        key: Key,
    ) -> None:
        super().__init__(clock, recorder, label, group.instances, conditions, chooser)
        self._turns, self.key = group.turns, key
        if group.first is not None:
            first = group.first
            assert isinstance(first, RoutedLane)
            self._chooser, self._loads = first._chooser, first._loads
            self._free, self._failed = first._free, first._failed
        same = group.turns.join(self, key)
        assert isinstance(same, RoutedLane)
        self._queues = same._queues

    def submit(self, task: Task) -> None:
        """Start the task on the chosen instance, or append it to that one's queue."""
        task.lane = self
        RoutedPool.submit(self, task)

    def _queues_at(self, instance: int) -> list[deque[Task]]:
        return [lane._queue_of(instance) for lane in self._turns.lanes]

    def _rest(self, instance: int) -> None:
        self._free[instance - self.instances.start] = True


class FairLane(Lane):
    """Tells `FairTurns` what its service gets; before one of the two kinds of lanes in the bases of a class."""

    __slots__ = ()

    _turns: FairTurns

    def submit(self, task: Task) -> None:
        """Submit the task; its service wakes if nothing else waits in the same queue."""
        super().submit(task)  # type: ignore[safe-super]  # the next base has it
        if len(self._where(task)) <= 1:
            self._turns.woken(self.key[0])

    def _start(self, task: Task, instance: int) -> None:
        self._turns.started(task.lane.key[0], instance, self.clock.now)
        super()._start(task, instance)

    def _released(self, instance: int) -> None:
        self._turns.released(instance, self.clock.now)
        self._turns.sort()
        super()._released(instance)  # type: ignore[safe-super]

    def _idle(self, instance: int) -> None:
        self._turns.sort()
        super()._idle(instance)


class FairSharedLane(FairLane, SharedLane):
    """A lane with one queue for each key, in fair turns."""

    __slots__ = ()


class FairRoutedLane(FairLane, RoutedLane):
    """A lane with a queue for each key at every instance, in fair turns."""

    __slots__ = ()


class Group:
    """Instances with the lanes on them."""

    __slots__ = ("first", "instances", "turns")

    def __init__(self, instances: range, turns: Turns) -> None:
        self.instances = instances
        self.turns = turns
        self.first: Lane | None = None
        """The first lane, whose state of the instances all have."""


def lane(
    clock: Clock,
    recorder: Recorder,
    label: int,
    conditions: Conditions,
    chooser: Chooser | None,
    group: Group,
    key: Key,
    kinds: tuple[type[SharedLane], type[RoutedLane]] | None = None,
) -> Lane:
    """Return a further pool on the instances of `group`, of one of the `kinds`; one queue for each key without a
    `chooser`. By default the kinds are those for the group's turns."""
    fair = isinstance(group.turns, FairTurns)
    shared, routed = kinds or ((FairSharedLane, FairRoutedLane) if fair else (SharedLane, RoutedLane))
    made: Lane
    if chooser is None:
        made = shared(clock, recorder, label, conditions, group, key)
    else:
        made = routed(clock, recorder, label, conditions, chooser, group, key)
    group.first = group.first or made
    return made
