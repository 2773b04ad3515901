"""What may be combined with coding: a shared pool, copies and a last resort; and default answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sim.clock import COMPACT_ABOVE, Clock
from sim.cluster import Cluster
from sim.dispatching import RoundRobin
from sim.distributions.families import Deterministic, Exponential
from sim.policies import ApproximateBackup, Coded, DefaultAnswer, EqualResources, Policy
from sim.policies.coded import LastResort
from sim.policies.hedged import Hedging
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import Crashes, Heterogeneous, Straggler
from sim.streams import Streams
from sim.trace import Role, Route, TaskStatus, Trace
from tests.worlds import poisson


def run(policy: Policy, times: Sequence[float], stragglers: Sequence[Straggler] = (), **cluster: Any) -> Trace:
    options = {"instances": 2, "extra": 1, "service": 1.0} | cluster
    schedule = OpenSchedule(np.array(times, dtype=float))
    return simulate(Cluster.model_validate(options), policy, stragglers, schedule, Streams(0))


def slow(*factors: float) -> list[Straggler]:
    return [Heterogeneous(factors=factors)]


def order(trace: Trace) -> list[tuple[Role, int]]:
    """Return role and owner of the tasks that ran, in the order of their starts."""
    rows = np.argsort(trace.tasks.start, kind="stable")
    rows = rows[trace.tasks.instance[rows] >= 0]
    return [(Role(trace.tasks.role[row]), int(trace.tasks.owner[row])) for row in rows]


@pytest.mark.parametrize("queue", ["single_queue", "round_robin"])
def test_parity_queries_of_low_priority_start_when_no_query_waits(queue: str) -> None:
    """One instance. Three queries come before it is free: of two groups, the first has no use for its parity then."""
    low = Coded(k=2, parity_pool="low_priority", parity_instances="budget")
    trace = run(low, [0, 0.1, 0.2], instances=1, extra=0, queue=queue)
    assert order(trace) == [(Role.DEPLOYED, 0), (Role.DEPLOYED, 1), (Role.DEPLOYED, 2)]
    assert trace.tasks.fate[trace.tasks.role == Role.PARITY].tolist() == [TaskStatus.CANCELLED]


def test_parity_queries_of_equal_priority_take_their_turn() -> None:
    """Query 0 is on a slow instance; the other one serves query 1, then whatever comes first."""
    own, parity = Role.DEPLOYED, Role.PARITY
    times = [0, 0.1, 0.2, 0.3]
    equal = run(Coded(k=2, parity_pool="equal_priority", parity_instances="budget"), times, slow(9.0, 1.0), extra=0)
    assert order(equal)[:4] == [(own, 0), (own, 1), (parity, 0), (own, 2)]
    assert equal.queries.route.tolist()[:2] == [Route.RECONSTRUCTION, Route.OWN]
    assert equal.queries.reply.tolist()[:2] == [2.1, 1.1]
    low = run(Coded(k=2, parity_pool="low_priority", parity_instances="budget"), times, slow(9.0, 1.0), extra=0)
    assert order(low)[:5] == [(own, 0), (own, 1), (own, 2), (own, 3), (parity, 0)]
    assert low.queries.reply.tolist() == [4.1, 1.1, 2.1, 3.1]


def test_a_shared_pool_costs_what_separate_ones_do() -> None:
    cluster = Cluster(instances=12, extra=6, service=Deterministic(value=1.0))
    for r in (1, 2, 3):
        for instances in (None, "budget", 7):
            own = Coded(k=4, r=r, parity_instances=instances)
            shared = own.model_copy(update={"parity_pool": "low_priority"})
            assert own.instances(cluster) == shared.instances(cluster)
            assert [plan.instances for plan in shared.pools(cluster)] == [own.instances(cluster), *[0] * r]


def test_parity_models_keep_their_own_service_times_in_a_shared_pool() -> None:
    trace = run(Coded(k=2, parity_pool="low_priority"), [0, 0], slow(9.0, 1.0, 1.0), parity_service=3.0)
    assert trace.queries.reply.tolist() == [3.0, 1.0]
    assert trace.tasks.instance[trace.tasks.role == Role.PARITY].tolist() == [2]


def test_a_shared_pool_survives_crashes_of_idle_and_of_busy_instances() -> None:
    streams = Streams(3)
    crashes = (Crashes(mean_up=0.5, repair=Exponential(mean=0.2), detect=0.01),)
    for queue in ({}, {"queue": RoundRobin()}):
        cluster = Cluster(instances=4, extra=2, service=Exponential(mean=0.02), **queue)
        policy = Coded(k=2, parity_pool="low_priority")
        trace = simulate(cluster, policy, crashes, poisson(120.0, 2000, streams), streams)
        assert np.sum(trace.tasks.fate == TaskStatus.LOST) > 50
        assert set(trace.tasks.instance[trace.tasks.role == Role.PARITY]) == {-1, *range(6)}


def test_a_copy_helps_the_query_and_its_group() -> None:
    """Both first copies and the parity are slow; query 0's copy gives its answer, and waits on no other's."""
    policy = Coded(k=2, hedge=Hedging(after=1.5))
    trace = run(policy, [0, 0], slow(9.0, 8.0, 1.0, 1.0, 9.0), instances=4)
    assert trace.queries.route.tolist() == [Route.REPLICA, Route.REPLICA]
    assert trace.queries.reply.tolist() == [2.5, 2.5]
    one = run(policy, [0, 0], slow(9.0, 8.0, 1.0, 4.0, 2.75), instances=4)
    assert one.queries.route.tolist() == [Route.REPLICA, Route.RECONSTRUCTION]
    assert one.queries.reply.tolist() == [2.5, 2.75]
    assert one.queries.used.tolist() == [0, 0b101], "query 0's answer is its copy's"


def test_no_copy_is_sent_for_what_was_reconstructed() -> None:
    trace = run(Coded(k=2, hedge=Hedging(after=1.5)), [0, 0], slow(9.0, 1.0, 1.0), instances=2)
    assert trace.queries.reply.tolist() == [1.0, 1.0]
    assert len(trace.tasks) == 3


@pytest.mark.parametrize(("cancel", "busy"), [("nothing", 4 + 8 + 1 + 1 + 9), ("all", 2.5 + 2.5 + 1 + 1 + 9)])
def test_running_copies_are_stopped_where_the_hedge_says_so(cancel: str, busy: float) -> None:
    policy = Coded(k=2, hedge=Hedging.model_validate({"after": 1.5, "cancel": cancel}))
    trace = run(policy, [0, 0], slow(4.0, 8.0, 1.0, 1.0, 9.0), instances=4)
    assert trace.queries.reply.tolist() == [2.5, 2.5]
    assert trace.busy_seconds == busy


def test_a_backup_is_the_last_resort() -> None:
    policy = Coded(k=2, backup=LastResort(after=2.0))
    cluster = {"backup_service": 0.5}
    trace = run(policy, [0, 0], slow(9.0, 1.0, 8.0, 1.0), **cluster)
    assert trace.queries.route.tolist() == [Route.BACKUP, Route.OWN]
    assert trace.queries.reply.tolist() == [2.5, 1.0]
    assert trace.tasks.queued[trace.tasks.role == Role.BACKUP].tolist() == [2.0]
    first = run(policy, [0, 0], slow(9.0, 1.0, 2.25, 1.0), **cluster)
    assert first.queries.route.tolist() == [Route.RECONSTRUCTION, Route.OWN]
    assert first.queries.reply.tolist() == [2.25, 1.0]
    never = run(policy, [0, 0], slow(9.0, 1.0, 1.0, 1.0), **cluster)
    assert np.sum(never.tasks.role == Role.BACKUP) == 0


def test_what_a_backup_answered_still_helps_its_group() -> None:
    """Query 0 is answered by the backup at 2.5 and back at 4; with the parity that gives query 1."""
    backup = LastResort(after=2.0)
    trace = run(Coded(k=2, backup=backup), [0, 1.9], slow(4.0, 9.0, 1.0, 1.0, 1.0), backup_service=0.5)
    assert trace.queries.route.tolist() == [Route.BACKUP, Route.RECONSTRUCTION]
    assert trace.queries.reply.tolist() == [2.5, 4.0]


def test_a_group_answered_by_backups_leaves_the_queues() -> None:
    """One slow instance: query 1 waits there when the backup answers for it, and its parity is no faster."""
    policy = Coded(k=2, parity_instances=1, backup=LastResort(after=2.0))
    trace = run(policy, [0, 0], slow(9.0, 9.0, 1.0), instances=1, backup_service=0.5)
    assert trace.queries.reply.tolist() == [2.5, 3.0]
    waited = trace.tasks.instance < 0
    assert trace.tasks.finish[waited].tolist() == [3.0]
    assert trace.tasks.owner[waited].tolist() == [1]


def test_a_quantile_of_the_replies_times_copies_and_backups() -> None:
    streams = Streams(5)
    cluster = Cluster(instances=30, service=Exponential(mean=0.02))
    policy = Coded(k=2, hedge=Hedging(), backup=LastResort(instances=5))
    trace = simulate(cluster, policy, (), poisson(300.0, 20_000, streams), streams)
    tasks = trace.tasks
    sent = np.sum((tasks.role == Role.DEPLOYED) & (tasks.attempt > 0)) / 20_000
    asked = np.sum(tasks.role == Role.BACKUP) / 20_000
    assert sent == pytest.approx(0.05, abs=0.005)
    assert asked == pytest.approx(0.01, abs=0.003)


def test_the_timers_of_answered_queries_leave_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []
    advance = Clock.advance

    def watched(clock: Clock, until: float) -> None:
        most.append(len(clock.heap))
        advance(clock, until)

    monkeypatch.setattr(Clock, "advance", watched)
    streams = Streams(5)
    cluster = Cluster(instances=10, service=Exponential(mean=0.02))
    policy = Coded(k=2, hedge=Hedging(after=60.0), backup=LastResort(after=60.0))
    simulate(cluster, policy, (), poisson(300.0, 10_000, streams), streams, engine="simpy")
    assert max(most) < 4 * COMPACT_ABOVE, "20,000 timers of a minute each would all be there"


def test_the_budget_pays_for_the_backup_as_well() -> None:
    cluster = Cluster.model_validate({"instances": 12, "extra": 6, "service": 1.0})
    policy = Coded(k=3, parity_instances="budget", backup=LastResort(instances=2))
    assert [plan.instances for plan in policy.pools(cluster)] == [12, 4, 2]
    assert policy.instances(cluster) == EqualResources().instances(cluster)
    assert policy.uses(Role.BACKUP, cluster)
    cheap = cluster.model_copy(update={"prices": type(cluster.prices)(backup=0.5)})
    assert [plan.instances for plan in policy.pools(cheap)] == [12, 5, 2]
    with pytest.raises(ValueError, match="the backup's 7 instances cost more than the budget"):
        Coded(parity_instances="budget", backup=LastResort(instances=7)).pools(cluster)
    with pytest.raises(
        ValueError, match="hedge: 3 copies need as many instances of the deployed model, but there are 2"
    ):
        Coded(hedge=Hedging(copies=3)).pools(Cluster.model_validate({"instances": 2, "service": 1.0}))


def test_a_default_answer_at_a_deadline_alone() -> None:
    trace = run(DefaultAnswer(after=1.5), [0, 0, 0, 0.25], instances=2, extra=1)
    assert trace.queries.route.tolist() == [Route.OWN, Route.OWN, Route.OWN, Route.DEFAULT]
    assert trace.queries.reply.tolist() == [1.0, 1.0, 1.0, 1.75]
    assert trace.instances == 3
    earlier = run(DefaultAnswer(after=1.5), [0, 0, 0, 0.25], deadline=1.25)
    assert earlier.queries.reply.tolist() == [1.0, 1.0, 1.0, 1.5]
    with pytest.raises(ValidationError, match="after"):
        DefaultAnswer.model_validate({})


def test_one_wait_is_one_wait() -> None:
    for options in (Hedging, LastResort, ApproximateBackup):
        with pytest.raises(ValidationError, match="give 'after' or 'after_quantile', not both: there is one wait"):
            options(after=1.0, after_quantile=0.9)
