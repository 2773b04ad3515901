"""Coding groups, with copies and backups beside: `sim.policies.groups`, `fallbacks` and `coded_nonsystematic`."""

from __future__ import annotations

from typing import Any

from sim.compiled.answers import answer, is_answered
from sim.compiled.conditions import draw
from sim.compiled.copies import add_copy, ask_backup, own_task
from sim.compiled.heap import cancelled, push
from sim.compiled.layout import (
    ASK_BACKUP,
    BACKUP,
    COLLECTED,
    DECODED,
    ENCODED,
    GROUP_OVERDUE,
    NEED_SUFFICIENT,
    OWN,
    QUEUED,
    RECONSTRUCTION,
    REPLICA,
)
from sim.compiled.memory import ask, batches, get_i8, groups, kernel, pools, put_i4, put_i8, tasks
from sim.compiled.tasks import cancel_copies, let_go, let_go_group, make, remove, submit
from sim.compiled.waiting import backup_wait, call_off, replied, watch


@kernel
def new_group(w: Any, number: int) -> int:
    """Return the row of a group without batches. It is held as the one that is being filled."""
    g = w.free_group
    group = groups(w.groups, g)
    w.free_group = group.number
    w.spare_groups -= 1
    group.number = number
    group.holds = 1
    group.size = group.members = group.listed = group.unanswered = group.returned = group.used = group.settled = 0
    for row in range(w.r):
        put_i8(w.parities, g * w.r + row, -1)
    return g


@kernel
def settle(w: Any, g: int) -> None:
    """Remove queued work that can no longer help."""
    group = groups(w.groups, g)
    group.settled = 1
    count = group.members
    first = w.members + 8 * g * w.k
    if w.copying:
        for slot in range(count):
            cancel_copies(w, get_i8(first, slot), w.cancel == 2)
    elif w.policy != COLLECTED:
        for slot in range(count):
            own = batches(w.batches, get_i8(first, slot)).task
            if own >= 0 and tasks(w.tasks, own).state == QUEUED:
                remove(w, own)
    for row in range(w.r):
        t = get_i8(w.parities, g * w.r + row)
        if t >= 0 and tasks(w.tasks, t).state == QUEUED:
            remove(w, t)
    group.members = group.listed = 0
    for slot in range(count):
        let_go(w, get_i8(first, slot))


@kernel
def parity(w: Any, g: int, row: int, attempt: int) -> None:
    """Submit one parity query."""
    t = make(w, 1 + row, -1, g, attempt)
    put_i8(w.parities, g * w.r + row, t)
    submit(w, t)


@kernel
def submit_parities(w: Any, g: int) -> None:
    """Submit the group's parity queries, unless every query has its reply."""
    if groups(w.groups, g).unanswered == 0:
        settle(w, g)
        return
    for row in range(w.r):
        parity(w, g, row, 0)


@kernel
def complete(w: Any) -> None:
    """Encode the group that is being filled, and begin another one."""
    g = w.group
    w.groups_made += 1
    w.group = new_group(w, w.groups_made)
    if w.encode < 0:
        submit_parities(w, g)
    else:
        groups(w.groups, g).holds += 1
        push(w, w.now + draw(w, w.encode, groups(w.groups, g).number), ENCODED, g)
    let_go_group(w, g)


@kernel
def close(w: Any) -> None:
    """Encode the group that is being filled; if it is not full, its last batch is repeated."""
    if w.group_timer >= 0:
        w.group_timer = -1
        cancelled(w)
    group = groups(w.groups, w.group)
    put_i4(w.group_sizes, w.coded_groups, group.members)
    w.coded_groups += 1
    group.listed = w.k
    complete(w)


@kernel
def coded_dispatched(w: Any, b: int) -> None:
    """Let the batch join the group that is being filled; encode when it is full."""
    g = w.group
    group = groups(w.groups, g)
    batch = batches(w.batches, b)
    batch.group = g
    batch.slot = group.members
    group.holds += 1
    put_i8(w.members, g * w.k + group.members, b)
    group.members += 1
    group.listed += 1
    group.unanswered += 1
    group.size = max(group.size, batch.size)
    if w.policy == COLLECTED:
        if group.members == w.k:
            close(w)
        elif w.group_max_wait >= 0.0 and w.group_timer < 0:
            w.group_timer = push(w, w.now + w.group_max_wait, GROUP_OVERDUE, 0)
        return
    if w.copying:
        submit(w, add_copy(w, b))
    else:
        own_task(w, b, 0)
    if group.members == w.k:
        complete(w)
    if w.hedging:
        watch(w, b)
    if w.backing:
        seconds = backup_wait(w)
        if seconds >= 0.0:
            batch.holds += 1
            batch.backup_timer = push(w, w.now + seconds, ASK_BACKUP, b)


@kernel
def spare_backup(w: Any, b: int) -> None:
    """Ask the backup no more, and remove its task if that waits."""
    batch = batches(w.batches, b)
    if batch.backup_timer >= 0:
        batch.backup_timer = -1
        cancelled(w)
        let_go(w, b)
    elif batch.backup >= 0 and tasks(w.tasks, batch.backup).state == QUEUED:
        remove(w, batch.backup)


@kernel
def reply(w: Any, b: int, route: int, used: int) -> None:
    """Reply, and do no more for the batch than what may help its group."""
    if w.hedging or w.backing:
        replied(w, b)
        spare_backup(w, b)
    answer(w, b, route, used)


@kernel
def enough(w: Any, returned: int) -> bool:
    """Say whether the answers that are back determine all predictions."""
    if not w.any_k:
        return ask(w.python, NEED_SUFFICIENT, returned, 0) != 0
    count = 0
    while returned:
        returned &= returned - 1
        count += 1
    return count >= w.k


@kernel
def reconstruct(w: Any, g: int) -> None:
    """Reply with what was decoded to whoever has no reply."""
    group = groups(w.groups, g)
    for slot in range(group.members):
        b = get_i8(w.members, g * w.k + slot)
        if not is_answered(w, b):
            reply(w, b, RECONSTRUCTION, group.used)
    group.unanswered = 0
    settle(w, g)


@kernel
def one_less(w: Any, g: int) -> None:
    """Hear that a batch of the group has a reply that no answer of the group gave."""
    group = groups(w.groups, g)
    group.unanswered -= 1
    if group.unanswered == 0 and group.listed == w.k and not group.settled:
        settle(w, g)


@kernel
def coded_done(w: Any, p: int, b: int, g: int, attempt: int) -> None:
    """Reply with a batch's own prediction, or with all that the answers that are back determine."""
    group = groups(w.groups, g)
    if b >= 0 and w.copying:
        if p == w.backup_pool:
            if not is_answered(w, b):
                reply(w, b, BACKUP, 0)
                one_less(w, g)
            return
        if w.cancel:
            cancel_copies(w, b, w.cancel == 2)
    if group.settled:
        return
    if b < 0:
        group.returned |= 1 << (w.k + pools(w.pools, p).row)
    else:
        group.returned |= 1 << batches(w.batches, b).slot
        if not is_answered(w, b):
            reply(w, b, OWN if attempt == 0 or not w.copying else REPLICA, 0)
            group.unanswered -= 1
    if group.unanswered == 0:
        if group.listed == w.k:
            settle(w, g)
    elif group.returned >= 1 << w.k and group.used == 0 and enough(w, group.returned):
        group.used = group.returned
        if w.decode < 0:
            reconstruct(w, g)
        else:
            group.holds += 1
            push(w, w.now + draw(w, w.decode, group.number), DECODED, g)


@kernel
def coded_lost(w: Any, p: int, b: int, g: int, attempt: int) -> None:
    """Send lost work again while some query of its group lacks a reply: any answer of the group may help."""
    group = groups(w.groups, g)
    if b >= 0 and p == w.backup_pool:
        if not is_answered(w, b):
            ask_backup(w, b, attempt + 1)
        return
    if group.settled or not (group.unanswered > 0 or g == w.group):
        return
    if b < 0:
        parity(w, g, pools(w.pools, p).row, attempt + 1)
    elif not w.copying:
        own_task(w, b, attempt + 1)
    else:
        batch = batches(w.batches, b)
        if not group.returned >> batch.slot & 1 and batch.head < 0 and batch.ghost == 0:
            batch.avoided = 0  # any instance will do
            submit(w, add_copy(w, b))


@kernel
def coded_expired(w: Any, b: int) -> None:
    """Let go of a group whose last query had a default answer; else the batch's own may still help others."""
    if w.copying:
        call_off(w, b)
        spare_backup(w, b)
    one_less(w, batches(w.batches, b).group)
