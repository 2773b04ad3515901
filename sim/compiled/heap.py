"""The clock's heap, with SimPy's order and `sim.clock.Clock`'s way of cancelling."""

from __future__ import annotations

from typing import Any

from sim.clock import COMPACT_ABOVE
from sim.compiled.layout import ASK_BACKUP, FINISHED, GROUP_OVERDUE, NEED_HEAP, OVERDUE
from sim.compiled.memory import ask, batches, entries, kernel, tasks

MANY = COMPACT_ABOVE


@kernel
def move(heap: int, source: int, target: int) -> None:
    """Copy an entry."""
    old = entries(heap, source)
    new = entries(heap, target)
    new.time = old.time
    new.number = old.number
    new.what = old.what
    new.item = old.item


@kernel
def before(heap: int, one: int, other: int) -> bool:
    """Say whether an entry happens before another."""
    left, right = entries(heap, one), entries(heap, other)
    return left.time < right.time or (left.time == right.time and left.number < right.number)


@kernel
def push(w: Any, time: float, what: int, item: int) -> int:
    """Let `what` happen to `item` at `time`; return the entry's number."""
    if w.size == w.room:
        ask(w.python, NEED_HEAP, 0, 0)
    heap = w.heap
    number = w.ids
    w.ids = number + 1
    place = w.size
    w.size = place + 1
    while place > 0:
        parent = (place - 1) >> 1
        above = entries(heap, parent)
        if above.time <= time:  # numbers grow: who has the same time came before
            break
        move(heap, parent, place)
        place = parent
    entry = entries(heap, place)
    entry.time = time
    entry.number = number
    entry.what = what
    entry.item = item
    return number


@kernel
def sink(heap: int, place: int, size: int) -> None:
    """Let the entry at `place` sink among the first `size` until the heap is in order below it."""
    moved = entries(heap, place)
    time, number, what, item = moved.time, moved.number, moved.what, moved.item
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and before(heap, child + 1, child):
            child += 1
        lower = entries(heap, child)
        if time < lower.time or (time == lower.time and number < lower.number):
            break
        move(heap, child, place)
        place = child
    entry = entries(heap, place)
    entry.time = time
    entry.number = number
    entry.what = what
    entry.item = item


@kernel
def pop(w: Any) -> None:
    """Remove the first entry."""
    size = w.size - 1
    w.size = size
    if size:
        move(w.heap, size, 0)
        sink(w.heap, 0, size)


@kernel
def alive(w: Any, what: int, item: int, number: int) -> bool:
    """Say whether an entry was not cancelled: whoever can be cancelled knows the number of its entry."""
    if what == FINISHED:
        return tasks(w.tasks, item).entry == number
    if what == OVERDUE:
        return batches(w.batches, item).timer == number
    if what == ASK_BACKUP:
        return batches(w.batches, item).backup_timer == number
    if what == GROUP_OVERDUE:
        return w.group_timer == number
    return True


@kernel
def cancelled(w: Any) -> None:
    """Hear that an entry was cancelled, and sweep the cancelled out as `Clock.cancel` does.

    When they go can be seen: time goes on to the last entry that is left, dead or alive, before what waits for further
    queries is sent.
    """
    w.cancelled += 1
    size = w.size
    if w.cancelled > MANY and 2 * w.cancelled > size:
        kept = 0
        for place in range(size):
            entry = entries(w.heap, place)
            if alive(w, entry.what, entry.item, entry.number):
                move(w.heap, place, kept)
                kept += 1
        for place in range(kept // 2 - 1, -1, -1):
            sink(w.heap, place, kept)
        w.size = kept
        w.cancelled = 0
