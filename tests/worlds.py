"""Random small clusters, for properties that have to hold whatever a user writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.corruption import Adversarial, RandomClass
from parity.codes import (
    Addition,
    Approxifer,
    Concatenation,
    Conditional,
    Exact,
    InvNet,
    Learned,
    Nercc,
    TensorCode,
    Thumbnails,
)
from sim.batching import Aimd, Batching, Fixed
from sim.cluster import Cluster
from sim.corruption import Corruption
from sim.dispatching import BestOf, Discipline, IdleQueue, RandomQueue, RoundRobin, ShortestQueue, SingleQueue
from sim.distributions.families import Deterministic, Exponential, Uniform
from sim.engines import Engine
from sim.network import Network
from sim.policies import (
    ApproximateBackup,
    Coded,
    CodedNonsystematic,
    DefaultAnswer,
    EqualResources,
    Hedged,
    Policy,
    Replication,
    Tied,
    Uncoded,
)
from sim.policies.coded import LastResort
from sim.policies.hedged import Hedging
from sim.policies.replication import Vote
from sim.routing import Ejection, LeastRequest, PeakEwma, Prequal
from sim.scalers import Cold, QueueLength, Scaler, Scheduled, TargetUtilisation
from sim.schedule import ClosedSchedule, OpenSchedule, Schedule
from sim.services import Service, check_services, simulate_services
from sim.sharing import FirstCome, Priority, Separate, Sharing, Weighted
from sim.simulation import check, simulate
from sim.stragglers import Crashes, Heterogeneous, PerTask, Recorded, SlowPeriods, Sticky, Straggler
from sim.streams import Streams
from sim.trace import Trace

LEARNERS = st.sampled_from(
    [
        PeakEwma(decay=0.1),
        PeakEwma(d=3, decay=0.001),
        LeastRequest(ejection=Ejection(timeout=0.05, consecutive=2, interval=0.05, base=0.1, most=0.5)),
        LeastRequest(ejection=Ejection(timeout=0.03, consecutive=1, interval=0.02, base=0.05, most=1, move=True)),
        Prequal(probes=1.5, age=0.1, round_trip=0.001),
        Prequal(probes=7, pool=3, removed=0.3, hot=0.5, round_trip=0.02),
    ]
)
"""Routers that learn."""
STEALING = st.sampled_from(
    [
        *(RoundRobin(steal=True), RandomQueue(steal=True), ShortestQueue(steal=True), PeakEwma(steal=True)),
        LeastRequest(steal=True, ejection=Ejection(timeout=0.03, consecutive=1, interval=0.1, base=0.05, move=True)),
    ]
)
"""Queues from which idle instances take tasks."""
DISCIPLINES = (
    st.sampled_from([SingleQueue(), RoundRobin(), RandomQueue(), ShortestQueue(), BestOf(d=2), IdleQueue()])
    | LEARNERS
    | STEALING
)
SERVICES = st.sampled_from([Deterministic(value=0.02), Exponential(mean=0.02), Uniform(low=0.0, high=0.04)])
FORMED_AT = st.sampled_from(["instance", "frontend"])
BATCHINGS = st.one_of(
    st.just(Fixed()),
    st.builds(Fixed, size=st.integers(1, 5), formed_at=FORMED_AT, max_wait=st.sampled_from([None, 0.0, 0.01])),
    st.builds(
        Aimd,
        objective=st.just(0.05),
        max_size=st.integers(2, 8),
        formed_at=FORMED_AT,
        max_wait=st.sampled_from([None, 0.005]),
    ),
)
STRAGGLERS = st.lists(
    st.sampled_from(
        [
            PerTask(slowdown=Deterministic(value=10.0), probability=0.1),
            PerTask(slowdown=Exponential(mean=0.05), how="add"),
            SlowPeriods(factor=Deterministic(value=8.0), mean_normal=0.5, mean_slow=0.2),
            Heterogeneous(factors=(1.0, 2.5)),
            Sticky(slowdown=Deterministic(value=6.0), probability=0.2, stickiness=0.9),
            Recorded(name="bytedance-gpu-2025-ar", speed=10),
            Crashes(mean_up=1.0, repair=Exponential(mean=0.3), detect=0.05),
        ]
    ),
    max_size=3,
    unique=True,
)
CORRUPTION = st.lists(
    st.sampled_from(
        [
            RandomClass(instances=2),
            RandomClass(after=Exponential(mean=0.3), lasts=Exponential(mean=0.3)),
            Adversarial(instances=(0, 1)),
        ]
    ),
    max_size=2,
)


HOW_SCALED: dict[str, st.SearchStrategy[Any]] = {
    "provisioning": st.sampled_from([Deterministic(value=0.0), Deterministic(value=0.03), Exponential(mean=0.1)]),
    "cold": st.none() | st.just(Cold(tasks=3, factor=Uniform(low=2.0, high=5.0))),
}
BOUNDED = {"min_instances": st.integers(1, 3), "max_instances": st.just(16)}
SCALERS: st.SearchStrategy[Scaler] = st.one_of(
    st.builds(
        lambda counts, **how: Scheduled(steps=tuple(zip((0.0, 0.05, 0.2, 0.6), counts, strict=False)), **how),
        st.lists(st.integers(1, 9), min_size=1, max_size=4),
        **HOW_SCALED,
    ),
    st.builds(
        TargetUtilisation,
        target=st.sampled_from([0.3, 0.7]),
        period=st.just(0.05),
        stabilisation=st.sampled_from([0.0, 0.1]),
        stabilisation_up=st.sampled_from([0.0, 0.1]),
        **BOUNDED,
        **HOW_SCALED,
    ),
    st.builds(
        QueueLength,
        above=st.just(1.2),
        below=st.sampled_from([0.3, 0.9]),
        add=st.integers(1, 3),
        period=st.just(0.02),
        cooldown=st.sampled_from([0.0, 0.05]),
        **BOUNDED,
        **HOW_SCALED,
    ),
)
"""Scalers of every kind that act within the short time of a world."""

WAITS = st.sampled_from([0.0, 0.01, 0.05])
CANCELS = {
    "cancel": st.sampled_from(["nothing", "queued", "all"]),
    "cancel_seconds": st.sampled_from([0.0, 0.01]),
}
SHARES = {"budget": st.sampled_from([None, 0.3]), "probability": st.sampled_from([1.0, 0.4])}
HEDGINGS = st.builds(Hedging, copies=st.integers(2, 2), after=WAITS, **SHARES, **CANCELS)
VOTES = st.builds(Vote, agree=st.integers(2, 2), tie=st.sampled_from(["most", "default", "another"]))


CODES = (Addition(), Exact(), Concatenation(), Conditional(), Learned(), InvNet(), Thumbnails())
"""Every code whose replies are predictions as they are; the others are `EVERY_REPLY`'s."""
EVERY_REPLY = (None, Approxifer(), Nercc(), Approxifer(errors=1), Nercc(errors=2))


def _coded(code: TensorCode, k: int, r: int) -> Coded:
    """Name the code at k and r, or at its own least size where it cannot serve so many."""
    try:
        return Coded(k=k, r=r, code=code)
    except ValidationError:
        return Coded(k=2, r=1, code=code)


def policies() -> st.SearchStrategy[Policy]:
    """Every policy, with every option that changes what it does, and every code."""
    return st.one_of(
        st.just(Uncoded()),
        st.just(EqualResources()),
        st.builds(DefaultAnswer, after=st.sampled_from([0.01, 0.05, 0.3])),
        st.builds(Replication, copies=st.integers(2, 3), **CANCELS),
        st.builds(Replication, copies=st.integers(2, 3), vote=VOTES, **CANCELS),
        st.builds(Coded, k=st.integers(2, 5), r=st.integers(1, 3)),
        st.builds(_coded, st.sampled_from(CODES), st.integers(2, 5), st.integers(1, 3)),
        st.builds(
            Coded,
            k=st.integers(2, 4),
            r=st.integers(1, 2),
            parity_instances=st.sampled_from([None, 2]),
            parity_pool=st.sampled_from(["own", "low_priority", "equal_priority"]),
            hedge=st.none() | HEDGINGS,
            backup=st.none() | st.builds(LastResort, after=WAITS),
        ),
        st.builds(
            CodedNonsystematic,
            k=st.integers(2, 5),
            stragglers=st.integers(1, 2),
            code=st.sampled_from(EVERY_REPLY),
            max_wait=st.sampled_from([None, 0.0, 0.03]),
        ),
        st.builds(Tied, copies=st.integers(2, 3), message_delay=st.sampled_from([0.0, 0.002])),
        st.builds(
            Hedged,
            copies=st.integers(2, 3),
            after=WAITS,
            **SHARES,
            **CANCELS,
        ),
        st.builds(Hedged, copies=st.integers(2, 3), after_quantile=st.sampled_from([0.2, 0.9]), **CANCELS),
        st.builds(
            ApproximateBackup,
            after=st.sampled_from([None, 0.0, 0.01, 0.05]),
            backup_instances=st.sampled_from([None, 1]),
            cancel=st.sampled_from(["nothing", "queued", "queued_up_to"]),
        ),
    )


@st.composite
def clusters(draw: st.DrawFn, discipline: st.SearchStrategy[Discipline] = DISCIPLINES) -> Cluster:
    """A small cluster with everything that a YAML's `cluster` can hold."""
    batching: Batching = draw(BATCHINGS)
    return Cluster(
        instances=draw(st.integers(2, 5)),
        extra=draw(st.integers(1, 3)),
        service=draw(SERVICES),
        backup_service=draw(st.none() | SERVICES),
        batch_cost=0.3,
        queue=draw(discipline),
        batching=batching,
        network=Network(
            gbps=draw(st.sampled_from([None, 0.5])),
            latency=draw(st.sampled_from([0.0, 0.001])),
            overhead=draw(st.sampled_from([0.0, 0.003])),
        ),
        encode=Deterministic(value=draw(st.sampled_from([0.0, 0.002]))),
        decode=Deterministic(value=draw(st.sampled_from([0.0, 0.004]))),
        deadline=draw(st.sampled_from([None, 0.03, 0.2])),
        scaler=draw(st.none() | SCALERS),
    )


def schedules() -> st.SearchStrategy[Schedule]:
    """Open arrivals (ties among them too) and closed loops."""
    queries = st.integers(1, 120) | st.integers(150, 250)  # a running quantile needs more than a hundred
    seeds = st.integers(0, 2**31)

    def opened(n: int, seed: int, mean: float) -> Schedule:
        return OpenSchedule(np.cumsum(np.random.default_rng(seed).exponential(mean, n).round(3)))

    def closed(n: int, seed: int, clients: int) -> Schedule:
        return ClosedSchedule(clients, np.random.default_rng(seed).exponential(0.02, n))

    return st.one_of(
        st.builds(opened, queries, seeds, st.sampled_from([0.002, 0.01, 0.05])),
        st.builds(closed, queries, seeds, st.integers(1, 12)),
    )


@dataclass(frozen=True)
class World:
    """One cell's worth of input."""

    cluster: Cluster
    policy: Policy
    stragglers: tuple[Straggler, ...]
    schedule: Schedule
    streams: Streams
    corruption: tuple[Corruption, ...] = ()

    @property
    def votes(self) -> bool:
        """Whether copies vote, which SimPy alone can simulate."""
        return isinstance(self.policy, Replication) and self.policy.vote is not None

    def fills(self) -> bool:
        """Say whether no batch and no group waits for queries that never come."""
        clients = self.schedule.clients if isinstance(self.schedule, ClosedSchedule) else None
        try:
            check(self.cluster, self.policy, (), len(self.schedule), clients)
        except ValueError as error:
            assert any(part in str(error) for part in ("never", "several models", "scaler"))
            return False
        return True

    def without_scaler(self) -> World:
        """Return the same world with as many instances as at the start."""
        return replace(self, cluster=self.cluster.model_copy(update={"scaler": None}))

    def run(self, engine: Engine = "simpy") -> Trace:
        """Simulate it, votes on SimPy whichever engine is asked for."""
        what = (self.cluster, self.policy, self.stragglers, self.schedule, self.streams)
        return simulate(*what, engine="simpy" if self.votes else engine, corruption=self.corruption)


def worlds(discipline: st.SearchStrategy[Discipline] = DISCIPLINES) -> st.SearchStrategy[World]:
    """Worlds of every kind in which every query is answered."""
    return st.builds(
        World,
        clusters(discipline),
        policies(),
        st.builds(tuple, STRAGGLERS),
        schedules(),
        st.builds(Streams, st.integers(0, 99)),
        st.builds(tuple, CORRUPTION),
    ).filter(lambda world: world.fills())


def poisson(rate: float, queries: int, streams: Streams) -> OpenSchedule:
    """Poisson arrivals."""
    return OpenSchedule(np.cumsum(streams.generator("arrivals").exponential(1.0 / rate, queries)))


@dataclass(frozen=True)
class Town:
    """Several services on the same instances."""

    services: tuple[Service, ...]
    sharing: Sharing
    stragglers: tuple[Straggler, ...]
    streams: Streams

    def fits(self) -> bool:
        """Say whether the policies can run together, and every query is answered."""
        try:
            check_services({one.name: (one.cluster, one.policy) for one in self.services}, self.sharing, ())
        except ValueError as error:
            assert "share them" in str(error) or "several services" in str(error)
            return False
        return all(self.world(one).fills() for one in self.services)

    def run(self) -> list[Trace]:
        """Simulate it."""
        return simulate_services(self.services, self.sharing, self.stragglers, self.streams)

    def world(self, service: Service) -> World:
        """Return what one of the services sees."""
        return World(service.cluster, service.policy, self.stragglers, service.schedule, self.streams)


@st.composite
def towns(draw: st.DrawFn) -> Town:
    """Two or three services with all that can be their own, in any sharing; often all have one policy."""
    machines, policy = draw(clusters()).model_copy(update={"scaler": None}), draw(policies())
    services = []
    for name in ("chat", "search", "night")[: draw(st.integers(2, 3))]:
        own = {"service": draw(SERVICES), "deadline": draw(st.sampled_from([None, 0.03, 0.2]))}
        one = Service(
            name,
            machines.model_copy(update=own),
            draw(st.just(policy) | policies()),
            draw(schedules()),
            priority=draw(st.integers(1, 2)),
            weight=draw(st.sampled_from([0.5, 1.0, 3.0])),
        )
        services.append(one)
    sharing = draw(st.sampled_from([FirstCome(), Priority(), Weighted(), Separate()]))
    return Town(tuple(services), sharing, tuple(draw(STRAGGLERS)), Streams(draw(st.integers(0, 99))))


def fitting_towns() -> st.SearchStrategy[Town]:
    """Towns in which every query is answered."""
    return towns().filter(lambda town: town.fits())
