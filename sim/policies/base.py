"""A redundancy policy: frozen options, and for each simulation an `Execution` that holds its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sim.code import Code
from sim.kinds import Kind
from sim.task import Batch, Task
from sim.trace import Role

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.frontend import Frontend


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pool of instances that a policy needs."""

    role: Role
    row: int
    """The parity row of its model; 0 for other roles."""
    instances: int
    """Instances that it adds; 0 where it only shares those of the first pool."""
    rank: int | None = None
    """Priority of a pool that shares the instances of the first pool (which has a rank too). Tasks of equal rank are
    served first come, first served; they start only when none of a lower number waits. None: not shared."""
    model: Role | None = None
    """The role whose model serves it, where that is not `role`."""

    @property
    def served_by(self) -> Role:
        """The role whose model runs its tasks, which decides the service times."""
        return self.role if self.model is None else self.model

    @property
    def serves(self) -> tuple[Role, int]:
        """The model that runs its tasks: each parity row has its own."""
        return self.served_by, self.row if self.served_by is Role.PARITY else 0


class Policy(Kind):
    """A redundancy policy."""

    family: ClassVar[str] = "policy"
    name: str | None = None
    """Name in tables and figures; its kind where not given."""

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        return self.name or str(self.name_in_yaml())

    def of(self, service: str) -> Policy:
        """Return the policy of one of several services: this one. Raises ValueError where it has none."""
        return self

    @property
    def group(self) -> tuple[int, int]:
        """Coding group size k and parities r; (0, 0) without coding. For a non-systematic code r is n."""
        return 0, 0

    @property
    def erasure_code(self) -> Code | None:
        """The code that the policy names, if any."""
        return None

    @property
    def coding(self) -> str | None:
        """The code with its k and r as in profiles, such as 'addition k=2 r=1'; None where there is no code."""
        k, r = self.group
        return None if self.erasure_code is None else f"{self.erasure_code.name_in_yaml()} k={k} r={r}"

    @property
    def deadline(self) -> float | None:
        """Seconds from arrival until this policy gives a query without a reply a default answer; None: never."""
        return None

    @property
    def collects(self) -> int:
        """Batches that have to be there before any of them is submitted, however long that takes."""
        return 1

    @property
    def apart(self) -> int:
        """Instances of the deployed model that a query may need, each another; 1 without copies."""
        return 1

    @abstractmethod
    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the pools to launch; the first serves the deployed model.

        Raises ValueError, in one sentence, where the policy cannot run on this cluster.
        """

    @abstractmethod
    def begin(self, frontend: Frontend) -> Execution:
        """Return the policy's state for one simulation."""

    def without_effect(self, cluster: Cluster) -> list[str]:
        """Return a sentence for each option that has no effect on this cluster, the policy itself included."""
        return []

    def instances(self, cluster: Cluster) -> int:
        """Return the number of instances in all pools."""
        return sum(plan.instances for plan in self.pools(cluster))

    def uses(self, role: Role, cluster: Cluster) -> bool:
        """Return whether there is a pool for that role."""
        return any(plan.role is role for plan in self.pools(cluster))


class Execution(ABC):
    """A policy in one simulation: callbacks that submit tasks to pools, cancel them, and reply to clients."""

    __slots__ = ("frontend",)

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend

    @abstractmethod
    def dispatched(self, batch: Batch) -> None:
        """Called when a batch is ready: submit the tasks that answer it."""

    @abstractmethod
    def done(self, task: Task) -> None:
        """Called when a task's answer is back at the frontend."""

    @abstractmethod
    def lost(self, task: Task) -> None:
        """Called when a crash loses a task: submit it again if its answer is still needed."""

    @abstractmethod
    def expired(self, batch: Batch) -> None:
        """Called when default answers complete a batch: cancel its queued tasks."""

    def flush(self) -> bool:
        """Called at the end of the run: submit what waits for further queries, and return whether any did."""
        return False
