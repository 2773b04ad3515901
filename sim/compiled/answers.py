"""Replies, and the clients who wait for them: the half of `sim.frontend` that policies call."""

from __future__ import annotations

from typing import Any

from sim.compiled.heap import push
from sim.compiled.layout import ARRIVAL, CODED
from sim.compiled.memory import batches, get_f8, get_u1, kernel, put_f8, put_i8, put_u1
from sim.compiled.tasks import let_go


@kernel
def is_answered(w: Any, b: int) -> bool:
    """Say whether every query of the batch has its reply."""
    return get_u1(w.answered, batches(w.batches, b).number) != 0


@kernel
def answer(w: Any, b: int, route: int, used: int) -> None:
    """Reply, now, to every query of the batch without a reply. The caller holds the batch."""
    batch = batches(w.batches, b)
    number = batch.number
    put_u1(w.answered, number, 1)
    put_f8(w.reply, number, w.now)
    if route:  # memory that is never written takes none
        put_u1(w.route, number, route)
    if used:
        put_i8(w.used, number, used)
    if w.closed:
        for query in range(batch.first, batch.first + batch.size):
            if not defaulted(w, query):
                client(w)
    if w.policy < CODED:  # a coding group holds its batches until it is settled
        let_go(w, b)


@kernel
def defaulted(w: Any, query: int) -> bool:
    """Say whether the query had a default answer."""
    return w.has_deadline != 0 and get_f8(w.defaults, query) >= 0.0


@kernel
def client(w: Any) -> None:
    """Let the client who got a reply think about the next query, if there is one left to send."""
    if w.sent < w.queries:
        arrival = w.now + get_f8(w.think, w.sent)
        put_f8(w.thought, w.sent, arrival)
        push(w, arrival + w.overhead, ARRIVAL, w.sent)
        w.sent += 1
