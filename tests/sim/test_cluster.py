"""Batching, queue disciplines, the network, and stragglers: each against what it must do exactly, or on average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sim.cluster import Cluster
from sim.distributions.families import Deterministic, Exponential
from sim.errors import ParmError
from sim.network import Network
from sim.policies import Coded, CodedNonsystematic, Uncoded
from sim.schedule import ClosedSchedule, OpenSchedule
from sim.shared import Shared
from sim.simulation import check, simulate
from sim.stragglers import Crashes, Heterogeneous, PerTask, Replay, Shuffles, SlowPeriods, Straggler
from sim.stragglers.base import Pieces, Setting
from sim.stragglers.timeline import SlownessTimeline
from sim.streams import BLOCK, Streams
from sim.trace import TaskStatus, Trace
from tests.worlds import poisson


def run(times: Sequence[float], stragglers: Sequence[Straggler] = (), **cluster: Any) -> Trace:
    options = {"instances": 1, "service": 1.0} | cluster
    schedule = OpenSchedule(np.array(times, dtype=float))
    return simulate(Cluster.model_validate(options), Uncoded(), stragglers, schedule, Streams(0))


def test_a_fixed_batch_waits_until_it_is_full_or_has_waited_long_enough() -> None:
    batching = {"kind": "fixed", "size": 3, "formed_at": "frontend"}
    trace = run([0, 1, 2, 10, 10, 10], batching=batching, batch_cost=0.5)
    assert trace.batches.size.tolist() == [3, 3]
    assert trace.queries.dispatch.tolist() == [2, 2, 2, 10, 10, 10]
    assert trace.queries.reply.tolist() == [4, 4, 4, 12, 12, 12]
    hasty = run([0, 1, 2, 10], batching={**batching, "max_wait": 1.5}, instances=4)
    assert hasty.batches.size.tolist() == [2, 1, 1]
    assert hasty.queries.dispatch.tolist() == [1.5, 1.5, 3.5, 11.5]


def test_aimd_finds_the_largest_batch_within_its_objective() -> None:
    """A batch of n takes 0.01 n seconds, so 8 queries meet an objective of 0.085."""
    times = np.arange(4000) * 0.012
    batching = {"kind": "aimd", "objective": 0.085, "max_size": 64, "formed_at": "frontend", "max_wait": 1.0}
    trace = run(times.tolist(), batching=batching, service=0.01)
    late = trace.batches.size[len(trace.batches) // 2 : -1]
    assert late.min() >= 7
    assert late.max() <= 9
    assert np.any(late == 9), "it probes beyond the objective and backs off"


def test_queue_disciplines_in_a_heavily_loaded_farm() -> None:
    """The order of mean waits that theory gives: one queue, JSQ, best of two, random; and M/M/1 and M/M/8 exactly."""
    waits: dict[str, float] = {}
    for queue in ("single_queue", "shortest_queue", "best_of", "random", "round_robin"):
        means = []
        for trial in range(4):
            streams = Streams(3, trial)
            cluster = Cluster.model_validate(
                {"instances": 8, "service": {"kind": "exponential", "mean": 1.0}, "queue": queue}
            )
            trace = simulate(cluster, Uncoded(), (), poisson(8 * 0.8, 20_000, streams), streams)
            means.append(trace.queries.latency[2000:].mean())
        waits[queue] = float(np.mean(means))
    assert waits["single_queue"] < waits["shortest_queue"] < waits["best_of"] < waits["round_robin"] < waits["random"]
    assert waits["random"] == pytest.approx(1 / (1 - 0.8), rel=0.08)
    # Erlang's C formula for M/M/8 at load 0.8
    offered = 6.4
    top = offered**8 / math.factorial(8) / (1 - 0.8)
    delayed = top / (sum(offered**n / math.factorial(n) for n in range(8)) + top)
    assert waits["single_queue"] == pytest.approx(1 + delayed / (8 - 6.4), rel=0.04)


def test_round_robin_goes_round() -> None:
    trace = run([0, 0, 0, 0, 0], instances=3, queue="round_robin")
    order = np.argsort(trace.tasks.owner)
    assert trace.tasks.instance[order].tolist() == [0, 1, 2, 0, 1]


def test_transfers_take_their_time_and_hold_the_instance() -> None:
    network = {"gbps": 8e-6, "latency": 0.5, "query_bytes": 1000, "reply_bytes": 250}
    trace = run([0, 0], network=network)
    tasks = trace.tasks
    assert tasks.start == pytest.approx([1.5, 4.75])
    assert tasks.back == pytest.approx([3.25, 6.5])


def test_the_overhead_delays_a_query_and_takes_no_instance() -> None:
    trace = run([0, 0.5], network={"overhead": 0.25}, deadline=1.6)
    assert trace.queries.arrival.tolist() == [0, 0.5]
    assert trace.queries.dispatch.tolist() == [0.25, 0.75]
    assert trace.queries.reply.tolist() == pytest.approx([1.25, 2.1])
    assert trace.busy_seconds == 2.0


def test_closed_loop_clients_wait_for_their_replies() -> None:
    think = np.array([0.0, 0.25, 1.0, 1.0, 1.0])
    cluster = Cluster(instances=1, service=Deterministic(value=1.0))
    trace = simulate(cluster, Uncoded(), (), ClosedSchedule(2, think), Streams(0))
    assert trace.queries.arrival.tolist() == [0, 0.25, 2.0, 3.0, 4.0]
    assert trace.queries.reply.tolist() == [1, 2, 3, 4, 5]


def test_batches_and_groups_that_never_fill_are_refused() -> None:
    """Nobody knows that no more queries will come: without a longest wait, these are never answered."""
    batching: dict[str, Any] = {"kind": "fixed", "size": 4, "formed_at": "frontend"}
    size: dict[str, Any] = {"instances": 1, "extra": 4, "service": 1.0, "batching": batching}
    cluster = Cluster.model_validate(size)
    few = ClosedSchedule(2, np.zeros(8))
    with pytest.raises(ParmError, match="never fills with 2 clients, so no query would be answered"):
        simulate(cluster, Coded(k=2), (), few, Streams(0))
    with pytest.raises(ValueError, match="a batch of 4 queries never fills with 2 clients"):
        check(cluster, Uncoded(), (), 8, 2)
    with pytest.raises(ParmError, match="the last batch would have 3 of 4 queries and never be sent"):
        simulate(cluster, Uncoded(), (), OpenSchedule(np.arange(7.0)), Streams(0))
    with pytest.raises(ParmError, match="a coding group of 8 queries never fills with 2 clients"):
        simulate(cluster, CodedNonsystematic(k=2), (), few, Streams(0))
    alone = Cluster(instances=4, service=Deterministic(value=1.0))
    with pytest.raises(ParmError, match="with 1 client, so no query would be answered: give the policy"):
        simulate(alone, CodedNonsystematic(k=2), (), ClosedSchedule(1, np.zeros(4)), Streams(0))
    check(cluster, Uncoded(), (), 8, 4)
    check(cluster.model_copy(update={"deadline": 1.0}), Uncoded(), (), 8, 2)
    patient = Cluster.model_validate({**size, "batching": {**size["batching"], "max_wait": 0.5}})
    trace = simulate(patient, Uncoded(), (), ClosedSchedule(2, np.zeros(6)), Streams(0))
    assert trace.batches.size.tolist() == [2, 2, 2]
    assert trace.queries.latency.tolist() == [2.5] * 6, "half a second of waiting, and a batch of two takes two"


def test_per_task_slowdowns_multiply_or_add_to_their_share_of_tasks() -> None:
    times = np.arange(20_000) * 10.0
    slow = PerTask(slowdown=Deterministic(value=5.0), probability=0.1)
    latency = run(times.tolist(), [slow]).queries.latency
    assert set(latency.round(6)) == {1.0, 5.0}
    assert np.mean(latency > 2) == pytest.approx(0.1, abs=0.01)
    added = run(times.tolist(), [PerTask(slowdown=Exponential(mean=0.5), how="add")]).queries.latency
    assert added.mean() == pytest.approx(1.5, rel=0.03)


def test_stragglers_compose_in_their_order() -> None:
    first = [PerTask(slowdown=Deterministic(value=3.0), how="add"), Heterogeneous(factors=(2.0,))]
    assert run([0], first).queries.reply.tolist() == [8.0]
    assert run([0], first[::-1]).queries.reply.tolist() == [5.0]


def test_heterogeneous_factors_are_one_per_instance_and_trial() -> None:
    drawn = Heterogeneous(factor=Exponential(mean=1.0))
    tasks = run([0] * 3 + [1000] * 3, [drawn], instances=3).tasks
    seconds = tasks.finish - tasks.start
    for instance in range(3):
        assert len(set(seconds[tasks.instance == instance].round(9))) == 1
    assert len(set(seconds.round(9))) == 3
    with pytest.raises(ValidationError, match="either 'factors'"):
        Heterogeneous()


def test_a_timeline_integrates_work_over_its_pieces() -> None:
    timeline = SlownessTimeline(iter([(1.0, 1.0), (3.0, 4.0), (4.0, 1.0), (100.0, 2.0)]))
    assert timeline.stretch(0.0, 0.5) == 0.5
    assert timeline.stretch(0.5, 1.0) == 2.5  # half a second at full speed, the other half at a quarter
    assert timeline.stretch(0.5, 1.5) == 3.0  # half a second's work in each of the first three pieces
    assert timeline.stretch(3.5, 1.0) == 0.5 + 1.0
    assert timeline.stretch(50.0, 3.0) == 6.0


@pytest.mark.parametrize("mean_slow", [0.4, 2.0])
def test_slow_periods_are_those_of_a_loop_over_draws(mean_slow: float) -> None:
    """To the last bit, and those of a new simulation are the same again; some instances begin slow, some normal."""
    slow, began_slow = SlowPeriods(factor=Exponential(mean=4.0), mean_normal=1.0, mean_slow=mean_slow), 0

    def loop(instance: int) -> Iterator[tuple[float, float]]:
        nonlocal began_slow
        generator = Streams(1).generator("slow_periods", 0, instance)
        skip, end = generator.random() < mean_slow / (1.0 + mean_slow), 0.0
        began_slow += skip
        while True:
            normal, slowed = generator.exponential(1.0, 64), generator.exponential(mean_slow, 64)
            for seconds, slow_seconds, factor in zip(normal, slowed, slow.factor.sample(generator, 64), strict=True):
                if not skip:
                    end += seconds
                    yield end, 1.0
                skip = False
                end += slow_seconds
                yield end, factor

    shared, pools = Shared(), [(0, 0)] * 20
    for _ in range(2):
        form = slow.attach(Setting(Streams(1, shared=shared), 0, pools, Network())).form
        assert isinstance(form, Pieces)
        for instance, pieces in enumerate(form.of_instance):
            assert list(islice(pieces, 400)) == list(islice(loop(instance), 400))
    assert 0 < began_slow < 2 * 20


def test_slow_periods_have_their_share_and_their_length() -> None:
    """A service of 1 ms each 100 ms samples an instance's condition: its share and its runs are the model's."""
    times = (np.arange(200_000) * 0.1).tolist()
    slow = SlowPeriods(factor=Deterministic(value=3.0), mean_normal=9.0, mean_slow=3.0)
    latency = run(times, [slow], service=0.001).queries.latency
    condition = latency > 0.0025
    assert condition.mean() == pytest.approx(0.25, abs=0.02)
    changes = np.flatnonzero(np.diff(condition.astype(int)))
    runs = np.diff(changes) * 0.1
    assert min(runs[::2].mean(), runs[1::2].mean()) == pytest.approx(3.0, rel=0.12)
    assert max(runs[::2].mean(), runs[1::2].mean()) == pytest.approx(9.0, rel=0.12)


def test_slow_periods_differ_between_instances_and_stay_between_policies() -> None:
    streams = Streams(4)
    schedule = OpenSchedule(np.arange(4000) * 0.5)
    slow = [SlowPeriods(mean_normal=20.0, mean_slow=10.0)]
    cluster = Cluster.model_validate({"instances": 2, "extra": 1, "service": 0.4, "queue": "round_robin"})
    conditions = []
    for policy in (Uncoded(), Coded(k=2)):
        tasks = simulate(cluster, policy, slow, schedule, streams).tasks
        ran = (tasks.role == 0) & (tasks.fate == TaskStatus.DONE) & (tasks.start < 1500)
        seconds = tasks.finish - tasks.start
        conditions.append([np.interp(np.arange(0, 1500, 5), tasks.start[ran & (tasks.instance == i)],
                                     seconds[ran & (tasks.instance == i)]) > 1.0 for i in range(2)])  # fmt: skip
    same = np.mean(conditions[0][0] == conditions[1][0])
    other = np.mean(conditions[0][0] == conditions[0][1])
    assert same > 0.85
    assert other < 0.75


def test_crashed_work_is_lost_noticed_and_retried() -> None:
    crashes = Crashes(mean_up=5.0, repair=Deterministic(value=2.0), detect=0.5)
    trace = run((np.arange(300) * 3.0).tolist(), [crashes], instances=2)
    lost = trace.tasks.fate == TaskStatus.LOST
    assert lost.sum() > 20
    assert np.all(np.isfinite(trace.queries.reply))
    tasks = trace.tasks
    owners = tasks.owner[lost]
    for owner in owners[:20]:
        attempts = np.flatnonzero(tasks.owner == owner)
        attempts = attempts[np.argsort(tasks.attempt[attempts])]
        assert tasks.attempt[attempts].tolist() == list(range(len(attempts)))
        for before, after in pairwise(attempts):
            assert tasks.queued[after] == pytest.approx(tasks.finish[before] + 0.5)
    # Nothing ever runs while its instance is down: a crash, then two seconds of repair.
    for instance in range(2):
        for crash in tasks.finish[lost & (tasks.instance == instance)]:
            began = tasks.start[(tasks.instance == instance) & (tasks.start >= crash)]
            assert not np.any(began < crash + 2.0 - 1e-9)


def test_availability_of_crashing_instances() -> None:
    """One instance, up 8 s and down 2 s on average: a fifth of Poisson arrivals to an idle farm has to wait."""
    streams = Streams(2)
    cluster = Cluster(instances=1, service=Deterministic(value=1e-6))
    crashes = Crashes(mean_up=8.0, repair=Exponential(mean=2.0))
    trace = simulate(cluster, Uncoded(), [crashes], poisson(1.0, 40_000, streams), streams)
    assert np.mean(trace.queries.latency > 1e-3) == pytest.approx(0.2, abs=0.015)


def test_lost_for_good_needs_a_deadline() -> None:
    crashes = Crashes(mean_up=5.0, retry=False)
    with pytest.raises(ParmError, match="give the cluster a 'deadline'"):
        run([0, 1], [crashes])
    trace = run((np.arange(200) * 1.5).tolist(), [crashes], deadline=3.0)
    assert trace.queries.latency.max() <= 3.0
    assert np.any(trace.queries.route == 4)


def test_a_recorded_trace_is_replayed(tmp_path: Path) -> None:
    file = tmp_path / "slow.csv"
    file.write_text("time,factor\n0,1\n10,4\n20,1\n")
    replay = Replay.model_validate({"file": "slow.csv", "aligned": True}, context={"paths": [tmp_path]})
    trace = run([5, 12, 25, 35, 42], [replay])
    assert trace.queries.latency.tolist() == [1, 4, 1, 1, 4]  # the record lasts 30 s: its last row as long as the mean
    shifted = Replay.model_validate({"file": str(file)})
    latency = run((np.arange(3000) * 10.0 + 3).tolist(), [shifted]).queries.latency
    assert np.mean(latency > 1.5) == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time,slow\n0,1\n", "has no column 'factor'; it has time, slow"),
        ("time,factor\n0,1\n", "at least two rows"),
        ("time,factor\n0,1\n0,2\n", r"line 3 of .*slow.csv: times have to increase"),
        ("time,factor\n0,1\n1,0\n", "line 3 of .* has a factor of 0; it must be above 0"),
        ("time,factor\n0,1\nx,2\n", "line 3 of .* has 'x' where a time belongs"),
    ],
)
def test_a_bad_record_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "slow.csv"
    file.write_text(text)
    with pytest.raises(ValidationError, match=says):
        Replay(file=file)
    with pytest.raises(ValidationError, match=r"no file .*other\.csv"):
        Replay(file=tmp_path / "other.csv")


def test_streams_are_the_same_in_any_order_and_differ_by_name() -> None:
    def stream(*key: int) -> Any:
        return Streams(7, 1).stream(lambda generator, n: generator.random(n), "service", *key)

    forwards = stream(0)
    numbers = [forwards.at(i) for i in range(3 * BLOCK)]
    backwards = stream(0)
    order = np.random.default_rng(0).permutation(3 * BLOCK)[:500]
    assert [backwards.at(int(i)) for i in order] == [numbers[i] for i in order]
    assert len(set(numbers)) == 3 * BLOCK
    other = stream(1)
    assert not set(numbers) & {other.at(i) for i in range(BLOCK)}


@pytest.mark.parametrize(
    ("size", "extra"),
    [(0, 0.0), (125_000, 1e-3)],  # 125 kB at 1 Gbps take 1 ms
)
def test_bulk_flows_share_a_link_but_do_not_multiply_its_latency(size: int, extra: float) -> None:
    """A message over a link of 10 ms takes 10 ms, and its bytes (1 + flows) times as long as alone."""
    network = Network(gbps=1, latency=0.01, query_bytes=size, reply_bytes=0)
    shuffles = Shuffles(concurrent=1, megabytes=(1e6, 1e6), backlog=Deterministic(value=0))
    cluster = Cluster(instances=2, service=Deterministic(value=0.02), network=network)
    schedule = OpenSchedule(np.arange(1, 200) * 0.1)
    latency = simulate(cluster, Uncoded(), [shuffles], schedule, Streams(1)).queries.latency
    np.testing.assert_allclose(np.unique(latency.round(9)), np.unique([0.04 + extra, 0.04 + 2 * extra]))
