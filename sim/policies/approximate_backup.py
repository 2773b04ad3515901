"""Approximate backups: every query also goes to a cheaper model, whose answer replaces one that takes too long.

Source: Kosaian, Rashmi, Venkataraman, "Parity Models", SOSP 2019, section 6.2.6. Its artifact counts a backup's answer
no earlier than the median latency of the deployed model, like a timeout at that median.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from sim.clock import Call
from sim.policies.base import Execution, Policy, PoolPlan
from sim.policies.waiting import Wait
from sim.task import BACKUP, ENDED, OWN, Batch, Task
from sim.trace import Role

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend

ARTIFACT_QUANTILE = 0.5


class ApproximateBackup(Wait, Policy):
    """Send every query to a cheaper model as well; after a timeout, its answer replaces a missing one."""

    kind: Literal["approximate_backup"] = "approximate_backup"
    after: NonNegativeFloat | None = None
    """Seconds from a query's dispatch until a backup's answer may be used; 0 uses whichever answer is first."""
    after_quantile: float | None = Field(default=None, gt=0, lt=1)
    """The same timeout as a quantile of the deployed model's latest 1000 latencies, from dispatch to answer, when the
    backup's answer is back; no backup is used before there are 100. The artifact's 0.5 (the median) if neither is
    given."""
    backup_instances: PositiveInt | None = None
    """Instances that serve the backup model; by default as many as `cluster.extra` pays for."""
    cancel: Literal["nothing", "queued", "queued_up_to"] = "queued"
    """Whether a query's other task, if queued, is removed when the query is answered; running tasks always end.
    `queued_up_to`: with a queued backup, all are removed that wait before it, as in the artifact, whether their queries
    are answered or not."""

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the deployed model's pool and the backup model's; raises as `Policy.pools`."""
        backups = self.backup_instances or cluster.buys(Role.BACKUP)
        if not backups:
            raise ValueError("the backup model needs an instance (see backup_instances and cluster.extra)")
        return [PoolPlan(Role.DEPLOYED, 0, cluster.instances), PoolPlan(Role.BACKUP, 0, backups)]

    def without_effect(self, cluster: Cluster) -> list[str]:
        """Return a sentence where no backup's answer is ever used."""
        if self.after is None or cluster.deadline is None or self.after < cluster.deadline:
            return []
        return [f"no backup's answer is used, since 'after' ({self.after:g} s) is not below the deadline"]

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        return Backups(frontend, self)


class Pending:
    """A batch's state: its two tasks, each None once it ended."""

    __slots__ = ("backup", "dispatched", "own")

    def __init__(self, own: Task, backup: Task, dispatched: float) -> None:
        self.own: Task | None = own
        self.backup: Task | None = backup
        self.dispatched = dispatched


class Backups(Execution):
    """The reply is the deployed model's answer, or the backup's if that is back and the timeout is over before."""

    __slots__ = ("_backups", "_cancels", "_clock", "_deployed", "_up_to", "_waiting")

    def __init__(self, frontend: Frontend, options: ApproximateBackup) -> None:
        super().__init__(frontend)
        self._clock = frontend.clock
        self._deployed = frontend.deployed
        (self._backups,) = frontend.others
        self._cancels = options.cancel != "nothing"
        self._up_to = options.cancel == "queued_up_to"
        self._waiting = options.waiting(ARTIFACT_QUANTILE)
        """The timeout. A cancelled task of the deployed model counts with the time until then: that is beyond the
        timeout, so the quantile is not biased."""

    def dispatched(self, batch: Batch) -> None:
        """Submit the batch to both models."""
        own, backup = Task(batch), Task(batch)
        batch.state = Pending(own, backup, self._clock.now)
        self._deployed.submit(own)
        self._backups.submit(backup)

    def done(self, task: Task) -> None:
        """Reply with the deployed model's answer, or with the backup's once the timeout is over."""
        batch = task.owner
        pending = batch.state
        if task is pending.backup:
            pending.backup = None
            if not batch.answered:
                self._offer(batch)
        else:
            pending.own = None
            self._awaited(pending)
            if not batch.answered:
                self.frontend.answer(batch, OWN)
                if self._cancels:
                    self._cancel_backup(pending)

    def _offer(self, batch: Batch) -> None:
        wait = self._waiting.now()
        if wait is None:
            return
        due = batch.state.dispatched + wait
        if due <= self._clock.now:
            self._use(batch)
        else:
            self._clock.at(due, Call(self._due, batch))

    def _due(self, call: Call) -> None:
        if not call.item.answered:
            self._use(call.item)

    def _use(self, batch: Batch) -> None:
        self.frontend.answer(batch, BACKUP)
        if self._cancels:
            self._cancel_own(batch.state)

    def _awaited(self, pending: Pending) -> None:
        self._waiting.see(self._clock.now - pending.dispatched)

    def _cancel_own(self, pending: Pending) -> None:
        own = pending.own
        if own is not None:
            self._deployed.cancel(own)
            if own.state == ENDED:
                pending.own = None
                self._awaited(pending)

    def _cancel_backup(self, pending: Pending) -> None:
        backup = pending.backup
        if backup is not None and self._up_to:
            for removed in self._backups.cancel_up_to(backup):
                removed.owner.state.backup = None
        elif backup is not None:
            self._backups.cancel(backup)
            if backup.state == ENDED:
                pending.backup = None

    def lost(self, task: Task) -> None:
        """Submit a lost task again if the query has no reply yet."""
        batch = task.owner
        pending = batch.state
        retry = None if batch.answered else Task(batch, task.attempt + 1)
        if task is pending.backup:
            pending.backup = retry
            if retry is not None:
                self._backups.submit(retry)
        else:
            pending.own = retry
            if retry is not None:
                self._deployed.submit(retry)

    def expired(self, batch: Batch) -> None:
        """Remove the batch's queued tasks."""
        self._cancel_own(batch.state)
        self._cancel_backup(batch.state)
