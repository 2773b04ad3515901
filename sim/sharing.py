"""How services share instances: the order in which an idle instance asks them for work."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from sim.kinds import Kind
from sim.lanes import FairTurns, Group, Key, Turns
from sim.policies.base import PoolPlan
from sim.trace import Role


class Sharing(Kind):
    """How several services share the instances of a cluster."""

    family: ClassVar[str] = "sharing"
    together: ClassVar[bool] = True
    """Whether services run on the same instances."""

    def turns(self, weights: Sequence[float]) -> Turns:
        """Return the order in which idle instances ask services of these weights for work; for one simulation."""
        return Turns()

    @abstractmethod
    def key(self, number: int, priority: int, rank: int) -> Key:
        """Return the place of the pool of `rank` of service `number`, which counts from 0."""


class FirstCome(Sharing):
    """All services wait in one queue, first come, first served."""

    kind: Literal["fcfs"] = "fcfs"

    def key(self, number: int, priority: int, rank: int) -> Key:
        """Return the rank, in which services do not differ."""
        return 0, rank


class Priority(Sharing):
    """Strict priority without preemption: an instance that becomes free takes the waiting task of lowest `priority`."""

    kind: Literal["priority"] = "priority"
    redundancy: Literal["with_its_service", "last"] = "with_its_service"
    """When redundant tasks of low priority (`parity_pool: low_priority`) start: before the work of later services, or
    last, when no service has other work."""

    def key(self, number: int, priority: int, rank: int) -> Key:
        """Return the priority and the rank, in the order in which they count."""
        return (rank, priority) if self.redundancy == "last" else (priority, rank)


class Weighted(Sharing):
    """Services that have work waiting share the time of the instances in proportion to `weight`, by start-time fair
    queueing (Goyal, Vin and Cheng, SIGCOMM 1996); what one does not need, the others get."""

    kind: Literal["weighted"] = "weighted"

    def turns(self, weights: Sequence[float]) -> Turns:
        """Return turns that count the seconds of each service."""
        return FairTurns(weights)

    def key(self, number: int, priority: int, rank: int) -> Key:
        """Return the service, then the rank."""
        return number, rank


class Separate(Sharing):
    """Each service has instances of its own: its part of the cluster's, by `weight`."""

    kind: Literal["separate"] = "separate"
    together: ClassVar[bool] = False

    def key(self, number: int, priority: int, rank: int) -> Key:
        """Return the rank."""
        return 0, rank


def parts(total: int, weights: Sequence[float]) -> list[int]:
    """Divide `total` instances by `weights` in whole numbers; the largest rests get one more (Hamilton's method)."""
    exact = [total * weight / math.fsum(weights) for weight in weights]
    found = [math.floor(one + 1e-9) for one in exact]
    by_rest = sorted(range(len(exact)), key=lambda index: (found[index] - exact[index], index))
    for index in by_rest[: total - sum(found)]:
        found[index] += 1
    return found


class Site:
    """The instances of one simulation, numbered across pools as they are launched, so that instance 3 is the same
    machine under any policy."""

    __slots__ = ("_groups", "_next", "_weights", "sharing")

    def __init__(self, sharing: Sharing, weights: Sequence[float]) -> None:
        self.sharing = sharing
        self._weights = weights
        self._groups: dict[tuple[int, Role, int], Group] = {}
        self._next = 0

    def launch(self, instances: int) -> range:
        """Return the numbers of further instances."""
        self._next += instances
        return range(self._next - instances, self._next)

    def group(self, number: int, plan: PoolPlan, first: PoolPlan) -> Group | None:
        """Return the instances on which service `number` has a lane for `plan`; None: the pool is no lane.

        `first` is the first plan of its policy, which shares instances with the others that have a rank.
        """
        together = self.sharing.together
        if plan.rank is None and not together:
            return None
        of = plan if plan.rank is None else first
        key = -1 if together else number, of.role, of.row
        if key not in self._groups:
            self._groups[key] = Group(self.launch(of.instances), self.sharing.turns(self._weights))
        return self._groups[key]


@dataclass(frozen=True, slots=True)
class Member:
    """One of the services of a site."""

    site: Site
    number: int = 0
    priority: int = 1

    def group(self, plan: PoolPlan, first: PoolPlan) -> Group | None:
        """Return the instances that a pool shares with others, if it does."""
        return self.site.group(self.number, plan, first)

    def key(self, plan: PoolPlan) -> Key:
        """Return the place of the service's lane for `plan`."""
        return self.site.sharing.key(self.number, self.priority, plan.rank or 0)
