"""The search for the fewest instances: against made-up clusters, and against Erlang's formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis.outcome import Outcome, measure
from experiments.capacity.rates import highest_rates
from experiments.capacity.rates import standings as rate_standings
from experiments.capacity.search import Answer, extra_at, plan, search, standings
from experiments.capacity.targets import SequentialTest, Target, TargetVerdict
from experiments.config.schema import Experiment
from experiments.run.cells import Cell
from experiments.run.runner import simulate_cell
from tests.outcomes import outcome


class MadeUpTarget(Target):
    """A target of trials that have a p99.9 and no queries."""

    def rooms(self, trials: Sequence[Any]) -> list[float]:
        """Return what each trial has left."""
        return [self.bound - 1000 * one.latency["p999"] for one in trials]


TARGET = MadeUpTarget("p999", 40.0)


def part(late: float) -> Any:
    return SimpleNamespace(latency={"p999": late / 1000}, settled=True)


def answer(late: Any, start: int, most: int, looks: SequentialTest) -> Answer:
    """Run a search where the trials of n instances have the p99.9 that `late(n, trial)` says, in ms, or an excuse."""
    going = search(start, most, [TARGET], looks)
    request = next(going)
    while True:
        assert 1 <= request.deployed <= most
        got = [late(request.deployed, trial) for trial in request.trials]
        try:
            excuse = next((one for one in got if isinstance(one, str)), None)
            request = going.send(excuse or [part(one) for one in got])
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


@settings(max_examples=150)
@given(st.integers(1, 130), st.integers(1, 40), st.integers(1, 130))
def test_without_noise_the_fewest_are_found_exactly(fewest: int, start: int, most: int) -> None:
    found = answer(lambda n, trial: 30.0 if n >= fewest else 50.0, start, most, SequentialTest(10))
    assert found.doubtful is None
    if fewest > most:
        assert found.fewest is None
        return
    assert found.fewest == fewest
    assert (found.below is None) == (fewest == 1)
    assert found.below is None or found.below.verdict is TargetVerdict.MISSES
    assert len(found.tests) <= 2 * math.log2(max(2, most)) + 3


def test_what_cannot_be_told_is_named_with_its_range() -> None:
    """7 and 8 instances lie on the bound, where no number of trials tells."""
    noise = np.random.default_rng(1).normal(0.0, 5.0, 1000)

    def late(n: int, trial: int) -> float:
        return (60.0 if n < 7 else 40.0 if n < 9 else 20.0) + noise[trial]

    found = answer(late, 12, 96, SequentialTest(20))
    assert (found.doubtful, found.fewest) == (7, 9)
    assert found.below is not None
    assert found.below.verdict is TargetVerdict.OPEN
    assert found.below.trials == 20
    assert found.tests[12].trials == 5


def test_a_number_that_will_hardly_be_decided_is_given_up() -> None:
    """At 5 the trials lie evenly on both sides of the bound: after 20 of them 20 more would tell nothing."""
    found = answer(
        lambda n, trial: 90.0 if n < 5 else 5.0 if n > 5 else 40.0 + 30 * (-1) ** trial, 6, 6, SequentialTest(40)
    )
    assert (found.doubtful, found.fewest) == (5, 6)
    assert found.tests[5].verdict is TargetVerdict.OPEN
    assert found.tests[5].trials == 20


def test_nothing_is_certain_where_the_most_that_may_be_tried_is_in_doubt() -> None:
    noise = np.random.default_rng(1).normal(0.0, 5.0, 1000)
    found = answer(lambda n, trial: (60.0 if n < 7 else 40.0) + noise[trial], 4, 8, SequentialTest(20))
    assert (found.doubtful, found.fewest) == (7, None)


def test_a_tail_that_grows_with_the_machines_is_found_below_the_start() -> None:
    """Coded k = 3 with slow periods: 7 deployed meet 50 ms; more do not, since idle clusters feed slow machines."""
    tail = {1: 9000, 2: 8000, 3: 6000, 4: 3000, 5: 900, 6: 58, 7: 43, 8: 49, 9: 54}
    noise = np.random.default_rng(1).normal(0.0, 0.5, 1000)

    def late(n: int, trial: int) -> float:
        return (tail.get(n, 55 + 0.1 * n) - 10) + noise[trial]  # the target of these tests is 40 ms

    found = answer(late, 10, 80, SequentialTest(40))
    assert found.fewest == 7
    assert found.below is not None
    assert found.below.verdict is TargetVerdict.MISSES


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 40))
def test_a_single_valley_is_always_found(bottom: int, start: int, most: int) -> None:
    found = answer(lambda n, trial: 39.0 + 2.0 * abs(n - bottom), start, most, SequentialTest(5))
    assert found.fewest == (bottom if bottom <= most else None)


def test_numbers_on_which_a_policy_cannot_run_count_as_too_few() -> None:
    found = answer(lambda n, trial: "two copies need two" if n < 2 else 30.0, 12, 96, SequentialTest(10))
    assert found.fewest == 2
    assert found.below is not None
    assert found.below.impossible == "two copies need two"


def test_the_answer_is_too_small_no_more_often_than_it_may_be() -> None:
    """The largest number that misses does so by a hair; trials share their luck over all numbers, in part."""
    generator = np.random.default_rng(3)
    small = 0
    for _ in range(300):
        shared = generator.normal(0.0, 3.0, 40)

        def late(n: int, trial: int, shared: Any = shared) -> float:
            return float(40.0 + 0.4 * (9.5 - n) + shared[trial] + generator.normal(0.0, 1.0))

        found = answer(late, 12, 24, SequentialTest(40))
        small += found.fewest is not None and found.fewest < 10
    assert small / 300 < 0.05


def experiment(**changes: Any) -> Experiment:
    plain: dict[str, Any] = {
        "name": "planned",
        "workload": {"arrivals": {"kind": "poisson", "rate": 210}, "queries": 10000},
        "cluster": {"instances": 12, "extra": 5, "service": {"kind": "exponential", "mean": 0.025}},
        "policies": ["none"],
    }
    return Experiment.model_validate(plain | changes)


def simulated(todo: list[Cell]) -> dict[str, Outcome]:
    found = {}
    for cell in todo:
        trace = simulate_cell(cell).trace
        named = {"policy": cell.policy.label, "kind": "none", "point": {}, "trial": cell.trial, "seconds": {}}
        found[cell.id] = measure(trace, warmup=cell.experiment.warmup_queries(trace.queries.arrival), **named)  # type: ignore[arg-type]
    return found


def erlang_p99(rate: float, mean: float, servers: int) -> float:
    """Return the 99th percentile of the response time of M/M/c in seconds, by bisection.

    P(wait) by Erlang's C formula; P(T > t) = e^-mt + C (e^-mt - e^-(c m - l)t) / (c - 1 - l / m): Gross, Shortle,
    Thompson, Harris, Fundamentals of Queueing Theory, section 3.3.
    """
    load, m = rate * mean, 1 / mean
    if load >= servers:
        return math.inf
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    waits = last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)

    def beyond(t: float) -> float:
        gap = servers - 1 - load
        return math.exp(-m * t) + waits * (math.exp(-m * t) - math.exp(-(servers - load) * m * t)) / gap

    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > 0.01 else (low, middle)
    return low


@pytest.mark.parametrize("servers", [7, 8])
def test_mmc_needs_as_many_as_erlang_says(servers: int) -> None:
    few, enough = (1000 * erlang_p99(210, 0.025, count) for count in (servers - 1, servers))
    target = Target("p99", math.sqrt(few * enough))
    (found,) = plan(experiment(), [target], SequentialTest(40), 96, simulated)
    assert found.answer.fewest == found.instances == servers
    assert found.answer.doubtful is None
    assert found.answer.below is not None
    assert found.answer.below.verdict is TargetVerdict.MISSES
    (measured,) = found.answer.tests[servers].findings
    assert measured.worst <= target.bound


def test_the_highest_rate_of_an_mm1_queue_is_what_theory_says() -> None:
    """The 90th percentile is ln 10 / (mu - lambda): 48 ms are kept up to 52 queries/s."""
    one = experiment(
        seed=2,
        workload={"arrivals": {"kind": "poisson", "rate": 40}, "queries": 2000},
        cluster={"instances": 1, "service": {"kind": "exponential", "mean": 0.01}},
    )
    target = Target("p90", 1000 * math.log(10) / 50, within=1000 * math.log(10) * (1 / 48 - 1 / 50))
    (found,) = highest_rates(one, [target], SequentialTest(5), simulated)
    assert found.highest is not None
    assert 44 < found.highest <= 52.4
    assert (found.doubtful or 51) > 50
    assert found.rate(found.answer.fewest or 0) == found.highest
    assert rate_standings([found, replace(found, policy="again")]) == ["best", "as high"]


def test_what_is_certain_of_each_policy() -> None:
    """A policy that may be cheaper than the best is undecided, unless the difference does not matter."""

    def answered(todo: list[Cell]) -> dict[str, Outcome]:
        found = {}
        for cell in todo:
            size = cell.experiment.cluster.instances
            sure = 5.0 if size >= 3 else 20.0
            near = 9.97 + (-1) ** cell.trial if size >= 2 else 20.0
            late = sure if cell.policy.label == "none" else near
            one = outcome(cell.policy.label, cell.trial, model=False, queries=1000)
            found[cell.id] = replace(one, latency={"mean": late / 1000})
        return found

    few = experiment(policies=["none", "equal_resources"], cluster={"instances": 4, "extra": 0, "service": 0.01})
    found = plan(few, [Target("mean", 10.0)], SequentialTest(10), 4, answered)
    assert [one.answer.fewest for one in found] == [3, None]
    assert standings(found, "instances") == ["best", "undecided"]
    met = plan(few, [Target("mean", 10.0, within=3.0)], SequentialTest(10), 4, answered)
    assert [(one.policy.label, one.answer.fewest) for one in met] == [("equal_resources", 2), ("none", 3)]
    assert standings(met, "instances") == ["best", "dearer"]


def test_the_budget_grows_with_the_deployed_instances_in_the_proportion_of_the_file() -> None:
    one = experiment()
    assert [extra_at(one, n) for n in (1, 2, 3, 12, 13, 24)] == [1, 1, 2, 5, 6, 10]


def test_the_cheapest_policy_comes_first_by_the_rule() -> None:
    policies = ["equal_resources", {"kind": "approximate_backup", "after": 0.0}, "none"]
    cluster = {"instances": 4, "extra": 4, "service": 0.01, "prices": {"backup": 0.1}}
    few = experiment(
        policies=policies, cluster=cluster, workload={"arrivals": {"kind": "poisson", "rate": 50}, "queries": 400}
    )
    found = plan(few, [Target("p50", 11.0)], SequentialTest(5), 16, simulated)
    assert [one.policy.label for one in found] == ["none", "equal_resources", "approximate_backup"]
    assert [(one.answer.fewest, one.instances, one.extra) for one in found] == [(1, 1, 1), (1, 2, 1), (1, 2, 1)]
    priced = few.model_copy(update={"equal_cost": "price"})
    found = plan(priced, [Target("p50", 11.0)], SequentialTest(5), 16, simulated)
    assert [one.policy.label for one in found] == ["none", "equal_resources", "approximate_backup"]
    assert [(one.instances, one.price) for one in found] == [(1, 1.0), (2, 2.0), (11, pytest.approx(2.0))]
