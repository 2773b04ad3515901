"""Non-systematic codes: k batches are collected, and n coded queries go to the deployed model.

Source: Soleymani, Mahdavifar, Avestimehr, "ApproxIFER", AAAI 2022. A batch waits until its group is full, and every
reply waits for k of the n answers and for the decoder; for more than k where the code locates wrong ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from sim.clock import Call
from sim.code import Code
from sim.policies.base import Execution, Policy, PoolPlan
from sim.policies.groups import CodedExecution
from sim.task import Batch
from sim.trace import Role

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend


class CodedNonsystematic(Policy):
    """Collect k queries, send k + s coded ones to the deployed model, and decode every reply (as ApproxIFER does)."""

    kind: Literal["coded_nonsystematic"] = "coded_nonsystematic"
    k: int = Field(default=2, ge=2, le=24)
    """Queries in a coding group."""
    stragglers: int = Field(default=1, ge=1, le=14)
    """Additional coded queries (s): so many answers may be late or lost."""
    code: Code | None = None
    """The code. Without it, any k answers suffice, and only latency can be simulated."""
    max_wait: NonNegativeFloat | None = None
    """Seconds from a group's first batch until it is coded though it is not full: its last batch is then repeated.
    Without it, a group waits until it is full; the last one of a run is then padded at the end."""

    @model_validator(mode="after")
    def _possible(self) -> CodedNonsystematic:
        if self.code is not None:
            if self.code.systematic:
                raise ValueError(f"code '{self.code.name_in_yaml()}' is systematic: give it to the policy 'coded'")
            self.code.check(*self.group)
        return self

    @property
    def group(self) -> tuple[int, int]:
        """Coding group size k and coded queries n."""
        needed = self.k if self.code is None else self.code.needs(self.k)
        return self.k, needed + self.stragglers

    @property
    def erasure_code(self) -> Code | None:
        """The code that the policy names, if any."""
        return self.code

    @property
    def collects(self) -> int:
        """Batches that have to be there before any of them is submitted."""
        return self.k if self.max_wait is None else 1

    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the deployed model's pool, enlarged by the budget, and one on its instances for each coded query."""
        deployed = PoolPlan(Role.DEPLOYED, 0, cluster.instances + cluster.extra, rank=0)
        rows = range(self.group[1])
        return [deployed, *(PoolPlan(Role.PARITY, row, 0, rank=0, model=Role.DEPLOYED) for row in rows)]

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        return CollectingExecution(frontend, self)


class CollectingExecution(CodedExecution):
    """Groups that are coded once they are full or padded; coded queries take the place of parities."""

    __slots__ = ("_max_wait", "_timer")

    def __init__(self, frontend: Frontend, options: CodedNonsystematic) -> None:
        super().__init__(frontend, *options.group, options.code)
        self._max_wait = options.max_wait
        self._timer: Call | None = None

    def dispatched(self, batch: Batch) -> None:
        """Collect the batch, and encode when it completes a group."""
        group = self._group
        batch.state = (group, len(group.batches))
        group.batches.append(batch)
        group.unanswered += 1
        if len(group.batches) == self._k:
            self._close()
        elif self._max_wait is not None and self._timer is None:
            self._timer = Call(self._waited, None)
            self.frontend.clock.at(self.frontend.clock.now + self._max_wait, self._timer)

    def _waited(self, _: Call) -> None:
        self._timer = None
        self._close()

    def _close(self) -> None:
        """Encode the group; a group that is not full repeats its last batch."""
        if self._timer is not None:
            self.frontend.clock.cancel(self._timer)
            self._timer = None
        group = self._group
        self.frontend.grouped(len(group.batches))
        group.batches += group.batches[-1:] * (self._k - len(group.batches))
        self._complete(group)

    def flush(self) -> bool:
        """Encode the group that is filling; return whether it had any batches."""
        if not self._group.batches:
            return False
        self._close()
        return True
