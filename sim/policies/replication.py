"""Replication: every query goes to several instances at once; the first answer is the reply, or the one they agree on.

Source of the vote: Castro and Liskov, "Practical Byzantine Fault Tolerance", OSDI 1999, whose clients wait for f + 1
equal replies. Answers are compared as they are, all outputs of the model and not the class alone, as replicated servers
compare digests. So right answers are equal, and a wrong one is equal to none but those of its own cause where these are
`alike`: who agrees is known here, without any tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from sim.corruption import RIGHT
from sim.kinds import Options
from sim.policies.base import Execution, Policy, PoolPlan
from sim.task import ENDED, OWN, REPLICA, Batch, Task
from sim.trace import LARGEST_VOTE, Role, Route

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


class Vote(Options):
    """Copies are compared: the reply waits until enough of their answers are equal."""

    agree: int = Field(default=2, ge=2)
    """Equal answers that are awaited before the reply; with 2 of 2 copies wrong answers are detected, with 2 of 3 one
    is outvoted."""
    tie: Literal["most", "default", "another"] = "most"
    """What happens where all copies are back and too few are equal: the answer of most copies counts, of equally many
    the earliest; or the query gets a default answer; or another copy is sent to an instance that had none yet."""


class Replication(Policy):
    """Send every query to several instances at once; the first answer counts, or with a `vote` that of most copies."""

    kind: Literal["replication"] = "replication"
    copies: int = Field(default=2, ge=2, le=1000)
    """Copies of each query (d), each on another instance."""
    cancel: Cancel = "queued"
    """Which other copies are cancelled with the first answer: none, queued ones, or running ones too."""
    cancel_seconds: NonNegativeFloat = 0.0
    """Seconds for which an instance is still occupied after its running copy was cancelled."""
    vote: Vote | None = None
    """Wait for equal answers, which outvote wrong ones: `{agree: 2, tie: most}`."""

    @model_validator(mode="after")
    def _enough_voters(self) -> Replication:
        if self.vote is not None and not self.vote.agree <= self.copies <= LARGEST_VOTE:
            raise ValueError(
                f"a vote needs 'copies' from 'vote.agree' ({self.vote.agree}) to {LARGEST_VOTE}, not {self.copies}"
            )
        return self

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
        return Replicas(frontend, self) if self.vote is None else Voters(frontend, self, self.vote)


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
        batch.state = copies = self._start()
        for task in [copies.add(batch) for _ in range(self._copies)]:
            self.frontend.deployed.submit(task)

    def _start(self) -> CopySet:
        return CopySet(self.frontend.clock.now)


class Ballot(CopySet):
    """A batch's copies, and the answers that are back."""

    __slots__ = ("sides",)

    def __init__(self, dispatched: float) -> None:
        super().__init__(dispatched)
        self.sides: list[tuple[int, list[int]]] = []
        """Equal answers: their mark and the attempts that gave them, in the order in which they came."""

    def cast(self, attempt: int, mark: int, *, alike: bool) -> None:
        """Add an answer, which is equal to others of its mark if these are `alike`."""
        for other, attempts in self.sides:
            if alike and other == mark:
                attempts.append(attempt)
                return
        self.sides.append((mark, [attempt]))

    def most(self) -> list[int]:
        """Return the attempts of the largest side, of equally large ones the earliest."""
        return max((attempts for _, attempts in self.sides), key=len)

    def used(self, winners: list[int]) -> int:
        """Return who won and who lost the vote, as `sim.trace.Queries.used` has it."""
        bits = 0
        for _, attempts in self.sides:
            for attempt in attempts:
                if attempt < LARGEST_VOTE:
                    bits |= 1 << (attempt if attempts is winners else LARGEST_VOTE + attempt)
        return bits


class Voters(Replicas):
    """The reply waits for equal answers. A batch's state is its `Ballot`."""

    __slots__ = ("_agree", "_tie")

    def __init__(self, frontend: Frontend, options: Replication, vote: Vote) -> None:
        super().__init__(frontend, options)
        self._agree = vote.agree
        self._tie = vote.tie

    def _start(self) -> CopySet:
        return Ballot(self.frontend.clock.now)

    def done(self, task: Task) -> None:
        """Count the answer; reply once enough are equal, or when none is left to come."""
        batch = task.owner
        ballot: Ballot = batch.state
        ballot.copies.remove(task)
        if batch.answered:
            return
        corrupt = self.frontend.corrupt
        mark = RIGHT if corrupt is None else corrupt.mark(task.instance, task.finish)
        ballot.cast(task.attempt, mark, alike=mark == RIGHT or corrupt is None or corrupt.causes[mark - 1].alike)
        winners = ballot.most()
        if len(winners) < self._agree:
            if ballot.copies or (self._tie == "another" and self._another(batch, ballot)):
                return
            if self._tie == "default":
                self.frontend.answer(batch, Route.DEFAULT)
                return
        self.frontend.answer(batch, OWN if 0 in winners else REPLICA, ballot.used(winners))
        if self._cancel != "nothing":
            self.cancel_copies(batch, running=self._cancel == "all")

    def _another(self, batch: Batch, ballot: Ballot) -> bool:
        """Send one more copy; return whether there was an instance left for it."""
        left = len(ballot.avoid) < self.frontend.deployed.serving and ballot.sent < LARGEST_VOTE
        if left:
            self.send(batch)
        return left

    def lost(self, task: Task) -> None:
        """Submit a lost copy again, to the same instance too, since every answer counts."""
        batch = task.owner
        ballot: Ballot = batch.state
        ballot.copies.remove(task)
        if not batch.answered:
            ballot.avoid.remove(task.instance)
            self.send(batch)
