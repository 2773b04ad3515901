"""Percentiles over trials: they cover as often as they say, are those of all queries, and pair what is common."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from experiments.analysis.outcome import GRID, Outcome
from experiments.analysis.quantiles import Latencies, difference
from tests.outcomes import outcome

QUERIES = 20_000
PLAIN = outcome("plain", 0, model=False, queries=QUERIES)


def trial(number: int, latency: np.ndarray) -> Outcome:
    seconds = np.quantile(latency, GRID)
    kept = {"probabilities": GRID.tolist(), "seconds": seconds.tolist()}
    return dataclasses.replace(PLAIN, trial=number, queries=len(latency), quantiles=kept)


def clustered(generator: np.random.Generator, trials: int) -> list[Outcome]:
    """Trials with bursts of slow queries: a Poisson number of bursts with a geometric number of queries each."""
    found = []
    for number in range(trials):
        slow = int(generator.geometric(0.05, generator.poisson(20)).sum())
        latency = generator.exponential(1.0, QUERIES) + np.where(np.arange(QUERIES) < slow, 20.0, 0.0)
        found.append(trial(number, latency))
    return found


@pytest.mark.parametrize("metric", ["p50", "p99"])
def test_the_interval_covers_the_percentile_as_often_as_it_says(metric: str) -> None:
    generator = np.random.default_rng(1)
    probability = {"p50": 0.5, "p99": 0.99}[metric]
    truth = 1000 * Latencies(clustered(generator, 300)).quantile(probability)
    runs = [Latencies(clustered(generator, 5)).sample(metric).interval for _ in range(120)]
    assert 0.9 <= np.mean([run.lo <= truth <= run.hi for run in runs]) <= 0.99


def test_the_estimate_is_the_percentile_of_all_queries_where_the_mean_of_the_trials_is_biased() -> None:
    generator = np.random.default_rng(2)
    parts = [generator.exponential(1.0, QUERIES) for _ in range(4)]
    parts[0][:100] += 50.0  # the slow queries of all are in one trial
    trials = [trial(number, part) for number, part in enumerate(parts)]
    found = Latencies(trials).sample("p999").interval
    assert found.value == pytest.approx(1000 * np.quantile(np.concatenate(parts), 0.999), rel=0.01)
    assert np.mean([1000 * np.quantile(part, 0.999) for part in parts]) < 0.6 * found.value
    assert found.hi == pytest.approx(1000 * max(part.max() for part in parts))  # nothing bounds it from above


def test_alike_trials_get_no_less_doubt_than_independent_queries() -> None:
    latency = np.random.default_rng(3).exponential(1.0, QUERIES)
    found = Latencies([trial(number, latency) for number in range(3)]).sample("p99").interval
    error = 1.96 * math.sqrt(0.01 * 0.99 / (3 * QUERIES)) / 0.01  # relative, of the exceedance
    assert (found.hi - found.lo) / 2000 == pytest.approx(error, rel=0.1)  # an exponential's p moves by 1 per log


def test_many_equal_latencies_are_one_point() -> None:
    trials = [trial(number, np.append(np.ones(900), np.full(100, 2.0))) for number in range(3)]
    assert Latencies(trials).sample("p50").interval.lo == pytest.approx(1000)
    found = Latencies(trials).sample("p99").interval
    assert (found.lo, found.value, found.hi) == pytest.approx((2000, 2000, 2000))


def test_common_random_numbers_narrow_a_difference_and_equal_trials_leave_no_doubt() -> None:
    generator = np.random.default_rng(4)
    base, faster = [], []
    for number in range(6):
        latency = generator.exponential(1.0, QUERIES) * generator.uniform(0.8, 1.2)
        base.append(trial(number, latency))
        faster.append(trial(number, 0.9 * latency + 0.001 * generator.normal(size=QUERIES)))
    one, other = Latencies(base).sample("p99"), Latencies(faster).sample("p99")
    found = difference(other, one).interval
    assert found.lo < found.value < found.hi < 0
    assert other.interval.overlaps(one.interval)
    nothing = difference(one, one).interval
    assert (nothing.value, nothing.lo, nothing.hi) == (0, 0, 0)


def test_the_deviations_are_as_wide_as_the_interval() -> None:
    found = Latencies(clustered(np.random.default_rng(5), 5)).sample("p99")
    spread = np.std(found.deviations, ddof=1) / math.sqrt(5) * 2.7764451
    assert sum(found.deviations) == pytest.approx(0, abs=1e-9 * max(found.deviations))
    assert 2 * spread == pytest.approx(found.interval.hi - found.interval.lo, rel=1e-6)


@pytest.mark.parametrize("trials", [1, 2, 7])
def test_a_curve_is_its_points_one_by_one(trials: int) -> None:
    generator = np.random.default_rng(6)
    steps = [np.round(generator.exponential(1.0, 500), 1) for _ in range(trials - 1)]  # many equal latencies
    found = [trial(number, latency) for number, latency in enumerate([*steps, np.full(500, 2.0)])]
    latencies, shares = Latencies(found), np.array([0.0, 0.01, 0.3, 0.5, 0.95, 0.999, 1.0])
    every = latencies.curve(shares)
    alone = [latencies.curve(np.array([share]))[0] for share in shares.tolist()]
    assert repr(every) == repr(alone)  # NaN is not equal to itself
    assert [one.value for one in every] == sorted(one.value for one in every)
    for share, one in zip(shares.tolist()[1:], every[1:], strict=True):
        assert np.mean([np.mean(part <= one.value / 1000 * (1 + 1e-9)) for part in [*steps, np.full(500, 2.0)]]) >= (
            share - 0.02
        )
