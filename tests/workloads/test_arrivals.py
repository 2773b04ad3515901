import gzip
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sim import recorded
from sim.errors import ParmError
from sim.kinds import about
from sim.schedule import ClosedSchedule, OpenSchedule
from sim.streams import Streams
from workloads.arrivals import Arrivals, Bursts, ClosedLoop, Daily, Deterministic, Gamma, Poisson, Recorded, Replay

OPEN = [
    Poisson(rate=270),
    Deterministic(rate=270),
    Gamma(rate=270, cv=3),
    Gamma(rate=270, cv=0.3),
    Bursts(rates=(100, 500), durations=(1, 0.2)),
    Bursts(rates=(0, 50, 900), durations=(0.5, 0.3, 0.05), rate=270),
    Daily(rate=270, amplitude=1, period=5, phase=0.75),
    Daily(rate=270, amplitude=0.4, period=30),
]


def generator(seed=1):
    return Streams(seed).generator("arrivals")


def times(arrivals, queries, seed=1):
    schedule = arrivals.schedule(queries, generator(seed))
    assert isinstance(schedule, OpenSchedule)
    return schedule.times


@pytest.mark.parametrize("arrivals", OPEN, ids=str)
def test_times_never_decrease_and_keep_the_mean_rate(arrivals):
    t = times(arrivals, 200_000)
    assert t.shape == (200_000,)
    assert t[0] >= 0
    assert (np.diff(t) >= 0).all()
    assert len(t) / t[-1] == pytest.approx(arrivals.mean_rate(), rel=0.03)


@pytest.mark.parametrize("arrivals", OPEN, ids=str)
def test_the_first_arrivals_do_not_depend_on_how_many_follow(arrivals):
    np.testing.assert_allclose(times(arrivals, 500), times(arrivals, 5000)[:500], rtol=1e-12)


@pytest.mark.parametrize("arrivals", OPEN, ids=str)
def test_another_seed_gives_other_times_unless_nothing_is_random(arrivals):
    same = np.array_equal(times(arrivals, 50, seed=1), times(arrivals, 50, seed=2))
    assert same == isinstance(arrivals, Deterministic)


@pytest.mark.parametrize("arrivals", [Poisson(rate=1), Deterministic(rate=1), Gamma(rate=1, cv=2)], ids=str)
def test_another_rate_scales_the_same_draws(arrivals):
    faster = arrivals.model_copy(update={"rate": 8.0})
    np.testing.assert_allclose(times(faster, 1000) * 8, times(arrivals, 1000), rtol=1e-12)


@pytest.mark.parametrize("cv", [0.3, 1, 3])
def test_gamma_gaps_have_the_asked_coefficient_of_variation(cv):
    gaps = np.diff(times(Gamma(rate=5, cv=cv), 200_000))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_gamma_of_cv_1_is_poisson_in_distribution():
    gaps = np.diff(times(Gamma(rate=5, cv=1), 200_000))
    assert np.mean(gaps > 0.2) == pytest.approx(np.exp(-1), abs=0.005)


def test_bursts_arrive_only_in_states_that_send():
    """With one silent state, gaps longer than 100 of the busy state's are the silences: exponential, of their mean."""
    gaps = np.diff(times(Bursts(rates=(0, 1000), durations=(2, 1)), 1_000_000))
    silences = gaps[gaps > 0.1]
    assert silences.mean() - 0.1 == pytest.approx(2, rel=0.15)
    assert len(silences) / gaps.sum() == pytest.approx(np.exp(-0.1 / 2) / 3, rel=0.15)


def test_bursts_counts_vary_as_theory_says():
    """Index of dispersion of a two-state process, Fischer and Meier-Hellstern (1993): its limit for long intervals."""
    r, d = np.array([100.0, 500.0]), np.array([1.0, 0.25])
    t = times(Bursts(rates=tuple(r), durations=tuple(d)), 2_000_000)
    counts = np.histogram(t, bins=np.arange(0, t[-1], 20.0))[0]
    leave = 1 / d
    mean = (r * d).sum() / d.sum()
    limit = 1 + 2 * leave.prod() * (r[0] - r[1]) ** 2 / (leave.sum() ** 3 * mean)
    assert counts.var() / counts.mean() == pytest.approx(limit, rel=0.2)


def test_after_each_state_any_other_may_follow():
    """One silent state is short and one long: of all silences, a quarter are the short one alone."""
    gaps = np.diff(times(Bursts(rates=(2000, 0, 0), durations=(1, 0.2, 50)), 1_000_000))
    silences = gaps[gaps > 0.02]
    assert len(silences) > 300
    assert 0.15 < np.mean(silences < 2) < 0.35


def test_bursts_keep_their_path_under_another_rate():
    """Silences of one run are silences of the other: the same bursts, with more queries in them."""
    slow = times(Bursts(rates=(0, 1), durations=(1, 1), rate=1000), 100_000)
    fast = times(Bursts(rates=(0, 1), durations=(1, 1), rate=4000), 400_000)
    widest = np.argmax(np.diff(slow))
    inside = (fast > slow[widest] + 0.01) & (fast < slow[widest + 1] - 0.01)
    assert not inside.any()


@given(
    rate=st.floats(0.01, 1e5),
    amplitude=st.one_of(st.just(1.0), st.just(0.0), st.floats(0, 1)),
    period=st.floats(1e-2, 1e6),
    phase=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_daily_inverts_the_integrated_rate_exactly(rate, amplitude, period, phase):
    t = times(Daily(rate=rate, amplitude=amplitude, period=period, phase=phase), 300)
    turn = 2 * np.pi
    swing = np.cos(turn * phase) - np.cos(turn * (t / period + phase))
    integrated = rate * (t + amplitude * period / turn * swing)
    units = np.cumsum(generator().standard_exponential(300))
    np.testing.assert_allclose(integrated, units, rtol=1e-9, atol=1e-9 * max(1, rate * period))
    assert (np.diff(t) >= 0).all()
    assert t[0] >= 0


def test_daily_peaks_where_phase_says():
    t = times(Daily(rate=1000, amplitude=1, period=10, phase=0.25), 100_000) % 10
    assert np.mean((t < 1) | (t > 9)) == pytest.approx(0.2 + np.sin(2 * np.pi * 0.1) / np.pi, abs=0.01)


def test_closed_loop_gives_think_times():
    arrivals = Arrivals.model_validate(
        {"kind": "closed_loop", "clients": 7, "think": {"kind": "exponential", "mean": 0.5}}
    )
    assert isinstance(arrivals, ClosedLoop)
    schedule = arrivals.schedule(50_000, generator())
    assert isinstance(schedule, ClosedSchedule)
    assert schedule.clients == 7
    assert schedule.think.shape == (50_000,)
    assert schedule.think.mean() == pytest.approx(0.5, rel=0.03)
    assert arrivals.mean_rate() is None


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def replay(path, **options):
    return Replay.model_validate({"file": path.name, **options}, context={"paths": [path.parent]})


def test_replay_begins_at_zero_in_its_unit_and_speed(tmp_path):
    file = write(tmp_path / "log.csv", "user,sent at", "a,1000500", 'b,"1000700"', "c,1000700", "d,1001500")
    arrivals = replay(file, column="sent at", unit="ms", speed=2)
    np.testing.assert_allclose(times(arrivals, 4), [0, 0.1, 0.1, 0.5])
    np.testing.assert_allclose(times(arrivals, 2), [0, 0.1])
    assert arrivals.mean_rate() == pytest.approx(6)
    assert arrivals.file == file


def test_replay_reads_public_formats_of_traces(tmp_path):
    azure = write(
        tmp_path / "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:46.6805900,374,44",
        "2023-11-16 18:15:50.9951690,396,109",
    )
    np.testing.assert_allclose(times(replay(azure, column="TIMESTAMP"), 2), [0, 4.314579], rtol=1e-14)
    mooncake = write(tmp_path / "moon.jsonl", '{"timestamp": 27482, "input": 6955}', '{"timestamp": 30535, "input": 6}')
    np.testing.assert_allclose(times(replay(mooncake, unit="ms"), 2), [0, 3.053], rtol=1e-14)
    for unit, digits in (("us", 16), ("ns", 19)):
        epoch = write(tmp_path / f"{unit}.csv", "timestamp", *(str(17 * 10 ** (digits - 2) + i) for i in range(4)))
        step = {"us": 1e-6, "ns": 1e-9}[unit]
        np.testing.assert_allclose(times(replay(epoch, unit=unit), 4), [0, step, 2 * step, 3 * step], rtol=1e-14)


def test_replay_may_begin_before_its_first_row(tmp_path):
    file = write(tmp_path / "log.csv", "timestamp", "1700000010", "1700000012")
    arrivals = replay(file, origin=1_700_000_000, speed=2)
    np.testing.assert_allclose(times(arrivals, 2), [5, 6])
    assert arrivals.mean_rate() == pytest.approx(1)
    assert replay(file, origin="2023-11-14T22:13:20Z", speed=2).schedule(2, generator()).times.tolist() == [5, 6]
    with pytest.raises(ValidationError, match="origin 1700000011 is later than the first timestamp"):
        replay(file, origin=1_700_000_011)


def test_replay_refuses_more_queries_than_rows(tmp_path):
    arrivals = replay(write(tmp_path / "log.csv", "timestamp", "1", "2"))
    with pytest.raises(ParmError, match=r"log\.csv has 2 timestamps, fewer than the 3 queries asked for"):
        arrivals.schedule(3, generator())


def test_replay_says_when_its_file_has_gone(tmp_path):
    file = write(tmp_path / "log.csv", "timestamp", "1", "2")
    arrivals = replay(file)
    file.unlink()
    with pytest.raises(ParmError, match=r"log\.csv"):
        arrivals.schedule(1, generator())


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["timestamp", "1", "3", "2"], "line 4 of .* has a 'timestamp' below that of the row before it"),
        (["time", "1"], "has no column 'timestamp'"),
        (["timestamp"], "no rows"),
        (["timestamp", "1", "soon"], "'soon'"),
        (["timestamp", "1", "nan"], "'nan'"),
    ],
)
def test_replay_refuses_unsound_files_when_the_yaml_is_read(tmp_path, lines, sentence):
    with pytest.raises(ValidationError, match=sentence):
        replay(write(tmp_path / "log.csv", *lines))


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(ValidationError, match=rf"no file 'absent\.csv' in {tmp_path}"):
        replay(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "poisson", "rate": 0}, "greater than 0"),
        ({"kind": "poisson", "rate": float("inf")}, "finite"),
        ({"kind": "gamma", "rate": 1, "cv": 0}, "greater than 0"),
        ({"kind": "daily", "rate": 1, "amplitude": 1.5}, "less than or equal to 1"),
        ({"kind": "bursts", "rates": [1], "durations": [1]}, "at least 2"),
        ({"kind": "bursts", "rates": [1, 2], "durations": [1, 1, 1]}, "2 rates need as many durations, not 3"),
        ({"kind": "bursts", "rates": [1, 2], "durations": [1, 0]}, "every duration must be at least 1e-06 s"),
        ({"kind": "bursts", "rates": [0, 0], "durations": [1, 1]}, "at least one must be above 0"),
        ({"kind": "bursts", "rates": [-1, 2], "durations": [1, 1]}, "no rate may be negative"),
        ({"kind": "closed_loop", "clients": 0, "think": 1}, "greater than or equal to 1"),
        ({"kind": "poison", "rate": 1}, "did you mean 'poisson'"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Arrivals.model_validate(options)


def test_every_process_is_described_for_the_list():
    members = Arrivals.members()
    assert set(members) == {"bursts", "closed_loop", "daily", "deterministic", "gamma", "poisson", "recorded", "replay"}
    for member in members.values():
        assert member.__doc__
        assert all(about(member, name) for name in member.model_fields if name != "kind")


def test_kepler_is_monotone_at_full_swing():
    """Amplitude 1 makes the slope vanish at the trough, where Newton's method converges slowest."""
    t = times(Daily(rate=1e6, amplitude=1, period=1, phase=0.75), 100_000)
    assert all(a <= b for a, b in pairwise(t[:1000]))
    integrated = 1e6 * (t - np.sin(2 * np.pi * t) / (2 * np.pi))
    np.testing.assert_allclose(integrated, np.cumsum(generator().standard_exponential(100_000)), atol=1e-6, rtol=1e-9)


NAMED = ["azure-llm-2023-code", "azure-llm-2023-conv"]


def table(name):
    """Arrival times of a record, read without parm's reader."""
    with gzip.open(recorded.path(name), "rt") as file:
        return np.array([float(line.split(",")[0]) for line in file.readlines()[1:]])


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("options", [{}, {"rate": 270}, {"scale": 3}], ids=str)
def test_gaps_of_a_record_have_the_quantiles_of_its_table(name, options):
    """A whole turn has every recorded gap once, and the closing gap, whatever the rate: bursts stay as bursty."""
    arrivals = Recorded(name=name, **options)
    recorded_times = table(name)
    n = len(recorded_times)
    mean = (recorded_times[-1] - recorded_times[0]) / (n - 1)
    expected = np.sort([*np.diff(recorded_times), mean]) / mean
    gaps = np.diff(times(arrivals, n + 1)) * arrivals.mean_rate()
    np.testing.assert_allclose(np.sort(gaps), expected, atol=1e-8)
    assert arrivals.mean_rate() == pytest.approx(options.get("rate", options.get("scale", 1) / mean))
    np.testing.assert_allclose(
        times(arrivals, 3 * n)[2 * n :] - times(arrivals, 3 * n)[:n], 2 * n / arrivals.mean_rate()
    )


@pytest.mark.parametrize("name", NAMED)
def test_a_record_starts_where_it_is_told_or_anywhere(name):
    recorded_times = table(name)
    fixed = Recorded(name=name, start=1000.0)
    later = recorded_times[recorded_times >= 1000.0] - 1000.0
    np.testing.assert_allclose(times(fixed, 100), later[:100], atol=1e-9)
    np.testing.assert_array_equal(times(fixed, 100, seed=1), times(fixed, 100, seed=2))
    np.testing.assert_allclose(times(fixed.model_copy(update={"scale": 4.0}), 100) * 4, later[:100], atol=1e-9)
    drawn = Recorded(name=name)
    firsts = [times(drawn, 3, seed=seed) for seed in range(20)]
    assert len({tuple(np.diff(first).round(4)) for first in firsts}) > 15
    np.testing.assert_allclose(times(drawn, 500), times(drawn, 40_000)[:500], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "azure-llm-2023-cove"}, "did you mean 'azure-llm-2023-code'|did you mean 'azure-llm-2023-conv'"),
        ({"name": NAMED[0], "rate": 5, "scale": 2}, "give 'rate' or 'scale', not both"),
        ({"name": NAMED[0], "start": 1e6}, "start: must be below 3436.34 s"),
        ({"name": NAMED[0], "rate": 0}, "greater than 0"),
    ],
)
def test_refused_records(options, says):
    with pytest.raises(ValidationError, match=says):
        Recorded.model_validate(options)
