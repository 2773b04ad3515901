"""Instances that serve one model, and the tasks that wait for them.

An instance is occupied from the moment a task is sent to it until the frontend has its answer, as in Clipper, whose
workers get the next batch in reply to the last. One entry in the clock's heap is enough for a whole task, since
everything that decides when its answer is back is known when it is sent.

Where instances form batches, an idle instance takes further tasks of the same model with the first one of its queue.
They are one `Bundle` in the clock's heap, while the policy sees each of them start, end and get lost by itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappush

from simpy.events import NORMAL

from sim.batching import BatchSize
from sim.clock import Call, Clock
from sim.recorder import TASK, Recorder
from sim.stragglers.base import Delay, Outages, ServiceModifier
from sim.streams import Stream
from sim.task import ENDED, QUEUED, RUNNING, Bundle, Task
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
    batch: BatchSize | None = None
    """How many queries an instance serves together; None: each task is served alone. One object for each model."""
    max_wait: float = 0.0
    """Seconds for which an idle instance waits for a batch to fill, from when its first task was queued."""
    steals: bool = False
    """Whether instances with a queue of their own take tasks from other queues when theirs is empty."""


class Pool(ABC):
    """Base of pools with one queue and pools with a queue per instance."""

    __slots__ = (
        "_batch", "_conditions", "_delays", "_ended", "_finally", "_heap", "_ids", "_label", "_max_wait", "_met",
        "_modifiers", "_on_done", "_on_lost", "_outages", "clock", "instances", "model", "on_start",
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
        self._batch = conditions.batch
        self._max_wait = conditions.max_wait
        self._finally = (self._done,) if self._batch is None else (self._batch_done,)
        """The callbacks of every task that is not lost, made once."""
        self.on_start: Callable[[Task], None] | None = None
        """Called with every task that starts, if a policy sets it."""
        self._met: dict[int | tuple[int, int], tuple[Stream, float, float]] = {}

    @property
    def serving(self) -> int:
        """Instances that take tasks."""
        return len(self.instances)

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
            task.instance, task.sent, task.start, task.finish = -1, math.nan, math.nan, now
            self._record(task, CANCELLED, math.nan)
        elif running and task.state == RUNNING:
            task.state = ENDED
            whole = task if self._batch is None or task.bundle is None else task.bundle
            if whole is not task and (whole.state == ENDED or any(one.state == RUNNING for one in whole.members)):
                return  # a batch is stopped when all of its tasks are cancelled
            whole.state = ENDED
            self.clock.cancel(whole)
            whole.start, whole.finish = min(whole.start, now), min(whole.finish, now) + seconds
            list(self._ending(whole, CANCELLED, math.nan))
            if seconds:
                self.clock.at(now + seconds, Call(self._stopped, task.instance))
            else:
                self._released(task.instance)

    def cancel_up_to(self, task: Task) -> list[Task]:
        """Remove a task from its queue, with all that wait there before it; return them, none if it does not wait."""
        removed: list[Task] = []
        if task.state == QUEUED:
            for other in self._where(task):
                if other.state == QUEUED:
                    removed.append(other)
                if other is task:
                    break
        for one in removed:
            self.cancel(one)
        return removed

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

    @abstractmethod
    def _where(self, task: Task) -> deque[Task]:
        """Return the queue in which a task waits."""

    @abstractmethod
    def _queue_of(self, instance: int) -> deque[Task]:
        """Return the queue from which the instance takes this pool's tasks."""

    def _may(self, task: Task, instance: int) -> bool:
        """Return whether a queued task may start on an instance that takes it."""
        return True

    def _of(self, task: Task) -> Pool:
        """Return the pool to which a task was submitted, among those that share its queue."""
        return self

    def _record(self, task: Task, fate: int, back: float, together: int = 1) -> None:
        owner = task.owner
        times = task.queued, task.sent, task.start, task.finish, back
        self._ended(TASK(*times, owner.number, task.instance, owner.size, together, task.attempt, self._label, fate))

    def _ending(self, task: Task, fate: int, back: float) -> Iterator[tuple[Pool, Task]]:
        """Record the end of a service, and yield its tasks with their pools, except those that were cancelled."""
        members = task.members or (task,)
        if task.members:
            task.state = ENDED
        for one in members:
            kept = one.state == RUNNING  # a callback for one of them may cancel the next
            one.state = ENDED
            one.start, one.finish = task.start, task.finish
            pool = self._of(one)
            pool._record(one, fate if kept else CANCELLED, back if kept else math.nan, len(members))
            if one is not members[0]:
                self._left_queue(one)  # `_released` counts one task
            if kept:
                yield pool, one

    def _meet(self, size: int, attempt: int) -> tuple[Stream, float, float]:
        """Return the service draws and the two transfer times of such tasks, and cache them."""
        conditions = self._conditions
        met = conditions.draws(size, attempt), conditions.send_seconds(size), conditions.reply_seconds(size)
        self._met[(size, attempt) if attempt else size] = met
        return met

    def _gather(self, task: Task, instance: int) -> Task:
        """Return the task that the instance is taking, or a bundle of it and queued tasks of the same model."""
        assert self._batch is not None
        task.bundle = None
        room = self._batch.now - task.owner.size
        if room <= 0:
            return task
        members, passed = [task], []
        queue = self._queue_of(instance)
        while queue and room > 0:
            other = queue.popleft()
            if other.state != QUEUED:
                continue
            if other.owner.size <= room and self._of(other)._batch is self._batch and self._may(other, instance):
                room -= other.owner.size
                members.append(other)
            else:
                passed.append(other)
        queue.extendleft(reversed(passed))
        return Bundle(members) if len(members) > 1 else task

    def _start(self, task: Task, instance: int) -> None:
        if self._batch is not None:
            task = self._gather(task, instance)
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
        task.sent = now
        task.start = start
        task.finish = finish = start + seconds
        task.callbacks = self._finally
        back = finish + reply_seconds
        if self._delays:
            back += self._delay(instance, finish, True, reply_seconds)
        if self._outages:
            back = self._survive(task, back)
        heappush(self._heap, (back, NORMAL, next(self._ids), task))  # type: ignore[misc]
        for one in task.members:
            one.state, one.instance, one.sent, one.start, one.finish = RUNNING, instance, now, task.start, task.finish
        if self.on_start is not None:
            for one in task.members or (task,):
                self.on_start(one)

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
                task.queued, task.sent, task.start, task.finish, self.clock.now,
                owner.number, task.instance, owner.size, 1, task.attempt, self._label, DONE,
            )
        )  # fmt: skip
        self._on_done(task)
        self._released(task.instance)

    def _batch_done(self, task: Task) -> None:
        """As `_done`, where instances form batches."""
        assert self._batch is not None
        self._batch.processed(task.owner.size, self.clock.now - task.start)
        for pool, one in self._ending(task, DONE, self.clock.now):
            pool._on_done(one)
        self._released(task.instance)

    def _lost(self, task: Task) -> None:
        lost = list(self._ending(task, LOST, math.nan))
        self._released(task.instance)
        for pool, one in lost:
            pool._on_lost(one)

    def _lost_permanently(self, task: Task) -> None:
        list(self._ending(task, LOST, math.nan))
        self._released(task.instance)

    def _holds(self, queue: Iterable[Task]) -> bool:
        """Return whether the batch at the head of a queue should wait to fill before an idle instance takes it."""
        batch, room = None, 1
        for task in queue:
            if task.state == QUEUED:
                its = self._of(task)._batch
                if batch is None:
                    if self.clock.now >= task.queued + self._max_wait:
                        return False
                    assert its is not None
                    batch, room = its, its.now
                if its is batch:
                    room -= task.owner.size
                    if room <= 0:
                        return False
        return True

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
        if self._max_wait:
            self._queue.append(task)
            self.clock.at(task.queued + self._max_wait, Call(self._waited, task))
            self._offer()
            return
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

    def _waited(self, call: Call) -> None:
        if call.item.state == QUEUED:
            self._offer()

    def _offer(self) -> None:
        """Let the first idle instance that can take a batch from the queue."""
        idle = list(self._waiting)
        self._waiting.clear()
        while idle:
            instance = idle.pop(0)
            if self._outages and self._down(instance):
                continue
            if self._take(instance):
                break
            self._waiting.append(instance)
        self._waiting.extend(idle)

    def _idle(self, instance: int) -> None:
        if self._outages and self._down(instance):
            return
        if not (self._queue and self._take(instance)):
            self._waiting.append(instance)

    _released = _idle

    def _take(self, instance: int) -> bool:
        """Start the first task in the queue that may run there; others keep their places."""
        queue = self._queue
        if self._max_wait and self._holds(queue):
            return False
        passed: list[Task] = []
        while queue:
            task = queue.popleft()
            if task.state != QUEUED:
                continue
            if task.avoid is not None and not self._may(task, instance):
                passed.append(task)
                continue
            queue.extendleft(reversed(passed))
            self._start(task, instance)
            return True
        queue.extend(passed)
        return False

    def _may(self, task: Task, instance: int) -> bool:
        avoid = task.avoid
        if avoid is not None:
            if instance in avoid:
                return False
            avoid.append(instance)
        return True

    def _where(self, task: Task) -> deque[Task]:
        return self._queue

    def _queue_of(self, instance: int) -> deque[Task]:
        return self._queue

    def _left_queue(self, task: Task) -> None:
        """Leave it in the queue: `_take` skips cancelled tasks."""
