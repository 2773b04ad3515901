"""Instances that have a queue each: who joins which, and when tasks move from one to another."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from sim.clock import Call, Clock
from sim.dispatching import Chooser
from sim.pool import Conditions, Pool
from sim.recorder import Recorder
from sim.task import QUEUED, Task


class RoutedPool(Pool):
    """A queue per instance; a chooser selects the one that a task joins.

    An instance whose failure has been detected gets no further tasks until its repair, and those in its queue join the
    queues of others.
    """

    __slots__ = ("_chooser", "_failed", "_free", "_loads", "_queues")

    def __init__(
        self, clock: Clock, recorder: Recorder, label: int, instances: range, conditions: Conditions, chooser: Chooser
    ) -> None:
        super().__init__(clock, recorder, label, instances, conditions)
        self._chooser = chooser
        self._queues: list[deque[Task]] = [deque() for _ in self.instances]
        self._loads = [0] * len(self.instances)
        self._free = [True] * len(self.instances)
        self._failed: set[int] = set()
        """Places of the instances whose failure has been detected."""

    def submit(self, task: Task) -> None:
        """Start the task on the chosen instance, or append it to that one's queue."""
        task.queued = self.clock.now
        self._join(task)
        if self._max_wait:
            self.clock.at(task.queued + self._max_wait, Call(self._waited, task))

    def _join(self, task: Task) -> None:
        first = self.instances.start
        avoid = task.avoid
        barred = () if avoid is None else [instance - first for instance in avoid]
        place = self._choose_up(barred) if self._outages else self._chooser.choose(self._loads, barred)
        instance = first + place
        if avoid is not None:
            avoid.append(instance)
        task.joined, task.found = self.clock.now, self._loads[place]
        self._loads[place] += 1
        task.instance = instance
        free, self._free[place] = self._free[place], False
        if not free or (self._outages and self._down(instance)):  # if it is down, `_idle` is called at its repair
            self._queues[place].append(task)
            if self._conditions.steals:
                self._offer(task, place)
        elif self._max_wait:
            self._queues[place].append(task)
            self._free[place] = not self._take(instance)
        else:
            self._start(task, instance)

    def _offer(self, task: Task, place: int) -> None:
        """Let idle instances, in turn after the `place` where a task waits, look for tasks until it has started."""
        for step in range(1, len(self._loads)):
            if task.state != QUEUED:
                return
            other = (place + step) % len(self._loads)
            if self._free[other]:
                self._free[other] = False
                self._idle(self.instances.start + other)

    def _steal(self, instance: int) -> bool:
        """Start a task that waits at the instance with the most tasks of those where one may leave; say whether there
        was one. A batch that is waiting to fill stays."""
        here = instance - self.instances.start
        if any(task.state == QUEUED for task in self._queues[here]):
            return False
        most, stolen = 0, None
        for place, load in enumerate(self._loads):
            if load > most and not self._free[place]:
                for task in self._queues[place]:
                    if task.state == QUEUED and (task.avoid is None or instance not in task.avoid):
                        most, stolen = load, task
                        break
        if stolen is None:
            return False
        self._where(stolen).remove(stolen)
        self._left_queue(stolen)
        if stolen.avoid is not None:
            stolen.avoid.remove(stolen.instance)
            stolen.avoid.append(instance)
        stolen.joined, stolen.found = self.clock.now, self._loads[here]
        self._loads[here] += 1
        stolen.instance = instance
        self._start(stolen, instance)
        return True

    def _choose_up(self, barred: Sequence[int]) -> int:
        """Choose a place that is not known to be down, if there is one."""
        while len({*barred, *self._failed}) < len(self._loads):
            place = self._chooser.choose(self._loads, [*barred, *self._failed])
            instance = self.instances.start + place
            if not self._free[place] or self._detection(instance) > self.clock.now:
                return place
            self._free[place] = False
            self._down(instance)
        return self._chooser.choose(self._loads, barred)

    def _waited(self, call: Call) -> None:
        task = call.item
        if task.state == QUEUED:
            place = task.instance - self.instances.start
            if self._free[place]:
                self._free[place] = False
                self._idle(task.instance)

    def _detection(self, instance: int) -> float:
        """Return when the present failure of an instance is or was detected; infinite if it is up."""
        now = self.clock.now
        crashes = [(outages.next_crash(instance, now), outages.detect) for outages in self._outages]
        return min((crash + detect for crash, detect in crashes if crash <= now), default=math.inf)

    def _down(self, instance: int) -> bool:
        if not super()._down(instance):
            return False
        detected = self._detection(instance)
        if detected <= self.clock.now:
            self._detected(Call(self._detected, instance))
        else:
            self.clock.at(detected, Call(self._detected, instance))
        return True

    def _detected(self, call: Call) -> None:
        instance = call.item
        if self._detection(instance) <= self.clock.now:  # it was not repaired before
            self._failed.add(instance - self.instances.start)
            self._move(instance)

    def _move(self, instance: int) -> None:
        """Let the tasks that wait at an instance join other queues, unless all instances failed."""
        if len(self._failed) == len(self._loads):
            return
        for queue in self._queues_at(instance):
            tasks = [task for task in queue if task.state == QUEUED]
            queue.clear()
            for task in tasks:
                if task.state != QUEUED:
                    continue  # a twin started meanwhile, at the instance that one of them joined
                self._left_queue(task)
                if task.avoid is not None:
                    task.avoid.remove(instance)
                pool = self._of(task)
                assert isinstance(pool, RoutedPool)
                pool._join(task)

    def _queues_at(self, instance: int) -> list[deque[Task]]:
        """Return all queues of an instance."""
        return [self._queue_of(instance)]

    def _where(self, task: Task) -> deque[Task]:
        return self._queues[task.instance - self.instances.start]

    def _queue_of(self, instance: int) -> deque[Task]:
        return self._queues[instance - self.instances.start]

    def _repaired(self, call: Call) -> None:
        self._failed.discard(call.item - self.instances.start)
        self._idle(call.item)
        for place in sorted(self._failed):  # tasks that had nowhere to go
            self._move(self.instances.start + place)

    def _left_queue(self, task: Task) -> None:
        self._loads[task.instance - self.instances.start] -= 1

    def _released(self, instance: int) -> None:
        self._loads[instance - self.instances.start] -= 1
        self._idle(instance)

    def _idle(self, instance: int) -> None:
        if self._outages and self._down(instance):
            return
        if not self._take(instance) and not (self._conditions.steals and self._steal(instance)):
            self._free[instance - self.instances.start] = True

    def _take(self, instance: int) -> bool:
        """Start the first task in the instance's queue."""
        queue = self._queues[instance - self.instances.start]
        if self._max_wait and self._holds(queue):
            return False
        while queue:
            task = queue.popleft()
            if task.state == QUEUED:
                self._start(task, instance)
                return True
        return False
