"""Several services on the same instances: each has its own queries, service times, deadline, and redundancy policy.

What a policy does for its service does not change: each service has a frontend, an execution and a trace of its own.
The pools of different services that serve the same role share their instances (`lanes`), in turns by which `Sharing`
divides their time. Every service has random streams of its own, so that adding one changes nothing of what the others
send and would take.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from sim.clock import Clock
from sim.cluster import Cluster
from sim.dispatching import QueueEach
from sim.frontend import Frontend
from sim.policies import Policy
from sim.policies.base import Execution, PoolPlan
from sim.recorder import Recorder
from sim.routing import Learning
from sim.schedule import ClosedSchedule, OpenSchedule, Schedule
from sim.sharing import Member, Sharing, Site
from sim.simulation import CHUNK, ClosedLoop, attach, check_answers, gc_disabled, launch, traced, with_code
from sim.stragglers import Straggler
from sim.stragglers.base import Effect
from sim.streams import Streams
from sim.trace import Role, Trace


@dataclass(frozen=True)
class Service:
    """A service: a model, the queries that are sent to it, and how it is treated."""

    name: str
    """Key of its random streams, and its name in tables. The empty name has the streams of a simulation without
    services."""
    cluster: Cluster
    """The machines as this service sees them, with its own service times and deadline."""
    policy: Policy
    schedule: Schedule
    priority: int = 1
    """Under strict priority, lower numbers are served first."""
    weight: float = 1.0
    """Its part of the instances' time, relative to the other services' weights."""


def simulate_services(
    services: Sequence[Service], sharing: Sharing, stragglers: Sequence[Straggler], streams: Streams
) -> list[Trace]:
    """Simulate services that share the instances of a cluster, on SimPy; return the trace of each, in their order.

    Their clusters have the same queue, batching and network. Instances are numbered across all services' pools, and
    every trace counts all of them. A single service with the empty name gives the trace of `simulate`, to the last bit.

    Raises ParmError where queries would never be answered, and ValueError where the policies cannot run together.
    """
    plans = launched({service.name: (service.cluster, service.policy) for service in services}, sharing)
    machines = services[0].cluster
    effects = attach(machines, stragglers, streams, plans)
    clock = Clock()
    site = Site(sharing, [service.weight for service in services])
    running = []
    for number, service in enumerate(services):
        own = streams.of(service.name)
        its = attach(machines, stragglers, own, plans) if service.name else effects
        mixed = [its[at] if straggler.by_task else effects[at] for at, straggler in enumerate(stragglers)]
        running.append(_Running(clock, service, stragglers, mixed, own, Member(site, number, service.priority)))
    with gc_disabled():
        for one in running:
            one.begin()
        for time, arrive, query in heapq.merge(*(one.arrivals() for one in running), key=_time):
            clock.advance(time)
            arrive(query)
        clock.drain()
        while sum(one.execution.flush() for one in running):  # each flushes
            clock.drain()
    return [one.trace(sum(plan.instances for plan in plans)) for one in running]


Policies = Mapping[str, tuple[Cluster, Policy]]
"""The cluster that each service sees, and its policy, by the service's name."""


def launched(services: Policies, sharing: Sharing) -> list[PoolPlan]:
    """Return the pools of instances that are launched for all services: each once where services share it.

    Raises ValueError, in one sentence, where policies want different numbers of the same instances, or one cannot run.
    """
    found: dict[tuple[str, Role, int], tuple[str, PoolPlan]] = {}
    for service, (cluster, policy) in services.items():
        if cluster.scaler is not None:
            raise ValueError("a scaler knows one service only: leave out 'services', or 'cluster.scaler'")
        if sharing.together and isinstance(cluster.queue, Learning):
            raise ValueError(
                f"'{cluster.queue.name_in_yaml()}' does not choose for several services on the same instances: take "
                "another queue, or 'sharing: separate'"
            )
        if sharing.together and isinstance(cluster.queue, QueueEach) and cluster.queue.steal:
            raise ValueError(
                "'steal' does not move tasks between several services on the same instances: leave it out, or take "
                "'sharing: separate'"
            )
        for plan in policy.pools(cluster):
            if not plan.instances:
                continue  # it joins the first pool
            mine = service, plan
            name, other = found.setdefault(("" if sharing.together else service, plan.role, plan.row), mine)
            if other.instances != plan.instances:
                raise ValueError(
                    f"'{name}' wants {other.instances} instances for its {plan.role.name.lower()} model and "
                    f"'{service}' {plan.instances}, but they share them: give both policies that spend the budget "
                    "alike, or 'sharing: separate'"
                )
    return [plan for _, plan in found.values()]


def check_services(services: Policies, sharing: Sharing, stragglers: Sequence[Straggler]) -> None:
    """Raise ValueError, in one sentence, if the machines cannot serve these together (`check` is for each alone)."""
    cluster, _ = next(iter(services.values()))
    attach(cluster, stragglers, Streams(0), launched(services, sharing))


Arrival = tuple[float, Callable[[int], None], int]
"""When a query arrives at the frontend, the frontend's `arrive`, and the number of the query."""


def _time(arrival: Arrival) -> float:
    return arrival[0]


class _Running:
    """A service in a simulation."""

    __slots__ = ("_clients", "_cluster", "_frontend", "_policy", "_recorder", "_schedule", "execution")

    def __init__(
        self,
        clock: Clock,
        service: Service,
        stragglers: Sequence[Straggler],
        effects: Sequence[Effect],
        streams: Streams,
        member: Member,
    ) -> None:
        self._policy, self._schedule = service.policy, service.schedule
        deadline = check_answers(service.cluster, self._policy, stragglers, self._schedule)
        self._cluster = with_code(service.cluster, self._policy)
        self._recorder = Recorder(len(self._schedule))
        plans = self._policy.pools(self._cluster)
        pools = launch(clock, self._recorder, self._cluster, effects, streams, plans, None, member)
        self._frontend = Frontend(clock, self._recorder, self._cluster, streams, pools[0], pools[1:], deadline)
        self.execution: Execution = self._policy.begin(self._frontend)
        self._clients: ClosedLoop | None = None
        if isinstance(self._schedule, ClosedSchedule):
            self._clients = ClosedLoop(clock, self._frontend, self._schedule, self._cluster.network.overhead)
        self._frontend.serve(self.execution, self._clients)

    def begin(self) -> None:
        """Let the clients of a closed loop begin."""
        if self._clients is not None:
            self._clients.begin()

    def arrivals(self) -> Iterator[Arrival]:
        """Yield the arrivals that do not depend on replies."""
        if isinstance(self._schedule, OpenSchedule):
            arrive = self._frontend.arrive
            for start in range(0, len(self._schedule), CHUNK):
                ready = self._schedule.times[start : start + CHUNK] + self._cluster.network.overhead
                yield from zip(ready.tolist(), repeat(arrive), range(start, start + len(ready)), strict=False)

    def trace(self, instances: int) -> Trace:
        """Return what happened."""
        if self._clients is not None:
            times = np.frombuffer(self._clients.arrivals, dtype=np.float64)
        else:
            assert isinstance(self._schedule, OpenSchedule)
            times = self._schedule.times
        return traced(self._recorder, times, self._cluster, self._policy, instances)
