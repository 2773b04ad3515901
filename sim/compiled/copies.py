"""The policies without coding: one task, several copies, and a backup model beside."""

from __future__ import annotations

from typing import Any

from sim.compiled.answers import answer, is_answered
from sim.compiled.heap import push
from sim.compiled.layout import (
    BACKUP,
    BACKUP_DUE,
    BACKUPS,
    CANCELS,
    HEDGED,
    ONE,
    OWN,
    QUEUED,
    REPLICA,
    REPLICAS,
    RUNNING,
)
from sim.compiled.memory import batches, kernel, queues, tasks
from sim.compiled.tasks import cancel_copies, make, queue_of, remove, remove_copies, submit
from sim.compiled.waiting import backup_wait, call_off, may_hedge, replied, see, wait, watch

UP_TO = CANCELS.index("queued_up_to")


@kernel
def add_copy(w: Any, b: int) -> int:
    """Make the batch's next copy; it will not meet another one on an instance."""
    batch = batches(w.batches, b)
    t = make(w, 0, b, -1, batch.sent)
    batch.sent += 1
    if batch.head < 0:
        batch.head = t
    else:
        tasks(w.tasks, batch.tail).copy = t
    batch.tail = t
    return t


@kernel
def own_task(w: Any, b: int, attempt: int) -> None:
    """Submit the batch to the deployed model's instances."""
    t = make(w, 0, b, -1, attempt)
    batches(w.batches, b).task = t
    submit(w, t)


@kernel
def ask_backup(w: Any, b: int, attempt: int) -> None:
    """Submit the batch to the backup model's instances."""
    t = make(w, w.backup_pool, b, -1, attempt)
    batches(w.batches, b).backup = t
    submit(w, t)


@kernel
def copies_dispatched(w: Any, b: int) -> None:
    """Submit what answers a batch."""
    policy = w.policy
    if policy == ONE:
        own_task(w, b, 0)
    elif policy == BACKUPS:
        own_task(w, b, 0)
        ask_backup(w, b, 0)
    elif policy == HEDGED:
        submit(w, add_copy(w, b))
        watch(w, b)
    elif policy == REPLICAS:
        for _ in range(w.copies):
            add_copy(w, b)
        t = batches(w.batches, b).head
        while t >= 0:
            following = tasks(w.tasks, t).copy
            submit(w, t)
            t = following
    else:  # tied: with no message delay none is sent after one that starts at once
        for _ in range(w.copies):
            t = add_copy(w, b)
            submit(w, t)
            if tasks(w.tasks, t).state == RUNNING and w.message_delay == 0.0:
                break


@kernel
def copies_done(w: Any, p: int, b: int, attempt: int) -> None:
    """Hear that the frontend has a task's answer."""
    policy = w.policy
    if policy == BACKUPS:
        backups_done(w, p, b)
    elif not is_answered(w, b):
        if policy == HEDGED:
            replied(w, b)
        answer(w, b, OWN if attempt == 0 or policy == ONE else REPLICA, 0)
        if w.cancel:
            cancel_copies(w, b, w.cancel == 2)


@kernel
def copies_lost(w: Any, p: int, b: int, attempt: int) -> None:
    """Hear that a task was lost in a crash, and send it again if it is still wanted."""
    if is_answered(w, b):
        return
    if p == w.backup_pool:
        ask_backup(w, b, attempt + 1)
    elif not w.copying:
        own_task(w, b, attempt + 1)
    else:
        batch = batches(w.batches, b)
        if batch.head < 0 and batch.ghost == 0:
            batch.avoided = 0  # any instance will do
            submit(w, add_copy(w, b))


@kernel
def copies_expired(w: Any, b: int) -> None:
    """Hear that every query of the batch has a reply by default or otherwise, and remove what waits."""
    policy = w.policy
    if policy == BACKUPS:
        cancel_own(w, b)
        cancel_backup(w, b)
    elif policy == ONE:
        own = batches(w.batches, b).task
        if own >= 0 and tasks(w.tasks, own).state == QUEUED:
            remove(w, own)
    else:
        if policy == HEDGED:
            call_off(w, b)
        remove_copies(w, b)


@kernel
def overdue(w: Any, b: int) -> None:
    """Send a further copy of a batch that has been out too long."""
    if may_hedge(w):
        submit(w, add_copy(w, b))
        if batches(w.batches, b).sent < w.copies:
            wait(w, b)


@kernel
def told(w: Any, b: int) -> None:
    """Let the twins hear that a copy has started, if it was not lost meanwhile."""
    running = is_answered(w, b)
    t = batches(w.batches, b).head
    while t >= 0 and not running:
        running = tasks(w.tasks, t).state == RUNNING
        t = tasks(w.tasks, t).copy
    if running:
        remove_copies(w, b)


@kernel
def backups_done(w: Any, p: int, b: int) -> None:
    """Reply with the deployed model's answer, or use a backup's as soon as the timeout allows it."""
    if p == w.backup_pool:
        if not is_answered(w, b):
            seconds = backup_wait(w)
            if seconds >= 0.0:
                due = batches(w.batches, b).dispatched + seconds
                if due <= w.now:
                    use_backup(w, b)
                else:
                    batches(w.batches, b).holds += 1
                    push(w, due, BACKUP_DUE, b)
    else:
        awaited(w, b)
        if not is_answered(w, b):
            answer(w, b, OWN, 0)
            if w.cancel:
                cancel_backup(w, b)


@kernel
def use_backup(w: Any, b: int) -> None:
    """Reply with the backup's answer."""
    answer(w, b, BACKUP, 0)
    if w.cancel:
        cancel_own(w, b)


@kernel
def awaited(w: Any, b: int) -> None:
    """Take in for how long the deployed model's answer was awaited."""
    if w.sees:
        see(w, w.now - batches(w.batches, b).dispatched)


@kernel
def cancel_own(w: Any, b: int) -> None:
    """Remove the deployed model's task if it waits."""
    batch = batches(w.batches, b)
    own = batch.task
    if own >= 0 and tasks(w.tasks, own).state == QUEUED:
        remove(w, own)
        awaited(w, b)
    elif batch.ghost:
        batch.ghost = 0
        awaited(w, b)


@kernel
def cancel_backup(w: Any, b: int) -> None:
    """Remove the backup model's task if it waits."""
    backup = batches(w.batches, b).backup
    if backup >= 0 and tasks(w.tasks, backup).state == QUEUED:
        if w.cancel == UP_TO:
            q = queue_of(w, tasks(w.tasks, backup).pool, tasks(w.tasks, backup).instance)
            while queues(w.queues, q).front != backup:
                remove(w, queues(w.queues, q).front)
        remove(w, backup)
