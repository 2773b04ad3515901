"""A second service that shares accelerators with ours, against exact values."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from sim.cluster import Cluster
from sim.distributions.families import Deterministic, Exponential
from sim.network import Network
from sim.policies import Coded, EqualResources, Uncoded
from sim.schedule import ClosedSchedule, OpenSchedule
from sim.simulation import check, simulate
from sim.stragglers import Multitenancy, Shuffles
from sim.stragglers.base import Setting
from sim.streams import Streams

MEAN = 0.01


def saturated(tenant: Multitenancy, queries: int = 60_000) -> float:
    """Our throughput where one client always has a query of 10 ms at the one instance."""
    trace = simulate(
        Cluster(instances=1, service=Deterministic(value=0.01)),
        Uncoded(),
        [tenant],
        ClosedSchedule(think=np.zeros(queries), clients=1),
        Streams(3),
    )
    return queries / trace.end


@pytest.mark.parametrize("queue", ["own", "shared"])
@pytest.mark.parametrize("rate", [20.0, 40.0, 70.0])
def test_two_services_that_slow_each_other_lose_no_work(queue: str, rate: float) -> None:
    # Always busy and work-conserving: ours get all that the second service's work leaves, and at least their half.
    tenant = Multitenancy(instances=1, rate=rate, service=Exponential(mean=MEAN), mutual=True, queue=queue)
    assert saturated(tenant) == pytest.approx(max(1 - rate * MEAN, 0.5) / 0.01, rel=0.01)


def test_a_service_that_is_not_slowed_takes_half_of_ours_while_it_runs() -> None:
    tenant = Multitenancy(instances=1, rate=40, service=Exponential(mean=MEAN), queue="shared")
    assert saturated(tenant) == pytest.approx((1 - 40 * MEAN / 2) / 0.01, rel=0.01)


def test_one_instance_with_a_shared_queue_is_one_with_its_own() -> None:
    own = Multitenancy(instances=1, rate=40, service=Exponential(mean=MEAN))
    shared = own.model_copy(update={"queue": "shared"})
    assert saturated(own, 5000) == pytest.approx(saturated(shared, 5000), rel=0.02)  # other random numbers


def test_queries_of_a_shared_queue_go_to_the_instance_that_is_free() -> None:
    # Two instances, queries of 1 s at 0.0, 0.1 and 0.2 s: the third waits until 1.0 s at the first.
    tenant = Multitenancy(at=(0, 2), rate=1, service=Deterministic(value=1.0), slowdown=2.0, queue="shared")
    object.__setattr__(
        tenant, "_queries", lambda generator, queues: iter([(0.0, 1.0), (0.1, 1.0), (0.2, 1.0), (9.0, 1.0)])
    )
    modify = tenant.attach(Setting(Streams(0), 0, [(0, 0)] * 3, Network())).modifier
    assert modify is not None
    assert modify(None, 1, 0.5, 0.25) == 0.25  # type: ignore[arg-type]
    assert modify(None, 0, 0.5, 0.25) == pytest.approx(0.5)  # type: ignore[arg-type]
    assert modify(None, 2, 1.0, 0.25) == pytest.approx(0.1 + 0.2)  # type: ignore[arg-type]
    assert modify(None, 0, 1.5, 0.5) == pytest.approx(0.5 + 0.25)  # type: ignore[arg-type]


@pytest.mark.parametrize("queue", ["own", "shared"])
def test_a_query_that_takes_no_time_leaves_its_instance_to_the_next(queue: str) -> None:
    tenant = Multitenancy(instances=1, service=Deterministic(value=1.0), mutual=True, queue=queue)
    object.__setattr__(tenant, "_queries", lambda generator, queues: iter([(0.1, 0.0), (0.2, 1.0), (9.0, 1.0)]))
    modify = tenant.attach(Setting(Streams(0), 0, [(0, 0)], Network())).modifier
    assert modify is not None
    assert modify(None, 0, 0.5, 0.25) == pytest.approx(0.5)  # type: ignore[arg-type]


def test_a_task_that_starts_slightly_earlier_than_the_last_is_served_the_same() -> None:
    tenant = Multitenancy(instances=2, rate=40, service=Exponential(mean=MEAN), mutual=True)
    setting = Setting(Streams(0), 0, [(0, 0)] * 2, Network())
    starts = [(0, 1.000), (1, 1.004), (0, 1.021), (1, 1.019)]
    found = []
    for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
        modify = tenant.attach(setting).modifier
        assert modify is not None
        found.append({starts[i]: modify(None, *starts[i], 0.01) for i in order})  # type: ignore[arg-type]
    assert found[0] == found[1]


def test_bad_places_are_refused_in_one_sentence() -> None:
    cluster = Cluster(instances=3, service=Deterministic(value=0.01))
    with pytest.raises(ValidationError, match="once, and at least one"):
        Multitenancy(at=(1, 1), service=Deterministic(value=0.01))
    with pytest.raises(ValidationError, match="'instances' is 3, but 'at' names 2"):
        Multitenancy(at=(0, 1), instances=3, service=Deterministic(value=0.01))
    with pytest.raises(ValueError, match="at instance 3, but only 3 are launched"):
        check(cluster, Uncoded(), [Multitenancy(at=(3,), service=Deterministic(value=0.01))])


class TestLaunched:
    """Machines that run without being used."""

    cluster = Cluster(instances=4, extra=2, service=Deterministic(value=0.01), network=Network(gbps=1.5), launched=9)
    shuffles = Shuffles(concurrent=2)

    def test_a_policy_may_not_use_more_than_there_are(self) -> None:
        with pytest.raises(ValueError, match="uses 6 instances, but only 5 are launched"):
            check(self.cluster.model_copy(update={"launched": 5}), EqualResources(), [])

    def test_as_many_as_are_used_change_nothing(self) -> None:
        schedule = OpenSchedule(np.arange(2000) * 0.003)
        traces = [
            simulate(self.cluster.model_copy(update={"launched": n}), Coded(k=2), [self.shuffles], schedule, Streams(1))
            for n in (None, 6)
        ]
        np.testing.assert_array_equal(traces[0].tasks.back, traces[1].tasks.back)

    @pytest.mark.parametrize("engine", ["simpy", "compiled"])
    def test_bulk_traffic_spreads_over_all_of_them(self, engine: str) -> None:
        # Each of two flows touches a given one of n instances 2/n of the time in some direction.
        schedule = OpenSchedule(np.arange(40_000) * 0.02)

        def slowed(launched: int) -> float:
            cluster = self.cluster.model_copy(update={"launched": launched, "instances": 2, "extra": 0})
            trace = simulate(cluster, Uncoded(), [self.shuffles], schedule, Streams(1), engine=engine)  # type: ignore[arg-type]
            return float(np.mean(trace.queries.reply - trace.queries.arrival > 0.0102 + 1e-4))

        few, many = slowed(4), slowed(40)
        assert 6 < few / many < 14

    @pytest.mark.parametrize("per", ["message", "flow"])
    def test_both_engines_agree(self, per: str) -> None:
        schedule = OpenSchedule(np.arange(3000) * 0.003)
        shuffles = Shuffles(concurrent=2, backlog_per=per, backlog=Exponential(mean=0.02))
        found = [
            simulate(self.cluster, Coded(k=2), [shuffles], schedule, Streams(1), engine=engine)  # type: ignore[arg-type]
            for engine in ("simpy", "compiled")
        ]
        np.testing.assert_array_equal(found[0].tasks.back, found[1].tasks.back)
        np.testing.assert_array_equal(found[0].queries.reply, found[1].queries.reply)
