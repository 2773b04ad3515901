"""Several services on the same instances: the promises, theory as an oracle, and shares of the instances' time."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sim import theory
from sim.cluster import Cluster
from sim.dispatching import Discipline, QueueEach, RandomQueue, ShortestQueue, SingleQueue
from sim.distributions import Distribution
from sim.distributions.families import Deterministic, Exponential
from sim.errors import ParmError
from sim.policies import Coded, Hedged, PerService, Policy, Replication, Uncoded
from sim.routing import Learning, LeastRequest
from sim.scalers import Scheduled
from sim.schedule import ClosedSchedule, OpenSchedule
from sim.services import Service, check_services, simulate_services
from sim.sharing import FirstCome, Priority, Separate, Sharing, Weighted, parts
from sim.simulation import simulate
from sim.stragglers import Crashes, PerTask
from sim.streams import Streams
from sim.trace import Role, Tasks, Trace
from tests.sim.test_promises import (
    EXAMPLES,
    answered_once,
    backup_only_if_late,
    causal,
    one_batch_at_a_time,
    reconstructed_only_if_late,
)
from tests.sim.test_sharing import as_bytes
from tests.worlds import Town, World, fitting_towns, worlds

SHARINGS = [FirstCome(), Priority(), Weighted(), Separate()]
EVERY_SHARING = pytest.mark.parametrize("sharing", SHARINGS, ids=lambda one: one.kind)
MANY = settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@settings(max_examples=60, deadline=None)
@given(worlds(), st.sampled_from(SHARINGS))
def test_a_single_service_is_a_simulation_without_services(world: World, sharing: Sharing) -> None:
    queue = world.cluster.queue
    moves = isinstance(queue, Learning) or (isinstance(queue, QueueEach) and queue.steal)
    assume(world.cluster.scaler is None and not (moves and sharing.together))
    world = replace(world, corruption=())
    alone = Service("", world.cluster, world.policy, world.schedule, priority=3, weight=0.7)
    (trace,) = simulate_services([alone], sharing, world.stragglers, world.streams)
    assert as_bytes(trace) == as_bytes(world.run())


@MANY
@given(fitting_towns())
def test_promises_1_to_4_hold_for_each_service(town: Town) -> None:
    traces = town.run()
    for service, trace in zip(town.services, traces, strict=True):
        world = town.world(service)
        answered_once(world, trace)
        causal(world, trace)
        reconstructed_only_if_late(world, trace)
        backup_only_if_late(world, trace)
    one_batch_at_a_time(all_tasks(traces))


def all_tasks(traces: list[Trace]) -> Tasks:
    """Return the tasks of all services, one after the other."""
    names = [one.name for one in fields(Tasks) if one.name != "wrong"]
    columns = {name: np.concatenate([getattr(trace.tasks, name) for trace in traces]) for name in names}
    return Tasks(**columns)


def service(
    name: str,
    rate: float,
    queries: int = 2000,
    mean: Distribution | float = 0.02,
    policy: Policy | None = None,
    queue: Discipline | None = None,
    instances: int = 4,
    priority: int = 1,
    weight: float = 1.0,
) -> Service:
    """Return a service with Poisson arrivals of its own."""
    times = mean if isinstance(mean, Distribution) else Exponential(mean=mean)
    cluster = Cluster(instances=instances, extra=2, service=times, queue=queue or SingleQueue())
    schedule = OpenSchedule.poisson(rate, queries, Streams(3).of(name))
    return Service(name, cluster, policy or Uncoded(), schedule, priority, weight)


@EVERY_SHARING
def test_another_service_changes_no_arrivals_and_no_service_times(sharing: Sharing) -> None:
    chat, night = service("chat", 50.0), service("night", 30.0, mean=0.05)
    slow = (PerTask(slowdown=Deterministic(value=3.0), probability=0.2),)
    (alone,) = simulate_services([chat], sharing, slow, Streams(3))
    beside, other = simulate_services([chat, night], sharing, slow, Streams(3))
    assert np.array_equal(alone.queries.arrival, beside.queries.arrival)

    def took(trace: Trace) -> np.ndarray:
        found = np.full(len(trace.queries), np.nan)
        found[trace.tasks.owner] = trace.tasks.finish - trace.tasks.start
        return found

    assert np.allclose(took(alone), took(beside), rtol=0, atol=1e-12)
    assert abs(np.corrcoef(took(beside), took(other))[0, 1]) < 0.1  # each has its own luck
    if sharing.together:
        assert beside.queries.latency.mean() > alone.queries.latency.mean()


@pytest.mark.parametrize(
    ("servers", "means", "trials", "within"),
    [(1, (0.02, 0.02), 20, 0.01), (1, (0.02, 0.05), 8, 0.04), (3, (0.02, 0.02), 8, 0.03)],
)
def test_strict_priority_matches_cobham(servers: int, means: tuple[float, float], trials: int, within: float) -> None:
    """M/M/1 with two priorities within 1%; other services and several servers with fewer queries.

    First come, first served has the same work, and a mean wait that is known exactly: its deviation in each trial is a
    control variate.
    """
    load = 0.5
    rates = [load / 2 * servers / mean for mean in means]
    found, controls = [], []
    for trial in range(trials):
        streams = Streams(8, trial)
        both = [
            replace(
                service(name, rate, mean=mean, instances=servers, priority=priority),
                schedule=OpenSchedule.poisson(rate, int(1600 / servers * rate), streams.of(name)),
            )
            for name, rate, mean, priority in zip(("chat", "night"), rates, means, (1, 2), strict=True)
        ]
        found.append([waits(trace).mean() for trace in simulate_services(both, Priority(), (), streams)])
        every = [waits(trace) for trace in simulate_services(both, FirstCome(), (), streams)]
        controls.append(np.concatenate(every).mean())
    second = sum(rate * 2 * mean**2 for rate, mean in zip(rates, means, strict=True))
    fifo = second / 2 / (1 - load) if servers == 1 else theory.MMc(sum(rates), means[0], servers).mean_wait()
    for mine, expected in zip(np.transpose(found), theory.priority_waits(rates, means, servers=servers), strict=True):
        slope = np.cov(mine, controls)[0, 1] / np.var(controls, ddof=1)
        assert mine.mean() - slope * (np.mean(controls) - fifo) == pytest.approx(expected, rel=within)


def test_cobham_by_hand_and_what_is_not_known() -> None:
    """Two classes at loads 0.2 and 0.3 on one server; the law of conservation (Kleinrock) for three on several."""
    assert theory.priority_waits([0.2, 0.3], [1.0, 1.0]) == pytest.approx([0.5 / 0.8, 0.5 / (0.8 * 0.5)])
    assert theory.priority_waits([0.2, 0.3], [1.0, 1.0], [0.0, 0.0]) == pytest.approx([0.3125, 0.625])
    rates = [1.0, 2.0, 0.5]
    by_class = theory.priority_waits(rates, [1.0] * 3, servers=4)
    assert np.average(by_class, weights=rates) == pytest.approx(theory.MMc(3.5, 1.0, 4).mean_wait())
    with pytest.raises(ParmError, match=r"unstable: the load of 1 server is 1\.1"):
        theory.priority_waits([0.6, 0.5], [1.0, 1.0])
    with pytest.raises(ParmError, match="exponential services of one mean only"):
        theory.priority_waits([0.1, 0.1], [1.0, 2.0], servers=2)


def waits(trace: Trace) -> np.ndarray:
    """Return how long each first task waited, without the first tenth."""
    return (trace.tasks.sent - trace.tasks.queued)[len(trace.tasks) // 10 :]


@pytest.mark.parametrize("queue", [SingleQueue(), ShortestQueue(), RandomQueue()], ids=lambda one: one.kind)
@pytest.mark.parametrize("policy", [Uncoded(), Replication(cancel="all")], ids=lambda one: one.kind)
def test_weights_are_shares_of_busy_time_under_saturation(queue: Discipline, policy: Policy) -> None:
    """Both are always backlogged, and the one of twice the weight has twice the time, though its tasks are shorter."""
    both = [
        service("chat", 4000.0, 20_000, 0.01, policy, queue, weight=2.0),
        service("night", 4000.0, 20_000, 0.04, policy, queue, weight=1.0),
    ]
    traces = simulate_services(both, Weighted(), (), Streams(3))
    until = 20.0
    assert all(trace.tasks.sent[trace.tasks.instance >= 0].max() > until for trace in traces)
    seconds = [busy(trace, until) for trace in traces]
    assert seconds[0] / seconds[1] == pytest.approx(2.0, rel=0.02)


def busy(trace: Trace, until: float) -> float:
    """Return the seconds for which a service's tasks occupied instances until then."""
    tasks = trace.tasks
    ran = tasks.instance >= 0
    end = np.fmax(tasks.finish, tasks.back)[ran]
    return float((np.minimum(end, until) - np.minimum(tasks.sent[ran], until)).sum())


def test_a_service_without_work_saves_nothing_up() -> None:
    """One comes after ten silent seconds, and has its half from then on, not all of what it did not use."""
    long, late = service("long", 400.0, 8000, 0.02), service("late", 400.0, 4000, 0.02)
    late = replace(late, schedule=OpenSchedule(10.0 + OpenSchedule.poisson(400.0, 4000, Streams(3)).times))
    traces = simulate_services([long, late], Weighted(), (), Streams(3))
    seconds = [busy(trace, 15.0) - busy(trace, 10.0) for trace in traces]
    assert seconds[0] / seconds[1] == pytest.approx(1.0, rel=0.05)


def test_what_one_does_not_need_the_other_gets() -> None:
    """Weighted sharing is work conserving: at a low load of the other, it waits hardly longer than alone."""
    chat, night = service("chat", 150.0, 6000), service("night", 5.0, 200, weight=9.0)
    (alone,) = simulate_services([chat], Weighted(), (), Streams(3))
    beside, _ = simulate_services([chat, night], Weighted(), (), Streams(3))
    apart = [replace(one, cluster=one.cluster.model_copy(update={"instances": 2})) for one in (chat, night)]
    half, _ = simulate_services(apart, Separate(), (), Streams(3))
    assert beside.queries.latency.mean() < 1.3 * alone.queries.latency.mean()
    assert half.queries.latency.mean() > 10 * alone.queries.latency.mean()


def test_separate_services_are_simulations_of_their_own() -> None:
    """Without stragglers, whose machines are numbered, each is what it would be with its instances alone."""
    both = [service("chat", 100.0, policy=Coded(k=2)), service("night", 60.0, policy=Hedged(after=0.05), instances=3)]
    for one, trace in zip(both, simulate_services(both, Separate(), (), Streams(3)), strict=True):
        alone = simulate(one.cluster, one.policy, (), one.schedule, Streams(3).of(one.name), engine="simpy")
        assert np.array_equal(trace.queries.reply, alone.queries.reply)
        assert trace.instances == 4 + 2 + 3 + 2
    used = [
        set(trace.tasks.instance[trace.tasks.instance >= 0])
        for trace in simulate_services(both, Separate(), (), Streams(3))
    ]
    assert not used[0] & used[1]


def test_one_service_may_be_coded_and_the_other_not() -> None:
    coded, plain = service("chat", 100.0, policy=Coded(k=2)), service("night", 60.0)
    traces = simulate_services([coded, plain], Priority(), (), Streams(3))
    assert np.any(traces[0].tasks.role == Role.PARITY)
    assert not np.any(traces[1].tasks.role == Role.PARITY)
    assert [trace.instances for trace in traces] == [6, 6]


@pytest.mark.parametrize("redundancy", ["with_its_service", "last"])
def test_redundancy_starts_before_the_work_of_later_services_or_last(
    redundancy: Literal["with_its_service", "last"],
) -> None:
    coded = Coded(k=2, parity_instances=2, parity_pool="low_priority")
    chat = service("chat", 200.0, policy=coded, priority=1)
    night = service("night", 120.0, policy=Hedged(after=9.0), priority=2)  # on as many instances
    urgent, later = (
        trace.tasks for trace in simulate_services([chat, night], Priority(redundancy=redundancy), (), Streams(3))
    )
    began = (urgent.role == Role.PARITY) & (urgent.instance >= 0)
    passed = sum(np.any((later.queued < at) & (at < later.sent)) for at in urgent.sent[began])
    assert passed == 0 if redundancy == "last" else passed > 50


def test_a_closed_loop_beside_open_arrivals() -> None:
    chat, batch = service("chat", 60.0), service("batch", 1.0)
    batch = replace(batch, schedule=ClosedSchedule(8, np.zeros(2000)), priority=2)
    for one, trace in zip((chat, batch), simulate_services([chat, batch], Priority(), (), Streams(3)), strict=True):
        assert len(trace.queries) == len(one.schedule)


def test_what_cannot_run_together_is_said() -> None:
    cluster = Cluster(instances=4, extra=2, service=Deterministic(value=0.01))
    both: dict[str, tuple[Cluster, Policy]] = {"chat": (cluster, Coded(k=2)), "night": (cluster, Hedged())}
    with pytest.raises(ValueError, match="'chat' wants 4 instances for its deployed model and 'night' 6, but they"):
        check_services(both, Priority(), ())
    check_services(both, Separate(), ())
    learning = cluster.model_copy(update={"queue": LeastRequest()})
    with pytest.raises(ValueError, match="'least_request' does not choose for several services on the same instances"):
        check_services({"chat": (learning, Uncoded())}, FirstCome(), ())
    stealing = cluster.model_copy(update={"queue": RandomQueue(steal=True)})
    with pytest.raises(ValueError, match="'steal' does not move tasks between several services on the same instances"):
        check_services({"chat": (stealing, Uncoded())}, FirstCome(), ())
    check_services({"chat": (stealing, Uncoded())}, Separate(), ())
    scaled = cluster.model_copy(update={"scaler": Scheduled(steps=((1.0, 5),), provisioning=0.0)})
    with pytest.raises(ValueError, match="a scaler knows one service only"):
        check_services({"chat": (scaled, Uncoded())}, Separate(), ())
    with pytest.raises(ValueError, match="gives service 'night' no policy"):
        PerService(services={"chat": Uncoded()}).of("night")
    for asked in (PerService(services={"chat": Uncoded()}).pools, PerService(services={"chat": Uncoded()}).begin):
        with pytest.raises(ValueError, match="but there are none"):
            asked(None)  # type: ignore[arg-type]
    lost = (Crashes(mean_up=1.0, repair=Deterministic(value=0.1), retry=False),)
    with pytest.raises(ParmError, match="crashes that lose work permanently"):
        simulate_services([service("chat", 10.0)], FirstCome(), lost, Streams(1))


@given(st.integers(0, 100), st.lists(st.floats(0.1, 10), min_size=1, max_size=5))
def test_parts_are_whole_and_as_near_as_can_be(total: int, weights: list[float]) -> None:
    found = parts(total, weights)
    assert sum(found) == total
    assert all(abs(one - total * weight / sum(weights)) < 1 for one, weight in zip(found, weights, strict=True))
    assert parts(18, [2, 1]) == [12, 6]
