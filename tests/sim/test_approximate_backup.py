"""Approximate backups, step by step. The deployed model takes 1 s and the backup 0.4 s unless said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.cluster import Cluster
from sim.distributions.families import Deterministic, Exponential, Gamma
from sim.engines import Engine
from sim.policies import ApproximateBackup, EqualResources
from sim.policies.waiting import RunningQuantile
from sim.schedule import OpenSchedule
from sim.simulation import simulate
from sim.stragglers import Crashes, Heterogeneous
from sim.streams import Streams
from sim.trace import Role, Route, TaskStatus, Trace
from tests.worlds import poisson


def run(policy: ApproximateBackup, times: Sequence[float], factors: Sequence[float] = (), **cluster: Any) -> Trace:
    options = {"instances": 1, "extra": 1, "service": 1.0, "backup_service": 0.4} | cluster
    slow = [Heterogeneous(factors=tuple(factors))] if factors else []
    schedule = OpenSchedule(np.array(times, dtype=float))
    return simulate(Cluster.model_validate(options), policy, slow, schedule, Streams(0))


def routes(trace: Trace) -> list[Route]:
    return [Route(route) for route in trace.queries.route]


@pytest.mark.parametrize(
    ("after", "backup", "reply", "route"),
    [
        (0.0, 0.4, 0.4, Route.BACKUP),
        (0.0, 1.0, 1.0, Route.OWN),
        (0.0, 2.0, 1.0, Route.OWN),
        (0.75, 0.4, 0.75, Route.BACKUP),
        (0.75, 0.9, 0.9, Route.BACKUP),
        (1.0, 0.4, 1.0, Route.OWN),
        (5.0, 0.4, 1.0, Route.OWN),
    ],
)
def test_the_first_answer_counts_once_a_backups_may(after: float, backup: float, reply: float, route: Route) -> None:
    trace = run(ApproximateBackup(after=after), [3.0], backup_service=backup)
    assert trace.queries.latency.tolist() == pytest.approx([reply])
    assert routes(trace) == [route]
    assert trace.tasks.fate.tolist() == [TaskStatus.DONE] * 2, "running tasks go on"
    assert trace.busy_seconds == pytest.approx(1.0 + backup)


def test_the_wait_counts_from_the_dispatch() -> None:
    """The second query finds the deployed model taken until t = 1, and would have its answer at t = 2."""
    trace = run(ApproximateBackup(after=1.25), [0, 0.5])
    assert trace.queries.reply.tolist() == [1.0, 1.75]
    assert routes(trace) == [Route.OWN, Route.BACKUP]
    batched = run(
        ApproximateBackup(after=1.25), [0, 0.5], batching={"kind": "fixed", "formed_at": "frontend", "size": 2}
    )
    assert batched.queries.reply.tolist() == [1.75, 1.75]
    assert batched.tasks.size.tolist() == [2, 2]
    assert batched.busy_seconds == pytest.approx(2.0 + 0.8)


@pytest.mark.parametrize(
    ("cancel", "fate", "busy"), [("queued", TaskStatus.CANCELLED, 1.8), ("nothing", TaskStatus.DONE, 2.8)]
)
def test_a_queued_original_is_cancelled_when_its_backup_is_used(cancel: str, fate: TaskStatus, busy: float) -> None:
    trace = run(ApproximateBackup.model_validate({"after": 0, "cancel": cancel}), [0, 0])
    assert trace.queries.reply.tolist() == [0.4, 0.8]
    second = (trace.tasks.role == Role.DEPLOYED) & (trace.tasks.owner == 1)
    assert trace.tasks.fate[second].tolist() == [fate]
    assert trace.busy_seconds == pytest.approx(busy)


@pytest.mark.parametrize(
    ("cancel", "fate", "busy"), [("queued", TaskStatus.CANCELLED, 5.0), ("nothing", TaskStatus.DONE, 8.0)]
)
def test_a_queued_backup_is_cancelled_when_the_original_is_back(cancel: str, fate: TaskStatus, busy: float) -> None:
    policy = ApproximateBackup.model_validate({"after": 0, "cancel": cancel})
    trace = run(policy, [0, 0], instances=2, backup_service=3.0)
    assert routes(trace) == [Route.OWN] * 2
    second = (trace.tasks.role == Role.BACKUP) & (trace.tasks.owner == 1)
    assert trace.tasks.fate[second].tolist() == [fate]
    assert trace.busy_seconds == pytest.approx(busy)


def test_a_straggler_is_replaced_by_its_backup() -> None:
    trace = run(ApproximateBackup(after=1.5), [0, 0], [9.0, 1.0, 1.0], instances=2)
    assert routes(trace) == [Route.BACKUP, Route.OWN]
    assert trace.queries.reply.tolist() == [1.5, 1.0]


def test_a_timeout_that_never_came_to_pass_does_not_prolong_the_run() -> None:
    assert run(ApproximateBackup(after=1000.0), [0]).end == 1.0


def test_a_deadline_removes_both_waiting_tasks() -> None:
    trace = run(ApproximateBackup(after=0), [0, 0], backup_service=1.0, deadline=0.5)
    assert routes(trace) == [Route.DEFAULT] * 2
    assert sorted(trace.tasks.fate.tolist()) == [TaskStatus.DONE] * 2 + [TaskStatus.CANCELLED] * 2
    assert trace.busy_seconds == 2.0


def test_no_backup_is_used_before_a_hundred_latencies_are_known() -> None:
    """Every tenth prediction takes far longer than its backup, which stands in for it from the 101st query on."""
    trace = run(ApproximateBackup(), (np.arange(300) * 4.0).tolist(), [3.5, *[1.0] * 9, 0.5], instances=10)
    late = np.arange(300) % 10 == 0
    assert np.array_equal(trace.queries.route == Route.BACKUP, late & (np.arange(300) >= 100))
    assert np.allclose(trace.queries.latency[late & (np.arange(300) >= 100)], 1.0), "the median"


@pytest.mark.parametrize("quantile", [None, 0.9])
@pytest.mark.parametrize("cancel", ["queued", "nothing"])
def test_the_timeout_is_the_running_quantile_of_the_deployed_models_latencies(
    quantile: float | None, cancel: str
) -> None:
    policy = ApproximateBackup.model_validate({"after_quantile": quantile, "cancel": cancel})
    streams = Streams(3)
    cluster = Cluster(
        instances=4,
        extra=2,
        service=Gamma(shape=2.0, mean=0.02),
        backup_service=Gamma(shape=4.0, mean=0.008),
    )
    trace = simulate(cluster, policy, (), poisson(185.0, 3000, streams), streams)
    queries, tasks = trace.queries, trace.tasks
    seen: list[float] = []
    checked = 0
    for task in range(len(tasks)):  # in the order in which they ended
        query = tasks.owner[task]
        dispatch = queries.dispatch[query]
        if tasks.role[task] == Role.DEPLOYED:
            seen.append(tasks.finish[task] - dispatch)
        elif tasks.fate[task] == TaskStatus.DONE and tasks.back[task] <= queries.reply[query]:
            if len(seen) < 100:
                assert queries.route[query] == Route.OWN
                continue
            wait = np.quantile(seen[-1000:], policy.after_quantile or 0.5, method="inverted_cdf")
            allowed = max(tasks.back[task], dispatch + wait)
            if queries.route[query] == Route.BACKUP:
                assert queries.reply[query] == allowed
                checked += 1
            else:
                assert queries.reply[query] <= allowed
    assert checked == np.sum(queries.route == Route.BACKUP) > 150
    assert np.any(tasks.fate[tasks.role == Role.DEPLOYED] == TaskStatus.CANCELLED) == (cancel == "queued")


@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.2, 0.5, 1.0]) | st.floats(0, 1), max_size=60),
    st.floats(0.01, 0.99),
    st.integers(5, 20),
)
def test_the_running_quantile_is_exact(values: list[float], share: float, window: int) -> None:
    running = RunningQuantile(share, window, least=4)
    for count, value in enumerate(values, start=1):
        running.see(value)
        latest = np.array(values[max(0, count - window) : count])
        if count < 4:
            assert running.now() is None
        else:
            now = running.now()
            assert now in latest
            # The least value that at least `share` of them do not exceed.
            assert np.sum(latest <= now) >= share * len(latest) > np.sum(latest < now)


@pytest.mark.parametrize("cancel", ["queued", "nothing"])
def test_lost_tasks_are_sent_again_while_the_query_has_no_reply(cancel: str) -> None:
    streams = Streams(4)
    cluster = Cluster(instances=4, extra=2, service=Exponential(mean=0.02), backup_service=Exponential(mean=0.02))
    crashes = Crashes(mean_up=0.4, repair=Exponential(mean=0.05), detect=0.01)
    policy = ApproximateBackup.model_validate({"after": 0.03, "cancel": cancel})
    trace = simulate(cluster, policy, (crashes,), poisson(80.0, 1500, streams), streams)
    tasks = trace.tasks
    sent = set(zip(tasks.owner.tolist(), tasks.role.tolist(), tasks.attempt.tolist(), strict=True))
    again = {True: 0, False: 0}
    for task in np.flatnonzero(tasks.fate == TaskStatus.LOST):
        reply = trace.queries.reply[tasks.owner[task]]
        retried = (tasks.owner[task], tasks.role[task], tasks.attempt[task] + 1) in sent
        if retried:
            assert reply > tasks.finish[task]
        else:
            assert reply <= tasks.finish[task] + crashes.detect
        again[retried] += 1
    assert min(again.values()) > 5
    assert len(sent) == len(tasks)


def test_every_query_is_sent_to_both_and_the_bytes_are_counted() -> None:
    network = {"query_bytes": 100, "parity_bytes": 1000, "reply_bytes": 10}
    assert run(ApproximateBackup(after=0), [0], network=network).bytes == 2 * 100 + 2 * 10
    cancelled = run(ApproximateBackup(after=0), [0, 0], network=network)
    assert cancelled.bytes == 3 * 100 + 3 * 10


def test_instances() -> None:
    cluster = Cluster(instances=12, extra=6, service=Deterministic(value=1.0))
    assert ApproximateBackup().instances(cluster) == EqualResources().instances(cluster) == 18
    plans = ApproximateBackup(backup_instances=2).pools(cluster)
    assert [(plan.role, plan.instances) for plan in plans] == [(Role.DEPLOYED, 12), (Role.BACKUP, 2)]
    assert ApproximateBackup(backup_instances=2).uses(Role.BACKUP, cluster)
    assert not EqualResources().uses(Role.BACKUP, cluster)


def test_a_backup_takes_as_long_as_the_deployed_model_where_nothing_else_is_given() -> None:
    one, other = Deterministic(value=1.0), Deterministic(value=0.4)
    same = Cluster(instances=1, service=one)
    assert same.service_of(Role.BACKUP, 1) is one
    faster = Cluster(instances=1, service=one, backup_service=other, batch_cost=0.5)
    assert [faster.service_of(role, 1) for role in Role] == [one, one, other]
    assert faster.service_of(Role.BACKUP, 3).mean() == pytest.approx(0.8)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="give 'after' or 'after_quantile', not both"):
        ApproximateBackup(after=0.1, after_quantile=0.5)
    for name, value in (("after", -0.1), ("after_quantile", 0.0), ("after_quantile", 1.0), ("cancel", "all")):
        with pytest.raises(ValidationError, match=name):
            ApproximateBackup.model_validate({name: value})
    alone = Cluster(instances=2, service=Deterministic(value=1.0))
    with pytest.raises(ValueError, match="the backup model needs an instance"):
        ApproximateBackup().instances(alone)
    assert ApproximateBackup(backup_instances=1).instances(alone) == 3


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
@pytest.mark.parametrize(
    ("cancel", "fates", "last"),
    [("queued", "done done cancelled cancelled", 20.0), ("queued_up_to", "done cancelled cancelled cancelled", 50.1)],
)
def test_an_answer_may_remove_the_backups_that_wait_before_its_own(
    engine: Engine, cancel: str, fates: str, last: float
) -> None:
    """Query 1 is slow, and its backup waits behind that of query 0 until query 2 is answered."""
    cluster = Cluster(instances=4, extra=1, service=Deterministic(value=1.0), backup_service=Deterministic(value=10.0))
    slow = [Heterogeneous(factors=(1.0, 50.0, 1.0, 1.0, 1.0))]
    schedule = OpenSchedule(np.array([0.0, 0.1, 0.2, 0.3]))
    policy = ApproximateBackup.model_validate({"cancel": cancel, "after": 0.0})
    trace = simulate(cluster, policy, slow, schedule, Streams(0), engine=engine)
    backups = trace.tasks.role == Role.BACKUP
    found = dict(zip(trace.tasks.owner[backups].tolist(), trace.tasks.fate[backups].tolist(), strict=True))
    assert [TaskStatus(found[query]).name.lower() for query in range(4)] == fates.split()
    assert trace.queries.reply[1] == pytest.approx(last)
