"""Hedged requests: a further copy once the first takes longer than most.

Source: Dean and Barroso, "The Tail at Scale", CACM 2013: a second copy after about the 95th percentile of the latency
costs about 5% more load. With a `probability` it is SingleR of Kaler, He and Elnikety, "Optimal Reissue Policies for
Reducing Tail Latency", SPAA 2017: one wait and one probability are as good as several for the least percentile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from sim.clock import Call, Clock
from sim.policies.base import Execution, Policy, PoolPlan
from sim.policies.replication import Cancel, Copies, CopySet, enlarged_pool, unused_cancel_seconds
from sim.policies.waiting import Wait
from sim.task import Batch, Task

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend

TAIL_AT_SCALE = 0.95


class Hedging(Wait):
    """Further copies of queries that take too long; the first answer counts."""

    copies: int = Field(default=2, ge=2, le=1000)
    """Maximum copies of a query, the first included; each on another instance, each after another wait."""
    after: NonNegativeFloat | None = None
    """Seconds without an answer until a further copy is sent."""
    after_quantile: float | None = Field(default=None, gt=0, lt=1)
    """The same as a quantile of the latest 1000 latencies, from dispatch to answer; no copies are sent before there are
    100. It is 0.95 if neither is given."""
    budget: PositiveFloat | None = None
    """Maximum further copies, as a share of all batches so far: 0.05 is five in a hundred. A query whose copy is not
    allowed gets none later either. Unlimited by default."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Probability that a query may get further copies at all (SingleR). `parm tune` computes it and `after` from a log
    of latencies."""
    cancel: Cancel = "queued"
    """Which other copies are cancelled with the first answer: none, queued ones, or running ones too."""
    cancel_seconds: NonNegativeFloat = 0.0
    """Seconds for which an instance is still occupied after its running copy was cancelled."""

    def unused(self, deadline: float | None) -> list[str]:
        """Return a sentence for each option that has no effect with this deadline."""
        found = unused_cancel_seconds(self.cancel, self.cancel_seconds)
        if self.after is not None and deadline is not None and self.after >= deadline:
            found.append(f"no further copy is sent, since 'after' ({self.after:g} s) is not below the deadline")
        return found


class Hedged(Hedging, Policy):
    """Send a further copy of a query that takes too long; the first answer counts (The Tail at Scale)."""

    kind: Literal["hedged"] = "hedged"

    @property
    def apart(self) -> int:
        """Instances that a query's copies need, each another."""
        return self.copies

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the one pool of the deployed model, enlarged by the budget."""
        return enlarged_pool(cluster, self.copies)

    def without_effect(self, cluster: Cluster) -> list[str]:
        """Return a sentence for each option that has no effect on this cluster."""
        return self.unused(cluster.deadline)

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        return HedgedCopies(frontend, self)


class Hedges:
    """A timer for each batch that may still get a copy, cancelled by its reply."""

    __slots__ = ("_batches", "_budget", "_chances", "_clock", "_hedges", "_most", "_probability", "_send", "waiting")

    def __init__(self, frontend: Frontend, options: Hedging, send: Callable[[Batch], object]) -> None:
        """`send` submits a further copy of a batch."""
        self._clock: Clock = frontend.clock
        self._probability = options.probability
        self._chances = frontend.chances("hedge")
        """A number in [0, 1) for each batch, by its first query: the same under every policy."""
        self._send = send
        self._most = options.copies
        self._budget = float("inf") if options.budget is None else options.budget
        self.waiting = options.waiting(TAIL_AT_SCALE)
        """Sees latencies of replies. Copies change them only beyond the quantile, which is therefore not biased."""
        self._batches = self._hedges = 0

    def watch(self, batch: Batch, copies: CopySet) -> None:
        """Start the timer of a batch whose first copy has been sent."""
        self._batches += 1
        if self._probability == 1.0 or self._chances.at(batch.first) < self._probability:
            self._wait(batch, copies)

    def _wait(self, batch: Batch, copies: CopySet) -> None:
        wait = self.waiting.now()
        if wait is not None:
            copies.timer = timer = Call(self._overdue, (batch, copies))
            self._clock.at(self._clock.now + wait, timer)

    def _overdue(self, call: Call) -> None:
        batch, copies = call.item
        copies.timer = None
        if self._hedges < self._budget * self._batches:
            self._hedges += 1
            self._send(batch)
            if copies.sent < self._most:
                self._wait(batch, copies)

    def replied(self, copies: CopySet) -> None:
        """Called with the first answer: record its latency and cancel the timer."""
        self.waiting.see(self._clock.now - copies.dispatched)
        self.call_off(copies)

    def call_off(self, copies: CopySet) -> None:
        """Cancel the timer."""
        if copies.timer is not None:
            self._clock.cancel(copies.timer)
            copies.timer = None


class HedgedCopies(Copies):
    """Copies one after the other."""

    __slots__ = ("_hedges",)

    def __init__(self, frontend: Frontend, options: Hedged) -> None:
        super().__init__(frontend, options.cancel, options.cancel_seconds)
        self._hedges = Hedges(frontend, options, self.send)

    def dispatched(self, batch: Batch) -> None:
        """Submit the first copy and start the timer."""
        batch.state = copies = CopySet(self.frontend.clock.now)
        self.send(batch)
        self._hedges.watch(batch, copies)

    def done(self, task: Task) -> None:
        """Reply with the first answer and cancel the timer."""
        batch = task.owner
        if not batch.answered:
            self._hedges.replied(batch.state)
        super().done(task)

    def expired(self, batch: Batch) -> None:
        """Remove queued copies and cancel the timer."""
        self._hedges.call_off(batch.state)
        super().expired(batch)
