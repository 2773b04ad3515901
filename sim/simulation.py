"""`simulate`: one policy on one cluster, from arrivals to a trace."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from sim import compiled, elastic
from sim.batching import BatchSize
from sim.clock import Call, Clock
from sim.cluster import Cluster
from sim.corruption import Corrupt, Corruption
from sim.dispatching import QueueEach, uniform
from sim.elastic import (
    ScaledLearning,
    ScaledPool,
    ScaledRouted,
    ScaledRoutedLane,
    ScaledShared,
    ScaledSharedLane,
    Scaling,
)
from sim.engines import Choice, Engine, choose
from sim.errors import ParmError
from sim.frontend import Frontend
from sim.lanes import lane
from sim.policies import Policy
from sim.policies.base import PoolPlan
from sim.pool import Conditions, Pool, SharedPool
from sim.recorder import Recorder
from sim.routed import RoutedPool
from sim.routing import Learning, LearningPool
from sim.schedule import ClosedSchedule, Schedule
from sim.sharing import Member, Separate, Site
from sim.stragglers import Crashes, Straggler
from sim.stragglers.base import UNUSED, Effect, ServiceModifier, Setting
from sim.streams import Stream, Streams
from sim.trace import Floats, Role, Trace

CHUNK = 1 << 16
"""Arrival times converted to Python floats at once."""


Hardware = Callable[[Role, int], ServiceModifier]
"""`hardware(role, row)`: for one pool, a modifier that runs a task on real hardware and returns the seconds it took."""


def simulate(
    cluster: Cluster,
    policy: Policy,
    stragglers: Sequence[Straggler],
    schedule: Schedule,
    streams: Streams,
    hardware: Hardware | None = None,
    engine: Engine = "auto",
    corruption: Sequence[Corruption] = (),
) -> Trace:
    """Simulate one policy on one cluster under one schedule of arrivals.

    The same arguments give the same trace. Equal `streams` give every policy the same first service times and the same
    stragglers (common random numbers). With `hardware` in the loop, measured times replace drawn service times, and
    stragglers modify those. `corruption` says which instances answer wrongly; the trace's tasks are then marked.

    Raises ParmError where queries would never be answered (lost work, batches that never fill) and where `hardware`
    does not support the batches, and ValueError where the policy cannot run on this cluster.
    """
    deadline = check_answers(cluster, policy, stragglers, schedule)
    if hardware is not None and cluster.batching.forms_at_instances:
        raise ParmError(
            "hardware in the loop does not run batches that form at instances: give 'cluster.batching' "
            "'formed_at: frontend'"
        )
    cluster = with_code(cluster, policy)
    plans = policy.pools(cluster)
    effects = attach(cluster, stragglers, streams, plans)
    by_kind = _by_kind(stragglers, effects)
    corrupt = corrupt_instances(corruption, cluster, policy, streams)
    choice = choose(engine, cluster, policy, by_kind, queries=len(schedule), measured=hardware is not None)
    if choice.engine == "compiled":
        trace = compiled.run(cluster, policy, effects, schedule, streams, deadline)
        return trace if corrupt is None else corrupt.marked(trace)
    clock = Clock()
    recorder = Recorder(len(schedule))
    scaling = None if cluster.scaler is None else Scaling(cluster.scaler, plans, streams, clock)
    drain = clock.drain if scaling is None else scaling.drain
    pools = launch(clock, recorder, cluster, effects, streams, plans, hardware, scaling=scaling)
    frontend = Frontend(clock, recorder, cluster, streams, pools[0], pools[1:], deadline)
    frontend.corrupt = corrupt
    execution = policy.begin(frontend)
    with gc_disabled():
        if isinstance(schedule, ClosedSchedule):
            clients = ClosedLoop(clock, frontend, schedule, cluster.network.overhead)
            frontend.serve(execution, clients)
            clients.begin()
        else:
            frontend.serve(execution, None)
            advance, arrive = clock.advance, frontend.arrive
            for start in range(0, len(schedule), CHUNK):
                ready = schedule.times[start : start + CHUNK] + cluster.network.overhead
                for query, time in enumerate(ready.tolist(), start):
                    advance(time)
                    arrive(query)
        drain()
        while execution.flush():
            drain()
    arrivals = (
        np.frombuffer(clients.arrivals, dtype=np.float64) if isinstance(schedule, ClosedSchedule) else schedule.times
    )
    trace = traced(recorder, arrivals, cluster, policy, sum(plan.instances for plan in plans))
    trace = trace if scaling is None else scaling.told(trace)
    return trace if corrupt is None else corrupt.marked(trace)


def traced(recorder: Recorder, arrivals: Floats, cluster: Cluster, policy: Policy, instances: int) -> Trace:
    """Return the trace of what was recorded; raises as `Recorder.trace`."""
    k, r = policy.group
    return recorder.trace(
        arrivals,
        overhead=cluster.network.overhead,
        k=k,
        r=r,
        instances=instances,
        query_bytes={role: cluster.network.bytes_to(role) for role in Role},
        reply_bytes=cluster.network.reply_bytes,
    )


def check_answers(
    cluster: Cluster, policy: Policy, stragglers: Sequence[Straggler], schedule: Schedule
) -> float | None:
    """Return the deadline of the queries; raises as `simulate` where some would never be answered."""
    deadline = _deadline(cluster, policy)
    _check_routing(cluster, policy)
    elastic.check(cluster, policy)
    if deadline is None and any(isinstance(one, Crashes) and not one.retry for one in stragglers):
        raise ParmError(
            "crashes that lose work permanently leave queries without an answer: give the cluster a 'deadline', or let "
            "the crashes 'retry'"
        )
    clients_only = schedule.clients if isinstance(schedule, ClosedSchedule) else None
    stuck = _never_full(cluster, policy, len(schedule), clients_only)
    if stuck is not None:
        raise ParmError(stuck)
    return deadline


def check(
    cluster: Cluster,
    policy: Policy,
    stragglers: Sequence[Straggler],
    queries: int = 0,
    clients: int | None = None,
    corruption: Sequence[Corruption] = (),
) -> None:
    """Raise ValueError, in one sentence, if `simulate` cannot run these together with so many `queries`.

    `clients` is their number in a closed loop, None otherwise.
    """
    with_code(cluster, policy)
    _check_routing(cluster, policy)
    elastic.check(cluster, policy)
    deadline, overhead = _deadline(cluster, policy), cluster.network.overhead
    if deadline is not None and deadline <= overhead:
        raise ValueError(
            f"the deadline ({deadline:g} s) has to be above network.overhead ({overhead:g} s), which every query takes "
            "before it is dispatched"
        )
    attach(cluster, stragglers, Streams(0), policy.pools(cluster))
    corrupt_instances(corruption, cluster, policy, Streams(0))
    stuck = _never_full(cluster, policy, queries, clients)
    if stuck is not None:
        raise ValueError(stuck)


def corrupt_instances(
    corruption: Sequence[Corruption], cluster: Cluster, policy: Policy, streams: Streams
) -> Corrupt | None:
    """Return which instances answer wrongly, and when; raises ValueError where there are too few instances."""
    if not corruption:
        return None
    plans = policy.pools(cluster)
    more = [] if cluster.scaler is None else elastic.spares(cluster.scaler, plans)
    begun, added = (sum(plan.instances for plan in some) for some in (plans, more))
    return Corrupt(corruption, streams, begun, added)


def without_effect(cluster: Cluster, policies: Sequence[Policy]) -> list[str]:
    """Return a sentence for each option of a policy, or of the cluster, that has no effect with the others."""
    found = [f"{policy.label}: {says}" for policy in policies for says in policy.without_effect(cluster)]
    used = {plan.served_by for policy in policies for plan in policy.pools(cluster)}
    for role, option in ((Role.PARITY, "parity_service"), (Role.BACKUP, "backup_service")):
        if getattr(cluster, option) is not None and role not in used:
            found.append(f"'cluster.{option}' has no effect, since no policy uses that model")
    batching = cluster.batching
    if batching.max_wait and batching.start().now == 1 and not batching.start().adapts:
        found.append("'cluster.batching.max_wait' has no effect on batches of one query")
    return found


def _never_full(cluster: Cluster, policy: Policy, queries: int, clients: int | None) -> str | None:
    """Return why queries would wait without end for others to fill their batch or coding group, or None."""
    batching = cluster.batching
    waits = batching.formed_at == "frontend" and batching.frontend_wait is None
    size = batching.start().now if waits else 1
    if queries % size:
        return (
            f"the last batch would have {queries % size} of {size} queries and never be sent: give 'cluster.batching' "
            f"a 'max_wait', or make the number of queries a multiple of {size}"
        )
    needed = size * policy.collects
    if clients is None or clients >= needed or cluster.deadline is not None or policy.deadline is not None:
        return None
    what, where = ("coding group", "the policy") if policy.collects > 1 else ("batch", "'cluster.batching'")
    return (
        f"a {what} of {needed} queries never fills with {clients} client{'s' if clients > 1 else ''}, so no query "
        f"would be answered: give {where} a 'max_wait'"
    )


def _check_routing(cluster: Cluster, policy: Policy) -> None:
    """Raise ValueError where tasks of several models on the same instances would be routed by what was learnt, or
    stolen."""
    queue = cluster.queue
    if not isinstance(queue, QueueEach) or all(plan.rank is None for plan in policy.pools(cluster)):
        return
    if isinstance(queue, Learning):
        raise ValueError(
            f"'{queue.name_in_yaml()}' does not choose for several models on the same instances: let the policy's "
            "models have instances of their own, or take another queue"
        )
    if queue.steal:
        raise ValueError(
            "'steal' does not move tasks between several models on the same instances: let the policy's models have "
            "instances of their own, or leave it out"
        )


def _deadline(cluster: Cluster, policy: Policy) -> float | None:
    return min((one for one in (cluster.deadline, policy.deadline) if one is not None), default=None)


def engine_for(
    engine: Engine,
    cluster: Cluster,
    policy: Policy,
    stragglers: Sequence[Straggler],
    *,
    queries: int,
    measured: bool = False,
) -> Choice:
    """Return the engine with which `simulate` runs these together; raises as `sim.engines.choose` and `check` do."""
    effects = attach(cluster, stragglers, Streams(0), policy.pools(cluster))
    return choose(engine, cluster, policy, _by_kind(stragglers, effects), queries=queries, measured=measured)


def _by_kind(stragglers: Sequence[Straggler], effects: Sequence[Effect]) -> list[tuple[str, Effect]]:
    names = [one.name_in_yaml() if isinstance(one, Straggler) else type(one).__name__ for one in stragglers]
    return [(str(name), effect) for name, effect in zip(names, effects, strict=True)]


def with_code(cluster: Cluster, policy: Policy) -> Cluster:
    """Return the cluster with the coding times of the policy's code, if it makes coding groups."""
    k, _ = policy.group
    return cluster.for_code(policy.coding) if k else cluster


def attach(
    cluster: Cluster, stragglers: Sequence[Straggler], streams: Streams, plans: Sequence[PoolPlan]
) -> list[Effect]:
    """Return the effect of each straggler on the machines of these pools. Raises ValueError where there are too few."""
    more = [] if cluster.scaler is None else elastic.spares(cluster.scaler, plans)
    of_instance = [(int(plan.role), plan.row) for plan in (*plans, *more) for _ in range(plan.instances)]
    if cluster.launched is not None:
        if len(of_instance) > cluster.launched:
            raise ValueError(
                f"the policy uses {len(of_instance)} instances, but only {cluster.launched} are launched: raise "
                "'cluster.launched'"
            )
        of_instance += [UNUSED] * (cluster.launched - len(of_instance))
    return [
        straggler.attach(Setting(streams, number, of_instance, cluster.network))
        for number, straggler in enumerate(stragglers)
    ]


def launch(
    clock: Clock,
    recorder: Recorder,
    cluster: Cluster,
    effects: Sequence[Effect],
    streams: Streams,
    plans: Sequence[PoolPlan],
    hardware: Hardware | None,
    member: Member | None = None,
    scaling: Scaling | None = None,
) -> list[Pool]:
    """Launch a policy's pools, for one of several services if it is a `member` of their site, or with a scaler."""
    member = member or Member(Site(Separate(), (1.0,)))
    if scaling is not None:
        effects, plans = scaling.translated(effects), scaling.sized(plans)
    network = cluster.network
    batching = cluster.batching
    at_instances = batching.forms_at_instances
    sizes: dict[tuple[Role, int], BatchSize] = {}
    pools: list[Pool] = []
    for plan in plans:
        group = member.group(plan, plans[0])
        instances = member.site.launch(plan.instances) if group is None else group.instances
        fleet = None if scaling is None else scaling.fleet_of(plan)
        begin = () if fleet is None else (fleet.begin,)
        measured = () if hardware is None else (hardware(plan.role, plan.row),)
        conditions = Conditions(
            draws=partial(_draws, cluster, streams, plan),
            send_seconds=partial(network.seconds, network.bytes_to(plan.role)),
            reply_seconds=partial(network.seconds, network.reply_bytes),
            modifiers=(*measured, *begin, *(effect.modifier for effect in effects if effect.modifier is not None)),
            delays=tuple(effect.delay for effect in effects if effect.delay is not None),
            outages=tuple(effect.outages for effect in effects if effect.outages is not None),
            model=plan.served_by,
            batch=sizes.setdefault(plan.serves, batching.start()) if at_instances else None,
            max_wait=batching.max_wait or 0.0 if at_instances else 0.0,
            steals=isinstance(cluster.queue, QueueEach) and cluster.queue.steal,
        )
        label = recorder.label(plan.role, plan.row)
        uniforms = streams.stream(uniform, "routing", plan.role, plan.row)
        queue = cluster.queue
        chooser = None if isinstance(queue, Learning) else queue.chooser(uniforms)
        pool: Pool
        if isinstance(queue, Learning):
            places = len(instances) if fleet is None else fleet.serving
            learner = queue.learner(uniforms, clock, places, recorder.besides)
            learning = LearningPool if fleet is None else ScaledLearning
            pool = learning(clock, recorder, label, instances, conditions, learner)
        elif group is not None:
            lanes = None if fleet is None else (ScaledSharedLane, ScaledRoutedLane)
            pool = lane(clock, recorder, label, conditions, chooser, group, member.key(plan), lanes)
        elif chooser is None:
            shared = SharedPool if fleet is None else ScaledShared
            pool = shared(clock, recorder, label, instances, conditions)
        else:
            routed = RoutedPool if fleet is None else ScaledRouted
            pool = routed(clock, recorder, label, instances, conditions, chooser)
        if fleet is not None:
            assert isinstance(pool, ScaledPool)
            fleet.take(pool)
        pools.append(pool)
    return pools


def _draws(cluster: Cluster, streams: Streams, plan: PoolPlan, size: int, attempt: int) -> Stream:
    sample = cluster.service_of(plan.served_by, size).sample
    return streams.stream(sample, "service", plan.role, plan.row, attempt)


class ClosedLoop:
    """The clients of a closed loop."""

    __slots__ = ("_clock", "_frontend", "_overhead", "_schedule", "_sent", "arrivals")

    def __init__(self, clock: Clock, frontend: Frontend, schedule: ClosedSchedule, overhead: float) -> None:
        self._clock = clock
        self._frontend = frontend
        self._schedule = schedule
        self._overhead = overhead
        self._sent = 0
        self.arrivals: array[float] = array("d")

    def begin(self) -> None:
        """Schedule every client's first query."""
        for _ in range(min(self._schedule.clients, len(self._schedule))):
            self.replied()

    def replied(self) -> None:
        """Schedule the next query of a client who got a reply, if any is left to send."""
        if self._sent < len(self._schedule):
            arrival = self._clock.now + self._schedule.think[self._sent]
            self._clock.at(arrival + self._overhead, Call(self._arrive, arrival))
            self._sent += 1

    def _arrive(self, call: Call) -> None:
        self.arrivals.append(call.item)
        self._frontend.arrive(len(self.arrivals) - 1)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable the cyclic garbage collector, whose walks over live tasks are slow: the simulation leaves no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
