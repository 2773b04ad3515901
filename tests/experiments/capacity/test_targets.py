"""Targets as they are given, and the sequential judgement of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from experiments.analysis.quantiles import Latencies
from experiments.capacity.targets import ACCURACY, FUTILE, SequentialTest, Target, TargetVerdict, futile, judge, parse
from sim.errors import ParmError
from tests.outcomes import outcome, with_tail


@pytest.mark.parametrize(
    ("text", "metric", "bound"),
    [
        ("p999=40ms", "p999", 40.0),
        ("p50=0.02s", "p50", 20.0),
        ("mean=1500us", "mean", 1.5),
        ("p99 = 4e1 ms", "p99", 40.0),
        ("p995=40ms", "p995", 40.0),
        ("p99.5=40ms", "p995", 40.0),
        ("p99.9=40ms", "p999", 40.0),
        ("gap=1s", "gap", 1000.0),
    ],
)
def test_targets_in_any_unit(text: str, metric: str, bound: float) -> None:
    (target,) = parse([text], None)
    assert (target.metric, target.bound) == (metric, pytest.approx(bound))


@pytest.mark.parametrize(
    ("slos", "accuracy", "says"),
    [
        ([], None, "say what is to be met"),
        (["p999"], None, "must look like p999=40ms"),
        (["p100=40ms"], None, "--slo p100=40ms: 'p100' is not a percentile: it would be the largest value of all"),
        (["p1000=40ms"], None, "--slo p1000=40ms: 'p1000' is not a percentile: 1000% is more than all"),
        (["p00=40ms"], None, "--slo p00=40ms: 'p00' is not a percentile"),
        (["p99.9=40ms", "p999=50ms"], None, "p999: is given twice"),
        (["medain=40ms"], None, "there is no latency 'medain'; did you mean 'mean'?"),
        (["colour=40ms"], None, "there are mean, p50, p99, p999, gap"),
        (["accuracy_overall=0.9s"], None, "there is no latency 'accuracy_overall'"),
        (["unavailable=0.1s"], None, "there is no latency 'unavailable'"),
        (["p999=40"], None, "it needs a unit; use s, ms or us, such as p999=40ms"),
        (["p999=40sec"], None, "there is no unit 'sec'"),
        (["p999=fast"], None, "'fast' is not a number with a unit"),
        (["p999=4.0.1ms"], None, "'4.0.1ms' is not a number with a unit"),
        (["p999=0ms"], None, "must be above 0"),
        (["p999=-4ms"], None, "must be above 0"),
        (["p999=1e999ms"], None, "must be above 0"),
        (["p999=40ms", "p999=50ms"], None, "p999: is given twice"),
        ([], 92.0, "--accuracy 92: must be above 0 and at most 1"),
        ([], 0.0, "--accuracy 0: must be above 0"),
        ([], math.nan, "must be above 0"),
    ],
)
def test_bad_targets_are_refused_in_one_sentence(slos: list[str], accuracy: float | None, says: str) -> None:
    with pytest.raises(ParmError) as error:
        parse(slos, accuracy)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_rooms_are_what_the_pooled_queries_leave_of_the_bound() -> None:
    trials = [with_tail(outcome("a", trial), 0.01, (30 + trial) / 1000) for trial in range(3)]
    rooms = Target("p999", 40.0).rooms(trials)
    assert np.mean(rooms) == pytest.approx(40 - Latencies(trials).sample("p999").interval.value)
    assert rooms == sorted(rooms, reverse=True)
    right = [outcome("a", trial, degraded=0.1) for trial in range(3)]
    assert np.mean(Target(ACCURACY, 0.92).rooms(right)) == pytest.approx(0.9 * 0.97 + 0.1 * 0.9 - 0.92, abs=0.005)
    assert Target(ACCURACY, 0.92).value(0.02) == pytest.approx(0.94)
    assert Target("p99", 40.0).value(10.0) == pytest.approx(30.0)


@pytest.mark.parametrize("most", [2, 5, 7, 40, 100])
def test_looks_double_and_spend_the_error_exactly_once(most: int) -> None:
    looks = SequentialTest(most, 0.9)
    assert looks.counts[-1] == most
    assert looks.counts == sorted(set(looks.counts))
    levels = [looks.level(look) for look in range(len(looks.counts))]
    assert min(levels) > 0
    assert sum(levels) == pytest.approx(0.1)


def test_the_bounds_are_students() -> None:
    verdict, (found,) = judge([[9.0, 10.0, 11.0, 10.0, 10.0]], [Target("p99", 40.0)], 0.025)
    half = 2.7764451052 * math.sqrt(0.5 / 5)
    assert verdict is TargetVerdict.MEETS
    assert (found.value, found.worst, found.best) == pytest.approx((30.0, 30.0 + half, 30.0 - half))


def test_all_targets_must_be_met_and_one_that_is_missed_decides() -> None:
    targets = [Target("p99", 40.0), Target(ACCURACY, 0.9)]
    good, bad, unclear = [5.0, 5.1, 4.9], [-5.0, -5.1, -4.9], [5.0, -5.0, 0.1]
    assert judge([good, good], targets, 0.05)[0] is TargetVerdict.MEETS
    assert judge([good, bad], targets, 0.05)[0] is TargetVerdict.MISSES
    assert judge([bad, unclear], targets, 0.05)[0] is TargetVerdict.MISSES
    assert judge([good, unclear], targets, 0.05)[0] is TargetVerdict.OPEN


def decide(draws: Any, looks: SequentialTest) -> TargetVerdict:
    """Look as often as it takes at trials of one target."""
    verdict = TargetVerdict.OPEN
    for look, count in enumerate(looks.counts):
        verdict, _ = judge([draws[:count]], [Target("p99", 40.0)], looks.level(look))
        if verdict is not TargetVerdict.OPEN:
            break
    return verdict


def test_looking_again_and_again_errs_no_more_often_than_it_may() -> None:
    """The mean lies on the bound, the worst case for both errors; naive looks at 5% err far more often."""
    generator, looks = np.random.default_rng(1), SequentialTest(40)
    said = [decide(generator.normal(0.0, 1.0, 40), looks) for _ in range(1500)]
    assert sum(one is TargetVerdict.MEETS for one in said) / 1500 < 0.05
    assert sum(one is TargetVerdict.MISSES for one in said) / 1500 < 0.05
    naive = 0
    for _ in range(400):
        draws = generator.normal(0.0, 1.0, 40)
        naive += any(judge([draws[:n]], [Target("p99", 40.0)], 0.05)[0] is TargetVerdict.MEETS for n in looks.counts)
    assert naive / 400 > 0.08


@pytest.mark.parametrize("mean", [0.0, 0.3, 0.6, -0.4])
def test_trials_that_would_hardly_decide_are_not_run(mean: float) -> None:
    """A verdict is lost about as seldom as is said, and where nothing can be told a tenth of the trials is saved."""
    generator, looks, target = np.random.default_rng(3), SequentialTest(40), [Target("p99", 40.0)]
    lost = saved = 0
    for _ in range(1000):
        draws = generator.normal(mean, 1.0, 40)
        for look, count in enumerate(looks.counts[:-1]):
            if judge([draws[:count]], target, looks.level(look))[0] is not TargetVerdict.OPEN:
                break
            if futile([draws[:count]], target, looks):
                lost += decide(draws, looks) is not TargetVerdict.OPEN
                saved += 40 - count
                break
    assert lost / 1000 < FUTILE
    if not mean:
        assert saved / 1000 > 4


def test_what_is_sure_or_has_no_spread_is_not_futile() -> None:
    target, looks = [Target("p99", 40.0)], SequentialTest(40)
    assert not futile([[0.0] * 5], target, looks)
    assert not futile([[4.0, 5.0, 6.0]], target, looks)
    assert not futile([[-4.0, -5.0, -6.0]], target, looks)
    assert futile([[-40.0, 0.0, 0.0, 0.0, 40.0] * 4], target, looks)
    assert not futile([[-40.0, 0.0, 0.0, 0.0, 40.0] * 4], [Target("p99", 40.0, within=30.0)], looks)


def test_what_is_clear_is_decided_at_the_first_look() -> None:
    draws = np.random.default_rng(2).normal(10.0, 1.0, 40)
    assert judge([draws[:5]], [Target("p99", 40.0)], SequentialTest(40).level(0))[0] is TargetVerdict.MEETS
