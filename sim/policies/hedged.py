"""Hedged requests: a further copy once the first has been out for longer than most.

Source: Dean and Barroso, "The Tail at Scale", CACM 2013: a second copy after about the 95th percentile of the latency
costs about 5% more load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from sim.clock import Call
from sim.policies.base import Execution, Policy, PoolPlan
from sim.policies.replication import Cancel, Copies, CopySet, enlarged_pool
from sim.quantile import RunningQuantile
from sim.work import Batch, Task

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend

TAIL_AT_SCALE = 0.95


class Hedged(Policy):
    """Send a further copy of a query that has been out too long; the first answer counts (The Tail at Scale)."""

    kind: Literal["hedged"] = "hedged"
    copies: int = Field(default=2, ge=2, le=1000)
    """Copies of a query at most, the first included; each on an instance of its own, each after another wait."""
    after: NonNegativeFloat | None = None
    """Seconds without an answer after which a further copy is sent."""
    after_quantile: float | None = Field(default=None, gt=0, lt=1)
    """The same wait as a quantile of the latest 1000 latencies, from dispatch to answer. No copies are sent before
    there are 100. It is 0.95 where `after` is not given either."""
    budget: PositiveFloat | None = None
    """Further copies at most, as a share of all batches so far; 0.05 is five in a hundred. No bound where not given."""
    cancel: Cancel = "queued"
    """Which other copies are cancelled when the first answer is back: none, those that wait, or running ones too."""
    cancel_seconds: NonNegativeFloat = 0.0
    """Seconds for which an instance is still taken after a running copy was cancelled."""

    @model_validator(mode="after")
    def _one_wait(self) -> Hedged:
        if self.after is not None and self.after_quantile is not None:
            raise ValueError("give 'after' or 'after_quantile', not both: there is one wait")
        return self

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the one pool of the deployed model, which the budget enlarges."""
        return enlarged_pool(cluster, self.copies)

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        return Hedges(frontend, self)


class Hedges(Copies):
    """One timer for each batch that may still get a copy; it is cancelled with the first answer."""

    __slots__ = ("_after", "_batches", "_budget", "_hedges", "_latencies", "_most")

    def __init__(self, frontend: Frontend, options: Hedged) -> None:
        super().__init__(frontend, options.cancel, options.cancel_seconds)
        self._most = options.copies
        self._after = options.after
        self._budget = float("inf") if options.budget is None else options.budget
        self._latencies = RunningQuantile(options.after_quantile or TAIL_AT_SCALE)
        """Of replies. Copies change it only beyond itself, so the share that exceeds it stays what it says."""
        self._batches = self._hedges = 0

    def dispatched(self, batch: Batch) -> None:
        """Submit the first copy and wait."""
        self._batches += 1
        batch.state = CopySet(self.frontend.clock.now)
        self.frontend.deployed.submit(self.add_copy(batch))
        self._wait(batch)

    def _wait(self, batch: Batch) -> None:
        wait = self._latencies.now() if self._after is None else self._after
        if wait is not None:
            batch.state.timer = timer = Call(self._overdue, batch)
            self.frontend.clock.at(self.frontend.clock.now + wait, timer)

    def _overdue(self, call: Call) -> None:
        batch = call.item
        batch.state.timer = None
        if self._hedges < self._budget * self._batches:
            self._hedges += 1
            self.frontend.deployed.submit(self.add_copy(batch))
        if batch.state.sent < self._most:
            self._wait(batch)

    def done(self, task: Task) -> None:
        """Reply with the first answer, and call the waiting off."""
        batch = task.owner
        if not batch.answered and self._after is None:
            self._latencies.see(self.frontend.clock.now - batch.state.dispatched)
        self._call_off(batch)
        super().done(task)

    def expired(self, batch: Batch) -> None:
        """Remove the copies that still wait, and call the waiting off."""
        self._call_off(batch)
        super().expired(batch)

    def _call_off(self, batch: Batch) -> None:
        if batch.state.timer is not None:
            self.frontend.clock.cancel(batch.state.timer)
            batch.state.timer = None
