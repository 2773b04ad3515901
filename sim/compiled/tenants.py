"""A second service whose queries depend on our tasks: `sim.stragglers.tenants.Tenants`.

State 0 is the one that is kept, and state 1 the one that is played forward from it. What waits in a queue is a range
of its arrivals, from `taken` to `seen`.
"""

from __future__ import annotations

import math
from typing import Any

from sim.compiled.layout import NEED_LINE, NEED_SPANS
from sim.compiled.memory import ask, bends, get_f8, get_i8, kernel, lines, put_f8, put_i8, states, tenancies

NOBODY = -1.0
"""The work left of the query on an instance that has none."""


@kernel
def free_tenant(w: Any, i: int, s: int, place: int) -> None:
    """Let an instance take the next query of its queue, if one waits."""
    tenancy = tenancies(bends(w.bends, i).values, 0)
    state = states(tenancy.states, s)
    queue = 0 if tenancy.shared else place
    taken = get_i8(state.taken, queue)
    if taken < get_i8(state.seen, queue):
        put_f8(state.left, place, get_f8(lines(tenancy.lines, queue).second, taken))
        put_i8(state.taken, queue, taken + 1)
    elif tenancy.shared:
        put_i8(state.idle, (state.head + state.resting) % tenancy.count, place)
        state.resting += 1


@kernel
def tenant_arrives(w: Any, i: int, s: int, queue: int) -> None:
    """Let a query begin where nobody is, or wait."""
    tenancy = tenancies(bends(w.bends, i).values, 0)
    state = states(tenancy.states, s)
    seen = get_i8(state.seen, queue)
    put_i8(state.seen, queue, seen + 1)
    place = queue
    if tenancy.shared:
        if state.resting == 0:
            return
        place = get_i8(state.idle, state.head)
        state.head = (state.head + 1) % tenancy.count
        state.resting -= 1
    elif get_f8(state.left, queue) >= 0.0:
        return
    put_f8(state.left, place, get_f8(lines(tenancy.lines, queue).second, seen))
    put_i8(state.taken, queue, seen + 1)


@kernel
def step(w: Any, i: int, s: int, limit: float) -> None:
    """Move a state to the next change, or to `limit` if that is earlier, and do what happens there."""
    tenancy = tenancies(bends(w.bends, i).values, 0)
    state = states(tenancy.states, s)
    now = state.now
    until = limit
    queues = 1 if tenancy.shared else tenancy.count
    for queue in range(queues):
        seen = get_i8(state.seen, queue)
        if seen == lines(tenancy.lines, queue).count:
            ask(w.python, NEED_LINE, i, queue)
        until = min(until, get_f8(lines(tenancy.lines, queue).first, seen))
    for place in range(tenancy.count):
        left = get_f8(state.left, place)
        if left < 0.0:
            continue
        pace = 1.0
        if tenancy.mutual:
            first = place * tenancy.room
            for span in range(first + get_i8(tenancy.fronts, place), first + get_i8(tenancy.backs, place)):
                start, finish = get_f8(tenancy.starts, span), get_f8(tenancy.finishes, span)
                if now < start:
                    until = min(until, start)
                    break
                if now < finish:
                    pace = 1.0 / tenancy.slowdown
                    until = min(until, finish)
                    break
        end = now + left / pace
        until = min(until, end)
        put_f8(tenancy.paces, place, pace)
        put_f8(tenancy.ends, place, end)
    state.now = until
    for place in range(tenancy.count):
        left = get_f8(state.left, place)
        if left < 0.0:
            continue
        if get_f8(tenancy.ends, place) <= until:
            put_f8(state.left, place, NOBODY)
            free_tenant(w, i, s, place)
        else:
            put_f8(state.left, place, max(0.0, left - (until - now) * get_f8(tenancy.paces, place)))
    for queue in range(queues):
        if get_f8(lines(tenancy.lines, queue).first, get_i8(state.seen, queue)) <= until:
            tenant_arrives(w, i, s, queue)


@kernel
def settle(w: Any, i: int, when: float) -> None:
    """Move the kept state to `when`, and forget our tasks that ended before."""
    tenancy = tenancies(bends(w.bends, i).values, 0)
    state = states(tenancy.states, 0)
    if when <= state.now:
        return
    while state.now < when:
        step(w, i, 0, when)
    for place in range(tenancy.count):
        front, back = get_i8(tenancy.fronts, place), get_i8(tenancy.backs, place)
        while front < back and get_f8(tenancy.finishes, place * tenancy.room + front) <= when:
            front += 1
        put_i8(tenancy.fronts, place, front)


@kernel
def play(w: Any, i: int) -> None:
    """Let the state that is played forward be the kept one."""
    tenancy = tenancies(bends(w.bends, i).values, 0)
    kept, played = states(tenancy.states, 0), states(tenancy.states, 1)
    played.now = kept.now
    played.head = kept.head
    played.resting = kept.resting
    for place in range(tenancy.count):
        put_f8(played.left, place, get_f8(kept.left, place))
        put_i8(played.taken, place, get_i8(kept.taken, place))
        put_i8(played.seen, place, get_i8(kept.seen, place))
        put_i8(played.idle, place, get_i8(kept.idle, place))


@kernel
def begin_span(w: Any, i: int, place: int, start: float) -> int:
    """Note a task of ours whose end is not known yet; return where its span is."""
    tenancy = tenancies(bends(w.bends, i).values, 0)
    front, back = get_i8(tenancy.fronts, place), get_i8(tenancy.backs, place)
    if back == tenancy.room:
        if 2 * front < back:
            ask(w.python, NEED_SPANS, i, 0)
        else:
            first = place * tenancy.room
            for span in range(front, back):
                put_f8(tenancy.starts, first + span - front, get_f8(tenancy.starts, first + span))
                put_f8(tenancy.finishes, first + span - front, get_f8(tenancy.finishes, first + span))
            put_i8(tenancy.fronts, place, 0)
            back -= front
    put_i8(tenancy.backs, place, back + 1)
    span = place * tenancy.room + back
    put_f8(tenancy.starts, span, start)
    put_f8(tenancy.finishes, span, math.inf)
    return span


@kernel
def beside_tenants(w: Any, i: int, instance: int, start: float, seconds: float) -> float:
    """Return how long our task of `seconds` takes that begins at `start`."""
    tenancy = tenancies(bends(w.bends, i).values, 0)
    place = get_i8(tenancy.places, instance)
    if place < 0:
        return seconds
    settle(w, i, start - tenancy.lag)
    play(w, i)
    state = states(tenancy.states, 1)
    while state.now < start:
        step(w, i, 1, start)
    span = begin_span(w, i, place, start)
    work = seconds
    while True:
        now = state.now
        pace = 1.0 / tenancy.slowdown if get_f8(state.left, place) >= 0.0 else 1.0
        finish = now + work / pace
        step(w, i, 1, finish)
        if state.now >= finish:
            break
        work -= (state.now - now) * pace
    put_f8(tenancy.finishes, span, finish)
    return finish - start
