"""Coding with further resorts: copies of what has been out too long, and a backup model where nothing else came.

Nothing of ParM's changes: whatever answer of a coding group is back helps it, be it a first copy's or a later one's,
and be the query itself answered or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sim.clock import Call
from sim.policies.groups import CodedExecution, Group
from sim.policies.hedged import Hedges
from sim.policies.replication import CopySet
from sim.task import BACKUP, ENDED, REPLICA, Batch, Task

if TYPE_CHECKING:
    from sim.frontend import Frontend
    from sim.policies.coded import Coded

LATEST = 0.99
"""The quantile of latencies after which a backup is asked, where no wait is given."""


class Resorts(CopySet):
    """What is done for one batch: its copies, the backup's task, and the timer before that."""

    __slots__ = ("backup", "backup_timer")

    def __init__(self, dispatched: float) -> None:
        super().__init__(dispatched)
        self.backup: Task | None = None
        self.backup_timer: Call | None = None


class ResortingExecution(CodedExecution):
    """A batch's state is (its group, its slot, its resorts)."""

    __slots__ = ("_backups", "_cancel", "_cancel_seconds", "_hedges", "_waiting")

    LATER_COPY: ClassVar[int] = REPLICA

    def __init__(self, frontend: Frontend, options: Coded) -> None:
        super().__init__(frontend, options.k, options.r, options.code)
        self._answer = self._reply
        hedge, last = options.hedge, options.backup
        self._hedges = None if hedge is None else Hedges(frontend.clock, hedge, self._send)
        self._cancel = "queued" if hedge is None else hedge.cancel
        self._cancel_seconds = 0.0 if hedge is None else hedge.cancel_seconds
        self._backups = None if last is None else frontend.others[-1]
        self._waiting = None if last is None else last.waiting(LATEST)
        if self._waiting is not None and self._hedges is not None:
            self._waiting.beside(self._hedges.waiting)

    def dispatched(self, batch: Batch) -> None:
        """Do as `coded` does, and wait for the answer."""
        super().dispatched(batch)
        resorts: Resorts = batch.state[2]
        if self._hedges is not None:
            self._hedges.watch(batch, resorts)
        wait = None if self._waiting is None else self._waiting.now()
        if wait is not None:
            resorts.backup_timer = timer = Call(self._overdue, batch)
            self.frontend.clock.at(self.frontend.clock.now + wait, timer)

    def _first_task(self, batch: Batch, group: Group, slot: int) -> Task:
        resorts = Resorts(self.frontend.clock.now)
        batch.state = (group, slot, resorts)
        return resorts.add(batch)

    def _send(self, batch: Batch) -> None:
        self.frontend.deployed.submit(batch.state[2].add(batch))

    def _overdue(self, call: Call) -> None:
        call.item.state[2].backup_timer = None
        self._ask_backup(call.item, 0)

    def _ask_backup(self, batch: Batch, attempt: int) -> None:
        assert self._backups is not None
        batch.state[2].backup = task = Task(batch, attempt)
        self._backups.submit(task)

    def done(self, task: Task) -> None:
        """Use a first answer of any copy, or of the backup; then do as `coded` does."""
        batch = task.owner
        if isinstance(batch, Group):
            super().done(task)
            return
        group, _, resorts = batch.state
        if task is resorts.backup:
            resorts.backup = None
            if not batch.answered:
                self._reply(batch, BACKUP)
                self._one_less(group)
            return
        resorts.copies.remove(task)
        if resorts.copies and self._cancel != "nothing":
            self._cancel_copies(resorts)
        super().done(task)

    def _reply(self, batch: Batch, route: int, used: int = 0) -> None:
        resorts: Resorts = batch.state[2]
        if self._hedges is not None:
            self._hedges.replied(resorts)
        if self._waiting is not None:
            self._waiting.see(self.frontend.clock.now - resorts.dispatched)
            self._spare_backup(resorts)
        self.frontend.answer(batch, route, used)

    def _cancel_copies(self, resorts: Resorts) -> None:
        resorts.cancel(self.frontend.deployed, running=self._cancel == "all", seconds=self._cancel_seconds)

    def _spare_backup(self, resorts: Resorts) -> None:
        """Ask the backup no more, and remove its task if that waits."""
        if resorts.backup_timer is not None:
            self.frontend.clock.cancel(resorts.backup_timer)
            resorts.backup_timer = None
        elif resorts.backup is not None:
            assert self._backups is not None
            self._backups.cancel(resorts.backup)
            if resorts.backup.state == ENDED:
                resorts.backup = None

    def _settle(self, group: Group) -> None:
        """Cancel the copies too: those that wait in any case, running ones where the hedge says so."""
        for batch in group.batches:
            if batch.state[2].copies:
                self._cancel_copies(batch.state[2])
        super()._settle(group)

    def lost(self, task: Task) -> None:
        """Send lost work again where it is still wanted and no other copy is out."""
        batch = task.owner
        if isinstance(batch, Group):
            super().lost(task)
            return
        group, slot, resorts = batch.state
        if task is resorts.backup:
            resorts.backup = None
            if not batch.answered:
                self._ask_backup(batch, task.attempt + 1)
            return
        resorts.copies.remove(task)
        helps = not group.settled and (group.unanswered or group is self._group) and not group.returned >> slot & 1
        if helps and not resorts.copies:
            resorts.avoid = []  # any instance will do
            self._send(batch)

    def expired(self, batch: Batch) -> None:
        """Do no more for the batch than what may help its group."""
        resorts: Resorts = batch.state[2]
        if self._hedges is not None:
            self._hedges.call_off(resorts)
        self._spare_backup(resorts)
        super().expired(batch)
