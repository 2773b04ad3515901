import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis.statistics import (
    Interval,
    paired,
    sectioning,
    sorted_quantiles,
    student_t,
    wilson,
    wilson_clustered,
)


def test_student_t_matches_the_textbook():
    interval = student_t([9.0, 10.0, 11.0, math.nan, 10.0, 10.0])
    half = 2.7764451052 * math.sqrt(0.5 / 5)
    assert interval.value == 10.0
    assert (interval.lo, interval.hi) == pytest.approx((10 - half, 10 + half))


def test_student_t_covers_the_mean_of_normal_data_as_often_as_it_says():
    generator = np.random.default_rng(1)
    runs = [student_t(generator.normal(3.0, 2.0, 5).tolist()) for _ in range(4000)]
    covered = np.mean([run.lo <= 3.0 <= run.hi for run in runs])
    assert 0.935 < covered < 0.965


@pytest.mark.parametrize("values", [[], [1.5], [1.5, math.nan]])
def test_too_few_values_have_no_interval(values):
    interval = student_t(values)
    assert math.isnan(interval.lo) and math.isnan(interval.hi)
    assert math.isnan(interval.value) == (not values)
    assert not interval.overlaps(Interval(0.0, -9.0, 9.0))


def test_pairing_removes_what_the_trials_share():
    generator = np.random.default_rng(2)
    shared = generator.normal(50.0, 10.0, 8)
    one, two = shared + generator.normal(1.0, 0.1, 8), shared
    difference = paired(one.tolist(), two.tolist())
    assert 0.8 < difference.lo < 1.0 < difference.hi < 1.2
    assert student_t(one.tolist()).overlaps(student_t(two.tolist()))


def test_sections_lie_around_the_estimate_of_the_whole_run():
    interval = sectioning(12.0, [9.0, 10.0, 11.0])
    half = 4.3026527297 * math.sqrt((9 + 4 + 1) / 2 / 3)
    assert (interval.value, interval.lo, interval.hi) == pytest.approx((12.0, 12.0 - half, 12.0 + half))


def test_wilson_matches_published_values():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20, without continuity correction.
    assert wilson(81, 263).lo == pytest.approx(0.2553, abs=1e-4)
    assert wilson(81, 263).hi == pytest.approx(0.3662, abs=1e-4)
    assert wilson(0, 20).lo == 0.0
    assert wilson(0, 20).hi == pytest.approx(0.1611, abs=1e-4)
    assert math.isnan(wilson(0, 0).value)


def test_clusters_that_differ_widen_the_interval_and_the_coverage_holds():
    generator = np.random.default_rng(3)
    covered, plain = [], []
    for _ in range(1500):
        shares = np.clip(generator.normal(0.8, 0.04, 6), 0, 1)
        correct = generator.binomial(1000, shares).tolist()
        interval = wilson_clustered(correct, [1000] * 6)
        covered.append(interval.lo <= 0.8 <= interval.hi)
        naive = wilson(sum(correct), 6000)
        plain.append(naive.lo <= 0.8 <= naive.hi)
    assert np.mean(covered) > 0.92
    assert np.mean(plain) < 0.6


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=8))
def test_clustered_is_never_narrower_than_plain_and_holds_its_estimate(pairs):
    correct = [min(pair) for pair in pairs]
    total = [max(pair) for pair in pairs]
    plain, clustered = wilson(sum(correct), sum(total)), wilson_clustered(correct, total)
    if sum(total) == 0:
        assert math.isnan(clustered.value)
        return
    assert 0 <= clustered.lo <= clustered.value <= clustered.hi <= 1
    assert clustered.value == pytest.approx(plain.value)
    assert clustered.hi - clustered.lo >= plain.hi - plain.lo - 1e-12


def test_empty_clusters_do_not_count():
    assert wilson_clustered([40, 0, 45], [50, 0, 50]) == wilson_clustered([40, 45], [50, 50])


@given(
    values=st.lists(st.floats(1e-6, 1e6) | st.sampled_from([0.5, 1.0]), min_size=1, max_size=60),
    probabilities=st.lists(st.floats(0.0, 1.0) | st.sampled_from([0.0, 0.5, 0.999, 1.0]), min_size=1, max_size=20),
)
def test_quantiles_of_sorted_values_are_numpys(values: list[float], probabilities: list[float]) -> None:
    wanted = np.array(probabilities)
    assert np.array_equal(sorted_quantiles(np.sort(values), wanted), np.quantile(values, wanted))
