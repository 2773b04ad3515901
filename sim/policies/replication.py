"""Replication: every query goes to several instances at once, and the first answer is the reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sim.policies.base import Execution, Policy, PoolPlan
from sim.trace import Role, Route
from sim.work import ENDED, Batch, Task

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend


class Replication(Policy):
    """Send every query to several instances at once; the first answer counts."""

    kind: Literal["replication"] = "replication"
    copies: int = Field(default=2, ge=2, le=1000)
    """Copies of each query (d), each on an instance of its own."""
    cancel: Literal["nothing", "queued", "all"] = "queued"
    """Which other copies are cancelled when the first answer is back: none, those that wait, or running ones too."""

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the one pool of the deployed model, which the budget enlarges."""
        instances = cluster.instances + cluster.extra
        if self.copies > instances:
            raise ValueError(
                f"{self.copies} copies need as many instances, but the cluster has {instances} (instances plus extra)"
            )
        return [PoolPlan(Role.DEPLOYED, 0, instances)]

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        return Copies(frontend, self)


class Copies(Execution):
    """A batch's state is the list of its copies that have not ended."""

    __slots__ = ("_cancel", "_copies")

    def __init__(self, frontend: Frontend, options: Replication) -> None:
        super().__init__(frontend)
        self._copies = options.copies
        self._cancel = options.cancel

    def dispatched(self, batch: Batch) -> None:
        """Submit the copies; they share the list of instances to avoid, so no two meet on one."""
        avoid: list[int] = []
        batch.state = copies = []
        for attempt in range(self._copies):
            task = Task(batch, attempt)
            task.avoid = avoid
            copies.append(task)
        for task in tuple(copies):
            self.frontend.deployed.submit(task)

    def done(self, task: Task) -> None:
        """Reply with the first answer and cancel what is to be cancelled."""
        batch = task.owner
        batch.state.remove(task)
        if not batch.answered:
            self.frontend.answer(batch, Route.OWN if task.attempt == 0 else Route.REPLICA)
            if self._cancel != "nothing":
                self._remove(batch, running=self._cancel == "all")

    def _remove(self, batch: Batch, *, running: bool) -> None:
        for other in batch.state:
            self.frontend.deployed.cancel(other, running=running)
        batch.state = [other for other in batch.state if other.state != ENDED]

    def lost(self, task: Task) -> None:
        """Send a lost copy again where no other is left to answer."""
        batch = task.owner
        batch.state.remove(task)
        if not batch.answered and not batch.state:
            retry = Task(batch, task.attempt + self._copies)
            batch.state.append(retry)
            self.frontend.deployed.submit(retry)

    def expired(self, batch: Batch) -> None:
        """Remove the copies that still wait."""
        self._remove(batch, running=False)
