"""ParM: k consecutively dispatched batches form a coding group, which r parity models answer for as well.

Source: Kosaian, Rashmi, Venkataraman, "Parity Models", SOSP 2019, section 3. What happens to a group is in `groups.py`,
and what copies and backups add to that in `resorts.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from sim.code import Code
from sim.policies.base import Execution, Policy, PoolPlan
from sim.policies.fallbacks import ResortingExecution
from sim.policies.groups import CodedExecution
from sim.policies.hedged import Hedging
from sim.policies.waiting import Wait
from sim.trace import Role

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend


class LastResort(Wait):
    """A cheaper model is asked once a query has been without a reply for too long; the first answer counts."""

    after: NonNegativeFloat | None = None
    """Seconds without a reply after which the backup model is asked."""
    after_quantile: float | None = Field(default=None, gt=0, lt=1)
    """The same wait as a quantile of the latest 1000 latencies, from dispatch to reply. No backup is asked before there
    are 100. It is 0.99 where `after` is not given either."""
    instances: PositiveInt = 1
    """Instances that serve the backup model."""


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
    """Instances that serve parity models, shared evenly by the r rows; `budget` spends `cluster.extra`, less a backup's
    instances, as the policies it is compared with do; r times m/k (m deployed instances) where not given."""
    parity_pool: Literal["own", "low_priority", "equal_priority"] = "own"
    """Whether parity queries run on instances of their own. Otherwise those instances join the deployed model's, all
    run both models, and a parity query starts only when no query waits there, or takes its turn among the queries."""
    hedge: Hedging | None = None
    """With it, a query that is out too long gets a further copy on the deployed model's instances as well. Its options
    are those of the policy `hedged`; what a settled group has no use for leaves the queues in any case."""
    backup: LastResort | None = None
    """With it, a backup model is asked where neither a prediction nor a reconstruction came for too long: `after`
    seconds, or the `after_quantile` (0.99) of latencies; `instances` (1) serve that model."""

    @model_validator(mode="after")
    def _possible(self) -> Coded:
        if self.code is not None:
            if not self.code.systematic:
                raise ValueError(
                    f"with code '{self.code.name_in_yaml()}' no reply is a prediction as it is: give it to the policy "
                    f"'coded_nonsystematic'"
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
        """The code with its k and r as profiles name them; `addition` where none is given."""
        return super().coding or f"addition k={self.k} r={self.r}"

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
        """Return how many instances of `role` parity work brings."""
        if self.parity_instances is None:
            return self.r * -(-cluster.instances // self.k)
        if self.parity_instances != "budget":
            return self.parity_instances
        prices = cluster.prices
        spent = 0.0 if self.backup is None else self.backup.instances * prices.backup / prices.deployed
        if spent > cluster.extra:
            raise ValueError(
                f"the backup's {self.backup and self.backup.instances} instances take more than the budget "
                f"(cluster.extra is {cluster.extra})"
            )
        return cluster.buys(role, cluster.extra - spent)

    def begin(self, frontend: Frontend) -> Execution:
        """Return the state of one simulation."""
        if self.hedge is not None or self.backup is not None:
            return ResortingExecution(frontend, self)
        return CodedExecution(frontend, self.k, self.r, self.code)
