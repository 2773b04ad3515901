"""What a task meets at an instance: its service time, what bends that, bulk traffic on the link, and crashes."""

from __future__ import annotations

from typing import Any

from sim.compiled.layout import (
    ADD,
    BLOCK_BITS,
    CHAIN,
    FACTOR,
    NEED_ATTEMPTS,
    NEED_BLOCK,
    NEED_DRAW,
    NEED_LINE,
    NEED_SERVICE,
    NEED_TRAFFIC,
    PIECES,
    TENANTS,
)
from sim.compiled.memory import (
    ask,
    bends,
    delays,
    get_f8,
    get_i8,
    instances,
    kernel,
    lines,
    meets,
    outages,
    pools,
    put_i8,
    streams,
)
from sim.compiled.tenants import beside_tenants

IN_BLOCK = (1 << BLOCK_BITS) - 1


@kernel
def draw(w: Any, stream: int, number: int) -> float:
    """Return a numbered draw of a stream."""
    block = number >> BLOCK_BITS
    row = streams(w.streams, stream)
    address = 0
    if block < row.count:
        address = get_i8(row.blocks, block)
    if address == 0:
        address = ask(w.python, NEED_BLOCK, stream, block)
    return get_f8(address, number & IN_BLOCK)


@kernel
def met(w: Any, p: int, size: int, attempt: int) -> int:
    """Return the row of what tasks like this meet in pool `p`."""
    if attempt >= w.attempts:
        ask(w.python, NEED_ATTEMPTS, attempt, 0)
    row = pools(w.pools, p).meets + (size - 1) * w.attempts + attempt
    if meets(w.meets, row).stream < 0:
        ask(w.python, NEED_SERVICE, p, row)
    return row


@kernel
def bent(w: Any, instance: int, number: int, attempt: int, start: float, seconds: float) -> float:
    """Return how long a service takes under the stragglers, in their order. `number` numbers the task's draws."""
    for i in range(w.bend_count):
        bend = bends(w.bends, i)
        how = bend.how
        if how == PIECES:
            seconds = stretched(w, i, instance, start, seconds)
        elif how == CHAIN:
            line = lines(bend.values, instance)
            if line.at == line.count:
                ask(w.python, NEED_LINE, i, instance)
            seconds *= get_f8(line.first, line.at)
            line.at += 1
        elif how == FACTOR:
            seconds *= get_f8(bend.values, instance)
        elif how == TENANTS:
            seconds = beside_tenants(w, i, instance, start, seconds)
        else:
            place = instances(w.instances, instance).farm * w.attempts + attempt
            if get_i8(bend.values, place) < 0:
                ask(w.python, NEED_DRAW, i, place)
            drawn = draw(w, get_i8(bend.values, place), number)
            if how == ADD:
                seconds += drawn
            else:
                seconds *= drawn
    return seconds


@kernel
def stretched(w: Any, i: int, instance: int, start: float, seconds: float) -> float:
    """Integrate a service over the instance's pieces of time, as `sim.stragglers.timeline` does."""
    line = lines(bends(w.bends, i).values, instance)
    at = line.at
    while True:
        if at == line.count:
            ask(w.python, NEED_LINE, i, instance)
        if get_f8(line.first, at) > start:
            break
        at += 1
    line.at = at
    longer = seconds * get_f8(line.second, at)
    if start + longer <= get_f8(line.first, at):
        return longer
    now = start
    left = seconds
    while True:
        end = get_f8(line.first, at)
        factor = get_f8(line.second, at)
        possible = (end - now) / factor
        if left <= possible:
            return now + left * factor - start
        left -= possible
        now = end
        at += 1
        if at == line.count:
            ask(w.python, NEED_LINE, i, instance)


@kernel
def delayed(w: Any, instance: int, when: float, outbound: int, seconds: float) -> float:
    """Return what bulk traffic adds to a message of `seconds`."""
    total = 0.0
    for i in range(w.delay_count):
        delay = delays(w.delays, i)
        at = get_i8(delay.at, instance)
        while True:
            if at == delay.count:
                ask(w.python, NEED_TRAFFIC, i, 0)
            if get_f8(delay.values, at) > when:
                break
            at += 1
        if not outbound:
            put_i8(delay.at, instance, at)
        link = 2 * instance + outbound
        flows = get_i8(delay.flows, 2 * w.launched * at + link)
        if flows == 0:
            continue
        if delay.streams < 0:
            total += flows * max(0.0, seconds - delay.latency) + get_f8(delay.waits, 2 * w.launched * at + link)
            continue
        count = get_i8(delay.crossed, link)
        put_i8(delay.crossed, link, count + flows)
        backlog = 0.0
        for number in range(count, count + flows):
            backlog += draw(w, delay.streams + link, number)
        total += flows * max(0.0, seconds - delay.latency) + backlog
    return total


@kernel
def outage(w: Any, i: int, instance: int, now: float) -> int:
    """Return the instance's first outage that ends after `now`, as a place in its line."""
    line = lines(outages(w.outages, i).values, instance)
    at = line.at
    while True:
        if at == line.count:
            ask(w.python, NEED_LINE, -1 - i, instance)
        if get_f8(line.second, at) > now:
            break
        at += 1
    line.at = at
    return at


@kernel
def down_until(w: Any, i: int, instance: int, now: float) -> float:
    """Return when the outage that covers `now` ends, or `now` where there is none."""
    at = outage(w, i, instance, now)
    line = lines(outages(w.outages, i).values, instance)
    return get_f8(line.second, at) if get_f8(line.first, at) <= now else now


@kernel
def next_crash(w: Any, i: int, instance: int, now: float) -> float:
    """Return when the first outage that ends after `now` begins."""
    at = outage(w, i, instance, now)
    return get_f8(lines(outages(w.outages, i).values, instance).first, at)
