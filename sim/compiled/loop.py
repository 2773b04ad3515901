"""Arrivals, batches, deadlines and the event loop: `sim.frontend` and `sim.simulation` as one compiled function."""

from __future__ import annotations

import math
from typing import Any

from sim.compiled.answers import client, defaulted, is_answered
from sim.compiled.coding import (
    close,
    coded_dispatched,
    coded_done,
    coded_expired,
    coded_lost,
    new_group,
    reconstruct,
    submit_parities,
)
from sim.compiled.copies import (
    ask_backup,
    copies_dispatched,
    copies_done,
    copies_expired,
    copies_lost,
    overdue,
    told,
    use_backup,
)
from sim.compiled.heap import alive, pop, push
from sim.compiled.layout import (
    ARRIVAL,
    ASK_BACKUP,
    BACKUP_DUE,
    BATCH_OVERDUE,
    CANCELLED,
    CODED,
    COLLECTED,
    DEADLINE,
    DECODED,
    DETECTED,
    DONE,
    EJECTED,
    ENCODED,
    ENDED,
    FINISHED,
    GROUP_OVERDUE,
    HAS_WAITED,
    IS_DETECTED,
    IS_REPAIRED,
    LOST,
    NEED_ROWS,
    OVERDUE,
    REPAIRED,
    RUNNING,
    STOPPED,
    TOLD,
    WAITED,
)
from sim.compiled.learning import heard
from sim.compiled.memory import (
    ask,
    batches,
    entries,
    get_f8,
    get_i4,
    get_i8,
    get_u1,
    groups,
    kernel,
    limits,
    pools,
    put_f8,
    put_i4,
    put_i8,
    put_u1,
    tasks,
)
from sim.compiled.tasks import end, free, left, let_go, let_go_group, part, released


@kernel
def dispatch(w: Any, first: int, size: int) -> int:
    """Hand the policy a batch of queries; return its row, which holds until it is answered or its group settled."""
    b = w.free_batch
    batch = batches(w.batches, b)
    w.free_batch = batch.head
    w.spare_batches -= 1
    batch.number = w.batch_count
    w.batch_count += 1
    batch.first, batch.size, batch.dispatched = first, size, w.now
    batch.holds = 1
    batch.group = batch.task = batch.head = batch.tail = batch.timer = batch.backup = batch.backup_timer = -1
    batch.slot = batch.ghost = batch.sent = batch.avoided = 0
    if w.policy >= CODED:
        coded_dispatched(w, b)
    else:
        copies_dispatched(w, b)
    return b


@kernel
def arrive(w: Any, query: int) -> None:
    """Take a query, now; it arrived `network.overhead` ago."""
    if w.alone:
        dispatch(w, query, 1)
        return
    if w.has_deadline:
        expect(w, query)
    w.waiting += 1
    if w.waiting >= w.filled_to:
        flush(w)
    elif w.waiting == 1 and w.max_wait >= 0.0:
        push(w, w.now + w.max_wait, BATCH_OVERDUE, query)


@kernel
def flush(w: Any) -> None:
    """Dispatch the batch that is filling."""
    size = w.waiting
    first, number = w.first, w.batch_count
    put_i4(w.sizes, number, size)
    put_i8(w.firsts, number, first)
    put_f8(w.dispatched, number, w.now)
    w.first = first + size
    w.waiting = 0
    b = dispatch(w, first, size)
    if w.has_deadline:
        put_i8(w.batch_row, number, b)
        if defaulted(w, first + size - 1):  # it fell due while the batch was filling
            give_up(w, number)


@kernel
def expect(w: Any, query: int) -> None:
    """Note a query's deadline. Deadlines fall due in order of arrival, so one pending entry stands for all."""
    w.count = query + 1
    if not w.awaiting:
        w.awaiting = 1
        w.due = query
        push(w, get_f8(w.came, query) + w.deadline, DEADLINE, 0)


@kernel
def expire(w: Any) -> None:
    """Give the query that is due its default answer, and wait for the next one that has no reply."""
    query, live = w.due, w.live
    if not (live < w.batch_count and get_u1(w.answered, live) != 0):
        put_f8(w.defaults, query, w.now)
        if w.closed:
            client(w)
        if live < w.batch_count and query == get_i8(w.firsts, live) + get_i4(w.sizes, live) - 1:
            give_up(w, live)
        query += 1
    while live < w.batch_count:
        following = get_i8(w.firsts, live) + get_i4(w.sizes, live)
        if get_u1(w.answered, live) == 0 and following > query:
            break
        query = max(query, following)
        live += 1
    w.due, w.live = query, live
    w.awaiting = 1 if query < w.count else 0
    if w.awaiting:
        push(w, get_f8(w.came, query) + w.deadline, DEADLINE, 0)


@kernel
def give_up(w: Any, number: int) -> None:
    """Hear that every query of a batch has a reply by default."""
    b = get_i8(w.batch_row, number)
    put_u1(w.answered, number, 1)
    if w.policy >= CODED:
        coded_expired(w, b)
    else:
        copies_expired(w, b)
        let_go(w, b)


@kernel
def group_of(w: Any, t: int) -> int:
    """Return the row of the coding group to which a task's batch belongs, or the task itself."""
    task = tasks(w.tasks, t)
    return task.group if task.batch < 0 else batches(w.batches, task.batch).group


@kernel
def finished(w: Any, t: int) -> None:
    """Hear that the frontend has the answer to a task, or to a bundle of them, or that it notices their loss."""
    task = tasks(w.tasks, t)
    instance, together = task.instance, task.together
    if task.loss:
        lost(w, t)
        return
    if w.adapts:
        adapt(w, pools(w.pools, task.pool).limit, task.size * together, w.now - task.start)
    if together > 1:
        part(w, t)
    for i in range(together):
        following = tasks(w.tasks, t).after
        if i:
            left(w, t)
        done(w, t, together)
        t = following
    released(w, instance)


@kernel
def done(w: Any, t: int, together: int) -> None:
    """Record a task that was served `together` with others, and tell the policy, unless it was cancelled meanwhile."""
    task = tasks(w.tasks, t)
    if task.state == ENDED:
        end(w, t, CANCELLED, math.nan, together)
    else:
        instance = task.instance
        end(w, t, DONE, w.now, together)
        moves = w.learns != 0 and heard(w, t, False)
        if w.policy >= CODED:
            coded_done(w, task.pool, task.batch, group_of(w, t), task.attempt)
        else:
            copies_done(w, task.pool, task.batch, task.attempt)
        if moves:
            ask(w.at_instances, w.self, instance, EJECTED)
    free(w, t)


@kernel
def lost(w: Any, t: int) -> None:
    """Record the loss of a task or a bundle, and tell the policy of those that may be sent again."""
    first = tasks(w.tasks, t)
    instance, loss, together = first.instance, first.loss, first.together
    one = t
    for i in range(together):
        task = tasks(w.tasks, one)
        task.loss = loss if task.state == RUNNING else 0
        task.start, task.finish = first.start, first.finish
        b, counts = task.batch, loss == 2 and task.state == RUNNING and task.pool != w.backup_pool
        end(w, one, LOST if task.loss else CANCELLED, math.nan, together)
        if i:
            left(w, one)
        if counts and b >= 0:
            batches(w.batches, b).ghost += 1
        one = task.after
    released(w, instance)
    for _ in range(together):
        task = tasks(w.tasks, t)
        following = task.after
        moves = task.loss != 0 and w.learns != 0 and heard(w, t, True)
        if task.loss == 1 and w.policy >= CODED:
            coded_lost(w, task.pool, task.batch, group_of(w, t), task.attempt)
        elif task.loss == 1:
            copies_lost(w, task.pool, task.batch, task.attempt)
        if moves:
            ask(w.at_instances, w.self, instance, EJECTED)
        free(w, t)
        t = following


@kernel
def adapt(w: Any, row: int, size: int, seconds: float) -> None:
    """Adapt a batch size as `sim.batching.AdaptiveSize` does, of a model that has one."""
    if row < 0:
        return
    limit = limits(w.limits, row)
    if seconds > w.objective:
        limit.exact = max(1.0, limit.exact * w.backoff)
    elif size >= limit.now:
        limit.exact = min(float(w.max_size), limit.exact + w.increase)
    limit.now = int(limit.exact)
    if not w.gathers:
        w.filled_to = limit.now


@kernel
def happen(w: Any, what: int, item: int, number: int) -> None:
    """Let a numbered entry of the heap happen."""
    if what == FINISHED:
        finished(w, item)
    elif what == STOPPED:
        released(w, item)
    elif what == REPAIRED:
        ask(w.at_instances, w.self, item, IS_REPAIRED)
    elif what == DETECTED:
        ask(w.at_instances, w.self, item, IS_DETECTED)
    elif what == WAITED:
        if tasks(w.tasks, item).waiter == number:  # else its row is another's by now
            ask(w.at_instances, w.self, item, HAS_WAITED)
    elif what == DEADLINE:
        expire(w)
    elif what == ARRIVAL:
        put_f8(w.came, w.sees_arrivals, w.now)
        put_f8(w.arrivals, w.sees_arrivals, get_f8(w.thought, item))
        w.sees_arrivals += 1
        arrive(w, w.sees_arrivals - 1)
    elif what == BATCH_OVERDUE:
        if w.waiting and w.first == item:
            flush(w)
    elif what == GROUP_OVERDUE:
        w.group_timer = -1
        close(w)
    elif what in (ENCODED, DECODED):
        if what == ENCODED:
            submit_parities(w, item)
        elif not groups(w.groups, item).settled:
            reconstruct(w, item)
        let_go_group(w, item)
    else:
        if what == OVERDUE:
            batches(w.batches, item).timer = -1
            overdue(w, item)
        elif what == ASK_BACKUP:
            batches(w.batches, item).backup_timer = -1
            ask_backup(w, item, 0)
        elif what == TOLD:
            told(w, item)
        elif what == BACKUP_DUE and not is_answered(w, item):
            use_backup(w, item)
        let_go(w, item)


@kernel
def room(w: Any) -> bool:
    """Have rows for what one event may make: at most one batch with its tasks, and one group. False: stop here."""
    if w.spare_tasks < w.most_tasks or w.spare_batches < 2 or w.spare_groups < 2:
        ask(w.python, NEED_ROWS, 0, 0)
    return w.halted == 0


@kernel
def advance(w: Any, until: float) -> None:
    """Let everything up to and including `until` happen, and leave the clock there."""
    while w.size > 0 and not w.halted:
        first = entries(w.heap, 0)
        if first.time > until:
            break
        w.now = first.time
        what, item, number = first.what, first.item, first.number
        pop(w)
        if alive(w, what, item, number) and room(w):
            happen(w, what, item, number)
    w.now = until


@kernel
def drain(w: Any) -> None:
    """Let everything that is still to come happen; the clock stops at the last of it."""
    while w.size > 0 and not w.halted:
        advance(w, entries(w.heap, 0).time)


def simulate(world: Any) -> None:
    """Simulate; `world` is an array with one `WORLD`. Ends early where Python halted it."""
    w = world[0]
    if w.policy >= CODED:
        w.group = new_group(w, 0)
    if w.closed:
        for _ in range(w.closed):
            client(w)
    else:
        for query in range(w.queries):
            advance(w, get_f8(w.came, query))
            if not room(w):
                return
            arrive(w, query)
    while not w.halted:
        drain(w)
        if w.policy != COLLECTED or groups(w.groups, w.group).members == 0:
            break
        if room(w):
            close(w)
