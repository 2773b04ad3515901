"""Instances that serve one model, and the tasks that wait for them.

An instance is occupied from the moment a task is sent to it until the frontend has its answer, as in Clipper, whose
workers get the next batch in reply to the last. One entry in the clock's heap is enough for a whole task, since
everything that decides when its answer is back is known when it is sent.

Several models may share instances: each then has a *lane*, a pool whose instances are the others' too, and an idle
instance takes work from the lanes by priority. A policy sees one pool for each model in either case.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappush

from simpy.events import NORMAL

from sim.clock import Call, Clock
from sim.dispatching import Chooser
from sim.recorder import TASK, Recorder
from sim.stragglers.base import Delay, Outages, ServiceModifier
from sim.streams import Stream
from sim.task import ENDED, QUEUED, RUNNING, Task
from sim.trace import Role, TaskStatus

DONE, CANCELLED, LOST = int(TaskStatus.DONE), int(TaskStatus.CANCELLED), int(TaskStatus.LOST)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What decides how long tasks of a pool take."""

    draws: Callable[[int, int], Stream]
    """`draws(size, attempt)`: the service times of tasks of `size` queries, numbered by the owner's `first`."""
    send_seconds: Callable[[int], float]
    """Transfer time to an instance, in seconds, by the number of queries."""
    reply_seconds: Callable[[int], float]
    """Transfer time of the answers, likewise."""
    modifiers: tuple[ServiceModifier, ...] = ()
    delays: tuple[Delay, ...] = ()
    outages: tuple[Outages, ...] = ()
    model: Role = Role.DEPLOYED
    """The role whose model runs."""


class Pool(ABC):
    """Base of pools with one queue and pools with a queue per instance."""

    __slots__ = (
        "_conditions", "_delays", "_ended", "_finally", "_heap", "_ids", "_label", "_met", "_modifiers", "_on_done",
        "_on_lost", "_outages", "clock", "instances", "model", "on_start",
    )  # fmt: skip

    def __init__(self, clock: Clock, recorder: Recorder, label: int, instances: range, conditions: Conditions) -> None:
        self.clock = clock
        self.instances = instances
        self.model = conditions.model
        self._heap = clock.heap
        self._ids = clock.ids
        self._ended = recorder.tasks.extend
        self._label = label
        self._conditions = conditions
        self._modifiers = conditions.modifiers
        self._delays = conditions.delays
        self._outages = conditions.outages
        self._finally = (self._done,)
        """The callbacks of every task that is not lost, made once."""
        self.on_start: Callable[[Task], None] | None = None
        """Called with every task that starts, if a policy sets it."""
        self._met: dict[int | tuple[int, int], tuple[Stream, float, float]] = {}

    def connect(self, on_done: Callable[[Task], None], on_lost: Callable[[Task], None]) -> None:
        """Set the callbacks for answers, and for lost tasks that may be retried."""
        self._on_done = on_done
        self._on_lost = on_lost

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Start the task on an idle instance, or queue it."""

    def cancel(self, task: Task, *, running: bool = False, seconds: float = 0.0) -> None:
        """Remove the task from its queue, or stop it if `running`; that occupies its instance `seconds` more."""
        now = self.clock.now
        if task.state == QUEUED:
            task.state = ENDED
            self._left_queue(task)
            task.instance, task.start, task.finish = -1, math.nan, now
            self._record(task, CANCELLED, math.nan)
        elif running and task.state == RUNNING:
            task.state = ENDED
            self.clock.cancel(task)
            task.start, task.finish = min(task.start, now), min(task.finish, now) + seconds
            self._record(task, CANCELLED, math.nan)
            if seconds:
                self.clock.at(now + seconds, Call(self._stopped, task.instance))
            else:
                self._released(task.instance)

    def _stopped(self, call: Call) -> None:
        self._released(call.item)

    @abstractmethod
    def _left_queue(self, task: Task) -> None:
        """Called when a queued task is cancelled."""

    @abstractmethod
    def _idle(self, instance: int) -> None:
        """Start the next task of an instance, or mark it as idle."""

    @abstractmethod
    def _take(self, instance: int) -> bool:
        """Start the first queued task that may run there; return whether there was one."""

    @abstractmethod
    def _released(self, instance: int) -> None:
        """Called when the task of an instance ended."""

    def _record(self, task: Task, fate: int, back: float) -> None:
        owner = task.owner
        times = task.queued, task.start, task.finish, back
        self._ended(TASK(*times, owner.number, task.instance, owner.size, task.attempt, self._label, fate))

    def _meet(self, size: int, attempt: int) -> tuple[Stream, float, float]:
        """Return the service draws and the two transfer times of such tasks, and cache them."""
        conditions = self._conditions
        met = conditions.draws(size, attempt), conditions.send_seconds(size), conditions.reply_seconds(size)
        self._met[(size, attempt) if attempt else size] = met
        return met

    def _start(self, task: Task, instance: int) -> None:
        owner = task.owner
        now = self.clock.now
        size, attempt = owner.size, task.attempt
        met = self._met.get((size, attempt) if attempt else size) or self._meet(size, attempt)
        draws, send_seconds, reply_seconds = met
        start = now + send_seconds
        if self._delays:
            start += self._delay(instance, now, False, send_seconds)
        seconds = draws.at(owner.first)
        for modify in self._modifiers:
            seconds = modify(task, instance, start, seconds)
        task.state = RUNNING
        task.instance = instance
        task.start = start
        task.finish = finish = start + seconds
        task.callbacks = self._finally
        back = finish + reply_seconds
        if self._delays:
            back += self._delay(instance, finish, True, reply_seconds)
        if self._outages:
            back = self._survive(task, back)
        heappush(self._heap, (back, NORMAL, next(self._ids), task))  # type: ignore[misc]
        if self.on_start is not None:
            self.on_start(task)

    def _delay(self, instance: int, when: float, outbound: bool, seconds: float) -> float:
        total = 0.0
        for delay in self._delays:  # `sum` rounds differently from Python 3.12 on
            total += delay(instance, when, outbound, seconds)
        return total

    def _survive(self, task: Task, back: float) -> float:
        """Mark the task as lost if its instance crashes before it finishes; return when the frontend learns of it."""
        for outages in self._outages:
            crash = outages.next_crash(task.instance, self.clock.now)
            if crash < task.finish:
                task.finish = crash
                task.start = min(task.start, crash)
                task.callbacks = (self._lost if outages.retry else self._lost_permanently,)
                back = min(crash + outages.detect, outages.down_until(task.instance, crash))
        return back

    def _done(self, task: Task) -> None:
        task.state = ENDED
        owner = task.owner
        self._ended(
            TASK(
                task.queued, task.start, task.finish, self.clock.now,
                owner.number, task.instance, owner.size, task.attempt, self._label, DONE,
            )
        )  # fmt: skip
        self._on_done(task)
        self._released(task.instance)

    def _lost(self, task: Task) -> None:
        self._lost_permanently(task)
        self._on_lost(task)

    def _lost_permanently(self, task: Task) -> None:
        task.state = ENDED
        self._record(task, LOST, math.nan)
        self._released(task.instance)

    def _down(self, instance: int) -> bool:
        """Return whether an instance is down; if so, `_idle` is called at its repair."""
        now = self.clock.now
        repaired = max(outages.down_until(instance, now) for outages in self._outages)
        if repaired > now:
            self.clock.at(repaired, Call(self._repaired, instance))
        return repaired > now

    def _repaired(self, call: Call) -> None:
        self._idle(call.item)


class SharedPool(Pool):
    """One first-in, first-out queue; the instance that has been idle longest takes the next task."""

    __slots__ = ("_queue", "_waiting")

    def __init__(self, clock: Clock, recorder: Recorder, label: int, instances: range, conditions: Conditions) -> None:
        super().__init__(clock, recorder, label, instances, conditions)
        self._waiting: deque[int] = deque(self.instances)
        self._queue: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Start the task on the instance that has been idle longest, or append it to the queue."""
        task.queued = self.clock.now
        waiting = self._waiting
        avoid = task.avoid
        if not avoid:
            while waiting:
                instance = waiting.popleft()
                if self._outages and self._down(instance):
                    continue
                if avoid is not None:
                    avoid.append(instance)
                self._start(task, instance)
                return
        else:
            for instance in [one for one in waiting if one not in avoid]:
                waiting.remove(instance)
                if self._outages and self._down(instance):
                    continue
                avoid.append(instance)
                self._start(task, instance)
                return
        self._queue.append(task)

    def _idle(self, instance: int) -> None:
        if self._outages and self._down(instance):
            return
        if not (self._queue and self._take(instance)):
            self._waiting.append(instance)

    _released = _idle

    def _take(self, instance: int) -> bool:
        """Start the first task in the queue that may run there; others keep their places."""
        queue = self._queue
        passed: list[Task] = []
        while queue:
            task = queue.popleft()
            if task.state != QUEUED:
                continue
            avoid = task.avoid
            if avoid is not None:
                if instance in avoid:
                    passed.append(task)
                    continue
                avoid.append(instance)
            queue.extendleft(reversed(passed))
            self._start(task, instance)
            return True
        queue.extend(passed)
        return False

    def _left_queue(self, task: Task) -> None:
        """Leave it in the queue: `_take` skips cancelled tasks."""


class RoutedPool(Pool):
    """A queue per instance; a chooser selects the one that a task joins."""

    __slots__ = ("_chooser", "_free", "_loads", "_queues")

    def __init__(
        self, clock: Clock, recorder: Recorder, label: int, instances: range, conditions: Conditions, chooser: Chooser
    ) -> None:
        super().__init__(clock, recorder, label, instances, conditions)
        self._chooser = chooser
        self._queues: list[deque[Task]] = [deque() for _ in self.instances]
        self._loads = [0] * len(self.instances)
        self._free = [True] * len(self.instances)

    def submit(self, task: Task) -> None:
        """Start the task on the chosen instance, or append it to that one's queue."""
        task.queued = self.clock.now
        first = self.instances.start
        avoid = task.avoid
        place = self._chooser.choose(self._loads, () if avoid is None else [instance - first for instance in avoid])
        instance = first + place
        if avoid is not None:
            avoid.append(instance)
        self._loads[place] += 1
        task.instance = instance
        free, self._free[place] = self._free[place], False
        if free and not (self._outages and self._down(instance)):
            self._start(task, instance)
        else:  # it is busy, or down: then `_idle` is called at its repair
            self._queues[place].append(task)

    def _left_queue(self, task: Task) -> None:
        self._loads[task.instance - self.instances.start] -= 1

    def _released(self, instance: int) -> None:
        self._loads[instance - self.instances.start] -= 1
        self._idle(instance)

    def _idle(self, instance: int) -> None:
        if self._outages and self._down(instance):
            return
        if not self._take(instance):
            self._free[instance - self.instances.start] = True

    def _take(self, instance: int) -> bool:
        """Start the first task in the instance's queue."""
        queue = self._queues[instance - self.instances.start]
        while queue:
            task = queue.popleft()
            if task.state == QUEUED:
                self._start(task, instance)
                return True
        return False


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
            self._chooser, self._loads, self._free = joined._chooser, joined._loads, joined._free
        self._ranks = [] if joined is None else joined._ranks
        same = self._same_rank(rank)
        assert isinstance(same, RoutedLane)
        self._queues = same._queues

    def submit(self, task: Task) -> None:
        """Start the task on the chosen instance, or append it to that one's queue."""
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
    """Return a pool of `rank` that shares `instances` with the lane `joined`, or is the first there; one queue for each
    rank without a `chooser`."""
    if chooser is None:
        assert joined is None or isinstance(joined, SharedLane)
        return SharedLane(clock, recorder, label, instances, conditions, joined, rank)
    assert joined is None or isinstance(joined, RoutedLane)
    return RoutedLane(clock, recorder, label, instances, conditions, chooser, joined, rank)
