"""Replication: every query goes to several instances at once, and the first answer is the reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat

from sim.policies.base import Execution, Policy, PoolPlan
from sim.task import ENDED, OWN, REPLICA, Batch, Task
from sim.trace import Role

if TYPE_CHECKING:
    from sim.clock import Call
    from sim.cluster import Cluster
    from sim.frontend import Frontend
    from sim.pool import Pool

Cancel = Literal["nothing", "queued", "all"]
"""Which other copies are cancelled with the first answer: none, queued ones, or running ones too."""


def enlarged_pool(cluster: Cluster, copies: int) -> list[PoolPlan]:
    """Return the one pool of the deployed model, enlarged by the budget; raises ValueError if it is too small."""
    instances = cluster.instances + cluster.extra
    if copies > instances:
        raise ValueError(
            f"{copies} copies need as many instances, but the cluster has {instances} (instances plus extra)"
        )
    return [PoolPlan(Role.DEPLOYED, 0, instances)]


def unused_cancel_seconds(cancel: Cancel, seconds: float) -> list[str]:
    """Return a sentence where `cancel_seconds` has no effect."""
    return ["'cancel_seconds' has no effect without 'cancel: all'"] if seconds and cancel != "all" else []


class Replication(Policy):
    """Send every query to several instances at once; the first answer counts."""

    kind: Literal["replication"] = "replication"
    copies: int = Field(default=2, ge=2, le=1000)
    """Copies of each query (d), each on another instance."""
    cancel: Cancel = "queued"
    """Which other copies are cancelled with the first answer: none, queued ones, or running ones too."""
    cancel_seconds: NonNegativeFloat = 0.0
    """Seconds for which an instance is still occupied after its running copy was cancelled."""

    @property
    def apart(self) -> int:
        """Instances that a query's copies need, each another."""
        return self.copies

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the one pool of the deployed model, enlarged by the budget."""
        return enlarged_pool(cluster, self.copies)

    def without_effect(self, cluster: Cluster) -> list[str]:
        """Return a sentence where nothing that runs is cancelled."""
        return unused_cancel_seconds(self.cancel, self.cancel_seconds)

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        return Replicas(frontend, self)


class CopySet:
    """A batch's copies that have not ended, the instances that any copy had, and the timer of the next copy."""

    __slots__ = ("avoid", "copies", "dispatched", "sent", "timer")

    def __init__(self, dispatched: float) -> None:
        self.copies: list[Task] = []
        self.avoid: list[int] = []
        self.sent = 0
        self.dispatched = dispatched
        self.timer: Call | None = None

    def add(self, batch: Batch) -> Task:
        """Return the batch's next copy, which avoids the instances of the others."""
        task = Task(batch, self.sent)
        task.avoid = self.avoid
        self.sent += 1
        self.copies.append(task)
        return task

    def cancel(self, pool: Pool, *, running: bool, seconds: float) -> None:
        """Cancel queued copies and, if `running`, running ones, which occupies their instances `seconds` more."""
        for other in self.copies:
            pool.cancel(other, running=running, seconds=seconds)
        self.copies = [other for other in self.copies if other.state != ENDED]


class Copies(Execution):
    """Base of policies with copies: the first answer is the reply, and other copies are cancelled.

    A batch's state is its `CopySet`.
    """

    __slots__ = ("_cancel", "_cancel_seconds")

    def __init__(self, frontend: Frontend, cancel: Cancel, cancel_seconds: float = 0.0) -> None:
        super().__init__(frontend)
        self._cancel = cancel
        self._cancel_seconds = cancel_seconds

    def send(self, batch: Batch) -> Task:
        """Submit the batch's next copy."""
        task: Task = batch.state.add(batch)
        self.frontend.deployed.submit(task)
        return task

    def done(self, task: Task) -> None:
        """Reply with the first answer and cancel other copies."""
        batch = task.owner
        batch.state.copies.remove(task)
        if not batch.answered:
            self.frontend.answer(batch, OWN if task.attempt == 0 else REPLICA)
            if self._cancel != "nothing":
                self.cancel_copies(batch, running=self._cancel == "all")

    def cancel_copies(self, batch: Batch, *, running: bool) -> None:
        """Cancel the batch's queued copies and, if `running`, its running ones."""
        batch.state.cancel(self.frontend.deployed, running=running, seconds=self._cancel_seconds)

    def lost(self, task: Task) -> None:
        """Submit a lost copy again if no other is left."""
        batch = task.owner
        batch.state.copies.remove(task)
        if not batch.answered and not batch.state.copies:
            batch.state.avoid = []  # all instances are allowed again
            self.send(batch)

    def expired(self, batch: Batch) -> None:
        """Remove queued copies."""
        self.cancel_copies(batch, running=False)


class Replicas(Copies):
    """All copies are sent at once."""

    __slots__ = ("_copies",)

    def __init__(self, frontend: Frontend, options: Replication) -> None:
        super().__init__(frontend, options.cancel, options.cancel_seconds)
        self._copies = options.copies

    def dispatched(self, batch: Batch) -> None:
        """Submit the copies."""
        copies = CopySet(self.frontend.clock.now)
        batch.state = copies
        for task in [copies.add(batch) for _ in range(self._copies)]:
            self.frontend.deployed.submit(task)
