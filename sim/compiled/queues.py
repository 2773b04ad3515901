"""The instances that run tasks, and the queues before them: `sim.pool`, its lanes, and `sim.dispatching`."""

from __future__ import annotations

from typing import Any

from sim.compiled.conditions import bent, delayed, down_until, draw, met, next_crash
from sim.compiled.heap import push
from sim.compiled.layout import FINISHED, QUEUED, REPAIRED, RUNNING, SHORTEST, TIED, TOLD, TURNS
from sim.compiled.memory import (
    batches,
    farms,
    get_i8,
    instances,
    kernel,
    meets,
    outages,
    pools,
    put_i8,
    queues,
    tasks,
    worlds,
)
from sim.compiled.tasks import append, queue_of, remove_copies, unlink


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
    task.sent = now
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


def submitted(world: int, t: int, _: int) -> int:
    """Start the task on an idle instance or let it wait. `world` is the address of the `WORLD`."""
    w = worlds(world, 0)
    task = tasks(w.tasks, t)
    task.queued_at = w.now
    if farms(w.farms, pools(w.pools, task.pool).farm).shared:
        submit_shared(w, t)
    else:
        submit_routed(w, t)
    return 0


def freed(world: int, instance: int, ended: int) -> int:
    """Let an instance have its next task, because a task of its `ended` or because it is repaired."""
    w = worlds(world, 0)
    here = instances(w.instances, instance)
    if ended and not farms(w.farms, here.farm).shared:
        here.load -= 1
    idle(w, instance)
    return 0
