"""No redundancy: each query goes to one instance of the deployed model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from sim.policies.base import Execution, Policy, PoolPlan
from sim.task import OWN, Batch, Task
from sim.trace import Role

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend


class Uncoded(Policy):
    """No redundancy; the budget is not spent, so only the deployed instances serve."""

    kind: Literal["none"] = "none"

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the one pool of the deployed model."""
        return [PoolPlan(Role.DEPLOYED, 0, cluster.instances)]

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        return OneCopy(frontend)


class EqualResources(Uncoded):
    """No redundancy; the budget is spent on more instances of the deployed model."""

    kind: Literal["equal_resources"] = "equal_resources"  # type: ignore[assignment]

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the one pool of the deployed model."""
        return [PoolPlan(Role.DEPLOYED, 0, cluster.instances + cluster.extra)]


class DefaultAnswer(EqualResources):
    """No redundancy, with the budget spent on more instances; a query that waits too long gets a default answer."""

    kind: Literal["default_answer"] = "default_answer"  # type: ignore[assignment]
    after: PositiveFloat
    """Seconds from its arrival until a query without a reply gets a default answer; an earlier `cluster.deadline` takes
    precedence."""

    def without_effect(self, cluster: Cluster) -> list[str]:
        """Return a sentence where the cluster's deadline is earlier."""
        if cluster.deadline is None or self.after < cluster.deadline:
            return []
        return [f"'after' ({self.after:g} s) has no effect, since 'cluster.deadline' is not later"]

    @property
    def deadline(self) -> float | None:
        """Seconds from its arrival until a query gets a default answer."""
        return self.after


class OneCopy(Execution):
    """Each batch is one task, whose answer is the reply."""

    __slots__ = ()

    def dispatched(self, batch: Batch) -> None:
        """Submit the batch's task."""
        batch.state = task = Task(batch)
        self.frontend.deployed.submit(task)

    def done(self, task: Task) -> None:
        """Reply."""
        batch = task.owner
        batch.state = None
        if not batch.answered:
            self.frontend.answer(batch, OWN)

    def lost(self, task: Task) -> None:
        """Submit the batch again unless every query had a default answer."""
        batch = task.owner
        if not batch.answered:
            batch.state = Task(batch, task.attempt + 1)
            self.frontend.deployed.submit(batch.state)

    def expired(self, batch: Batch) -> None:
        """Remove the batch's task if it is queued."""
        if batch.state is not None:
            self.frontend.deployed.cancel(batch.state)
            batch.state = None
