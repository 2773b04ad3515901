"""DESIGN.md's numbered promises about the simulator, over random worlds and against theory."""

from __future__ import annotations

import gc
import math
import os
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import compiled
from sim.clock import Call
from sim.cluster import Cluster
from sim.code import any_k_suffice
from sim.dispatching import RandomQueue, SingleQueue
from sim.distributions.families import Deterministic, Exponential, Gamma
from sim.engines import Engine
from sim.policies import (
    ApproximateBackup,
    Coded,
    CodedNonsystematic,
    DefaultAnswer,
    EqualResources,
    Hedged,
    Replication,
    Tied,
    Uncoded,
)
from sim.policies.approximate_backup import Pending
from sim.policies.base import PoolPlan
from sim.policies.coded import Fallbacks, LastResort
from sim.policies.groups import Group
from sim.policies.hedged import Hedging
from sim.policies.replication import CopySet
from sim.simulation import simulate
from sim.stragglers import SlowPeriods
from sim.streams import Streams
from sim.task import Batch, Task
from sim.trace import Role, Route, Tasks, TaskStatus, Trace
from tests.worlds import STEALING, World, poisson, worlds

EXAMPLES = int(os.environ.get("PARM_EXAMPLES", "250"))
"""Random worlds per promise; more, and new ones at each run, with PARM_EXAMPLES=5000."""
MANY = settings(max_examples=EXAMPLES, deadline=None)


ENGINES = pytest.mark.parametrize("engine", ["simpy", "compiled"])


def run(world: World, engine: Engine) -> Trace:
    """Simulate the world on an engine, without its scaler if the compiled one declines it."""
    ready(engine)
    return (world.without_scaler() if engine == "compiled" else world).run(engine)


def ready(engine: Engine) -> None:
    """Have an engine ready, or skip the test where it is not installed."""
    if engine == "compiled":
        pytest.importorskip("numba")
        compiled.compile_kernel()


@ENGINES
@MANY
@given(worlds())
def test_promise_1_every_query_is_answered_exactly_once(engine: Engine, world: World) -> None:
    answered_once(world, run(world, engine))


def answered_once(world: World, trace: Trace) -> None:
    queries = trace.queries
    assert len(queries) == len(world.schedule)
    assert np.all(np.isfinite(queries.reply))
    assert np.array_equal(np.repeat(np.arange(len(trace.batches)), trace.batches.size), queries.batch)
    # Whoever was answered by a task was answered by one that came back at that very moment.
    tasks = trace.tasks
    own = (tasks.role == Role.DEPLOYED) & (tasks.fate == TaskStatus.DONE)
    for query in np.flatnonzero((queries.route == Route.OWN) | (queries.route == Route.REPLICA)):
        assert queries.reply[query] in tasks.back[own & (tasks.owner == queries.batch[query])]
        if not world.votes:  # which wait for further answers
            assert queries.reply[query] == tasks.back[own & (tasks.owner == queries.batch[query])].min()


@ENGINES
@MANY
@given(worlds())
def test_promise_2_causality(engine: Engine, world: World) -> None:
    causal(world, run(world, engine))


def causal(world: World, trace: Trace) -> None:
    queries, tasks = trace.queries, trace.tasks
    answered = queries.route != Route.DEFAULT
    assert np.all(queries.arrival <= queries.dispatch)
    assert np.all(queries.arrival <= queries.reply)
    assert np.all(queries.dispatch[answered] <= queries.reply[answered])
    began = ~np.isnan(tasks.start)
    assert np.all(began == (tasks.instance >= 0))
    assert np.all(tasks.queued[began] <= tasks.start[began])
    assert np.all(tasks.start[began] <= tasks.finish[began])
    done = tasks.fate == TaskStatus.DONE
    assert np.all(began[done])
    assert np.all(tasks.finish[done] <= tasks.back[done])
    assert np.all(np.isnan(tasks.back[~done]))
    for deadline in (world.cluster.deadline, world.policy.deadline):
        if deadline is not None:
            assert np.all(queries.latency <= deadline + 1e-9)
    if isinstance(world.policy, CodedNonsystematic):  # no query is sent as it is; its group's coded ones are sent later
        last = np.full(int(trace.group.max(initial=-1)) + 1, -np.inf)
        np.maximum.at(last, trace.group, queries.dispatch)
        assert np.all(tasks.role == Role.PARITY)
        assert np.all(tasks.queued >= last[tasks.owner])
        return
    first = np.full(len(trace.batches), np.inf)
    np.minimum.at(first, tasks.owner[tasks.role == Role.DEPLOYED], tasks.queued[tasks.role == Role.DEPLOYED])
    assert np.allclose(first[queries.batch], queries.dispatch, rtol=0, atol=1e-12)


@ENGINES
@MANY
@given(worlds())
def test_promise_3_a_reconstruction_is_used_only_when_the_prediction_was_later(engine: Engine, world: World) -> None:
    reconstructed_only_if_late(world, run(world, engine))


def reconstructed_only_if_late(world: World, trace: Trace) -> None:
    queries, tasks = trace.queries, trace.tasks
    used_routes = queries.route[queries.used != 0]
    assert world.votes or np.all(used_routes == Route.RECONSTRUCTION)
    group_of, slot_of = trace.group, trace.slot
    done = tasks.fate == TaskStatus.DONE
    suffices = any_k_suffice if world.policy.erasure_code is None else world.policy.erasure_code.sufficient
    for query in np.flatnonzero(queries.route == Route.RECONSTRUCTION):
        used, reply = int(queries.used[query]), queries.reply[query]
        decoded = reply - world.cluster.decode.mean()
        assert not used >> int(slot_of[query]) & 1
        assert suffices(trace.k, trace.r, used)
        own = done & (tasks.role == Role.DEPLOYED) & (tasks.owner == queries.batch[query])
        assert not np.any(tasks.back[own] < reply - 1e-12), "its own prediction was back before the reconstruction"
        for bit in range(trace.k + trace.r):
            if used >> bit & 1:
                if bit < trace.k:
                    batch = np.flatnonzero((trace.batches.group == group_of[query]) & (trace.batches.slot == bit))
                    helped = done & (tasks.role == Role.DEPLOYED) & (tasks.owner == batch[0])
                else:
                    of_group = (tasks.owner == group_of[query]) & (tasks.row == bit - trace.k)
                    helped = done & (tasks.role == Role.PARITY) & of_group
                assert tasks.back[helped].min() <= decoded + 1e-12


@ENGINES
@MANY
@given(worlds())
def test_promise_3_a_backup_is_used_only_when_the_prediction_was_later(engine: Engine, world: World) -> None:
    backup_only_if_late(world, run(world, engine))


def backup_only_if_late(world: World, trace: Trace) -> None:
    queries, tasks = trace.queries, trace.tasks
    done = tasks.fate == TaskStatus.DONE
    for query in np.flatnonzero(queries.route == Route.BACKUP):
        assert isinstance(world.policy, (ApproximateBackup, Coded))
        reply, dispatch = queries.reply[query], queries.dispatch[query]
        mine = done & (tasks.owner == queries.batch[query])
        assert not np.any(tasks.back[mine & (tasks.role == Role.DEPLOYED)] < reply)
        back = tasks.back[mine & (tasks.role == Role.BACKUP)].min()
        if isinstance(world.policy, Coded):
            assert world.policy.backup is not None
            assert world.policy.backup.after is not None
            # The first one asked may have been lost with its instance, and the one that answered be its repetition.
            asked = tasks.queued[(tasks.owner == queries.batch[query]) & (tasks.role == Role.BACKUP)].min()
            assert reply == back
            assert asked == dispatch + world.policy.backup.after
        elif world.policy.after is None:
            assert back <= reply
        else:
            assert reply == max(back, dispatch + world.policy.after)


@ENGINES
@MANY
@given(worlds())
def test_promise_4_an_instance_serves_one_batch_at_a_time(engine: Engine, world: World) -> None:
    one_batch_at_a_time(run(world, engine).tasks)


def one_batch_at_a_time(tasks: Tasks) -> None:
    ran = tasks.instance >= 0
    order = np.lexsort((tasks.start[ran], tasks.instance[ran]))
    instance, start, finish = tasks.instance[ran][order], tasks.start[ran][order], tasks.finish[ran][order]
    together = tasks.together[ran][order]
    services = np.stack([instance, start, finish, together])[:, (together > 1) & (start < finish)]
    different, counts = np.unique(services, axis=1, return_counts=True)
    assert np.array_equal(counts, different[3]), "tasks that are served together start and end together"
    first = np.ones(len(instance), dtype=bool)
    first[1:] = np.any([instance[1:] != instance[:-1], start[1:] != start[:-1], together[1:] == 1], axis=0)
    instance, start, finish = instance[first], start[first], finish[first]
    same = instance[1:] == instance[:-1]
    assert np.all(start[1:][same] >= finish[:-1][same] - 1e-12)


@ENGINES
@MANY
@given(worlds(st.just(SingleQueue()) | STEALING))
def test_promise_4_one_queue_or_stealing_never_idles_an_instance_while_work_waits(engine: Engine, world: World) -> None:
    """Whenever a task that may run on any instance waits, every instance of its pool is taken or down."""
    if world.stragglers and any(one.kind == "crashes" for one in world.stragglers):
        return
    if isinstance(world.policy, (Replication, Hedged, Tied)) or getattr(world.policy, "hedge", None):
        return  # a copy waits rather than meet another one on the instance that is idle
    if world.cluster.batching.forms_at_instances and world.cluster.batching.max_wait:
        return  # an idle instance waits for a batch to fill
    trace = run(world, engine)
    tasks = trace.tasks
    network = world.cluster.network
    plans = world.policy.pools(world.cluster)
    shared = [plan for plan in plans if plan.rank is not None]
    for plan in plans:
        if plan in shared[1:]:
            continue  # its tasks belong to the pool that it joined
        pool = np.zeros(len(tasks), dtype=bool)
        for one in shared if plan in shared else [plan]:
            pool |= (tasks.role == one.role) & (tasks.row == one.row)
        ran = pool & (tasks.instance >= 0)
        sent = tasks.sent[ran]
        back = np.where(np.isnan(tasks.back[ran]), tasks.finish[ran], tasks.back[ran])
        left_queue = np.where(np.isnan(tasks.start[pool]), tasks.finish[pool], tasks.start[pool])
        for queued, left in zip(tasks.queued[pool], left_queue, strict=True):
            middle = (queued + left - network.seconds(network.bytes_to(plan.role), 1)) / 2
            if queued + 1e-9 < middle < left - 0.01:
                taken = len(np.unique(tasks.instance[ran][(sent <= middle) & (middle < back)]))
                assert taken == plan.instances if trace.counts is None else taken >= serving(trace, plan, middle)


def serving(trace: Trace, plan: PoolPlan, when: float) -> int:
    """How many instances of a pool take tasks at a time."""
    counts = trace.counts
    assert counts is not None
    return int(counts.serving[(counts.role == plan.role) & (counts.row == plan.row) & (counts.time <= when)][-1])


@ENGINES
def test_promise_6_common_random_numbers(engine: Engine) -> None:
    """Every policy meets the same arrivals, first service times and conditions of the machines."""
    ready(engine)
    streams = Streams(5, 3)
    schedule = poisson(100.0, 400, streams)
    cluster = Cluster(instances=4, extra=2, service=Gamma(shape=2.0, mean=0.02))
    first: dict[str, np.ndarray] = {}
    shared = Coded(k=4, parity_pool="low_priority")
    hedged = Coded(k=5, hedge=Hedging(after=0.03), backup=LastResort(after=0.05))
    for policy in (
        *(Uncoded(), EqualResources(), DefaultAnswer(after=1.0), Replication(), ApproximateBackup(after=0)),
        *(Coded(k=2), Coded(k=3, r=2), shared, hedged),
    ):
        trace = simulate(cluster, policy, (), schedule, streams, engine=engine)
        assert np.array_equal(trace.queries.arrival, schedule.times)
        tasks = trace.tasks
        ran = (tasks.role == Role.DEPLOYED) & (tasks.attempt == 0) & (tasks.fate == TaskStatus.DONE)
        service = np.full(400, np.nan)
        service[tasks.owner[ran]] = tasks.finish[ran] - tasks.start[ran]
        first[f"{policy.label}{policy.group}"] = service
    reference = first.pop("none(0, 0)")
    assert not np.any(np.isnan(reference))
    for label, service in first.items():
        there = ~np.isnan(service)
        assert there.sum() > 100, label
        assert np.allclose(service[there], reference[there], rtol=0, atol=1e-12), label


@ENGINES
def test_promise_6_another_trial_is_another_world(engine: Engine) -> None:
    ready(engine)
    cluster = Cluster(instances=4, service=Exponential(mean=0.02))
    one, other = Streams(5, 0), Streams(5, 1)
    schedule = poisson(100.0, 50, one)
    traces = [simulate(cluster, Uncoded(), (), schedule, streams, engine=engine) for streams in (one, other)]
    assert not np.array_equal(traces[0].queries.reply, traces[1].queries.reply)


@given(st.integers(2, 5), st.integers(1, 12))
def test_promise_8_equal_resources_and_coded_use_the_same_number_of_instances(k: int, share: int) -> None:
    cluster = Cluster(instances=k * share, extra=share, service=Deterministic(value=0.01))
    assert EqualResources().instances(cluster) == Coded(k=k).instances(cluster)
    wider = Cluster(instances=k * share, extra=share + 3, service=Deterministic(value=0.01))
    for policy in (
        Coded(k=k, parity_instances="budget"),
        Coded(k=k, parity_instances="budget", parity_pool="low_priority"),
        Coded(k=k, parity_instances="budget", backup=LastResort(instances=2)),
        CodedNonsystematic(k=k),
        DefaultAnswer(after=1.0),
    ):
        assert EqualResources().instances(wider) == policy.instances(wider)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.floats(0.2, 1.3), st.integers(0, 10_000))
def test_promise_10_waiting_times_equal_the_kiefer_wolfowitz_recursion(servers: int, load: float, seed: int) -> None:
    """Kiefer and Wolfowitz (1955): the sorted vector of the servers' remaining work, query by query."""
    streams = Streams(seed)
    service = Gamma(shape=0.7, mean=0.02)
    schedule = poisson(load * servers / 0.02, 2000, streams)
    trace = simulate(Cluster(instances=servers, service=service), Uncoded(), (), schedule, streams)
    draws = streams.stream(service.sample, "service", int(Role.DEPLOYED), 0, 0)
    work = np.zeros(servers)
    before = 0.0
    for query, arrival in enumerate(schedule.times):
        work = np.maximum(work - (arrival - before), 0.0)
        before = arrival
        wait = work[0]
        work[0] += draws.at(query)
        work.sort()
        assert math.isclose(trace.queries.latency[query], wait + draws.at(query), rel_tol=0, abs_tol=1e-9)


@pytest.mark.parametrize(("servers", "d", "load"), [(4, 2, 0.5), (3, 3, 0.4), (6, 2, 0.5)])
def test_promise_10_replication_matches_redundancy_d(servers: int, d: int, load: float) -> None:
    """Gardner et al. (Oper. Res. 2017): d copies at random servers, all cancelled when the first completes."""
    mu = 50.0
    rate = load * mu  # per server
    expected = sum(
        1.0 / (servers * mu * comb(servers - 1, d - 1) / comb(i - 1, d - 1) - servers * rate)
        for i in range(d, servers + 1)
    )
    cluster = Cluster(instances=servers, service=Exponential(mean=1.0 / mu), queue=RandomQueue())
    means = []
    for trial in range(6):
        streams = Streams(11, trial)
        schedule = poisson(servers * rate, 12_000, streams)
        trace = simulate(cluster, Replication(copies=d, cancel="all"), (), schedule, streams)
        means.append(trace.queries.latency[1000:].mean())
    half = 3.36 * np.std(means, ddof=1) / math.sqrt(6)  # Student's t, 5 degrees of freedom, 98%
    assert abs(np.mean(means) - expected) < max(half, 0.01 * expected)
    assert half < 0.05 * expected


def test_a_simulation_leaves_no_cycles_behind() -> None:
    """The collector rests while a simulation runs, so tasks that hold each other would stay."""
    streams = Streams(1)
    schedule = poisson(150.0, 1000, streams)
    slow = (SlowPeriods(mean_normal=1.0, mean_slow=0.3),)
    for deadline in (None, 0.05):
        cluster = Cluster(instances=4, extra=2, service=Exponential(mean=0.02), deadline=deadline)
        for policy in (
            Uncoded(),
            Replication(cancel="all"),
            Replication(cancel="nothing"),
            Coded(k=2),
            Coded(k=3, r=2),
            ApproximateBackup(),
            ApproximateBackup(after=0.01, cancel="nothing"),
            Coded(k=2, parity_pool="low_priority"),
            Coded(k=2, hedge=Hedging(after=0.03, cancel="all"), backup=LastResort(after=0.05)),
            Coded(k=3, hedge=Hedging(after=0.01, cancel="nothing"), backup=LastResort(after=0.02)),
            CodedNonsystematic(k=2, max_wait=0.05),
        ):
            gc.collect()
            gc.disable()
            try:
                trace: Trace = simulate(cluster, policy, slow, schedule, streams, engine="simpy")
                left = sum(
                    type(thing) in (Task, Batch, Group, Pending, CopySet, Fallbacks, Call) for thing in gc.get_objects()
                )
            finally:
                gc.enable()
            assert len(trace.tasks) >= 1000
            assert left < 12, (policy.label, deadline)  # the last, incomplete coding group
