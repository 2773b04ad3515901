"""ParM: k consecutively dispatched batches form a coding group, which r parity models answer for as well.

Source: Kosaian, Rashmi, Venkataraman, "Parity Models", SOSP 2019, section 3. What happens to a group is in `groups.py`.
With `hedge` or `backup`, a query that has been out too long also gets further copies, or a backup model's answer. ParM
itself is unchanged by them: the first answer to a query helps its group, whichever copy gave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from sim.clock import Call
from sim.code import Code
from sim.policies.base import Execution, Policy, PoolPlan
from sim.policies.groups import CodedExecution, Group
from sim.policies.hedged import Hedges, Hedging
from sim.policies.replication import CopySet
from sim.policies.waiting import Wait
from sim.task import BACKUP, ENDED, REPLICA, Batch, Task
from sim.trace import Role

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend


LATEST = 0.99
"""Default `after_quantile` of a backup."""


class LastResort(Wait):
    """A query without a reply for too long also goes to a cheaper model; the first answer counts."""

    after: NonNegativeFloat | None = None
    """Seconds without a reply until the query goes to the backup model."""
    after_quantile: float | None = Field(default=None, gt=0, lt=1)
    """The same as a quantile of the latest 1000 latencies, from dispatch to reply; no backup is used before there are
    100. It is 0.99 if neither is given."""
    instances: PositiveInt = 1
    """Instances that serve the backup model."""


class Coded(Policy):
    """Add r parity queries to every k queries, and reconstruct late predictions from the other answers (ParM)."""

    kind: Literal["coded"] = "coded"
    k: int = Field(default=2, ge=2, le=32)
    """Queries in a coding group."""
    r: int = Field(default=1, ge=1, le=16)
    """Parity queries for each coding group; each has its own parity model and pool."""
    code: Code | None = None
    """The code that makes parity queries and decodes predictions; by default the weighted sum (`addition`)."""
    parity_instances: PositiveInt | Literal["budget"] | None = None
    """Instances that serve parity models, divided evenly among the r rows. `budget`: what `cluster.extra` pays for,
    less the backup's instances. By default r times m/k, rounded up (m deployed instances)."""
    parity_pool: Literal["own", "low_priority", "equal_priority"] = "own"
    """`own`: parity queries have their own instances. Otherwise these instances join the deployed model's and all run
    both models; a parity query starts only when no query waits (`low_priority`), or in its turn (`equal_priority`)."""
    hedge: Hedging | None = None
    """Send further copies of queries that take too long to the deployed model's instances, with the options of the
    policy `hedged`. Queued copies are removed in any case once all queries of their group have replies."""
    backup: LastResort | None = None
    """Send a query without a prediction or a reconstruction to a backup model: after `after` seconds, or the
    `after_quantile` (0.99) of latencies. `instances` (1) serve that model."""

    @model_validator(mode="after")
    def _possible(self) -> Coded:
        if self.code is not None:
            if not self.code.systematic:
                raise ValueError(
                    f"code '{self.code.name_in_yaml()}' is non-systematic: give it to the policy 'coded_nonsystematic'"
                )
            self.code.check(self.k, self.r)
        return self

    @property
    def group(self) -> tuple[int, int]:
        """Coding group size k and parities r."""
        return self.k, self.r

    @property
    def erasure_code(self) -> Code | None:
        """The code that the policy names, if any."""
        return self.code

    @property
    def coding(self) -> str:
        """The code with its k and r as in profiles; `addition` by default."""
        return super().coding or f"addition k={self.k} r={self.r}"

    @property
    def apart(self) -> int:
        """Instances that a query's copies need, each another."""
        return 1 if self.hedge is None else self.hedge.copies

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the deployed model's pool, one pool for each parity row, and a backup's; raises as `Policy.pools`."""
        shares = self.parity_pool != "own"
        parities = self._parities(cluster, Role.DEPLOYED if shares else Role.PARITY)
        instances = cluster.instances + parities if shares else cluster.instances
        if self.hedge is not None and self.hedge.copies > instances:
            raise ValueError(
                f"hedge: {self.hedge.copies} copies need as many instances of the deployed model, but there are "
                f"{instances}"
            )
        last = [] if self.backup is None else [PoolPlan(Role.BACKUP, 0, self.backup.instances)]
        if shares:
            rank = int(self.parity_pool == "low_priority")
            joined = [PoolPlan(Role.PARITY, row, 0, rank) for row in range(self.r)]
            return [PoolPlan(Role.DEPLOYED, 0, instances, rank=0), *joined, *last]
        if parities < self.r:
            raise ValueError(
                f"{self.r} parities need an instance each, but there are {parities} "
                "(see parity_instances and cluster.extra)"
            )
        share, left = divmod(parities, self.r)
        rows = [PoolPlan(Role.PARITY, row, share + (row < left)) for row in range(self.r)]
        return [PoolPlan(Role.DEPLOYED, 0, instances), *rows, *last]

    def _parities(self, cluster: Cluster, role: Role) -> int:
        """Return how many instances of `role` are added for parity queries."""
        if self.parity_instances is None:
            return self.r * -(-cluster.instances // self.k)
        if self.parity_instances != "budget":
            return self.parity_instances
        prices = cluster.prices
        spent = 0.0 if self.backup is None else self.backup.instances * prices.backup / prices.deployed
        if spent > cluster.extra:
            raise ValueError(
                f"the backup's {self.backup and self.backup.instances} instances cost more than the budget "
                f"(cluster.extra is {cluster.extra})"
            )
        return cluster.buys(role, cluster.extra - spent)

    def without_effect(self, cluster: Cluster) -> list[str]:
        """Return a sentence for each option that has no effect on this cluster."""
        found = [] if self.hedge is None else [f"hedge: {one}" for one in self.hedge.unused(cluster.deadline)]
        after = None if self.backup is None else self.backup.after
        if after is not None and cluster.deadline is not None and after >= cluster.deadline:
            found.append(f"no backup is used, since 'backup.after' ({after:g} s) is not below the deadline")
        return found

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        if self.hedge is not None or self.backup is not None:
            return FallbackExecution(frontend, self)
        return CodedExecution(frontend, self.k, self.r, self.code)


class Fallbacks(CopySet):
    """A batch's copies, its backup's task, and the timer before that."""

    __slots__ = ("backup", "backup_timer")

    def __init__(self, dispatched: float) -> None:
        super().__init__(dispatched)
        self.backup: Task | None = None
        self.backup_timer: Call | None = None


class FallbackExecution(CodedExecution):
    """A batch's state is (its group, its slot, its fallbacks)."""

    __slots__ = ("_backups", "_cancel", "_cancel_seconds", "_hedges", "_waiting")

    LATER_COPY: ClassVar[int] = REPLICA

    def __init__(self, frontend: Frontend, options: Coded) -> None:
        super().__init__(frontend, options.k, options.r, options.code)
        self._answer = self._reply
        hedge, last = options.hedge, options.backup
        self._hedges = None if hedge is None else Hedges(frontend, hedge, self._send)
        self._cancel = "queued" if hedge is None else hedge.cancel
        self._cancel_seconds = 0.0 if hedge is None else hedge.cancel_seconds
        self._backups = None if last is None else frontend.others[-1]
        self._waiting = None if last is None else last.waiting(LATEST)
        if self._waiting is not None and self._hedges is not None:
            self._waiting.beside(self._hedges.waiting)

    def dispatched(self, batch: Batch) -> None:
        """Submit the batch as without fallbacks, and start the timers."""
        super().dispatched(batch)
        fallbacks: Fallbacks = batch.state[2]
        if self._hedges is not None:
            self._hedges.watch(batch, fallbacks)
        wait = None if self._waiting is None else self._waiting.now()
        if wait is not None:
            fallbacks.backup_timer = timer = Call(self._overdue, batch)
            self.frontend.clock.at(self.frontend.clock.now + wait, timer)

    def _first_task(self, batch: Batch, group: Group, slot: int) -> Task:
        fallbacks = Fallbacks(self.frontend.clock.now)
        batch.state = (group, slot, fallbacks)
        return fallbacks.add(batch)

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
        """Use the first answer of any copy or the backup; then continue as without fallbacks."""
        batch = task.owner
        if isinstance(batch, Group):
            super().done(task)
            return
        group, _, fallbacks = batch.state
        if task is fallbacks.backup:
            fallbacks.backup = None
            if not batch.answered:
                self._reply(batch, BACKUP)
                self._one_less(group)
            return
        fallbacks.copies.remove(task)
        if fallbacks.copies and self._cancel != "nothing":
            self._cancel_copies(fallbacks)
        super().done(task)

    def _reply(self, batch: Batch, route: int, used: int = 0) -> None:
        fallbacks: Fallbacks = batch.state[2]
        if self._hedges is not None:
            self._hedges.replied(fallbacks)
        if self._waiting is not None:
            self._waiting.see(self.frontend.clock.now - fallbacks.dispatched)
            self._spare_backup(fallbacks)
        self.frontend.answer(batch, route, used)

    def _cancel_copies(self, fallbacks: Fallbacks) -> None:
        fallbacks.cancel(self.frontend.deployed, running=self._cancel == "all", seconds=self._cancel_seconds)

    def _spare_backup(self, fallbacks: Fallbacks) -> None:
        """Cancel the backup's timer, or its task if that is queued."""
        if fallbacks.backup_timer is not None:
            self.frontend.clock.cancel(fallbacks.backup_timer)
            fallbacks.backup_timer = None
        elif fallbacks.backup is not None:
            assert self._backups is not None
            self._backups.cancel(fallbacks.backup)
            if fallbacks.backup.state == ENDED:
                fallbacks.backup = None

    def _settle(self, group: Group) -> None:
        """Cancel the copies too: queued ones, and running ones with `cancel: all`."""
        for batch in group.batches:
            if batch.state[2].copies:
                self._cancel_copies(batch.state[2])
        super()._settle(group)

    def lost(self, task: Task) -> None:
        """Submit a lost task again if it is still needed and no other copy is left."""
        batch = task.owner
        if isinstance(batch, Group):
            super().lost(task)
            return
        group, slot, fallbacks = batch.state
        if task is fallbacks.backup:
            fallbacks.backup = None
            if not batch.answered:
                self._ask_backup(batch, task.attempt + 1)
            return
        fallbacks.copies.remove(task)
        helps = not group.settled and (group.unanswered or group is self._group) and not group.returned >> slot & 1
        if helps and not fallbacks.copies:
            fallbacks.avoid = []  # all instances are allowed again
            self._send(batch)

    def expired(self, batch: Batch) -> None:
        """Cancel the timers and the backup; the batch's own task may still help its group."""
        fallbacks: Fallbacks = batch.state[2]
        if self._hedges is not None:
            self._hedges.call_off(fallbacks)
        self._spare_backup(fallbacks)
        super().expired(batch)
