"""Instances that are added and removed during a run: what scalers decide, and what follows from it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sim import compiled
from sim.cluster import Cluster
from sim.dispatching import BestOf, Discipline, IdleQueue, RandomQueue, RoundRobin, ShortestQueue, SingleQueue
from sim.distributions.families import Deterministic, Exponential, Uniform
from sim.errors import ParmError
from sim.policies import ApproximateBackup, Coded, EqualResources, Hedged, Policy, Replication, Uncoded
from sim.policies.hedged import Hedging
from sim.routing import Ejection, LeastRequest, PeakEwma, Prequal
from sim.scalers import Cold, QueueLength, Scaler, Scheduled, Seen, TargetUtilisation
from sim.schedule import OpenSchedule
from sim.simulation import check, simulate
from sim.stragglers import Crashes, Heterogeneous, Multitenancy
from sim.streams import Streams
from sim.theory import MMc
from sim.trace import Role, Trace
from tests.worlds import DISCIPLINES, World, poisson, worlds

AT_ONCE = Deterministic(value=0.0)
LEARNERS = (PeakEwma(), LeastRequest(ejection=Ejection(timeout=0.05, base=0.1, most=0.5)), Prequal(age=0.1))
QUEUES: tuple[Discipline, ...] = (
    *(SingleQueue(), RoundRobin(), RandomQueue(), ShortestQueue(), BestOf(d=2), IdleQueue()),
    *LEARNERS,
)
NEVER: tuple[Scaler, ...] = (
    Scheduled(steps=((1e9, 7),), provisioning=AT_ONCE),
    TargetUtilisation(max_instances=40, period=0.03, tolerance=1e9, provisioning=AT_ONCE),
    QueueLength(max_instances=40, above=1e9, below=0.0, period=0.02, provisioning=AT_ONCE),
)


def steps(*steps: tuple[float, int], provisioning: float = 0.0, cold: Cold | None = None) -> Scheduled:
    return Scheduled(steps=steps, provisioning=Deterministic(value=provisioning), cold=cold)


def run(cluster: Cluster, rate: float, queries: int, policy: Policy | None = None, **how: Any) -> Trace:
    streams = Streams(4)
    return simulate(cluster, policy or Uncoded(), how.get("stragglers", ()), poisson(rate, queries, streams), streams)


def same(one: Trace, other: Trace) -> None:
    for part in ("queries", "batches", "tasks"):
        for field in dataclasses.fields(getattr(one, part)):
            mine, its = (getattr(getattr(trace, part), field.name) for trace in (one, other))
            assert (mine is None) == (its is None)
            assert mine is None or mine.tobytes() == its.tobytes(), f"{part}.{field.name}"
    for name in ("k", "r", "instances", "end", "bytes"):
        assert getattr(one, name) == getattr(other, name), name


class TestAScalerThatNeverActs:
    """It changes no byte, in any world."""

    @settings(max_examples=150, deadline=None)
    @given(worlds(DISCIPLINES | st.sampled_from(LEARNERS)), st.sampled_from(NEVER))
    def test_it_gives_the_trace_of_today(self, world: World, never: Scaler) -> None:
        plain = world.without_scaler()
        assume(not getattr(plain.cluster.queue, "steal", False))
        least = plain.policy.pools(plain.cluster)[0].instances
        if isinstance(never, (TargetUtilisation, QueueLength)):
            never = never.model_copy(update={"min_instances": min(least, 3)})
        scaled = dataclasses.replace(plain, cluster=plain.cluster.model_copy(update={"scaler": never}))
        same(scaled.run(), plain.run())

    def test_bulk_traffic_and_second_services_meet_the_same_machines_where_all_are_launched(self) -> None:
        cluster = Cluster(instances=4, extra=2, service=Exponential(mean=0.02), launched=60)
        stragglers = [Multitenancy(instances=10, rate=20.0, service=Exponential(mean=0.02))]
        one = run(cluster, 120.0, 2000, Coded(k=2), stragglers=stragglers)
        scaled = cluster.model_copy(update={"scaler": NEVER[1].model_copy(update={"min_instances": 4})})
        same(run(scaled, 120.0, 2000, Coded(k=2), stragglers=stragglers), one)


class TestSchedule:
    """Times and counts, exactly."""

    CLUSTER = Cluster(instances=2, service=Deterministic(value=1.0))

    def served(self, scaler: Scaler, arrivals: list[float], queue: Discipline | None = None) -> Trace:
        cluster = self.CLUSTER.model_copy(update={"scaler": scaler, "queue": queue or SingleQueue()})
        return simulate(cluster, Uncoded(), (), OpenSchedule(np.array(arrivals)), Streams(1))

    def test_an_added_instance_takes_what_waits_when_it_is_ready(self) -> None:
        trace = self.served(steps((0.2, 3), provisioning=0.3), [0.1, 0.1, 0.1, 0.1])
        assert np.allclose(np.sort(trace.queries.reply), [1.1, 1.1, 1.5, 2.1])
        assert trace.counts is not None
        assert trace.counts.time.tolist() == [0.0, 0.2, 0.5]
        assert trace.counts.paid.tolist() == [2, 3, 3]
        assert trace.counts.serving.tolist() == [2, 2, 3]

    def test_provisioning_is_only_a_shift(self) -> None:
        cluster = Cluster(instances=3, service=Exponential(mean=0.02))
        later, delayed = steps((5.0, 6)), steps((3.0, 6), provisioning=2.0)
        same(*(run(cluster.model_copy(update={"scaler": one}), 140.0, 3000) for one in (later, delayed)))

    def test_a_removed_instance_finishes_what_it_runs_and_is_paid_until_then(self) -> None:
        trace = self.served(steps((0.5, 1)), [0.1, 0.2, 0.3])
        assert trace.queries.reply.tolist() == pytest.approx([1.1, 1.2, 2.1])
        assert trace.counts is not None
        assert trace.counts.time.tolist() == pytest.approx([0.0, 0.5, 1.2])
        assert trace.counts.paid.tolist() == [2, 2, 1]
        assert trace.counts.serving.tolist() == [2, 1, 1]
        assert trace.counts.paid_on_average(0.2, 2.2)[Role.DEPLOYED] == pytest.approx(1.5)

    def test_its_queue_joins_another(self) -> None:
        trace = self.served(steps((0.5, 1)), [0.1, 0.1, 0.1, 0.1], RoundRobin())
        order = np.argsort(trace.tasks.owner)
        assert trace.tasks.instance[order].tolist() == [0, 1, 0, 0]
        assert trace.queries.reply.tolist() == pytest.approx([1.1, 1.1, 2.1, 3.1])

    @pytest.mark.parametrize("queue", [SingleQueue(), RoundRobin()], ids=["single_queue", "round_robin"])
    def test_one_that_is_still_busy_stays_if_it_is_asked_for_again(self, queue: Discipline) -> None:
        cold = Cold(tasks=1, factor=Deterministic(value=5.0))
        scaler = steps((0.5, 1), (0.6, 2), provisioning=9.0, cold=cold)
        trace = self.served(scaler, [0.1, 0.1, 0.7, 0.7], queue)
        assert trace.queries.reply.tolist() == pytest.approx([1.1, 1.1, 2.1, 2.1])

    def test_one_that_is_starting_is_the_first_to_be_removed(self) -> None:
        trace = self.served(steps((0.1, 4), (0.5, 3), provisioning=1.0), [0.0] * 3 + [3.0] * 6)
        assert trace.counts is not None
        assert trace.counts.paid.tolist() == [2, 3, 4, 3, 3]
        assert trace.counts.serving.tolist() == [2, 2, 2, 2, 3]
        assert np.unique(trace.tasks.instance).tolist() == [0, 1, 2]

    def test_the_first_tasks_of_an_added_instance_are_slower(self) -> None:
        cold = Cold(tasks=2, factor=Deterministic(value=3.0))
        trace = self.served(steps((0.5, 3), cold=cold), [1.0 + 10 * number for number in range(4) for _ in range(3)])
        tasks = trace.tasks
        services = [(tasks.finish - tasks.start)[tasks.instance == one].tolist() for one in range(3)]
        assert services[:2] == [pytest.approx([1.0] * 4)] * 2
        assert services[2] == pytest.approx([3.0, 3.0, 1.0, 1.0])

    def test_it_is_cold_again_each_time_and_draws_anew(self) -> None:
        cold = Cold(tasks=1, factor=Uniform(low=2.0, high=9.0))
        trace = self.served(
            steps((0.5, 3), (6.0, 2), (20.0, 3), cold=cold), [1.0] * 3 + [21.0] * 3 + [40.0, 40.0, 40.0]
        )
        seconds = (trace.tasks.finish - trace.tasks.start)[trace.tasks.instance == 2]
        assert np.all(seconds[:2] > 2)
        assert seconds[0] != seconds[1]
        assert seconds[2] == pytest.approx(1.0)

    def test_machines_that_are_added_are_numbered_after_all_others_and_are_the_same_ones(self) -> None:
        """Instances 4 and 5 serve the parity model from the start; 6 and 7 join the deployed model's, 8 the former."""
        cluster = Cluster(instances=4, extra=2, service=Deterministic(value=0.02))
        cluster = cluster.model_copy(update={"scaler": steps((1.0, 6))})
        factors = tuple(1.0 + number for number in range(9))
        trace = run(cluster, 100.0, 2000, Coded(k=2), stragglers=[Heterogeneous(factors=factors)])
        tasks = trace.tasks
        ran = tasks.instance >= 0
        seconds = (tasks.finish - tasks.start)[ran]
        assert np.allclose(seconds, 0.02 * np.array(factors)[tasks.instance[ran]])
        deployed = tasks.role[ran] == Role.DEPLOYED
        assert np.unique(tasks.instance[ran][deployed]).tolist() == [0, 1, 2, 3, 6, 7]
        assert np.unique(tasks.instance[ran][~deployed]).tolist() == [4, 5, 8]

    def test_what_is_scheduled_after_the_end_changes_nothing(self) -> None:
        cluster = Cluster(instances=3, service=Exponential(mean=0.02))
        trace = run(cluster.model_copy(update={"scaler": steps((1e6, 5))}), 100.0, 500)
        same(trace, run(cluster, 100.0, 500))
        assert trace.counts is not None
        assert trace.counts.time.tolist() == [0.0]


class TestAfterAStep:
    """Long after a step the queue is that of the new number of instances."""

    @pytest.mark.parametrize(("before", "after"), [(3, 5), (5, 3)])
    def test_the_mean_is_that_of_mmc(self, before: int, after: int) -> None:
        rate, mean, half = 100.0, 0.02, 400.0
        cluster = Cluster(instances=before, service=Exponential(mean=mean), scaler=steps((half, after)))
        means = []
        for trial in range(4):
            streams = Streams(7, trial)
            queries = simulate(cluster, Uncoded(), (), poisson(rate, 80_000, streams), streams).queries
            first = (queries.arrival > 10) & (queries.arrival < half)
            second = queries.arrival > half + 10
            means.append([queries.latency[part].mean() for part in (first, second)])
        expected = [MMc(rate, mean, servers).mean() for servers in (before, after)]
        assert np.mean(means, axis=0) == pytest.approx(expected, rel=0.03)


def seen(serving: int, utilisation: float = 0.5, tasks: int = 0, starting: int = 0) -> Seen:
    return Seen(serving, starting, utilisation, tasks, least=1, most=100)


def part(count: int) -> int:
    return count


class TestTargetUtilisation:
    """Kubernetes' rule, with the examples of its documentation and the cases of its replica calculator."""

    def rule(self, start: int = 10, **options: Any) -> Any:
        plain = {"stabilisation": 0.0, "max_instances": 100, "up_factor": 100.0, "provisioning": AT_ONCE}
        return TargetUtilisation(**plain | options).rule(start, part)

    @pytest.mark.parametrize(
        ("now", "before", "after"),
        [
            (seen(3, 1.0), 3, 6),  # "if the current metric value is 200m, and the desired value is 100m, doubled"
            (seen(6, 0.25), 6, 3),  # "if the current value is instead 50m, halved"
            (seen(7, 0.549), 7, 7),  # within the tolerance of 0.1
            (seen(7, 0.451), 7, 7),
            (seen(7, 0.56), 7, 8),  # ceil(7.84)
            (seen(7, 0.44), 7, 7),  # ceil(6.16)
            (seen(4, 0.9, starting=4), 8, 8),  # the others count as idle: 0.9 x 4 / 8 = 0.45, below the target
            (seen(4, 1.0, starting=1), 5, 8),  # 1.0 x 4 / 5 / 0.5 = 1.6: ceil(8.0)
            (seen(4, 0.25, starting=4), 8, 2),  # on the way down only those that serve count
        ],
    )
    def test_the_ratio(self, now: Seen, before: int, after: int) -> None:
        assert self.rule(before, target=0.5).wanted(15.0, now) == after

    def test_fewer_are_enough_only_after_the_window(self) -> None:
        rule = self.rule(10, target=0.5, stabilisation=60.0)
        wanted = [rule.wanted(15.0 * look, seen(10, 0.25)) for look in range(1, 6)]
        assert wanted == [10, 10, 10, 5, 5]  # 10 were wanted at time 0

    def test_the_most_that_was_wanted_in_the_window_counts(self) -> None:
        rule = self.rule(10, target=0.5, stabilisation=40.0)
        rule.wanted(60.0, seen(10, 0.25))
        assert rule.wanted(75.0, seen(10, 0.40)) == 8
        assert rule.wanted(90.0, seen(8, 0.10)) == 8
        assert rule.wanted(120.0, seen(8, 0.10)) == 2

    def test_more_are_added_only_after_the_window_if_one_is_given(self) -> None:
        rule = self.rule(10, target=0.5, stabilisation_up=30.0)
        assert [rule.wanted(15.0 * look, seen(10, 1.0)) for look in range(1, 4)] == [10, 20, 20]

    def test_at_most_double_or_four_more_at_once(self) -> None:
        how: dict[str, Any] = {"target": 0.1, "up_factor": 2.0}
        assert self.rule(10, **how).wanted(15.0, seen(10, 1.0)) == 20
        assert self.rule(2, **how).wanted(15.0, seen(2, 1.0)) == 6
        assert self.rule(2, **how, up_instances=0).wanted(15.0, seen(2, 1.0)) == 4

    def test_the_defaults_are_those_of_kubernetes(self) -> None:
        options = TargetUtilisation(max_instances=10, provisioning=AT_ONCE)
        assert (options.target, options.tolerance, options.period, options.stabilisation) == (0.8, 0.1, 15.0, 300.0)

    @pytest.mark.parametrize("queue", [SingleQueue(), BestOf()], ids=["single_queue", "best_of"])
    def test_it_brings_a_cluster_to_its_target(self, queue: Discipline) -> None:
        scaler = TargetUtilisation(
            target=0.6, tolerance=0.02, max_instances=100, period=1.0, stabilisation=20.0, provisioning=AT_ONCE
        )
        cluster = Cluster(instances=40, service=Exponential(mean=0.02), queue=queue, scaler=scaler)
        trace = run(cluster, 900.0, 90_000)  # 18 instances busy on average, so 30 are wanted
        assert trace.counts is not None
        average = trace.counts.paid_on_average(50.0, 100.0)[Role.DEPLOYED]
        assert 29 <= average <= 34
        assert trace.occupied_seconds == pytest.approx(18 * 100, rel=0.03)


class TestQueueLength:
    """Thresholds and the cool-down."""

    def rule(self, **options: Any) -> Any:
        plain = {"above": 2.0, "below": 0.5, "cooldown": 10.0, "max_instances": 100, "provisioning": AT_ONCE}
        return QueueLength(**plain | options).rule(4, part)

    @pytest.mark.parametrize(("tasks", "wanted"), [(9, 5), (8, 4), (2, 4), (1, 3)])
    def test_thresholds(self, tasks: int, wanted: int) -> None:
        assert self.rule().wanted(1.0, seen(4, tasks=tasks)) == wanted

    def test_nothing_changes_during_the_cool_down(self) -> None:
        rule = self.rule(add=3)
        assert [rule.wanted(now, seen(4, tasks=100)) for now in (1.0, 2.0, 10.9, 11.0)] == [7, 4, 4, 7]

    def test_what_is_not_allowed_begins_no_cool_down(self) -> None:
        rule = self.rule()
        full = Seen(4, 0, 0.5, 100, least=1, most=4)
        assert rule.wanted(1.0, full) == 4
        assert rule.wanted(2.0, dataclasses.replace(full, most=5)) == 5

    @pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: str(queue.name_in_yaml()))
    def test_it_meets_a_burst_and_gives_back(self, queue: Discipline) -> None:
        scaler = QueueLength(
            above=1.5, below=0.6, cooldown=0.5, period=0.1, min_instances=3, max_instances=20, provisioning=AT_ONCE
        )
        times = np.concatenate([np.arange(2000) / 100, 20 + np.arange(6000) / 600, 30 + np.arange(6000) / 100])
        cluster = Cluster(instances=3, service=Exponential(mean=0.02), queue=queue)
        streams = Streams(2)
        alone = simulate(cluster, Uncoded(), (), OpenSchedule(times), streams)
        scaled = cluster.model_copy(update={"scaler": scaler})
        trace = simulate(scaled, Uncoded(), (), OpenSchedule(times), streams)
        assert np.quantile(trace.queries.latency, 0.99) < 0.5 * np.quantile(alone.queries.latency, 0.99)
        assert trace.counts is not None
        assert trace.counts.serving.max() >= 12
        assert trace.counts.serving[-1] <= 8
        assert len(trace.queries) == len(times)


class TestPools:
    """Every pool has a rule of its own, in proportion to its size."""

    def serving(self, trace: Trace, role: Role, row: int = 0) -> list[int]:
        counts = trace.counts
        assert counts is not None
        return counts.serving[(counts.role == role) & (counts.row == row)].tolist()

    def test_parity_and_backup_pools_follow_a_schedule_in_proportion(self) -> None:
        cluster = Cluster(instances=6, extra=3, service=Deterministic(value=0.02), scaler=steps((1.0, 12), (2.0, 5)))
        coded = run(cluster, 150.0, 1000, Coded(k=2))
        assert self.serving(coded, Role.DEPLOYED)[0] == 6
        assert self.serving(coded, Role.DEPLOYED)[-1] == 5
        assert max(self.serving(coded, Role.DEPLOYED)) == 12
        assert max(self.serving(coded, Role.PARITY)) == 6
        assert self.serving(coded, Role.PARITY)[-1] == 3  # half of 5, rounded up
        backup = run(cluster, 150.0, 1000, ApproximateBackup(backup_instances=1))
        assert max(self.serving(backup, Role.BACKUP)) == 2

    def test_a_parity_pool_that_is_overloaded_grows_by_itself(self) -> None:
        scaler = QueueLength(above=2.0, below=0.1, cooldown=0.2, period=0.1, max_instances=30, provisioning=AT_ONCE)
        cluster = Cluster(
            instances=10,
            extra=2,
            service=Exponential(mean=0.02),
            parity_service=Exponential(mean=0.06),
            scaler=scaler.model_copy(update={"min_instances": 10}),
        )
        trace = run(cluster, 300.0, 6000, Coded(k=2, parity_instances=2))
        assert max(self.serving(trace, Role.PARITY)) > 5 * 2 / 2
        assert max(self.serving(trace, Role.DEPLOYED)) <= 12

    @pytest.mark.parametrize("queue", [SingleQueue(), BestOf()], ids=["single_queue", "best_of"])
    def test_models_that_share_instances_share_a_rule(self, queue: Discipline) -> None:
        cluster = Cluster(
            instances=4, extra=2, service=Exponential(mean=0.02), queue=queue, scaler=steps((1.0, 10), (3.0, 6))
        )
        trace = run(cluster, 200.0, 2000, Coded(k=2, parity_pool="low_priority"))
        assert trace.counts is not None
        assert set(trace.counts.role.tolist()) == {Role.DEPLOYED}
        assert trace.counts.paid[-1] == 6

    @pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: str(queue.name_in_yaml()))
    def test_instances_that_crash_while_they_come_and_go_lose_nothing(self, queue: Discipline) -> None:
        crashes = Crashes(mean_up=0.4, repair=Exponential(mean=0.4), detect=0.2)
        scaler = steps(*((0.1 * number, 3 + number % 2 * 5) for number in range(1, 120)), provisioning=0.03)
        cluster = Cluster(instances=5, service=Exponential(mean=0.02), queue=queue, scaler=scaler)
        for policy in (Uncoded(), Hedged(after=0.03), Replication()):
            trace = run(cluster, 100.0, 1000, policy, stragglers=[crashes])
            assert len(trace.queries) == 1000
            tasks = trace.tasks
            for instance in range(8):
                mine = np.flatnonzero(tasks.instance == instance)
                mine = mine[np.argsort(tasks.sent[mine], kind="stable")]
                assert np.all(tasks.sent[mine][1:] >= tasks.finish[mine][:-1] - 1e-12)


@settings(max_examples=200, deadline=None)
@given(worlds(DISCIPLINES | st.sampled_from(LEARNERS)).filter(lambda world: world.cluster.scaler is not None))
def test_what_runs_is_paid_and_within_the_bounds(world: World) -> None:
    trace = world.run()
    counts, tasks, scaler = trace.counts, trace.tasks, world.cluster.scaler
    assert counts is not None
    assert scaler is not None
    assert np.all(np.diff(counts.time) >= 0)
    assert np.all(counts.serving <= counts.paid)
    plans = world.policy.pools(world.cluster)
    least, most = scaler.bounds(plans[0].instances)
    shared = [plan for plan in plans if plan.rank is not None]
    for plan in (plan for plan in plans if plan.instances):
        mine = (counts.role == plan.role) & (counts.row == plan.row)
        time, paid = counts.time[mine], counts.paid[mine]
        start = counts.serving[mine][0]
        assert start == plan.instances
        assert counts.serving[mine].min() >= min(start, math.ceil(least * plan.instances / plans[0].instances))
        assert paid.max() <= 2 * math.ceil(most * plan.instances / plans[0].instances)
        ran = np.zeros(len(tasks), dtype=bool)
        for one in shared if plan in shared else [plan]:
            ran |= (tasks.role == one.role) & (tasks.row == one.row) & (tasks.instance >= 0)
        sent, back = tasks.sent[ran], np.fmax(tasks.finish, tasks.back)[ran]
        for when in np.unique(sent):
            running = np.unique(tasks.instance[ran][(sent <= when) & (when < back)])
            assert len(running) <= paid[np.searchsorted(time, when, side="right") - 1]


class TestRefusals:
    """One sentence for what cannot be."""

    def refused(self, policy: Policy, scaler: Scaler, **cluster: Any) -> str:
        with pytest.raises(ValueError, match="scaler") as error:
            check(Cluster(instances=4, extra=2, service=Deterministic(value=1), scaler=scaler, **cluster), policy, ())
        return str(error.value)

    def test_a_start_outside_the_bounds(self) -> None:
        scaler = QueueLength(above=2, below=1, min_instances=2, max_instances=5, provisioning=AT_ONCE)
        says = "the policy begins with 6 instances of the deployed model, but the scaler allows 2 to 5"
        assert self.refused(EqualResources(), scaler) == says
        check(Cluster(instances=4, service=Deterministic(value=1), scaler=scaler), Uncoded(), ())

    @pytest.mark.parametrize("policy", [Hedged(copies=3, after=1), Coded(k=2, hedge=Hedging(copies=3, after=1))])
    def test_fewer_instances_than_copies(self, policy: Policy) -> None:
        says = "3 copies need as many instances, but the scaler may leave 2 of the deployed model"
        assert self.refused(policy, steps((1.0, 2))) == says

    def test_work_stealing(self) -> None:
        says = self.refused(EqualResources(), steps((1.0, 2)), queue=RoundRobin(steal=True))
        assert says == "'steal' does not go with a scaler: leave it out"

    def test_too_many_instances(self) -> None:
        scaler = QueueLength(above=2, below=1, max_instances=90_000, provisioning=AT_ONCE)
        assert "135000 instances in all" in self.refused(Coded(k=2), scaler)

    def test_more_machines_than_are_launched(self) -> None:
        cluster = Cluster(instances=4, service=Deterministic(value=1), scaler=steps((1.0, 9)), launched=8)
        with pytest.raises(ValueError, match="uses 9 instances, but only 8 are launched"):
            check(cluster, Uncoded(), ())

    def test_the_compiled_engine_says_why_it_declines(self) -> None:
        cluster = Cluster(instances=4, service=Deterministic(value=1), scaler=steps((1.0, 9)))
        assert compiled.unsupported(cluster, Uncoded(), ()) == "scaler 'scheduled'"
        with pytest.raises(ParmError, match="cannot simulate scaler 'scheduled'"):
            simulate(cluster, Uncoded(), (), OpenSchedule(np.array([1.0])), Streams(1), engine="compiled")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"kind": "scheduled", "steps": [[5, 3], [5, 4]]}, "the times of the steps must increase"),
            ({"kind": "scheduled", "steps": []}, "at least 1 item"),
            ({"kind": "queue_length", "above": 1, "below": 1, "max_instances": 3}, "must be less than 'above' \\(1\\)"),
            ({"kind": "queue_length", "above": 2, "below": 1}, "max_instances"),
            (
                {"kind": "target_utilisation", "min_instances": 4, "max_instances": 3},
                "must be at most 'max_instances' \\(3\\)",
            ),
            ({"kind": "target_utilisation", "target": 1, "max_instances": 3}, "less than 1"),
            ({"kind": "target"}, "there is no scaler 'target'"),
        ],
    )
    def test_options(self, options: dict[str, Any], says: str) -> None:
        if options["kind"] != "target":
            options["provisioning"] = 1
        with pytest.raises(ValidationError, match=says):
            Cluster.model_validate({"instances": 4, "service": 1, "scaler": options})


def test_the_same_seed_draws_the_same_provisioning_under_every_policy() -> None:
    scaler = Scheduled(steps=((1.0, 8),), provisioning=Exponential(mean=0.5))
    cluster = Cluster(instances=4, service=Exponential(mean=0.02), scaler=scaler)
    one, other = (run(cluster, 100.0, 1000, policy).counts for policy in (Uncoded(), Hedged(after=0.01)))
    assert one is not None
    assert other is not None
    assert one.time.tolist() == other.time.tolist()
    assert len(set(one.time.tolist())) == 6
    assert math.isclose(one.time[1], 1.0)
