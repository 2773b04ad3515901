"""Routers that learn from answers: their rules, step by step, and what they are for."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sim.cluster import Cluster
from sim.dispatching import BestOf, Discipline, RandomQueue, RoundRobin
from sim.distributions.families import Deterministic, Exponential
from sim.policies import Coded, Hedged, Policy, Uncoded
from sim.routing import Ejection, Learner, Learning, LeastRequest, PeakEwma, Prequal
from sim.schedule import OpenSchedule
from sim.simulation import check, simulate
from sim.stragglers import Crashes, Heterogeneous, Straggler
from sim.streams import Streams
from sim.theory import MMc
from sim.trace import Trace
from tests.worlds import poisson

ROUTERS = (PeakEwma(), LeastRequest(ejection=Ejection(timeout=0.2)), Prequal())


class Numbers:
    """Uniform numbers as given, over and over."""

    def __init__(self, *values: float) -> None:
        self._values = values

    def at(self, index: int) -> float:
        return self._values[index % len(self._values)]


def router(queue: Learning, places: int, *values: float) -> tuple[Learner, Any, list[int]]:
    clock, sent = SimpleNamespace(now=0.0), []
    return queue.learner(Numbers(*values), clock, places, sent.append), clock, sent  # type: ignore[arg-type]


def run(queue: Discipline, policy: Policy | None = None, rate: float = 600.0, slow: bool = False) -> Trace:
    """Ten instances of 10 ms, the last ten times slower if `slow`."""
    cluster = Cluster(instances=10, extra=5, service=Exponential(mean=0.01), queue=queue)
    stragglers: list[Straggler] = [Heterogeneous(factors=(1.0,) * 9 + (10.0,))] if slow else []
    streams = Streams(1)
    return simulate(cluster, policy or Uncoded(), stragglers, poisson(rate, 20_000, streams), streams)


class TestPeakEwma:
    """Finagle's average."""

    def test_a_peak_is_taken_as_it_is_and_others_are_averaged_in(self) -> None:
        learner, clock, _ = router(PeakEwma(decay=1.0), 2, 0.0, 0.6)
        learner.heard(0, 0, 0.1, lost=False)
        learner.heard(1, 0, 0.05, lost=False)
        clock.now = math.log(2)
        learner.heard(0, 0, 0.02, lost=False)  # 0.1 / 2 + 0.02 / 2 = 0.06, against 0.05 / 2 = 0.025
        assert learner.choose([0, 0], ()) == 1
        assert learner.choose([0, 1], ()) == 1  # 0.05 against 0.06
        assert learner.choose([0, 2], ()) == 0  # 0.075 against 0.06

    def test_an_instance_that_has_not_answered_yet_gets_one_task(self) -> None:
        learner, _, _ = router(PeakEwma(), 2, 0.0, 0.6)
        learner.heard(1, 0, 5.0, lost=False)
        assert learner.choose([0, 3], ()) == 0
        assert learner.choose([1, 3], ()) == 1


class TestLeastRequest:
    """Envoy's least request, and its outlier detection."""

    def test_without_ejection_it_is_the_power_of_d_choices(self) -> None:
        one, other = run(LeastRequest(d=3)), run(BestOf(d=3))
        np.testing.assert_array_equal(one.tasks.back, other.tasks.back)

    def ejecting(self, places: int = 10, most: float = 0.1) -> tuple[Learner, Any]:
        rules = Ejection(timeout=0.1, consecutive=3, interval=10, base=30, longest=50, most=most)
        learner, clock, _ = router(LeastRequest(d=places, ejection=rules), places, *(np.arange(places) / places))
        return learner, clock

    def fail(self, learner: Learner, place: int, times: int = 3) -> None:
        for _ in range(times):
            learner.heard(place, 0, 0.2, lost=False)

    def test_only_failures_in_a_row_eject(self) -> None:
        learner, _ = self.ejecting()
        loads = [0] + [1] * 9
        self.fail(learner, 0, 2)
        learner.heard(0, 0, 0.05, lost=False)
        self.fail(learner, 0, 2)
        assert learner.choose(loads, ()) == 0
        learner.heard(0, 0, math.nan, lost=True)  # a lost task is a failure, too
        assert learner.choose(loads, ()) != 0

    def test_it_comes_back_in_the_sweep_after_its_time_which_grows(self) -> None:
        learner, clock = self.ejecting()
        loads = [0] + [1] * 9
        for began, ends in ((1.0, 40.0), (41.0, 100.0)):  # 30 s: back in the sweep at 40 s; 50 s, not 60: at 100 s
            clock.now = began
            self.fail(learner, 0)
            clock.now = ends - 0.01
            assert learner.choose(loads, ()) != 0
            clock.now = ends
            assert learner.choose(loads, ()) == 0

    def test_no_more_than_the_share_is_ejected_but_one_always_is(self) -> None:
        learner, _ = self.ejecting(most=0.2)
        for place in (0, 1, 2):
            self.fail(learner, place)
        assert learner.choose([0, 0, 0] + [1] * 7, ()) == 2
        few, _ = self.ejecting(places=2)
        self.fail(few, 0)
        assert few.choose([0, 1], ()) == 1

    def test_ejected_instances_are_used_where_no_other_is_allowed(self) -> None:
        learner, _ = self.ejecting(places=2)
        self.fail(learner, 0)
        assert learner.choose([0, 1], (1,)) == 0


class TestPrequal:
    """Probes, and the hot-cold rule."""

    def test_how_often_an_answer_is_used_is_the_papers_equation(self) -> None:
        assert Prequal(pool=16).uses(100) == pytest.approx(2 / ((1 - 0.16) * 3 - 1))
        assert Prequal(probes=1).uses(100) == math.inf  # the pool would run dry
        assert [Prequal().kept(places) for places in (2, 10, 100)] == [2, 5, 16]

    def test_the_cold_instance_with_the_least_latency_is_chosen(self) -> None:
        places = tuple((i + 0.5) / 4 for i in range(4))
        learner, clock, sent = router(Prequal(probes=4, pool=4, removed=0, hot=0.9, round_trip=0.01), 4, *places)
        for place, seconds in ((0, 0.001), (1, 0.03), (2, 0.02), (3, 0.04)):
            learner.choose([0] * 4, [other for other in range(4) if other != place])
            learner.heard(place, 0, seconds, lost=False)
        clock.now = 1.5  # all earlier answers are too old
        learner.choose([9, 1, 1, 2], ())
        clock.now = 1.52
        assert learner.choose([9, 1, 1, 2], ()) == 2  # 0 is fast but hot
        assert sent == [4 * 200] * 6

    def test_answers_of_probes_are_known_after_the_round_trip_and_until_they_are_old(self) -> None:
        learner, clock, _ = router(Prequal(probes=2, pool=2, removed=0, round_trip=0.5, age=1.0), 2, 0.1, 0.6)
        asked = []
        for now, loads in ((0.0, [0, 5]), (0.4, [5, 0]), (0.6, [5, 0])):
            clock.now = now
            asked.append(learner.choose(loads, ()))
        assert asked[2] == 0  # by what was so at 0.0 s

    def test_probes_count_in_the_bytes(self) -> None:
        assert run(Prequal()).bytes - run(Prequal(bytes_each=0)).bytes == 20_000 * 3 * 200

    def test_probes_of_more_instances_than_there_are_ask_each_once(self) -> None:
        cluster = Cluster(instances=2, service=Deterministic(value=0.01), queue=Prequal(probes=5))
        trace = simulate(cluster, Uncoded(), [], OpenSchedule(np.arange(100) * 0.01), Streams(0))
        assert trace.bytes - 100 * (cluster.network.query_bytes + cluster.network.reply_bytes) == 100 * 2 * 200

    def test_the_median_is_that_of_tasks_that_found_as_many_or_of_the_nearest_number(self) -> None:
        learner, _, _ = router(Prequal(), 4, 0.1)
        for found, seconds in ((0, 0.01), (0, 0.03), (0, 0.02), (4, 0.07), (2, 0.05)):
            learner.heard(0, found, seconds, lost=False)
        assert [learner._latency(0, rif) for rif in (0, 1, 2, 3, 9)] == [0.02, 0.02, 0.05, 0.05, 0.07]  # type: ignore[attr-defined]
        for _ in range(5):
            learner.heard(0, 0, 1.0, lost=False)
        assert learner._latency(0, 0) == 1.0  # type: ignore[attr-defined]


BURST = OpenSchedule(np.zeros(10))
"""Ten queries at once."""
TWO = Cluster(instances=2, service=Deterministic(value=0.1))
"""Two instances that serve one query in 0.1 s."""


def replies(queue: Discipline, *stragglers: Straggler) -> list[float]:
    """Return when the ten queries are answered by `TWO`, the second of which is a hundred times slower."""
    slow = Heterogeneous(factors=(1.0, 100.0))
    cluster = TWO.model_copy(update={"queue": queue})
    trace = simulate(cluster, Uncoded(), [slow, *stragglers], BURST, Streams(1))
    assert np.array_equal(np.sort(trace.tasks.owner[trace.tasks.fate == 0]), np.arange(10)), "each is served once"
    return sorted(trace.queries.reply.round(9).tolist())


class TestWorkThatMoves:
    """Tasks that wait leave an instance that is ejected, and an instance that has none takes those of others."""

    def ejecting(self, *, move: bool) -> LeastRequest:
        return LeastRequest(ejection=Ejection(timeout=0.6, consecutive=1, most=1, move=move))

    def test_what_waits_at_an_ejected_instance_moves_if_so_wanted(self) -> None:
        five = [0.1, 0.2, 0.3, 0.4, 0.5]
        assert replies(self.ejecting(move=False)) == [*five, 10.0, 20.0, 30.0, 40.0, 50.0]
        assert replies(self.ejecting(move=True)) == [*five, 10.0, 10.1, 10.2, 10.3, 10.4]

    def test_what_was_moved_is_no_failure_of_the_instance_that_it_moved_to(self) -> None:
        """It is old, but it was not long there: the first instance is not ejected, so the last queries go there too."""
        schedule = OpenSchedule(np.array([0.0] * 10 + [11.0, 11.1, 11.2]))
        cluster = TWO.model_copy(update={"queue": self.ejecting(move=True)})
        trace = simulate(cluster, Uncoded(), [Heterogeneous(factors=(1.0, 100.0))], schedule, Streams(1))
        np.testing.assert_allclose(trace.queries.latency[-3:], 0.1)

    def test_an_instance_without_tasks_takes_those_that_wait(self) -> None:
        assert replies(RoundRobin(steal=True)) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 10.0]
        assert replies(RoundRobin())[-1] == 50.0

    def test_random_queues_with_stealing_are_one_queue_for_exponential_service(self) -> None:
        """An instance is never idle while a task waits, so the number in the system is that of M/M/3."""
        cluster = Cluster(instances=3, service=Exponential(mean=0.01), queue=RandomQueue(steal=True))
        means = []
        for trial in range(8):
            streams = Streams(3, trial)
            trace = simulate(cluster, Uncoded(), [], poisson(240.0, 20_000, streams), streams)
            means.append(trace.queries.latency.mean())
        expected = MMc(240.0, 0.01, 3).mean()
        assert abs(np.mean(means) - expected) < 3.5 * np.std(means, ddof=1) / math.sqrt(8)  # Student's t, 99%
        assert np.std(means) < 0.1 * expected

    def test_stealing_between_models_on_the_same_instances_is_refused(self) -> None:
        cluster = Cluster(instances=4, extra=2, service=Exponential(mean=0.01), queue=RoundRobin(steal=True))
        with pytest.raises(ValueError, match="'steal' does not move tasks between several models"):
            check(cluster, Coded(k=2, parity_pool="low_priority"), [])


@pytest.mark.parametrize("queue", ROUTERS, ids=lambda queue: str(queue.name_in_yaml()))
class TestAll:
    """What every router that learns is for, and where it works."""

    def test_it_avoids_an_instance_that_is_ten_times_slower(self, queue: Learning) -> None:
        learned, blind = run(queue, slow=True), run(BestOf(d=2), slow=True)
        assert np.mean(learned.tasks.instance == 9) < 0.5 * np.mean(blind.tasks.instance == 9)
        p99 = [np.quantile(one.queries.reply - one.queries.arrival, 0.99) for one in (learned, blind)]
        assert p99[0] < 0.6 * p99[1]

    @pytest.mark.parametrize("policy", [Hedged(after=0.02), Coded(k=2)])
    def test_policies_with_several_pools_or_copies_run_on_it(self, queue: Learning, policy: Policy) -> None:
        assert len(run(queue, policy, rate=400.0).queries) == 20_000

    def test_it_meets_crashes(self, queue: Learning) -> None:
        cluster = Cluster(instances=4, service=Exponential(mean=0.01), queue=queue)
        crashes = Crashes(mean_up=1.0, repair=Deterministic(value=0.2), detect=0.05)
        trace = simulate(cluster, Uncoded(), [crashes], poisson(200.0, 5000, Streams(2)), Streams(2))
        assert len(trace.queries) == 5000

    def test_several_models_on_the_same_instances_are_refused(self, queue: Learning) -> None:
        cluster = Cluster(instances=4, extra=2, service=Exponential(mean=0.01), queue=queue)
        with pytest.raises(ValueError, match="does not choose for several models on the same instances"):
            check(cluster, Coded(k=2, parity_pool="low_priority"), [])
