"""Where theory says exactly what a cell must come to, so that figures can lay it over what was simulated.

Nothing is said of anything else: no bound, no approximation. Poisson arrivals, exponential services, and nothing that
slows, delays, batches or drops; then by policy and queue:

- `none`, `equal_resources`: M/M/c on a single queue, M/M/1 for each instance where queues are chosen at random;
- `tied` without message delay: M/M/c on a single queue, and on any queues where every instance gets a copy, since the
  copy that starts is then the one in the queue with the least work;
- `replication` with `cancel: all` that takes no time: M/M/1 with all instances as one server where every instance gets
  a copy, else redundancy-d on queues chosen at random, of which only the mean is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sim.batching import Fixed
from sim.disciplines import RandomQueue, SingleQueue
from sim.distributions.base import Floats
from sim.distributions.families import Exponential
from sim.errors import ParmError
from sim.policies import EqualResources, Replication, Tied, Uncoded
from sim.theory import MMc, redundancy_d
from workloads.arrivals import Poisson

if TYPE_CHECKING:
    from experiments.schema import Experiment
    from sim.policies import Policy

MS = 1000.0
TAILS = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


@dataclass(frozen=True)
class Theory:
    """The response time of one policy at one sweep point."""

    name: str
    """The result that says so."""
    mean: float
    """Seconds."""
    queue: MMc | None = None
    """What knows the whole distribution; None where only the mean is known."""

    def metric(self, name: str) -> float | None:
        """Return a latency metric of the summary in ms, or None where theory does not say."""
        if name == "mean":
            return self.mean * MS
        if self.queue is None:
            return None
        if name == "gap":
            low, high = self.queue.quantiles(np.array([TAILS["p50"], TAILS["p999"]]))
            return float(high - low) * MS
        return float(self.queue.quantiles(np.array([TAILS[name]]))[0]) * MS if name in TAILS else None

    def quantiles(self, p: Floats) -> Floats | None:
        """Return the latency's quantiles in ms for every p in [0, 1), or None; same shape."""
        return None if self.queue is None else self.queue.quantiles(p) * MS


def theory(experiment: Experiment, policy: Policy) -> Theory | None:
    """Return what theory says of a policy, at one sweep point of an experiment, or None where it says nothing.

    Nothing is said of a queue that grows for ever either.
    """
    cluster = experiment.cluster
    arrivals, service = experiment.workload.arrivals, cluster.service
    network = cluster.network
    plain = (
        not experiment.stragglers
        and experiment.execution == "deferred"
        and cluster.batching == Fixed()
        and cluster.deadline is None
        and network.gbps is None
        and network.latency == network.overhead == 0
    )
    if not plain or type(arrivals) is not Poisson or type(service) is not Exponential:
        return None
    instances = policy.instances(cluster)
    try:
        return _of_policy(policy, cluster.queue, arrivals.rate, service.mean(), instances)
    except ParmError:  # it is not stable
        return None


def _of_policy(policy: Policy, queue: object, rate: float, service: float, instances: int) -> Theory | None:
    """Return what theory says of a plain cluster. Types are compared exactly: a subclass may do anything."""
    one_queue, by_chance = type(queue) is SingleQueue, type(queue) is RandomQueue
    kind = type(policy)
    if kind in (Uncoded, EqualResources) and by_chance:
        return _queue("M/M/1", MMc(rate / instances, service))
    tied_as_one = (
        isinstance(policy, Tied)
        and kind is Tied
        and not policy.message_delay
        and (one_queue or policy.copies == instances)
    )
    if (kind in (Uncoded, EqualResources) and one_queue) or tied_as_one:
        return _queue(f"M/M/{instances}", MMc(rate, service, instances))
    if isinstance(policy, Replication) and kind is Replication and policy.cancel == "all" and not policy.cancel_seconds:
        if policy.copies == instances:
            return _queue("M/M/1", MMc(rate, service / instances))
        if by_chance:
            return Theory("redundancy-d", redundancy_d(rate, service, instances, policy.copies))
    return None


def _queue(name: str, queue: MMc) -> Theory:
    return Theory(name, queue.mean(), queue)
