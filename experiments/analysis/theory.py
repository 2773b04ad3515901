"""Exact results of queueing theory for cells, which figures draw over the simulated values.

There are no bounds or approximations. Nothing may slow, delay, batch or drop queries. With Poisson
arrivals and exponential services, by policy and queue:

- `none`, `equal_resources`: M/M/c on a single queue, M/M/1 for each instance if queues are chosen at random;
- `tied` without message delay: M/M/c on a single queue, and on any queues where every instance gets a copy, since the
  copy that starts is then the one in the queue with the least work;
- `replication` with `cancel: all` that takes no time: M/M/1 with all instances as one server where every instance gets
  a copy, else redundancy-d on queues chosen at random, of which only the mean is known.

With a closed loop of so few clients that every copy finds an idle instance on the single queue, services may have any
distribution with known quantiles; the response time is then an order statistic:

- `none`, `equal_resources`, `tied` without message delay: one service;
- `replication` with `cancel: all` that takes no time: the first of d;
- `hedged` with two copies after a fixed wait, likewise cancelled and without a budget: `sim.theory.hedged_beyond`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sim.batching import Fixed
from sim.dispatching import RandomQueue, SingleQueue
from sim.distributions.base import Distribution, Floats
from sim.distributions.families import Exponential
from sim.errors import ParmError
from sim.policies import EqualResources, Hedged, Replication, Tied, Uncoded
from sim.theory import FirstOf, HedgedOnce, MMc, redundancy_d
from sim.trace import Role
from workloads.arrivals import ClosedLoop, Poisson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim.cluster import Cluster
    from sim.policies import Policy
    from sim.stragglers import Straggler
    from workloads.arrivals import Arrivals

MS = 1000.0
TAILS = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


class Law(Protocol):
    """A response time with a known distribution."""

    def mean(self) -> float:
        """Return the mean, in seconds."""

    def quantiles(self, p: Floats) -> Floats:
        """Return the quantiles for every p in [0, 1), in seconds; same shape."""


@dataclass(frozen=True)
class Theory:
    """The response time of one policy at one sweep point."""

    name: str
    """Name of the result, such as M/M/c."""
    mean: float
    """Seconds."""
    law: Law | None = None
    """The distribution; None if only the mean is known."""

    def metric(self, name: str) -> float | None:
        """Return a latency metric of the summary in ms, or None if unknown."""
        if name == "mean":
            return self.mean * MS
        if self.law is None:
            return None
        if name == "gap":
            low, high = self.law.quantiles(np.array([TAILS["p50"], TAILS["p999"]]))
            return float(high - low) * MS
        return float(self.law.quantiles(np.array([TAILS[name]]))[0]) * MS if name in TAILS else None

    def quantiles(self, p: Floats) -> Floats | None:
        """Return the latency's quantiles in ms for every p in [0, 1), or None; same shape."""
        return None if self.law is None else self.law.quantiles(p) * MS


def theory(
    policy: Policy,
    cluster: Cluster,
    arrivals: Arrivals,
    stragglers: Sequence[Straggler] = (),
    *,
    measured: bool = False,
) -> Theory | None:
    """Return the exact result for a policy on a cluster, or None if there is none, as for an unstable queue.

    `measured` means that service times are measured in the loop instead of drawn.
    """
    service, network = cluster.service, cluster.network
    plain = (
        not stragglers
        and not measured
        and cluster.batching == Fixed()
        and cluster.deadline is None
        and cluster.scaler is None
        and network.gbps is None
        and network.latency == network.overhead == 0
    )
    if not plain:
        return None
    instances = policy.instances(cluster)
    if type(arrivals) is ClosedLoop and type(cluster.queue) is SingleQueue:
        return _without_waits(policy, cluster.service_of(Role.DEPLOYED, 1), instances // arrivals.clients)
    if type(arrivals) is not Poisson or type(service) is not Exponential:
        return None
    try:
        return _of_policy(policy, cluster.queue, arrivals.rate, service.mean(), instances)
    except ParmError:  # unstable
        return None


def _of_policy(policy: Policy, queue: object, rate: float, service: float, instances: int) -> Theory | None:
    """Return the result for a plain cluster. Types are compared exactly, since subclasses may behave differently."""
    one_queue, by_chance = type(queue) is SingleQueue, type(queue) is RandomQueue and not queue.steal
    kind = type(policy)
    if kind in (Uncoded, EqualResources) and by_chance:
        return _known("M/M/1", MMc(rate / instances, service))
    tied_as_one = (
        isinstance(policy, Tied)
        and kind is Tied
        and not policy.message_delay
        and (one_queue or policy.copies == instances)
    )
    if (kind in (Uncoded, EqualResources) and one_queue) or tied_as_one:
        return _known(f"M/M/{instances}", MMc(rate, service, instances))
    if isinstance(policy, Replication) and kind is Replication and policy.cancel == "all" and not policy.cancel_seconds:
        if policy.copies == instances:
            return _known("M/M/1", MMc(rate, service / instances))
        if by_chance:
            return Theory("redundancy-d", redundancy_d(rate, service, instances, policy.copies))
    return None


def _without_waits(policy: Policy, service: Distribution, most: int) -> Theory | None:
    """Return the result if up to `most` copies of each query find an idle instance."""
    kind = type(policy)
    if not _knows_itself(service) or most < 1:
        return None
    if kind in (Uncoded, EqualResources) or (isinstance(policy, Tied) and kind is Tied and not policy.message_delay):
        return _known("one service", FirstOf(service))
    if not isinstance(policy, (Replication, Hedged)) or policy.copies > most:
        return None
    if policy.cancel != "all" or policy.cancel_seconds:
        return None
    if isinstance(policy, Replication):
        return _known(f"the first of {policy.copies}", FirstOf(service, policy.copies)) if kind is Replication else None
    fixed = kind is Hedged and policy.copies == 2 and policy.budget is None
    law = None if policy.after is None else HedgedOnce(service, policy.after, policy.probability)
    return _known("hedged", law) if fixed and law is not None else None


def _knows_itself(service: Distribution) -> bool:
    """Return whether a distribution is parm's own and has a known mean, quantiles and distribution function."""
    half = np.array([0.5])
    own = type(service).__module__.startswith("sim.")  # a plugin's draws may not match its quantiles
    mean = service.mean()
    return (
        own
        and mean is not None
        and math.isfinite(mean)
        and all(known is not None for known in (service.quantiles(half), service.cdf(half)))
    )


def _known(name: str, law: Law) -> Theory:
    return Theory(name, law.mean(), law)
