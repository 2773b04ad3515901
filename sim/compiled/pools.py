"""The instances that run tasks, and the queues before them: `sim.pool` and its lanes."""

from __future__ import annotations

import math
from typing import Any

from sim.compiled.conditions import down_until, next_crash
from sim.compiled.heap import push
from sim.compiled.layout import (
    BEST,
    DETECTED,
    EJECTED,
    HAS_WAITED,
    IDLE,
    IS_REPAIRED,
    LOOKS,
    MOVED,
    QUEUED,
    RELEASED,
    REPAIRED,
    SHORTEST,
    SUBMITTED,
    TURNS,
    WAITED,
)
from sim.compiled.learning import choose_by_what_was_learnt
from sim.compiled.memory import (
    ask,
    farms,
    get_i8,
    instances,
    kernel,
    limits,
    outages,
    pools,
    put_i8,
    queues,
    tasks,
    worlds,
)
from sim.compiled.routing import (
    avoid,
    avoid_no_more,
    avoiding,
    avoids,
    best_of_some,
    eligible,
    idle_at_random,
    next_in_turn,
    shortest,
    wrapped,
)
from sim.compiled.services import start
from sim.compiled.tasks import append, left, queue_of, unlink


@kernel
def detection(w: Any, instance: int) -> float:
    """Return when the present failure of an instance is or was detected; infinite if it is up."""
    found = math.inf
    for i in range(w.outage_count):
        crash = next_crash(w, i, instance, w.now)
        if crash <= w.now:
            found = min(found, crash + outages(w.outages, i).detect)
    return found


@kernel
def move(w: Any, instance: int) -> None:
    """Let the tasks that wait at an instance join other queues, unless all instances failed."""
    farm = farms(w.farms, instances(w.instances, instance).farm)
    if farm.failed == farm.instances:
        return
    for rank in range(farm.ranks):
        q = farm.queues + rank * farm.instances + instance - farm.first
        t = queues(w.queues, q).front
        while t >= 0:
            tasks(w.tasks, t).moves = 1
            t = tasks(w.tasks, t).after
        t = queues(w.queues, q).front
        while t >= 0 and tasks(w.tasks, t).moves:  # those that come back are behind them
            unlink(w, q, t)
            tasks(w.tasks, t).moves = 0
            left(w, t)
            avoid_no_more(w, avoiding(w, t), instance)
            ask(w.at_instances, w.self, t, MOVED)  # by its address, since it may come to `move` again
            t = queues(w.queues, q).front


@kernel
def detected(w: Any, instance: int) -> None:
    """Hear that the failure of an instance with a queue of its own is detected, if it was not repaired before."""
    if detection(w, instance) <= w.now:
        here = instances(w.instances, instance)
        if not here.failed:
            here.failed = 1
            farms(w.farms, here.farm).failed += 1
        move(w, instance)


@kernel
def down(w: Any, instance: int) -> bool:
    """Say whether an instance that would be idle is down; if so, it comes back by itself."""
    repaired = w.now
    for i in range(w.outage_count):
        repaired = max(repaired, down_until(w, i, instance, w.now))
    if repaired <= w.now:
        return False
    push(w, repaired, REPAIRED, instance)
    if not farms(w.farms, instances(w.instances, instance).farm).shared:
        when = detection(w, instance)
        if when <= w.now:
            detected(w, instance)
        else:
            push(w, when, DETECTED, instance)
    return True


@kernel
def holds(w: Any, q: int) -> bool:
    """Say whether the batch at the head of a queue should wait to fill before an idle instance takes it."""
    t = queues(w.queues, q).front
    if t < 0:
        return True
    if w.now >= tasks(w.tasks, t).queued_at + w.instance_wait:
        return False
    limit = pools(w.pools, tasks(w.tasks, t).pool).limit
    room = limits(w.limits, limit).now
    while t >= 0:
        if pools(w.pools, tasks(w.tasks, t).pool).limit == limit:
            room -= 1
            if room <= 0:
                return False
        t = tasks(w.tasks, t).after
    return True


@kernel
def take(w: Any, q: int, shared: int, instance: int) -> bool:
    """Start the first task of a queue that may run at the instance; say whether there was one."""
    if w.instance_wait > 0.0 and holds(w, q):
        return False
    t = queues(w.queues, q).front
    while t >= 0:
        b = avoiding(w, t) if shared else -1  # a queue of its own was chosen with that in mind
        if not avoids(w, b, instance):
            unlink(w, q, t)
            avoid(w, b, instance)
            start(w, t, instance)
            return True
        t = tasks(w.tasks, t).after
    return False


@kernel
def rests_no_more(w: Any, f: int, place: int) -> None:
    """Strike an instance from those that are idle. Those idle for longer stay in their order."""
    farm = farms(w.farms, f)
    for i in range(place, 0, -1):
        earlier = get_i8(farm.idle, wrapped(farm.head + i - 1, farm.instances))
        put_i8(farm.idle, wrapped(farm.head + i, farm.instances), earlier)
    farm.head = wrapped(farm.head + 1, farm.instances)
    farm.resting -= 1


@kernel
def submit_shared(w: Any, t: int) -> None:
    """Start the task on the instance that has been idle longest of those it may use, or append it to the queue."""
    task = tasks(w.tasks, t)
    f = pools(w.pools, task.pool).farm
    farm = farms(w.farms, f)
    b = avoiding(w, t)
    place = 0
    while place < farm.resting:
        instance = get_i8(farm.idle, wrapped(farm.head + place, farm.instances))
        if avoids(w, b, instance):
            place += 1
            continue
        rests_no_more(w, f, place)
        if w.outage_count and down(w, instance):
            continue
        avoid(w, b, instance)
        start(w, t, instance)
        return
    append(w, queue_of(w, task.pool, -1), t)


@kernel
def offer(w: Any, t: int) -> None:
    """Let the first idle instance that can take a batch from the task's queue."""
    p = tasks(w.tasks, t).pool
    f = pools(w.pools, p).farm
    farm = farms(w.farms, f)
    place = 0
    while place < farm.resting:
        instance = get_i8(farm.idle, wrapped(farm.head + place, farm.instances))
        if w.outage_count and down(w, instance):
            rests_no_more(w, f, place)
        elif take(w, queue_of(w, p, -1), 1, instance):
            rests_no_more(w, f, place)
            return
        else:
            place += 1


@kernel
def choose(w: Any, f: int, b: int, up: bool) -> int:
    """Return the instance whose queue a task of batch row `b` joins."""
    chooser = farms(w.farms, f).chooser
    if chooser == TURNS:
        return next_in_turn(w, f, b, up)
    if chooser == SHORTEST:
        return shortest(w, f, b, up)
    if chooser == BEST:
        return best_of_some(w, f, b, up)
    if chooser == IDLE:
        return idle_at_random(w, f, b, up)
    return choose_by_what_was_learnt(w, f, b, up)


@kernel
def route(w: Any, t: int) -> int:
    """Return the instance whose queue the task joins: one that is not known to be down, if there is one."""
    f = pools(w.pools, tasks(w.tasks, t).pool).farm
    b = avoiding(w, t)
    while True:
        up = w.outage_count != 0 and eligible(w, f, b, True) > 0
        instance = choose(w, f, b, up)
        here = instances(w.instances, instance)
        if not up or not here.free or detection(w, instance) > w.now:
            return instance
        here.free = 0
        down(w, instance)


@kernel
def steal(w: Any, instance: int) -> bool:
    """Start a task that waits at the instance with the most tasks of those where one may leave; say whether there was
    one. A batch that is waiting to fill stays."""
    here = instances(w.instances, instance)
    farm = farms(w.farms, here.farm)
    if queues(w.queues, farm.queues + instance - farm.first).front >= 0:
        return False
    most, stolen = 0, -1
    for place in range(farm.instances):
        there = instances(w.instances, farm.first + place)
        if there.load > most and not there.free:
            t = queues(w.queues, farm.queues + place).front
            while t >= 0 and (tasks(w.tasks, t).moves or avoids(w, avoiding(w, t), instance)):
                t = tasks(w.tasks, t).after
            if t >= 0:
                most, stolen = there.load, t
    if stolen < 0:
        return False
    task = tasks(w.tasks, stolen)
    b = avoiding(w, stolen)
    unlink(w, queue_of(w, task.pool, task.instance), stolen)
    left(w, stolen)
    avoid_no_more(w, b, task.instance)
    avoid(w, b, instance)
    task.joined_at, task.found = w.now, here.load
    here.load += 1
    task.instance = instance
    start(w, stolen, instance)
    return True


@kernel
def idle(w: Any, instance: int) -> None:
    """Give an instance its next task, of the first rank that has one, or let it wait."""
    if w.outage_count and down(w, instance):
        return
    farm = farms(w.farms, instances(w.instances, instance).farm)
    for rank in range(farm.ranks):
        q = farm.queues + rank if farm.shared else farm.queues + rank * farm.instances + instance - farm.first
        if take(w, q, farm.shared, instance):
            return
    if farm.steals and steal(w, instance):
        return
    if farm.shared:
        put_i8(farm.idle, wrapped(farm.head + farm.resting, farm.instances), instance)
        farm.resting += 1
    else:
        instances(w.instances, instance).free = 1


@kernel
def offer_in_turn(w: Any, t: int, instance: int) -> None:
    """Let idle instances, in turn after the one where a task waits, look for tasks until it has started."""
    farm = farms(w.farms, instances(w.instances, instance).farm)
    place = instance - farm.first
    for step in range(1, farm.instances):
        if tasks(w.tasks, t).state != QUEUED:
            return
        other = instances(w.instances, farm.first + wrapped(place + step, farm.instances))
        if other.free:
            other.free = 0
            ask(w.at_instances, w.self, farm.first + wrapped(place + step, farm.instances), LOOKS)


@kernel
def submit_routed(w: Any, t: int) -> None:
    """Let the task join the chosen instance's queue, and start there if nothing is before it."""
    task = tasks(w.tasks, t)
    instance = route(w, t)
    avoid(w, avoiding(w, t), instance)
    here = instances(w.instances, instance)
    task.joined_at, task.found = w.now, here.load
    here.load += 1
    task.instance = instance
    was_free = here.free
    here.free = 0
    q = queue_of(w, task.pool, instance)
    if not was_free or (w.outage_count and down(w, instance)):
        append(w, q, t)
        if farms(w.farms, here.farm).steals:
            offer_in_turn(w, t, instance)
    elif w.instance_wait > 0.0:
        append(w, q, t)
        here.free = 0 if take(w, q, 0, instance) else 1
    else:
        start(w, t, instance)


@kernel
def submit(w: Any, t: int, what: int) -> None:
    """Let the task start or wait; where batches form at instances, until it has waited long enough for others."""
    task = tasks(w.tasks, t)
    shared, waits = farms(w.farms, pools(w.pools, task.pool).farm).shared, w.instance_wait > 0.0
    if what == SUBMITTED:
        task.queued_at = w.now
    if not shared:
        submit_routed(w, t)
    elif waits:
        append(w, queue_of(w, task.pool, -1), t)
    else:
        submit_shared(w, t)
    if waits and what == SUBMITTED:
        task.waiter = push(w, w.now + w.instance_wait, WAITED, t)
        if shared:
            offer(w, t)


@kernel
def has_waited(w: Any, t: int) -> None:
    """Let an idle instance take a task that has waited long enough for others."""
    task = tasks(w.tasks, t)
    if farms(w.farms, pools(w.pools, task.pool).farm).shared:
        offer(w, t)
    elif instances(w.instances, task.instance).free:
        instances(w.instances, task.instance).free = 0
        ask(w.at_instances, w.self, task.instance, LOOKS)


@kernel
def repaired(w: Any, instance: int) -> None:
    """Let an instance have its next task, and those look for a queue again that had nowhere to go."""
    here = instances(w.instances, instance)
    farm = farms(w.farms, here.farm)
    if here.failed:
        here.failed = 0
        farm.failed -= 1
    ask(w.at_instances, w.self, instance, LOOKS)
    every = range(farm.first, farm.first + farm.instances)
    for other in every:
        if instances(w.instances, other).failed:
            instances(w.instances, other).failed = 2
    for other in every:
        if instances(w.instances, other).failed == 2:
            instances(w.instances, other).failed = 1
            move(w, other)


def happens(world: int, item: int, what: int) -> int:
    """Let something happen to a task or at an instance. `world` is the address of the `WORLD`."""
    w = worlds(world, 0)
    if what in (RELEASED, LOOKS):
        here = instances(w.instances, item)
        if what == RELEASED and not farms(w.farms, here.farm).shared:
            here.load -= 1
        idle(w, item)
    elif what in (SUBMITTED, MOVED):
        submit(w, item, what)
    elif what == EJECTED:
        move(w, item)
    elif what == HAS_WAITED:
        if tasks(w.tasks, item).state == QUEUED:
            has_waited(w, item)
    elif what == IS_REPAIRED:
        repaired(w, item)
    else:
        detected(w, item)
    return 0
