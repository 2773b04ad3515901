"""Waits that follow a running quantile, and the timers of hedges: `sim.policies.waiting` and `hedged`."""

from __future__ import annotations

import math
from typing import Any

from sim.compiled.conditions import draw
from sim.compiled.heap import cancelled, push
from sim.compiled.layout import OVERDUE
from sim.compiled.memory import batches, get_f8, kernel, put_f8
from sim.compiled.tasks import let_go


@kernel
def place_of(ordered: int, count: int, value: float) -> int:
    """Return how many of the values are less than `value`."""
    low = 0
    while count > 0:
        half = count >> 1
        if get_f8(ordered, low + half) < value:
            low += half + 1
            count -= half + 1
        else:
            count = half
    return low


@kernel
def see(w: Any, seconds: float) -> None:
    """Take a latency in, in place of the oldest where the window is full: all between the two places move by one."""
    count = w.seen
    ordered = w.ordered
    gone = count
    if count == w.window:
        gone = place_of(ordered, count, get_f8(w.latest, w.oldest))
    else:
        w.seen = count + 1
    into = place_of(ordered, count, seconds)
    if into > gone:
        into -= 1
        for i in range(gone, into):
            put_f8(ordered, i, get_f8(ordered, i + 1))
    else:
        for i in range(gone, into, -1):
            put_f8(ordered, i, get_f8(ordered, i - 1))
    put_f8(ordered, into, seconds)
    put_f8(w.latest, w.oldest, seconds)
    w.oldest = w.oldest + 1 if w.oldest + 1 < w.window else 0


@kernel
def quantile(w: Any, share: float) -> float:
    """Return the quantile of what was seen, or -1 where that is too little."""
    if w.seen < w.least:
        return -1.0
    return get_f8(w.ordered, math.ceil(share * w.seen) - 1)


@kernel
def hedge_wait(w: Any) -> float:
    """Return the seconds after which a further copy is sent, or -1 for never."""
    return w.after if w.after >= 0.0 else quantile(w, w.hedge_share)


@kernel
def backup_wait(w: Any) -> float:
    """Return the seconds after which a backup counts or is asked, or -1 for never."""
    return w.backup_after if w.backup_after >= 0.0 else quantile(w, w.backup_share)


@kernel
def watch(w: Any, b: int) -> None:
    """Wait for the answer to a batch, whose first copy has been sent."""
    w.watched += 1
    if w.probability == 1.0 or draw(w, w.chances, batches(w.batches, b).first) < w.probability:
        wait(w, b)


@kernel
def wait(w: Any, b: int) -> None:
    """Set the timer of the batch's next copy."""
    seconds = hedge_wait(w)
    if seconds >= 0.0:
        batch = batches(w.batches, b)
        batch.holds += 1
        batch.timer = push(w, w.now + seconds, OVERDUE, b)


@kernel
def may_hedge(w: Any) -> bool:
    """Say whether the budget allows a further copy, and count it if so."""
    if w.hedges < w.budget * w.watched:
        w.hedges += 1
        return True
    return False


@kernel
def call_off(w: Any, b: int) -> None:
    """Wait no longer for a batch's next copy."""
    batch = batches(w.batches, b)
    if batch.timer >= 0:
        batch.timer = -1
        cancelled(w)
        let_go(w, b)


@kernel
def replied(w: Any, b: int) -> None:
    """Hear that the batch has a reply that is a prediction."""
    if w.sees == 1:
        see(w, w.now - batches(w.batches, b).dispatched)
    call_off(w, b)
