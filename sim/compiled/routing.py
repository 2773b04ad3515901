"""Which instance's queue a task joins, where each has one: `sim.dispatching`; and which instances copies avoid."""

from __future__ import annotations

from typing import Any

from sim.compiled.conditions import draw
from sim.compiled.memory import batches, farms, get_i8, instances, kernel, put_i8, tasks


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
def avoid_no_more(w: Any, b: int, instance: int) -> None:
    """Let the batch's further copies be at the instance again, which a copy of it leaves."""
    if avoids(w, b, instance):
        batch = batches(w.batches, b)
        first = b * w.copies_kept
        place = 0
        while get_i8(w.avoid, first + place) != instance:
            place += 1
        batch.avoided -= 1
        put_i8(w.avoid, first + place, get_i8(w.avoid, first + batch.avoided))


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
def barred(w: Any, b: int, instance: int, up: bool) -> bool:
    """Say whether a task of batch row `b` must not join the instance's queue; with `up`, no failed one's."""
    return (up and instances(w.instances, instance).failed != 0) or avoids(w, b, instance)


@kernel
def eligible(w: Any, f: int, b: int, up: bool) -> int:
    """Count the instances whose queues a task of batch row `b` may join."""
    farm = farms(w.farms, f)
    if not up or farm.failed == 0:
        return farm.instances - (batches(w.batches, b).avoided if b >= 0 and w.copying else 0)
    count = 0
    for instance in range(farm.first, farm.first + farm.instances):
        count += not barred(w, b, instance, up)
    return count


@kernel
def next_in_turn(w: Any, f: int, b: int, up: bool) -> int:
    """Return the next instance in turn."""
    farm = farms(w.farms, f)
    while True:
        farm.turn = wrapped(farm.turn + 1, farm.instances)
        if not barred(w, b, farm.first + farm.turn, up):
            return farm.first + farm.turn


@kernel
def shortest(w: Any, f: int, b: int, up: bool) -> int:
    """Return the first instance in turn of those with the least load."""
    farm = farms(w.farms, f)
    best, least = -1, 1 << 62
    for step in range(1, farm.instances + 1):
        place = wrapped(farm.turn + step, farm.instances)
        load = instances(w.instances, farm.first + place).load
        if load < least and not barred(w, b, farm.first + place, up):
            best, least = place, load
    farm.turn = best
    return farm.first + best


@kernel
def below(w: Any, f: int, count: int) -> int:
    """Return a random number below `count`."""
    farm = farms(w.farms, f)
    farm.drawn += 1
    return int(draw(w, farm.uniforms, farm.drawn - 1) * count)


@kernel
def best_of_some(w: Any, f: int, b: int, up: bool) -> int:
    """Return the one with the least load of `d` instances drawn at random."""
    farm = farms(w.farms, f)
    best, least = -1, 1 << 62
    wanted = min(farm.d, eligible(w, f, b, up))
    found = 0
    while found < wanted:
        place = below(w, f, farm.instances)
        again = barred(w, b, farm.first + place, up)
        for i in range(found):
            again = again or get_i8(farm.scratch, i) == place
        if again:
            continue
        put_i8(farm.scratch, found, place)
        found += 1
        load = instances(w.instances, farm.first + place).load
        if load < least:
            best, least = place, load
    return farm.first + best


@kernel
def idle_at_random(w: Any, f: int, b: int, up: bool) -> int:
    """Return a random one of the instances without load, or of all where none is."""
    farm = farms(w.farms, f)
    idle = 0
    for instance in range(farm.first, farm.first + farm.instances):
        idle += instances(w.instances, instance).load == 0 and not barred(w, b, instance, up)
    skipped = below(w, f, idle if idle else eligible(w, f, b, up))
    instance = farm.first
    while True:
        if not barred(w, b, instance, up) and not (idle and instances(w.instances, instance).load != 0):
            if skipped == 0:
                return instance
            skipped -= 1
        instance += 1
