"""Batches that instances form from their queues: exact small cases, and theory for long runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from sim import Coded, Crashes, Heterogeneous, Replication, Streams, Uncoded, simulate
from sim.batching import Aimd, Fixed
from sim.cluster import Cluster
from sim.dispatching import RandomQueue, RoundRobin, ShortestQueue, SingleQueue
from sim.distributions.families import Deterministic, Exponential
from sim.errors import ParmError
from sim.network import Network
from sim.policies import CodedNonsystematic, EqualResources, Policy
from sim.schedule import OpenSchedule
from sim.trace import Role, TaskStatus, Trace
from tests.worlds import poisson


def run(times: list[float], policy: Policy | None = None, stragglers: Any = (), **cluster: Any) -> Trace:
    options = {"instances": 1, "service": 1.0, "batch_cost": 0.5, "batching": {"kind": "fixed", "size": 3}, **cluster}
    schedule = OpenSchedule(np.array(times, dtype=float))
    return simulate(Cluster.model_validate(options), policy or Uncoded(), stragglers, schedule, Streams(0))


def test_an_idle_instance_takes_what_waits_up_to_the_size() -> None:
    trace = run([0, 0.1, 0.2, 0.3, 0.4])
    assert trace.queries.dispatch.tolist() == trace.queries.arrival.tolist()
    assert trace.queries.reply.tolist() == [1, 3, 3, 3, 4], "one, then three for 2 s, then the fifth"
    assert trace.tasks.together.tolist() == [1, 3, 3, 3, 1]
    assert trace.batches.size.tolist() == [1] * 5
    assert trace.busy_seconds == trace.occupied_seconds == pytest.approx(4.0)


@pytest.mark.parametrize("queue", ["single_queue", "round_robin"])
def test_an_idle_instance_waits_for_a_batch_to_fill_as_long_as_it_may(queue: str) -> None:
    batching = {"kind": "fixed", "size": 3, "max_wait": 0.5}
    trace = run([0, 0.1, 0.2, 5, 5.1, 9], queue=queue, batching=batching)
    assert trace.tasks.sent.tolist() == [0.2, 0.2, 0.2, 5.5, 5.5, 9.5]
    assert trace.queries.reply.tolist() == pytest.approx([2.2] * 3 + [7.0] * 2 + [10.5])


def test_copies_of_a_query_are_not_served_together() -> None:
    trace = run([0, 0, 0], Replication(copies=2, cancel="nothing"), instances=2)
    tasks = trace.tasks
    assert all(len(set(tasks.instance[tasks.owner == query])) == 2 for query in range(3))
    assert sorted(tasks.together.tolist()) == [1, 1, 2, 2, 2, 2]


def test_parity_queries_form_batches_of_their_own_model() -> None:
    """Six queries and three parity queries wait in one queue of two instances, which serve both models."""
    policy = Coded(k=2, parity_instances=1, parity_pool="equal_priority")
    trace = run([0.0] * 6, policy, instances=1)
    tasks = trace.tasks
    assert trace.group.tolist() == [0, 0, 1, 1, 2, 2], "each query has its place in a coding group"
    places = zip(tasks.instance, tasks.start, tasks.role, strict=True)
    services = {(instance, start, role) for instance, start, role in places if start >= 0}
    assert len(services) == len({one[:2] for one in services}), "no service has two models"
    assert np.any(tasks.together > 1)
    assert np.any(tasks.role[tasks.instance >= 0] == Role.PARITY)


def test_coded_queries_of_all_rows_share_batches_since_they_share_a_model() -> None:
    trace = run([0, 0], CodedNonsystematic(k=2), extra=0, instances=1)
    assert trace.tasks.together.tolist() == [1, 2, 2]
    assert trace.queries.reply.tolist() == [2.5, 2.5]


def test_a_batch_is_stopped_only_when_all_its_tasks_are_cancelled() -> None:
    """Instance 0 is ten times slower: instance 1 answers first, and the copies at instance 0 are cancelled."""
    policy = Replication(copies=2, cancel="all")
    trace = run([0, 0.1, 0.1], policy, [Heterogeneous(factors=(10.0, 1.0))], instances=2, queue="round_robin")
    tasks = trace.tasks
    slow = tasks.instance == 0
    assert trace.queries.reply.tolist() == [1.0, 2.5, 2.5]
    assert np.all(tasks.fate[slow] == TaskStatus.CANCELLED)
    assert tasks.finish[slow].tolist() == [1.0, 2.5, 2.5], "both members of the batch end when the last is cancelled"


def test_a_lost_batch_is_sent_again() -> None:
    crashes = Crashes(mean_up=3.0, repair=Deterministic(value=0.5), detect=0.1)
    trace = run(np.arange(0, 40, 0.4).tolist(), stragglers=[crashes], instances=2)
    lost = trace.tasks.fate == TaskStatus.LOST
    assert np.any(trace.tasks.together[lost] > 1)
    assert np.all(np.isfinite(trace.queries.reply))


def test_aimd_absorbs_an_overload_by_batching() -> None:
    """Alone a query takes 50 ms and 30 come per second; ten more in its batch take another 50 ms.

    The right value comes from a loop over arrivals that takes, at each end of a service, what waits.
    """
    streams = Streams(1)
    schedule = poisson(30.0, 20_000, streams)
    cluster = Cluster(
        instances=1, service=Deterministic(value=0.05), batch_cost=0.1, batching=Aimd(objective=0.2, max_size=64)
    )
    latency = simulate(cluster, Uncoded(), (), schedule, streams).queries.latency
    free, first, latencies = 0.0, 0, []
    times = schedule.times
    while first < len(times):
        free = max(free, times[first])
        size = int(np.searchsorted(times[first:], free, side="right"))
        free += 0.05 * (1 + 0.1 * (size - 1))
        latencies += (free - times[first : first + size]).tolist()
        first += size
    assert latency.mean() == pytest.approx(np.mean(latencies), rel=0.01)
    assert latency.mean() == pytest.approx(0.082, rel=0.03)
    assert np.quantile(latency, 0.99) == pytest.approx(0.124, rel=0.05)


def test_aimd_keeps_batches_within_its_objective() -> None:
    """A batch of n takes 0.01 n seconds, so 8 queries meet an objective of 0.085."""
    trace = run(np.arange(4000) * 0.0099, service=0.01, batch_cost=1.0, batching=Aimd(objective=0.085))
    late = trace.tasks.together[len(trace.tasks) // 2 : -9]
    assert late.max() == 9, "it probes beyond the objective"
    assert late.min() >= 7, "and backs off"


@pytest.mark.parametrize(("rate", "size"), [(1.5, 2), (3.0, 4), (5.0, 8)])
def test_bulk_service_is_that_of_theory(rate: float, size: int) -> None:
    """Poisson arrivals, exponential services of batches of at most b that take what waits: Bailey's queue, M/M[b]/1.

    Source: Bailey, "On queueing processes with bulk service", J. R. Stat. Soc. B 1954; see `bulk_latency`.
    """
    streams = Streams(1)
    cluster = Cluster(instances=1, service=Exponential(mean=1.0), batch_cost=0.0, batching=Fixed(size=size))
    trace = simulate(cluster, Uncoded(), (), poisson(rate, 400_000, streams), streams)
    assert trace.queries.latency.mean() == pytest.approx(bulk_latency(rate, size), rel=0.03)


def bulk_latency(rate: float, size: int) -> float:
    """The mean latency with services of mean 1, from the balance equations of "serving, n wait" and "idle".

    For n >= 1: (rate + 1) p_n = rate p_{n-1} + p_{n+size}, so p_n = p_0 w^n with 1 + rate = rate / w + w^size; and
    rate p_idle = p_0. The mean wait is the mean number waiting over the rate (Little's law).
    """
    w = brentq(lambda w: rate / w + w**size - 1 - rate, 1e-9, 1 - 1e-9)
    waiting: float = w / (1 - w) ** 2 / (1 / rate + 1 / (1 - w))
    return waiting / rate + 1


def test_hardware_in_the_loop_refuses_them() -> None:
    cluster = Cluster(instances=1, service=Deterministic(value=1.0), batching=Fixed(size=2))
    with pytest.raises(ParmError, match="does not run batches that form at instances"):
        simulate(cluster, Uncoded(), (), OpenSchedule(np.zeros(2)), Streams(0), lambda role, row: lambda *_: 1.0)


@pytest.mark.parametrize("queue", [RoundRobin(), RandomQueue(), ShortestQueue()])
@pytest.mark.parametrize("policy", [Uncoded(), Coded(k=2, parity_pool="equal_priority")])
def test_failed_instances_get_no_work_once_the_failure_is_detected(queue: Any, policy: Policy) -> None:
    streams = Streams(1)
    cluster = Cluster(instances=4, service=Deterministic(value=0.02), queue=queue)
    crashes = Crashes(mean_up=50.0, repair=Deterministic(value=10.0), detect=0.1)
    latency = simulate(cluster, policy, [crashes], poisson(50.0, 20_000, streams), streams).queries.latency
    assert np.quantile(latency, 0.999) < 0.25, "a single queue: about 0.1 s; waiting for repairs: about 8 s"
    single = cluster.model_copy(update={"queue": SingleQueue()})
    shared = simulate(single, policy, [crashes], poisson(50.0, 20_000, streams), streams).queries.latency
    assert latency.mean() < 2 * shared.mean()


def test_work_that_waits_at_a_failed_instance_moves_when_the_failure_is_detected() -> None:
    """Instances 0 and 1 crash at known times; queries alternate between them."""
    crashes = Crashes(mean_up=5.0, repair=Deterministic(value=100.0), detect=0.25)
    streams = Streams(0)
    outages = crashes.attach(_setting(streams, 2)).outages
    assert outages is not None
    first, second = outages.next_crash(0, 0.0), outages.next_crash(1, 0.0)
    assert first + 2 < second, "chosen so"
    times = [first + 0.1, first + 0.1, first + 0.5, first + 0.5]
    cluster = Cluster(instances=2, service=Deterministic(value=0.5), queue=RoundRobin())
    trace = simulate(cluster, EqualResources(), [crashes], OpenSchedule(np.array(times)), streams)
    assert trace.tasks.instance.tolist() == [1, 1, 1, 1]
    # the first joins the queue of the failed instance, and moves 0.25 s after the crash, behind the second
    assert trace.queries.reply - first == pytest.approx([1.1, 0.6, 1.6, 2.1])


def test_where_all_instances_failed_tasks_wait_for_the_first_repair() -> None:
    crashes = Crashes(mean_up=5.0, repair=Deterministic(value=8.0), detect=0.0)
    streams = Streams(0)
    outages = crashes.attach(_setting(streams, 2)).outages
    assert outages is not None
    down = sorted(outages.next_crash(instance, 0.0) for instance in (0, 1))
    repaired = down[0] + 8.0
    assert down[1] + 1 < repaired, "chosen so"
    cluster = Cluster(instances=2, service=Deterministic(value=0.1), queue=RoundRobin())
    times = np.array([down[1] + 0.1, down[1] + 0.2])
    trace = simulate(cluster, Uncoded(), [crashes], OpenSchedule(times), streams)
    assert sorted(trace.queries.reply - repaired) == pytest.approx([0.1, 0.2]), (
        "one after the other, on the same instance"
    )


def test_an_instance_is_occupied_while_its_queries_and_answers_travel() -> None:
    trace = run([0.0], batching={"kind": "fixed"}, network=Network(latency=0.25))
    assert trace.busy_seconds == 1.0
    assert trace.occupied_seconds == 1.5
    assert trace.tasks.sent.tolist() == [0.0]
    assert trace.tasks.start.tolist() == [0.25]


def _setting(streams: Streams, instances: int) -> Any:
    from sim.stragglers.base import Setting

    return Setting(streams, 0, [(0, 0)] * instances, Network())
