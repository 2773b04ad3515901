"""Tasks from their making to their row in the trace, and the instances that run them: `sim.pool` and `sim.lanes`."""

from __future__ import annotations

import math
from typing import Any

from sim.compiled.conditions import bent, delayed, down_until, draw, met, next_crash
from sim.compiled.heap import cancelled, push
from sim.compiled.layout import (
    CANCELLED,
    NEED_COLUMNS,
    ENDED,
    FINISHED,
    QUEUED,
    REPAIRED,
    RUNNING,
    SHORTEST,
    STOPPED,
    TIED,
    TOLD,
    TURNS,
)
from sim.compiled.memory import (
    ask,
    batches,
    farms,
    get_i8,
    groups,
    instances,
    kernel,
    meets,
    outages,
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
def end(w: Any, t: int, fate: int, back: float) -> None:
    """Write the task's row, and strike it from what its batch or group remembers. Its row is still to be freed."""
    task = tasks(w.tasks, t)
    task.state = ENDED
    task.entry = -1
    n = w.ended
    if n == w.column_room:
        ask(w.python, NEED_COLUMNS, 0, 0)
    w.ended = n + 1
    pool = pools(w.pools, task.pool)
    role = pool.role
    put_i4(w.owner, n, task.owner)
    put_u1(w.role, n, role)
    put_i1(w.row, n, pool.row)
    put_i2(w.attempt, n, task.attempt)
    put_i4(w.task_size, n, task.size)
    put_i4(w.instance, n, task.instance)
    put_f8(w.queued, n, task.queued_at)
    put_f8(w.start, n, task.start)
    put_f8(w.finish, n, task.finish)
    put_f8(w.back, n, back)
    put_u1(w.fate, n, fate)
    w.end = max(w.end, task.finish)
    if back == back:
        w.end = max(w.end, back)
        put_i8(w.sent_bytes, 3, get_i8(w.sent_bytes, 3) + task.size)
    if task.instance >= 0:
        put_i8(w.sent_bytes, role, get_i8(w.sent_bytes, role) + task.size)
    if task.batch < 0:
        put_i8(w.parities, task.group * w.r + pool.row, -1)
    elif task.pool == w.backup_pool:
        batches(w.batches, task.batch).backup = -1
    elif w.copying:
        strike(w, task.batch, t)
    else:
        batches(w.batches, task.batch).task = -1


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
def remove(w: Any, t: int) -> None:
    """Cancel a task that waits."""
    task = tasks(w.tasks, t)
    unlink(w, queue_of(w, task.pool, task.instance), t)
    if not farms(w.farms, pools(w.pools, task.pool).farm).shared:
        instances(w.instances, task.instance).load -= 1
    task.instance = -1
    task.start = math.nan
    task.finish = w.now
    end(w, t, CANCELLED, math.nan)
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
def start(w: Any, t: int, instance: int) -> None:
    """Send a task to an instance. Everything that decides when its answer is back is known now."""
    task = tasks(w.tasks, t)
    now = w.now
    m = met(w, task.pool, task.size, task.attempt)
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
    task.start = begin
    task.finish = finish
    back = finish + reply
    if w.delay_count:
        back += delayed(w, instance, finish, 1, reply)
    if w.outage_count:
        back = survive(w, t, back)
    task.entry = push(w, back, FINISHED, t)
    if w.policy == TIED:
        started(w, task.batch)


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


@kernel
def down(w: Any, instance: int) -> bool:
    """Say whether an instance that would be idle is down; if so, it comes back by itself."""
    repaired = w.now
    for i in range(w.outage_count):
        repaired = max(repaired, down_until(w, i, instance, w.now))
    if repaired > w.now:
        push(w, repaired, REPAIRED, instance)
        return True
    return False


@kernel
def avoids(w: Any, b: int, instance: int) -> bool:
    """Say whether a copy of the batch is or was at the instance."""
    if b < 0 or not w.copying:
        return False
    for i in range(batches(w.batches, b).avoided):
        if get_i8(w.avoid, b * w.copies_kept + i) == instance:
            return True
    return False


@kernel
def avoid(w: Any, b: int, instance: int) -> None:
    """Keep the batch's further copies from the instance."""
    if b >= 0 and w.copying:
        batch = batches(w.batches, b)
        put_i8(w.avoid, b * w.copies_kept + batch.avoided, instance)
        batch.avoided += 1


@kernel
def avoiding(w: Any, t: int) -> int:
    """Return the batch whose copies this task has to avoid, or -1."""
    task = tasks(w.tasks, t)
    return -1 if task.pool == w.backup_pool else task.batch


@kernel
def submit(w: Any, t: int) -> None:
    """Start the task on an idle instance or let it wait."""
    task = tasks(w.tasks, t)
    task.queued_at = w.now
    if farms(w.farms, pools(w.pools, task.pool).farm).shared:
        submit_shared(w, t)
    else:
        submit_routed(w, t)


@kernel
def wrapped(place: int, size: int) -> int:
    """Return a place in a ring, given one less than twice round."""
    return place - size if place >= size else place


@kernel
def submit_shared(w: Any, t: int) -> None:
    """Start the task on the instance that has been idle longest of those it may use, or append it to the queue."""
    task = tasks(w.tasks, t)
    farm = farms(w.farms, pools(w.pools, task.pool).farm)
    b = avoiding(w, t)
    place = 0
    while place < farm.resting:
        instance = get_i8(farm.idle, wrapped(farm.head + place, farm.instances))
        if avoids(w, b, instance):
            place += 1
            continue
        for i in range(place, 0, -1):  # those idle for longer stay in their order
            earlier = get_i8(farm.idle, wrapped(farm.head + i - 1, farm.instances))
            put_i8(farm.idle, wrapped(farm.head + i, farm.instances), earlier)
        farm.head = wrapped(farm.head + 1, farm.instances)
        farm.resting -= 1
        if w.outage_count and down(w, instance):
            continue
        avoid(w, b, instance)
        start(w, t, instance)
        return
    append(w, queue_of(w, task.pool, -1), t)


@kernel
def submit_routed(w: Any, t: int) -> None:
    """Let the task join the chosen instance's queue, and start there if nothing is before it."""
    task = tasks(w.tasks, t)
    farm = farms(w.farms, pools(w.pools, task.pool).farm)
    b = avoiding(w, t)
    instance = choose(w, pools(w.pools, task.pool).farm, b)
    avoid(w, b, instance)
    here = instances(w.instances, instance)
    here.load += 1
    task.instance = instance
    was_free = here.free
    here.free = 0
    if was_free and not (w.outage_count and down(w, instance)):
        start(w, t, instance)
    else:
        append(w, queue_of(w, task.pool, instance), t)


@kernel
def choose(w: Any, f: int, b: int) -> int:
    """Return the instance whose queue a task of batch row `b` joins (`sim.dispatching`)."""
    farm = farms(w.farms, f)
    count, first = farm.instances, farm.first
    if farm.chooser == TURNS:
        while True:
            farm.turn = wrapped(farm.turn + 1, count)
            if not avoids(w, b, first + farm.turn):
                return first + farm.turn
    best = -1
    least = 1 << 62
    if farm.chooser == SHORTEST:
        for step in range(1, count + 1):
            place = wrapped(farm.turn + step, count)
            load = instances(w.instances, first + place).load
            if load < least and not avoids(w, b, first + place):
                best, least = place, load
        farm.turn = best
        return first + best
    eligible = count
    if b >= 0 and w.copying:
        eligible -= batches(w.batches, b).avoided
    wanted = min(farm.d, eligible)
    found = 0
    while found < wanted:
        place = int(draw(w, farm.uniforms, farm.drawn) * count)
        farm.drawn += 1
        again = avoids(w, b, first + place)
        for i in range(found):
            again = again or get_i8(farm.scratch, i) == place
        if again:
            continue
        put_i8(farm.scratch, found, place)
        found += 1
        load = instances(w.instances, first + place).load
        if load < least:
            best, least = place, load
    return first + best


@kernel
def idle(w: Any, instance: int) -> None:
    """Give an instance its next task, of the first rank that has one, or let it wait."""
    if w.outage_count and down(w, instance):
        return
    farm = farms(w.farms, instances(w.instances, instance).farm)
    for rank in range(farm.ranks):
        q = farm.queues + rank if farm.shared else farm.queues + rank * farm.instances + instance - farm.first
        t = queues(w.queues, q).front
        while t >= 0:
            b = avoiding(w, t) if farm.shared else -1  # a queue of its own was chosen with that in mind
            if not avoids(w, b, instance):
                unlink(w, q, t)
                avoid(w, b, instance)
                start(w, t, instance)
                return
            t = tasks(w.tasks, t).after
    if farm.shared:
        put_i8(farm.idle, wrapped(farm.head + farm.resting, farm.instances), instance)
        farm.resting += 1
    else:
        instances(w.instances, instance).free = 1


@kernel
def released(w: Any, instance: int) -> None:
    """Hear that the task of an instance ended."""
    here = instances(w.instances, instance)
    if not farms(w.farms, here.farm).shared:
        here.load -= 1
    idle(w, instance)


@kernel
def stop(w: Any, t: int) -> None:
    """Cancel a task that runs, which takes its instance `cancel_seconds` more."""
    task = tasks(w.tasks, t)
    instance = task.instance
    now = w.now
    task.entry = -1
    task.state = ENDED
    cancelled(w)
    task.start = min(task.start, now)
    task.finish = min(task.finish, now) + w.cancel_seconds
    end(w, t, CANCELLED, math.nan)
    free(w, t)
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
