"""Tasks from their making to their row in the trace; who waits in which queue, and who is cancelled."""

from __future__ import annotations

import math
from typing import Any

from sim.compiled.heap import cancelled, push
from sim.compiled.layout import (
    ALONE,
    CANCELLED,
    DONE,
    ENDED,
    NEED_COLUMNS,
    PARTED,
    QUEUED,
    RELEASED,
    RUNNING,
    STOPPED,
    SUBMITTED,
)
from sim.compiled.memory import (
    ask,
    batches,
    farms,
    get_i8,
    groups,
    instances,
    kernel,
    pools,
    put_f8,
    put_i1,
    put_i2,
    put_i4,
    put_i8,
    put_u1,
    queues,
    tasks,
)


@kernel
def make(w: Any, p: int, b: int, g: int, attempt: int) -> int:
    """Make a task for pool `p`: of batch row `b`, or of group row `g` where `b` is -1."""
    t = w.free_task
    task = tasks(w.tasks, t)
    w.free_task = task.after
    w.spare_tasks -= 1
    if b >= 0:
        batch = batches(w.batches, b)
        batch.holds += 1
        task.owner, task.first, task.size = batch.number, batch.first, batch.size
    else:
        group = groups(w.groups, g)
        group.holds += 1
        task.owner, task.first, task.size = group.number, group.number, group.size
    task.pool, task.batch, task.group, task.attempt = p, b, g, attempt
    task.entry = task.instance = task.before = task.after = task.copy = -1
    task.state = QUEUED
    task.loss = 0
    task.bundle = task.waiter = ALONE
    task.together = 1
    task.moves = 0
    return t


@kernel
def let_go(w: Any, b: int) -> None:
    """Hear that somebody no longer needs batch row `b`; the last one frees it."""
    batch = batches(w.batches, b)
    batch.holds -= 1
    if batch.holds == 0:
        if batch.group >= 0:
            let_go_group(w, batch.group)
        batch.head = w.free_batch
        w.free_batch = b
        w.spare_batches += 1


@kernel
def let_go_group(w: Any, g: int) -> None:
    """Hear that somebody no longer needs group row `g`; the last one frees it."""
    group = groups(w.groups, g)
    group.holds -= 1
    if group.holds == 0:
        group.number = w.free_group
        w.free_group = g
        w.spare_groups += 1


@kernel
def strike(w: Any, b: int, t: int) -> None:
    """Strike a copy from its batch's list."""
    batch = batches(w.batches, b)
    before = -1
    one = batch.head
    while one != t:
        before = one
        one = tasks(w.tasks, one).copy
    after = tasks(w.tasks, t).copy
    if before < 0:
        batch.head = after
    else:
        tasks(w.tasks, before).copy = after
    if batch.tail == t:
        batch.tail = before


@kernel
def forget(w: Any, t: int) -> None:
    """Let a task be over, and strike it from what its batch or group remembers."""
    task = tasks(w.tasks, t)
    task.state = ENDED
    if task.batch < 0:
        put_i8(w.parities, task.group * w.r + pools(w.pools, task.pool).row, -1)
    elif task.pool == w.backup_pool:
        batches(w.batches, task.batch).backup = -1
    elif w.copying:
        strike(w, task.batch, t)
    else:
        batches(w.batches, task.batch).task = -1


@kernel
def end(w: Any, t: int, fate: int, back: float, together: int) -> None:
    """Write the row of a task that ended `together` with others. Its own row is still to be freed."""
    task = tasks(w.tasks, t)
    if task.state != ENDED:
        forget(w, t)
    task.entry = -1
    n = w.ended
    if n == w.column_room:
        ask(w.python, NEED_COLUMNS, 0, 0)
    w.ended = n + 1
    pool = pools(w.pools, task.pool)
    role = pool.role
    put_i4(w.owner, n, task.owner)
    if role:  # `layout.MOSTLY_ZERO`: memory that is never written takes none
        put_u1(w.role, n, role)
    if pool.row:
        put_i1(w.row, n, pool.row)
    if task.attempt:
        put_i2(w.attempt, n, task.attempt)
    if fate:
        put_u1(w.fate, n, fate)
    if not w.alone:
        put_i4(w.task_size, n, task.size)
    if w.gathers:
        put_i4(w.together, n, together)
    put_i4(w.instance, n, task.instance)
    put_f8(w.queued, n, task.queued_at)
    put_f8(w.sent_at, n, task.sent)
    put_f8(w.start, n, task.start)
    put_f8(w.finish, n, task.finish)
    put_f8(w.back, n, back)
    w.end = max(w.end, task.finish)
    if fate == DONE:
        w.end = max(w.end, back)
        put_i8(w.sent_bytes, 3, get_i8(w.sent_bytes, 3) + task.size)
    if task.instance >= 0:
        put_i8(w.sent_bytes, role, get_i8(w.sent_bytes, role) + task.size)


@kernel
def free(w: Any, t: int) -> None:
    """Free the row of a task that has ended, and let go of what it was for."""
    task = tasks(w.tasks, t)
    b, g = task.batch, task.group
    task.after = w.free_task
    w.free_task = t
    w.spare_tasks += 1
    if b >= 0:
        let_go(w, b)
    else:
        let_go_group(w, g)


@kernel
def queue_of(w: Any, p: int, instance: int) -> int:
    """Return the queue in which tasks of pool `p` wait, for `instance` where each has its own."""
    pool = pools(w.pools, p)
    farm = farms(w.farms, pool.farm)
    if farm.shared:
        return farm.queues + pool.rank
    return farm.queues + pool.rank * farm.instances + instance - farm.first


@kernel
def append(w: Any, q: int, t: int) -> None:
    """Let a task wait at the end of a queue."""
    queue = queues(w.queues, q)
    task = tasks(w.tasks, t)
    task.before, task.after = queue.back, -1
    if queue.back < 0:
        queue.front = t
    else:
        tasks(w.tasks, queue.back).after = t
    queue.back = t


@kernel
def unlink(w: Any, q: int, t: int) -> None:
    """Take a task out of a queue."""
    queue = queues(w.queues, q)
    task = tasks(w.tasks, t)
    if task.before < 0:
        queue.front = task.after
    else:
        tasks(w.tasks, task.before).after = task.after
    if task.after < 0:
        queue.back = task.before
    else:
        tasks(w.tasks, task.after).before = task.before


@kernel
def left(w: Any, t: int) -> None:
    """Count a task no more among those of its instance, if that has a queue of its own."""
    task = tasks(w.tasks, t)
    if not farms(w.farms, pools(w.pools, task.pool).farm).shared:
        instances(w.instances, task.instance).load -= 1


@kernel
def remove(w: Any, t: int) -> None:
    """Cancel a task that waits."""
    task = tasks(w.tasks, t)
    unlink(w, queue_of(w, task.pool, task.instance), t)
    left(w, t)
    task.instance = -1
    task.sent = task.start = math.nan
    task.finish = w.now
    end(w, t, CANCELLED, math.nan, 1)
    free(w, t)


@kernel
def remove_copies(w: Any, b: int) -> None:
    """Cancel a batch's copies that wait."""
    t = batches(w.batches, b).head
    while t >= 0:
        following = tasks(w.tasks, t).copy
        if tasks(w.tasks, t).state == QUEUED:
            remove(w, t)
        t = following
    batches(w.batches, b).ghost = 0


@kernel
def submit(w: Any, t: int) -> None:
    """Start the task on an idle instance or let it wait: `pools.happens`, called by its address.

    Whoever calls a function by name is compiled together with it, and with all that it calls; by its address, not.
    """
    ask(w.at_instances, w.self, t, SUBMITTED)


@kernel
def released(w: Any, instance: int) -> None:
    """Hear that the task of an instance ended: `pools.happens` as well."""
    ask(w.at_instances, w.self, instance, RELEASED)


@kernel
def part(w: Any, t: int) -> None:
    """Let the tasks of a bundle, whose first one is `t`, end one by one: cancelling one no longer stops it."""
    for _ in range(tasks(w.tasks, t).together):
        tasks(w.tasks, t).bundle = PARTED
        t = tasks(w.tasks, t).after


@kernel
def stops_nothing(w: Any, t: int) -> bool:
    """Say whether an instance goes on after a task of its bundle was cancelled: until all of its tasks are."""
    one = tasks(w.tasks, t).bundle
    if one == PARTED:
        return True
    for _ in range(tasks(w.tasks, one).together):
        if tasks(w.tasks, one).state == RUNNING:
            return True
        one = tasks(w.tasks, one).after
    return False


@kernel
def stop(w: Any, t: int) -> None:
    """Cancel a task that runs, which takes its instance `cancel_seconds` more."""
    now = w.now
    whole = tasks(w.tasks, t).bundle
    if whole == ALONE:
        whole = t
    else:
        forget(w, t)
        if stops_nothing(w, t):
            return
    first = tasks(w.tasks, whole)
    instance, together = first.instance, first.together
    first.entry = -1
    cancelled(w)
    begun, finish = min(first.start, now), min(first.finish, now) + w.cancel_seconds
    t = whole
    for i in range(together):
        task = tasks(w.tasks, t)
        following = task.after
        task.start, task.finish = begun, finish
        end(w, t, CANCELLED, math.nan, together)
        if i:
            left(w, t)
        free(w, t)
        t = following
    if w.cancel_seconds != 0.0:
        push(w, now + w.cancel_seconds, STOPPED, instance)
    else:
        released(w, instance)


@kernel
def cancel_copies(w: Any, b: int, running: bool) -> None:
    """Cancel a batch's copies that wait, and those that run too where that is wanted."""
    t = batches(w.batches, b).head
    while t >= 0:
        following = tasks(w.tasks, t).copy
        state = tasks(w.tasks, t).state
        if state == QUEUED:
            remove(w, t)
        elif running and state == RUNNING:
            stop(w, t)
        t = following
    batches(w.batches, b).ghost = 0
