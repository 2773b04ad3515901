"""SingleR: the tuner against a search over everything, the formula, and simulations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.capacity.reissue import Reissue, single_r
from sim.cluster import Cluster
from sim.distributions.combined import Bimodal
from sim.distributions.families import Exponential, Hyperexponential
from sim.errors import ParmError
from sim.policies import Hedged, Policy, Uncoded
from sim.schedule import ClosedSchedule
from sim.simulation import simulate
from sim.streams import Streams
from sim.theory import HedgedOnce, hedged_beyond
from sim.trace import Trace
from tests.command import parm
from tests.worlds import poisson

HEAVY = Hyperexponential(means=(0.01, 0.1), weights=(0.9, 0.1))


def log_of(size: int, seed: int = 1) -> np.ndarray:
    return HEAVY.sample(np.random.default_rng(seed), size)


def promised(log: np.ndarray, after: float, probability: float, share: float) -> float:
    """The least latency of the log that the share keeps to, by the formula, without any cleverness."""
    values = np.sort(log)
    first = np.searchsorted(values, values, side="right") / len(values)
    second = np.searchsorted(values, values - after, side="right") / len(values)
    return float(values[np.argmax(first + probability * (1 - first) * second >= share - 1e-12)])


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("percentile", [50, 90, 99])
def test_no_other_wait_and_probability_of_the_budget_promise_less(percentile: float, budget: float) -> None:
    log = log_of(300)
    found = single_r(log, percentile, budget)
    assert found.copies <= budget + 1e-12
    assert 0 < found.probability <= 1
    assert promised(log, found.after, found.probability, percentile / 100) == found.percentile
    others = [
        promised(log, after, min(1.0, budget / np.mean(log > after)), percentile / 100)
        for after in [0.0, *log[log < log.max()]]
    ]
    assert found.percentile == min(others)
    assert found.percentile <= found.hedged <= found.alone


def test_the_tuner_agrees_with_a_distribution_that_is_known() -> None:
    """Exponential of mean 1, p95, 5% copies: the least latency by the formula over a fine grid of waits."""
    service = Exponential(mean=1.0)
    found = single_r(service.sample(np.random.default_rng(2), 200_000), 95, 0.05)
    waits = np.linspace(0.0, 4.0, 801)
    best = min(
        HedgedOnce(service, float(after), min(1.0, 0.05 * np.exp(after))).quantiles(np.array([0.95]))[0]
        for after in waits
    )
    assert found.percentile == pytest.approx(best, rel=0.01)
    assert found.alone == pytest.approx(-np.log(0.05), rel=0.01)
    assert found.percentile < 0.97 * found.hedged, "at a wait of the 95th percentile itself a copy comes too late"


def test_without_queues_the_simulation_is_within_one_percent_of_the_formula() -> None:
    service, queries = Exponential(mean=0.02), 200_000
    policy = Hedged(after=0.03, probability=0.4, cancel="all")
    streams = Streams(5)
    schedule = ClosedSchedule(3, streams.generator("think").exponential(0.02, queries))
    trace = simulate(Cluster(instances=9, service=service), policy, (), schedule, streams)
    law, latency = HedgedOnce(service, 0.03, 0.4), trace.queries.latency
    shares = np.array([0.5, 0.9, 0.95, 0.99])
    np.testing.assert_allclose(np.quantile(latency, shares), law.quantiles(shares), rtol=0.01)
    assert latency.mean() == pytest.approx(law.mean(), rel=0.01)
    slower = np.exp(-1.5)
    sent = np.mean(trace.tasks.attempt == 1) * len(trace.tasks) / queries
    assert sent == pytest.approx(0.4 * slower, abs=4 * np.sqrt(0.4 * slower / queries))
    t = np.array([0.01, 0.029, 0.05])
    assert hedged_beyond(service, t, 0.03, 0.4) == pytest.approx(
        np.exp(-t / 0.02) * (1 - 0.4 * np.maximum(0.0, 1 - np.exp(-(t - 0.03) / 0.02)))
    )


def run(policy: Policy, trial: int, queries: int = 6000) -> Trace:
    streams = Streams(7, trial)
    cluster = Cluster(instances=8, service=Bimodal(low=0.01, high=0.1, probability=0.05))
    return simulate(cluster, policy, (), poisson(200.0, queries, streams), streams)


def test_with_queues_it_is_no_worse_than_hedging_at_an_equal_rate_of_copies() -> None:
    log = np.concatenate([run(Uncoded(), 1000 + trial).queries.latency for trial in range(3)])
    tuned: Reissue = single_r(log, 95, 0.05)
    hedge = Hedged(after=float(np.quantile(log, 0.95)), cancel="all")
    ours = Hedged(after=tuned.after, probability=tuned.probability, cancel="all")
    ratios, differences = [], []
    for trial in range(10):
        one, other = run(ours, trial), run(hedge, trial)
        ratios.append(np.sum(one.tasks.attempt == 1) / np.sum(other.tasks.attempt == 1))
        differences.append(np.quantile(one.queries.latency, 0.95) - np.quantile(other.queries.latency, 0.95))
    assert np.mean(ratios) < 1.15
    half = 2.26 * np.std(differences, ddof=1) / np.sqrt(10)
    assert np.mean(differences) <= half


def test_the_draws_are_common_to_all_probabilities() -> None:
    """Who gets a copy with a probability of 0.2 gets one with 0.6 too, so that options are compared query by query."""
    chosen = [
        {
            int(one)
            for one, attempt in zip(trace.tasks.owner, trace.tasks.attempt, strict=True)
            if attempt == 1
        }
        for trace in (run(Hedged(after=0.0, probability=share), 0, 500) for share in (0.2, 0.6, 1.0))
    ]  # fmt: skip
    assert chosen[0] < chosen[1] < chosen[2] == set(range(500))
    assert len(chosen[0]) == pytest.approx(100, abs=40)


@pytest.mark.parametrize(
    ("size", "percentile", "budget", "says"),
    [
        (200, 100, 0.05, "a percentile has to be between 0 and 100"),
        (200, 99, 1.0, "a budget, in copies per query, between 0 and 1"),
        (99, 99, 0.05, "the log has 99 latencies; at least 100 are needed"),
    ],
)
def test_refusals(size: int, percentile: float, budget: float, says: str) -> None:
    with pytest.raises(ParmError, match=says):
        single_r(log_of(size), percentile, budget)


def test_equal_latencies_have_nothing_to_gain() -> None:
    found = single_r(np.full(200, 0.5), 99, 0.05)
    assert found.percentile == found.hedged == found.alone == 0.5


def test_the_command_prints_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.csv"
    file.write_text("ms\n" + "\n".join(f"{value * 1000:.6f}" for value in log_of(500)))
    assert parm("tune", file, "--column", "ms", "--unit", "ms", "--budget", 0.1, monkeypatch=monkeypatch) == 0
    line, says = capsys.readouterr().out.splitlines()
    found = single_r(log_of(500), 99, 0.1)
    policy = Hedged.model_validate(yaml.safe_load(line)[0])
    assert policy.after == pytest.approx(found.after, rel=1e-4)
    assert policy.probability == pytest.approx(found.probability, rel=1e-3)
    assert f"p99 {found.percentile * 1000:.4g} ms" in says
    for words, message in (
        (["--unit", "h"], "there is no unit 'h'"),
        (["--column", "mss", "--unit", "ms"], "has no column 'mss' (did you mean 'ms'?)"),
    ):
        assert parm("tune", file, *words, monkeypatch=monkeypatch) == 2
        assert message in capsys.readouterr().err
