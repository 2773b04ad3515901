"""What a redundancy policy is: frozen options, and for each simulation an `Execution` that holds all of its state."""

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
    """A pool that a policy wants launched."""

    role: Role
    row: int
    """The parity row that its model answers for; 0 for other roles."""
    instances: int
    """Instances that it brings; 0 where it joins the first pool on that one's instances."""
    rank: int | None = None
    """For pools that share instances, the first among them: tasks of one rank queue together, first come, first served,
    and start only when none of a lower number waits. None for a pool that has its instances to itself."""
    model: Role | None = None
    """Whose model serves it, where that is not the one of its role."""

    @property
    def served_by(self) -> Role:
        """Whose model runs its tasks: that decides how long they take."""
        return self.role if self.model is None else self.model


class Policy(Kind):
    """A redundancy policy."""

    family: ClassVar[str] = "policy"
    name: str | None = None
    """What tables and figures call it; its kind where not given."""

    @property
    def label(self) -> str:
        """What tables and figures call this policy."""
        return self.name or str(self.name_in_yaml())

    @property
    def group(self) -> tuple[int, int]:
        """Coding group size k and parities r; (0, 0) where the policy is not coded.

        Where no reply is a prediction as it is, all n coded queries count as parities.
        """
        return 0, 0

    @property
    def erasure_code(self) -> Code | None:
        """The code that the policy names, if any."""
        return None

    @property
    def coding(self) -> str | None:
        """The code with its k and r as profiles name them, such as 'addition k=2 r=1'; None where there is no code."""
        k, r = self.group
        return None if self.erasure_code is None else f"{self.erasure_code.name_in_yaml()} k={k} r={r}"

    @property
    def deadline(self) -> float | None:
        """Seconds after its arrival at which this policy gives a query without a reply a default answer, if it does."""
        return None

    @abstractmethod
    def pools(self, cluster: Cluster) -> list[PoolPlan]:
        """Return the pools to launch; the first serves the deployed model.

        Raises ValueError, in one sentence, where the policy cannot be run on this cluster.
        """

    @abstractmethod
    def begin(self, frontend: Frontend) -> Execution:
        """Return the policy's state for one simulation."""

    def instances(self, cluster: Cluster) -> int:
        """Return how many instances are launched, all pools together: the policy's cost."""
        return sum(plan.instances for plan in self.pools(cluster))

    def uses(self, role: Role, cluster: Cluster) -> bool:
        """Say whether some instance serves the model of that role."""
        return any(plan.role is role for plan in self.pools(cluster))


class Execution(ABC):
    """A policy at work. It is told what happens, submits tasks to pools, cancels queued ones, and replies."""

    __slots__ = ("frontend",)

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend

    @abstractmethod
    def dispatched(self, batch: Batch) -> None:
        """Submit what answers a batch."""

    @abstractmethod
    def done(self, task: Task) -> None:
        """Hear that the frontend has a task's answer."""

    @abstractmethod
    def lost(self, task: Task) -> None:
        """Hear that a task was lost in a crash, and send it again if it is still wanted."""

    @abstractmethod
    def expired(self, batch: Batch) -> None:
        """Hear that every query of a batch has a reply, the last of them by default; its queued work may be removed."""

    def flush(self) -> bool:
        """Send what waits for further queries, of which none can come before that is answered.

        Return whether there was any.
        """
        return False
