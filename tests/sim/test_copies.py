"""Hedged and tied requests, step by step and against theory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sim.clock import COMPACT_ABOVE, Clock
from sim.cluster import Cluster
from sim.distributions.families import Deterministic, Exponential, Gamma
from sim.policies import EqualResources, Hedged, Policy, Tied, Uncoded
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import Heterogeneous, Straggler
from sim.stragglers.base import ServiceModifier
from sim.streams import Streams
from sim.trace import Role, Route, TaskStatus, Trace
from tests.worlds import poisson


def run(policy: Policy, times: Sequence[float], stragglers: Sequence[Straggler] = (), **cluster: Any) -> Trace:
    options = {"instances": 2, "extra": 1, "service": 1.0} | cluster
    schedule = OpenSchedule(np.array(times, dtype=float))
    return simulate(Cluster.model_validate(options), policy, stragglers, schedule, Streams(0))


def slow(*factors: float) -> list[Straggler]:
    return [Heterogeneous(factors=factors)]


def test_a_hedge_is_sent_after_its_wait_and_the_first_answer_counts() -> None:
    trace = run(Hedged(after=1.5), [0], slow(9.0, 1.0, 1.0))
    assert trace.queries.reply.tolist() == [2.5]
    assert trace.queries.route.tolist() == [Route.REPLICA]
    assert trace.tasks.queued.tolist() == [1.5, 0.0]
    assert run(Hedged(after=1.5, cancel="all"), [0], slow(9.0, 1.0, 1.0)).busy_seconds == 2.5 + 1.0
    taken = run(Hedged(after=1.5, cancel="all", cancel_seconds=0.5), [0], slow(9.0, 1.0, 1.0))
    assert taken.busy_seconds == 3.0 + 1.0


def test_no_hedge_is_sent_for_an_answer_in_time() -> None:
    trace = run(Hedged(after=1.5), [0, 0, 5], slow(1.0, 1.0, 1.0))
    assert len(trace.tasks) == 3


def test_further_copies_follow_each_after_another_wait() -> None:
    trace = run(Hedged(copies=3, after=1.0), [0], slow(9.0, 8.0, 1.5))
    assert trace.queries.reply.tolist() == [3.5]
    assert sorted(trace.tasks.queued.tolist()) == [0.0, 1.0, 2.0]
    assert sorted(trace.tasks.instance.tolist()) == [0, 1, 2]


def test_a_budget_bounds_the_copies() -> None:
    times = (np.arange(100) * 10.0).tolist()
    trace = run(Hedged(after=0.5, budget=0.2), times)
    assert np.sum(trace.tasks.attempt == 1) == 20


def test_a_copy_that_the_budget_does_not_allow_is_not_asked_for_again() -> None:
    """Not even after no wait at all: at any moment, a query asks once."""
    trace = run(Hedged(after=0.0, budget=0.5, copies=3), [0, 0.25, 5], slow(9.0, 8.0, 1.0))
    assert sorted(trace.tasks.owner[trace.tasks.attempt > 0].tolist()) == [0, 2]


def test_hedging_after_a_quantile_costs_what_the_quantile_says() -> None:
    """Without slow machines, five in a hundred queries exceed the 95th percentile, and are sent again."""
    streams = Streams(5)
    cluster = Cluster(instances=40, service=Gamma(shape=4.0, mean=0.02))
    trace = simulate(cluster, Hedged(), (), poisson(400.0, 20_000, streams), streams)
    assert np.mean(trace.tasks.attempt > 0) == pytest.approx(0.05 / 1.05, abs=0.005)


def test_the_timers_of_answered_queries_leave_the_heap() -> None:
    streams = Streams(5)
    most: list[int] = []
    advance = Clock.advance

    def watched(clock: Clock, until: float) -> None:
        most.append(len(clock.heap))
        advance(clock, until)

    Clock.advance = watched  # type: ignore[method-assign]
    try:
        cluster = Cluster(instances=10, service=Exponential(mean=0.02))
        simulate(cluster, Hedged(after=60.0), (), poisson(300.0, 20_000, streams), streams, engine="simpy")
    finally:
        Clock.advance = advance  # type: ignore[method-assign]
    assert max(most) < 4 * COMPACT_ABOVE, "20,000 timers of a minute each would all be there"


def test_tied_copies_cancel_each_other_on_start() -> None:
    """Two queues; the third query waits in both, and starts in the one that is free first."""
    trace = run(Tied(), [0, 0, 0.25], slow(3.0, 1.0), instances=2, extra=0, queue="shortest_queue")
    assert trace.queries.reply.tolist() == [3.0, 1.0, 2.0]
    assert trace.tasks.instance[trace.tasks.fate == TaskStatus.DONE].tolist() == [1, 1, 0]
    assert trace.busy_seconds == 5.0, "nothing is wasted"


def test_a_message_delay_lets_twins_start() -> None:
    trace = run(Tied(message_delay=0.1), [0], instances=2, extra=0, queue="shortest_queue")
    assert len(trace.tasks) == 2
    assert np.all(trace.tasks.fate == TaskStatus.DONE)


@pytest.mark.parametrize("service", [Exponential(mean=0.02), Gamma(shape=0.6, mean=0.02), Deterministic(value=0.02)])
def test_tied_to_all_instances_is_one_queue(service: Exponential | Gamma | Deterministic) -> None:
    """Joining the least work of all queues is first come, first served: the Kiefer-Wolfowitz farm, query by query."""
    streams = Streams(9)
    schedule = poisson(0.85 * 5 / 0.02, 5000, streams)
    work = service.sample(streams.generator("the same for every copy"), 5000).tolist()

    def of_the_query(role: Role, row: int) -> ServiceModifier:
        return lambda task, instance, start, seconds: work[task.owner.first]

    tied = Cluster.model_validate({"instances": 5, "service": 1.0, "queue": "round_robin"})
    shared = Cluster(instances=5, service=Deterministic(value=1.0))
    replies = [
        simulate(tied, Tied(copies=5), (), schedule, streams, of_the_query).queries.reply,
        simulate(shared, Uncoded(), (), schedule, streams, of_the_query).queries.reply,
    ]
    assert np.max(replies[0] - schedule.times) > 0.05
    assert np.allclose(replies[0], replies[1], rtol=0, atol=1e-9)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="not both: there is one wait"):
        Hedged(after=1.0, after_quantile=0.9)
    with pytest.raises(ValueError, match="3 copies need as many instances"):
        Tied(copies=3).instances(Cluster(instances=2, service=Deterministic(value=1.0)))
    assert EqualResources().instances(Cluster(instances=2, extra=1, service=Deterministic(value=1.0))) == 3
