"""Real instances of one model, with the interface of the simulator's pools.

It is not derived from them, since equal dispatching is part of what is validated.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from backends.real.clock import RealClock
from sim.dispatching import Chooser
from sim.recorder import TASK, Recorder
from sim.task import ENDED, QUEUED, RUNNING, Task
from sim.trace import Role, TaskStatus

Send = Callable[[Task, int], None]
"""`send(task, instance)`: send a task to the worker that is the instance."""


class RealPool:
    """Tasks wait here, in one queue or in one for each instance, until a worker is idle; each holds one at a time."""

    def __init__(
        self,
        clock: RealClock,
        recorder: Recorder,
        label: int,
        model: Role,
        instances: range,
        chooser: Chooser | None,
        prepare: Callable[[Task], None],
        send: Send,
    ) -> None:
        """`prepare` makes a submitted task's inputs, `send` sends them; `chooser` is as in `Discipline.chooser`."""
        self.clock = clock
        self.model = model
        """The role of the model that serves it."""
        self.instances = instances
        self.on_start: Callable[[Task], None] | None = None
        """Called with every task that starts, where a policy sets it."""
        self.pending = 0
        """Tasks that were submitted and have not ended."""
        self._ended = recorder.tasks.extend
        self._label = label
        self._chooser = chooser
        self._prepare = prepare
        self._send = send
        self._queues: list[deque[Task]] = [deque() for _ in (instances if chooser else range(1))]
        self._loads = [0] * len(instances)
        self._idle: deque[int] = deque(instances)
        self._running: dict[int, Task] = {}

    def connect(self, on_done: Callable[[Task], None], on_lost: Callable[[Task], None]) -> None:
        """Set what is called with every answer. `on_lost` is never called: a worker that dies ends the run."""
        self._on_done = on_done

    def submit(self, task: Task) -> None:
        """Start the task on an idle instance, or queue it."""
        self._prepare(task)
        task.queued = self.clock.tick()
        self.pending += 1
        if self._chooser is None:
            instance = next((one for one in self._idle if _may(task, one)), None)
            if instance is None:
                self._queues[0].append(task)
                return
        else:
            first = self.instances.start
            place = self._chooser.choose(self._loads, [one - first for one in task.avoid or ()])
            self._loads[place] += 1
            task.instance = instance = first + place
            if instance not in self._idle:
                _note(task, instance)
                self._queues[place].append(task)
                return
        self._start(task, instance)

    def cancel(self, task: Task, *, running: bool = False, seconds: float = 0.0) -> None:
        """Remove the task from its queue. A pass that has begun is never interrupted, whatever is asked."""
        if task.state == QUEUED:
            task.state = ENDED
            self.pending -= 1
            if self._chooser is not None:
                self._loads[task.instance - self.instances.start] -= 1
            self._queue_of(task.instance if self._chooser else self.instances.start).remove(task)
            task.instance, task.sent, task.start, task.finish = -1, math.nan, math.nan, self.clock.now
            self._record(task, TaskStatus.CANCELLED, math.nan)

    def answered(self, instance: int, begun: float, ended: float) -> Task:
        """Record, now, the answer of a worker that worked from `begun` to `ended` (clock times); return its task."""
        task = self._running.pop(instance)
        task.state = ENDED
        task.start, task.finish = begun, ended
        self.pending -= 1
        self._record(task, TaskStatus.DONE, self.clock.now)
        return task

    def release(self, task: Task) -> None:
        """Hand an answer to the policy, and give the instance its next task."""
        self._on_done(task)
        instance = task.instance
        if self._chooser is not None:
            self._loads[instance - self.instances.start] -= 1
        self._idle.append(instance)
        queue = self._queue_of(instance)
        following = next((one for one in queue if self._chooser or _may(one, instance)), None)
        if following is not None:
            queue.remove(following)
            self._start(following, instance)

    def _queue_of(self, instance: int) -> deque[Task]:
        return self._queues[instance - self.instances.start if self._chooser else 0]

    def _start(self, task: Task, instance: int) -> None:
        self._idle.remove(instance)
        _note(task, instance)
        task.state = RUNNING
        task.instance = instance
        self._running[instance] = task
        task.sent = self.clock.tick()
        self._send(task, instance)
        if self.on_start is not None:
            self.on_start(task)

    def _record(self, task: Task, status: TaskStatus, back: float) -> None:
        owner = task.owner
        times = task.queued, task.sent, task.start, task.finish, back
        self._ended(TASK(*times, owner.number, task.instance, owner.size, 1, task.attempt, self._label, status))


def _may(task: Task, instance: int) -> bool:
    return task.avoid is None or instance not in task.avoid


def _note(task: Task, instance: int) -> None:
    """Keep further copies of the same work away from the instance."""
    if task.avoid is not None and instance not in task.avoid:
        task.avoid.append(instance)
