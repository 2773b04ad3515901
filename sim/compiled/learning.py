"""The routers that learn from answers: `sim.routing`."""

from __future__ import annotations

import math
from typing import Any

from sim.compiled.layout import LATEST, LEAST, NEED_LATENCIES, NEED_PROBES, PEAK, SEEN, UNHEARD
from sim.compiled.memory import (
    ask,
    farms,
    get_f8,
    get_i8,
    instances,
    kernel,
    known,
    learners,
    probes,
    put_f8,
    put_i8,
    tasks,
)
from sim.compiled.routing import barred, below, eligible, wrapped


@kernel
def sampled(w: Any, f: int, wanted: int, b: int, up: bool, well: bool) -> int:
    """Draw up to `wanted` places that a task of batch row `b` may join, into the farm's scratch; return their number.

    As `barred`; with `well`, no ejected ones either.
    """
    farm = farms(w.farms, f)
    found = 0
    while found < wanted:
        place = below(w, f, farm.instances)
        again = barred(w, b, farm.first + place, up) or (well and known(w.known, farm.first + place).out != 0)
        for i in range(found):
            again = again or get_i8(farm.scratch, i) == place
        if not again:
            put_i8(farm.scratch, found, place)
            found += 1
    return found


@kernel
def peak_ewma(w: Any, f: int, b: int, up: bool) -> int:
    """Return the best of `d` instances by the moving average of their latencies times their tasks."""
    farm, learner = farms(w.farms, f), learners(w.learners, f)
    best, least = -1, math.inf
    found = sampled(w, f, min(farm.d, eligible(w, f, b, up)), b, up, False)
    for i in range(found):
        instance = farm.first + get_i8(farm.scratch, i)
        one, tasks_there = known(w.known, instance), instances(w.instances, instance).load
        cost = one.cost
        if cost != 0.0:
            cost *= math.exp((one.stamp - w.now) / learner.decay)
        load = UNHEARD + tasks_there if cost == 0.0 and tasks_there != 0 else cost * (tasks_there + 1)
        if load < least:
            best, least = instance, load
    return best


@kernel
def average(w: Any, f: int, instance: int, seconds: float) -> None:
    """Take a latency into the instance's average."""
    one = known(w.known, instance)
    weight = math.exp((one.stamp - w.now) / learners(w.learners, f).decay)
    cost = one.cost
    one.cost = seconds if seconds > cost else cost * weight + seconds * (1.0 - weight)
    one.stamp = w.now


@kernel
def sweep(w: Any, f: int) -> None:
    """Let ejected instances come back as of the latest sweep that is due."""
    farm, learner = farms(w.farms, f), learners(w.learners, f)
    while learner.swept + learner.interval <= w.now:
        learner.swept += learner.interval
        for instance in range(farm.first, farm.first + farm.instances):
            one = known(w.known, instance)
            if one.out:
                if one.back <= learner.swept:
                    one.out = 0
                    learner.out -= 1
            elif one.times:
                one.times -= 1


@kernel
def least_request(w: Any, f: int, b: int, up: bool) -> int:
    """Return the one with the least load of `d` instances, of those that are not ejected where there are any."""
    farm, learner = farms(w.farms, f), learners(w.learners, f)
    sweep(w, f)
    wanted, well = 0, False
    if learner.out:
        for instance in range(farm.first, farm.first + farm.instances):
            wanted += known(w.known, instance).out == 0 and not barred(w, b, instance, up)
        well = wanted > 0
    if not well:
        wanted = eligible(w, f, b, up)
    best, least = -1, 1 << 62
    found = sampled(w, f, min(farm.d, wanted), b, up, well)
    for i in range(found):
        instance = farm.first + get_i8(farm.scratch, i)
        load = instances(w.instances, instance).load
        if load < least:
            best, least = instance, load
    return best


@kernel
def judge(w: Any, f: int, instance: int, seconds: float, lost: bool) -> bool:
    """Eject an instance after too many failures in a row; say whether what waits there should go elsewhere."""
    learner, one = learners(w.learners, f), known(w.known, instance)
    if not lost and seconds <= learner.timeout:
        one.failures = 0
        return False
    one.failures += 1
    if one.failures < learner.consecutive or one.out:
        return False
    sweep(w, f)
    if learner.out >= learner.at_once:
        return False
    one.failures = 0
    one.times += 1
    one.out = 1
    learner.out += 1
    one.back = w.now + min(learner.base * one.times, learner.longest)
    return learner.moves != 0


@kernel
def latency(w: Any, instance: int, rif: int) -> float:
    """Return the median latency there of tasks that found `rif` outstanding, or the nearest number known, of two the
    lower; 0 if none is."""
    one = known(w.known, instance)
    if one.most < 0:
        return 0.0
    if rif >= one.most:
        return get_f8(one.medians, one.most)
    lower, upper = rif, rif + 1
    while lower >= 0 and get_i8(one.counts, lower) == 0:
        lower -= 1
    if lower == rif:
        return get_f8(one.medians, rif)
    while get_i8(one.counts, upper) == 0:
        upper += 1
    return get_f8(one.medians, lower if lower >= 0 and rif - lower <= upper - rif else upper)


@kernel
def note(w: Any, instance: int, found: int, seconds: float) -> None:
    """Keep the latency of a task that found so many outstanding, and the median of the latest of them."""
    one = known(w.known, instance)
    if found >= one.room:
        ask(w.python, NEED_LATENCIES, instance, found)
    count = get_i8(one.counts, found)
    put_i8(one.counts, found, count + 1)
    one.most = max(one.most, found)
    first = found * SEEN
    put_f8(one.seen, first + count % SEEN, seconds)
    kept = min(count + 1, SEEN)
    rank = kept // 2
    for i in range(kept):
        value = get_f8(one.seen, first + i)
        less = same = 0
        for j in range(kept):
            other = get_f8(one.seen, first + j)
            less += other < value
            same += other == value
        if less <= rank < less + same:
            put_f8(one.medians, found, value)
            return


@kernel
def put_probe(address: int, source: int, target: int) -> None:
    """Copy a probe."""
    old, new = probes(address, source), probes(address, target)
    new.ready, new.latency, new.place, new.rif, new.left = old.ready, old.latency, old.place, old.rif, old.left


@kernel
def drop(w: Any, f: int, i: int) -> None:
    """Remove an answer from the pool of them."""
    learner = learners(w.learners, f)
    learner.answers -= 1
    for j in range(i, learner.answers):
        put_probe(learner.pool, j + 1, j)


@kernel
def report(w: Any, f: int, rif: int) -> None:
    """Take reported requests in flight into the latest of them, which are kept in the order of their size too."""
    learner = learners(w.learners, f)
    if learner.reports >= LATEST:
        gone = get_i8(learner.latest, learner.reports % LATEST)
        i = 0
        while get_i8(learner.ordered, i) != gone:
            i += 1
        while i + 1 < LATEST:
            put_i8(learner.ordered, i, get_i8(learner.ordered, i + 1))
            i += 1
    put_i8(learner.latest, learner.reports % LATEST, rif)
    i = min(learner.reports, LATEST - 1)
    while i > 0 and get_i8(learner.ordered, i - 1) > rif:
        put_i8(learner.ordered, i, get_i8(learner.ordered, i - 1))
        i -= 1
    put_i8(learner.ordered, i, rif)
    learner.reports += 1


@kernel
def hot_above(w: Any, f: int) -> int:
    """Return the requests in flight above which an instance is hot."""
    learner = learners(w.learners, f)
    count = min(learner.reports, LATEST)
    return get_i8(learner.ordered, min(int(learner.hot * count), count - 1))


@kernel
def send_probes(w: Any, f: int) -> None:
    """Send the probes of one task; each tells what is so now."""
    farm, learner = farms(w.farms, f), learners(w.learners, f)
    learner.owed += learner.probes
    count = int(learner.owed)
    learner.owed -= count
    count = sampled(w, f, min(count, farm.instances), -1, False, False)
    if learner.waiting + count > learner.room:
        ask(w.python, NEED_PROBES, f, count)
    for i in range(count):
        instance = farm.first + get_i8(farm.scratch, i)
        probe = probes(learner.pending, wrapped(learner.head + learner.waiting, learner.room))
        probe.left = learner.whole
        if learner.part > 0.0:
            probe.left += below(w, f, 1 << 20) < learner.part * (1 << 20)
        probe.place, probe.rif = instance, instances(w.instances, instance).load
        probe.ready = w.now + learner.round_trip
        probe.latency = latency(w, instance, probe.rif)
        learner.waiting += 1
    put_i8(w.sent_bytes, 4, get_i8(w.sent_bytes, 4) + count * learner.bytes_each)


@kernel
def receive_answers(w: Any, f: int) -> None:
    """Take the answers that are back into the pool, and drop those that are too many or too old."""
    learner = learners(w.learners, f)
    while learner.waiting > 0:
        probe = probes(learner.pending, learner.head)
        if probe.ready > w.now:
            break
        report(w, f, probe.rif)
        if learner.answers == learner.kept:
            drop(w, f, 0)
        answer = probes(learner.pool, learner.answers)
        answer.ready, answer.latency = probe.ready, probe.latency
        answer.place, answer.rif, answer.left = probe.place, probe.rif, probe.left
        learner.answers += 1
        learner.head = wrapped(learner.head + 1, learner.room)
        learner.waiting -= 1
    while learner.answers > 0 and probes(learner.pool, 0).ready < w.now - learner.age:
        drop(w, f, 0)


@kernel
def best_answer(w: Any, f: int, b: int, up: bool) -> int:
    """Return the place in the pool of the best answer of at least two, hot or cold first; -1 where there are fewer."""
    learner = learners(w.learners, f)
    count = 0
    for i in range(learner.answers):
        count += not barred(w, b, probes(learner.pool, i).place, up)
    if count < 2:
        return -1
    limit = hot_above(w, f)
    best, fewest = -1, -1
    for i in range(learner.answers):
        probe = probes(learner.pool, i)
        if barred(w, b, probe.place, up):
            continue
        if fewest < 0 or probe.rif < probes(learner.pool, fewest).rif:
            fewest = i
        if probe.rif <= limit and (best < 0 or probe.latency < probes(learner.pool, best).latency):
            best = i
    return fewest if best < 0 else best


@kernel
def remove_answer(w: Any, f: int) -> None:
    """Remove in turn the oldest answer and the worst: the most in flight of the hot ones, else the slowest."""
    learner = learners(w.learners, f)
    if learner.answers == 0:
        return
    worst = 0
    if not learner.oldest_next:
        limit = hot_above(w, f)
        for i in range(1, learner.answers):
            probe, other = probes(learner.pool, i), probes(learner.pool, worst)
            if probe.rif > limit:
                worst = i if probe.rif > max(limit, other.rif) else worst
            elif other.rif <= limit and probe.latency > other.latency:
                worst = i
    drop(w, f, worst)
    learner.oldest_next = 1 - learner.oldest_next


@kernel
def prequal(w: Any, f: int, b: int, up: bool) -> int:
    """Probe, and return the instance of the best answer, which gets worse by this task; a random one without."""
    farm, learner = farms(w.farms, f), learners(w.learners, f)
    send_probes(w, f)
    receive_answers(w, f)
    best = best_answer(w, f, b, up)
    if best < 0:
        sampled(w, f, 1, b, up, False)
        instance = farm.first + get_i8(farm.scratch, 0)
    else:
        probe = probes(learner.pool, best)
        instance = probe.place
        probe.rif += 1
        probe.left -= 1
        if probe.left <= 0:
            drop(w, f, best)
    learner.due += learner.removed
    while learner.due >= 1.0:
        learner.due -= 1.0
        remove_answer(w, f)
    return instance


@kernel
def choose_by_what_was_learnt(w: Any, f: int, b: int, up: bool) -> int:
    """Return the instance whose queue a task of batch row `b` joins."""
    chooser = farms(w.farms, f).chooser
    if chooser == PEAK:
        return peak_ewma(w, f, b, up)
    if chooser == LEAST:
        return least_request(w, f, b, up)
    return prequal(w, f, b, up)


@kernel
def heard(w: Any, t: int, lost: bool) -> bool:
    """Take in that a task's answer is back, or that it was lost; say whether what waits there should go elsewhere."""
    task = tasks(w.tasks, t)
    f = instances(w.instances, task.instance).farm
    seconds = w.now - task.joined_at
    chooser = farms(w.farms, f).chooser
    if chooser == LEAST:
        return judge(w, f, task.instance, seconds, lost)
    if chooser == PEAK:
        average(w, f, task.instance, seconds)
    elif not lost:
        note(w, task.instance, task.found, seconds)
    return False
