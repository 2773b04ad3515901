"""Tied requests: copies queue at several instances, and the first one that starts cancels the others.

Source: Dean and Barroso, "The Tail at Scale", CACM 2013. Without message delay no work is wasted, and the policy equals
joining the queue with the least work of those chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat

from sim.clock import Call
from sim.dispatching import SingleQueue
from sim.policies.base import Execution, Policy, PoolPlan
from sim.policies.replication import Copies, CopySet, enlarged_pool
from sim.task import QUEUED, RUNNING, Batch, Task

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend


class Tied(Policy):
    """Queue several copies of a query; the first that starts cancels the others (tied requests)."""

    kind: Literal["tied"] = "tied"
    copies: int = Field(default=2, ge=2, le=1000)
    """Copies of each query, each at another instance; needs a `queue` with a queue for each instance."""
    message_delay: NonNegativeFloat = 0.0
    """Seconds until the others are cancelled after one has started; a copy that starts in between runs to its end."""

    @property
    def apart(self) -> int:
        """Instances that a query's copies need, each another."""
        return self.copies

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the one pool of the deployed model, enlarged by the budget."""
        return enlarged_pool(cluster, self.copies)

    def without_effect(self, cluster: Cluster) -> list[str]:
        """Return why the copies cannot help on a single queue."""
        if not isinstance(cluster.queue, SingleQueue):
            return []
        same = "slower than" if self.message_delay else "the same as"
        return [
            f"'tied' on a single queue is {same} 'equal_resources', since its copies do not wait apart: give "
            "'cluster.queue' a kind with a queue for each instance"
        ]

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        return TiedCopies(frontend, self)


class TiedCopies(Copies):
    """Cancels queued copies when one starts."""

    __slots__ = ("_copies", "_message_delay")

    def __init__(self, frontend: Frontend, options: Tied) -> None:
        super().__init__(frontend, "queued")
        self._copies = options.copies
        self._message_delay = options.message_delay
        frontend.deployed.on_start = self._started

    def dispatched(self, batch: Batch) -> None:
        """Submit the copies; without message delay none after one that starts at once."""
        batch.state = CopySet(self.frontend.clock.now)
        for _ in range(self._copies):
            task = self.send(batch)
            if task.state == RUNNING and not self._message_delay:
                break

    def _started(self, task: Task) -> None:
        batch = task.owner
        if any(other.state == QUEUED for other in batch.state.copies):
            if self._message_delay:
                clock = self.frontend.clock
                clock.at(clock.now + self._message_delay, Call(self._told, batch))
            else:
                self.cancel_copies(batch, running=False)

    def _told(self, call: Call) -> None:
        batch = call.item
        if batch.answered or any(other.state == RUNNING for other in batch.state.copies):  # it was not lost meanwhile
            self.cancel_copies(batch, running=False)
