"""How a service begins, of one task or of a bundle of them: `sim.pool.Pool._gather`, `_start` and `_survive`."""

from __future__ import annotations

from typing import Any

from sim.compiled.conditions import bent, delayed, down_until, draw, met, next_crash
from sim.compiled.heap import push
from sim.compiled.layout import FINISHED, QUEUED, RUNNING, TIED, TOLD
from sim.compiled.memory import batches, farms, kernel, limits, meets, outages, pools, queues, tasks
from sim.compiled.routing import avoid, avoiding, avoids
from sim.compiled.tasks import queue_of, remove_copies, unlink


@kernel
def started(w: Any, b: int) -> None:
    """Tell the twins that wait, now or after the message's delay, that a copy has started (`sim.policies.tied`)."""
    t = batches(w.batches, b).head
    while t >= 0:
        if tasks(w.tasks, t).state == QUEUED:
            if w.message_delay != 0.0:
                batches(w.batches, b).holds += 1
                push(w, w.now + w.message_delay, TOLD, b)
            else:
                remove_copies(w, b)
            return
        t = tasks(w.tasks, t).copy


@kernel
def gather(w: Any, t: int, instance: int) -> None:
    """Let an instance that takes a task take others of the same model from its queue as well, as many as it may."""
    task = tasks(w.tasks, t)
    limit = pools(w.pools, task.pool).limit
    shared = farms(w.farms, pools(w.pools, task.pool).farm).shared
    q = queue_of(w, task.pool, instance)
    last, together = t, 1
    other = queues(w.queues, q).front
    while other >= 0 and together < limits(w.limits, limit).now:
        following = tasks(w.tasks, other).after
        b = avoiding(w, other) if shared else -1  # a queue of its own was chosen with that in mind
        if pools(w.pools, tasks(w.tasks, other).pool).limit == limit and not avoids(w, b, instance):
            unlink(w, q, other)
            avoid(w, b, instance)
            tasks(w.tasks, last).after = other
            last = other
            together += 1
        other = following
    task.together = together
    if together > 1:
        last = t
        for _ in range(together):
            tasks(w.tasks, last).bundle = t
            last = tasks(w.tasks, last).after


@kernel
def start(w: Any, t: int, instance: int) -> None:
    """Send a task to an instance. Everything that decides when its answer is back is known now."""
    if w.gathers:
        gather(w, t, instance)
    task = tasks(w.tasks, t)
    now = w.now
    m = met(w, task.pool, task.size * task.together, task.attempt)
    send, reply = meets(w.meets, m).send, meets(w.meets, m).reply
    begin = now + send
    if w.delay_count:
        begin += delayed(w, instance, now, 0, send)
    seconds = draw(w, meets(w.meets, m).stream, task.first)
    if w.bend_count:
        seconds = bent(w, instance, task.first, task.attempt, begin, seconds)
    finish = begin + seconds
    task.state = RUNNING
    task.instance = instance
    task.sent = now
    task.start = begin
    task.finish = finish
    back = finish + reply
    if w.delay_count:
        back += delayed(w, instance, finish, 1, reply)
    if w.outage_count:
        back = survive(w, t, back)
    task.entry = push(w, back, FINISHED, t)
    if task.together > 1:
        start_others(w, t)
    if w.policy == TIED:
        for _ in range(task.together):
            started(w, tasks(w.tasks, t).batch)
            t = tasks(w.tasks, t).after


@kernel
def start_others(w: Any, t: int) -> None:
    """Let the other tasks of a bundle start with the first one."""
    first = tasks(w.tasks, t)
    other = first.after
    for _ in range(1, first.together):
        task = tasks(w.tasks, other)
        task.state, task.instance = RUNNING, first.instance
        task.sent, task.start, task.finish = first.sent, first.start, first.finish
        other = task.after


@kernel
def survive(w: Any, t: int, back: float) -> float:
    """Let the task be lost if its instance crashes before it is finished; return when the frontend hears of it."""
    task = tasks(w.tasks, t)
    for i in range(w.outage_count):
        crash = next_crash(w, i, task.instance, w.now)
        if crash < task.finish:
            task.finish = crash
            task.start = min(task.start, crash)
            task.loss = 1 if outages(w.outages, i).retry else 2
            back = min(crash + outages(w.outages, i).detect, down_until(w, i, task.instance, crash))
    return back
