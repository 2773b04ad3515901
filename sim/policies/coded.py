"""ParM: k consecutively dispatched batches form a coding group, which r parity models answer for as well.

Source: Kosaian, Rashmi, Venkataraman, "Parity Models", SOSP 2019, section 3, and its artifact for what is removed when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, model_validator

from sim.clock import Call
from sim.code import Code, any_k_suffice
from sim.policies.base import Execution, Policy, PoolPlan
from sim.streams import Stream
from sim.trace import Role
from sim.work import OWN, RECONSTRUCTION, Batch, Task

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend


class Coded(Policy):
    """Add r parity queries to every k queries; a late prediction is reconstructed from the others (ParM)."""

    kind: Literal["coded"] = "coded"
    k: int = Field(default=2, ge=2, le=32)
    """Queries in a coding group."""
    r: int = Field(default=1, ge=1, le=16)
    """Parity queries for each coding group; each has a parity model, and a pool, of its own."""
    code: Code | None = None
    """How parity queries are made and predictions decoded; the weighted sum (`addition`) where not given."""
    parity_instances: PositiveInt | Literal["budget"] | None = None
    """Instances that serve parity models, shared evenly by the r rows; `budget` spends `cluster.extra`, as the policies
    it is compared with do; r times m/k (m deployed instances) where not given."""

    @model_validator(mode="after")
    def _possible(self) -> Coded:
        if self.code is not None:
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

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the deployed model's pool and one pool for each parity row."""
        if self.parity_instances is None:
            parities = self.r * -(-cluster.instances // self.k)
        else:
            parities = cluster.extra if self.parity_instances == "budget" else self.parity_instances
        if parities < self.r:
            raise ValueError(
                f"{self.r} parities need an instance each, but there are {parities} "
                "(see parity_instances and cluster.extra)"
            )
        share, left = divmod(parities, self.r)
        rows = [PoolPlan(Role.PARITY, row, share + (row < left)) for row in range(self.r)]
        return [PoolPlan(Role.DEPLOYED, 0, cluster.instances), *rows]

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        return CodedExecution(frontend, self)


class Group:
    """One coding group."""

    __slots__ = ("batches", "first", "number", "parities", "returned", "settled", "size", "tasks", "unanswered", "used")

    def __init__(self, number: int) -> None:
        self.number = self.first = number
        self.size = 0
        """Queries of a parity batch: as many as in the group's largest batch."""
        self.batches: list[Batch] = []
        self.tasks: list[Task] = []
        self.parities: list[Task] = []
        self.returned = 0
        """Answers that are back: bit i for slot i, bit k + j for parity row j."""
        self.unanswered = 0
        self.used = 0
        """The answers that a decoder is working on, 0 before that."""
        self.settled = False
        """Nothing more can help: every query of the complete group has its reply."""


class CodedExecution(Execution):
    """A batch's state is (its group, its slot)."""

    __slots__ = ("_decode", "_encode", "_group", "_groups", "_k", "_own", "_parity_pools", "_r", "_sufficient")

    def __init__(self, frontend: Frontend, options: Coded) -> None:
        super().__init__(frontend)
        self._k = options.k
        self._r = options.r
        self._own = (1 << options.k) - 1
        self._sufficient = options.code.sufficient if options.code else any_k_suffice
        self._parity_pools = frontend.others
        self._encode: Stream | None = frontend.delay("encode")
        self._decode: Stream | None = frontend.delay("decode")
        self._groups = 0
        self._group = Group(0)

    def dispatched(self, batch: Batch) -> None:
        """Submit the batch's own task, and encode when it completes a group. Encoding holds nothing up."""
        group = self._group
        slot = len(group.batches)
        batch.state = (group, slot)
        task = Task(batch)
        group.batches.append(batch)
        group.tasks.append(task)
        group.unanswered += 1
        self.frontend.deployed.submit(task)
        if slot + 1 == self._k:
            self._groups += 1
            self._group = Group(self._groups)
            if self._encode is None:
                self._submit_parities(group)
            else:
                clock = self.frontend.clock
                clock.at(clock.now + self._encode.at(group.number), Call(self._encoded, group))

    def _encoded(self, call: Call) -> None:
        self._submit_parities(call.item)

    def _submit_parities(self, group: Group) -> None:
        if not group.unanswered:
            self._settle(group)
            return
        group.size = max(batch.size for batch in group.batches)
        for pool in self._parity_pools:
            task = Task(group)
            group.parities.append(task)
            pool.submit(task)

    def done(self, task: Task) -> None:
        """Reply with a batch's own prediction, or with all that the answers that are back determine."""
        owner = task.owner
        if isinstance(owner, Group):
            group = owner
            if group.settled:
                return
            group.returned |= 1 << self._k + group.parities.index(task)
        else:
            group, slot = owner.state
            if group.settled:
                return
            group.returned |= 1 << slot
            if not owner.answered:
                self.frontend.answer(owner, OWN)
                group.unanswered -= 1
        if not group.unanswered:
            if len(group.batches) == self._k:
                self._settle(group)
        elif group.returned > self._own and not group.used and self._sufficient(self._k, self._r, group.returned):
            group.used = group.returned
            if self._decode is None:
                self._reconstruct(group)
            else:
                clock = self.frontend.clock
                clock.at(clock.now + self._decode.at(group.number), Call(self._decoded, group))

    def _decoded(self, call: Call) -> None:
        if not call.item.settled:
            self._reconstruct(call.item)

    def _reconstruct(self, group: Group) -> None:
        for batch in group.batches:
            if not batch.answered:
                self.frontend.answer(batch, RECONSTRUCTION, group.used)
        group.unanswered = 0
        self._settle(group)

    def _settle(self, group: Group) -> None:
        """Remove queued work that can no longer help; running work is left to end (PAPER.md section 1)."""
        group.settled = True
        for task in group.tasks:
            self.frontend.deployed.cancel(task)
        for pool, task in zip(self._parity_pools, group.parities, strict=False):
            pool.cancel(task)
        group.batches, group.tasks, group.parities = [], [], []  # they hold the group as well: let go

    def lost(self, task: Task) -> None:
        """Send lost work again while some query of its group lacks a reply: any answer of the group may help."""
        owner = task.owner
        group = owner if isinstance(owner, Group) else owner.state[0]
        if group.settled or not (group.unanswered or group is self._group):
            return
        retry = Task(owner, task.attempt + 1)
        if isinstance(owner, Group):
            row = group.parities.index(task)
            group.parities[row] = retry
            self._parity_pools[row].submit(retry)
        else:
            group.tasks[owner.state[1]] = retry
            self.frontend.deployed.submit(retry)

    def expired(self, batch: Batch) -> None:
        """Let go of a group whose last query had a default answer; else the batch's own may still help others."""
        group, _ = batch.state
        group.unanswered -= 1
        if not group.unanswered and len(group.batches) == self._k and not group.settled:
            self._settle(group)
