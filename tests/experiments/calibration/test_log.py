"""`parm fit`: logs of known clusters give their parameters back, within the intervals that it states."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.calibration.log.arrivals import arrival_process
from experiments.calibration.log.cluster import Cluster, Z, estimate
from experiments.calibration.log.conditions import dependence
from experiments.calibration.log.fit import Columns, fit
from experiments.calibration.log.service import LAWS, best_law, density
from experiments.calibration.log.slowness import Densities, Services, newton, slow_periods
from experiments.config import loader
from sim.distributions import Distribution
from sim.distributions.families import Gamma, Hyperexponential
from sim.distributions.heavy import Lognormal, Weibull
from sim.errors import ParmError
from sim.simulation import simulate
from sim.streams import Streams
from tests import logs
from workloads.arrivals import Arrivals, Bursts, Poisson
from workloads.arrivals import Gamma as GammaGaps

PERIODS = {"kind": "slow_periods", "factor": 4, "mean_normal": 9.5, "mean_slow": 0.5}
WEAK = {"kind": "slow_periods", "factor": 2.5, "mean_normal": 20, "mean_slow": 2}
STICKY = {"kind": "sticky", "slowdown": 4, "probability": 0.05, "stickiness": 0.9}
SPEEDS = {"kind": "heterogeneous", "factors": [1, 1.2, 0.9, 1]}


def estimated(stragglers: list[dict[str, Any]], seed: int, queries: int = 20_000, **options: Any) -> Cluster:
    return estimate(logs.answers(logs.experiment(queries, seed, stragglers=stragglers, **options)))


def off(cluster: Cluster, name: str, true: float) -> float:
    """The error of a parameter of slowness, in halves of its 95% interval (in logarithms, or log-odds)."""
    assert cluster.slowness is not None
    low, high = np.array(cluster.slowness.interval(name))
    value = cluster.slowness.values[name]
    if name in ("stickiness", "probability"):
        low, high, value, true = (np.log(one / (1 - one)) for one in (low, high, value, true))
    else:
        low, high, value, true = np.log([low, high, value, true])
    return float(abs(value - true) / ((high - low) / 2))


@pytest.mark.parametrize("true", [PERIODS, STICKY], ids=["slow_periods", "sticky"])
def test_slowness_comes_back_within_its_intervals(true: dict[str, Any]) -> None:
    """Of a good 95% interval's errors, 19 in 20 are below 1 here, and their mean square is 1 / 1.96^2 = 0.26."""
    found = [estimated([true], seed) for seed in (1, 2, 3, 4)]
    for cluster in found:
        assert cluster.slowness is not None
        assert cluster.other is not None
        assert cluster.slowness.kind == true["kind"]
        assert cluster.slowness.likelihood - cluster.other.likelihood > 10
    errors = [off(cluster, name, value) for cluster in found for name, value in true.items() if name != "kind"]
    assert np.mean(np.array(errors) < 1) >= 0.8
    assert np.mean(np.square(errors)) < 0.5


def test_weak_slowness_among_variable_services_comes_back() -> None:
    service = {"kind": "exponential", "mean": 0.02}
    cluster = estimated([WEAK], 5, cluster={"instances": 8, "extra": 4, "service": service})
    assert cluster.slowness is not None
    assert cluster.slowness.kind == "slow_periods"
    for name in ("factor", "mean_normal", "mean_slow"):
        assert off(cluster, name, WEAK[name]) < 1.5
    assert cluster.service.law is not None
    assert cluster.service.law.name in ("gamma", "weibull")  # both are exponential at a shape of 1
    low, high = cluster.service.interval(1)
    assert low * 0.98 < 1 < high * 1.02


def test_speeds_of_hosts_come_back_beside_slow_periods() -> None:
    cluster = estimated([SPEEDS, PERIODS], 6)
    assert cluster.heterogeneous
    true = np.resize(SPEEDS["factors"], logs.HOSTS)
    true = true / np.exp(np.log(true).mean())
    assert np.all(np.abs(np.log(cluster.factors / true)) < 1.7 * Z * cluster.factor_errors)
    for name in ("factor", "mean_normal", "mean_slow"):
        assert off(cluster, name, PERIODS[name]) < 1.5


def test_factors_that_differ_from_period_to_period_come_back() -> None:
    varied = {**PERIODS, "factor": {"kind": "lognormal", "median": 4, "sigma": 0.3}, "mean_slow": 1.5}
    cluster = estimated([varied], 11)
    assert cluster.sigma == pytest.approx(0.3, abs=0.06)
    assert cluster.slowness is not None
    assert cluster.slowness.values["factor"] == pytest.approx(4, rel=0.1)
    assert off(cluster, "mean_normal", 9.5) < 1.7
    assert off(cluster, "mean_slow", 1.5) < 1.7
    assert estimated([PERIODS], 1).sigma == 0


def test_a_cluster_without_slowness_has_none() -> None:
    cluster = estimated([], 7)
    assert cluster.slowness is None
    assert not cluster.heterogeneous
    assert cluster.arrivals.kind == "poisson"
    assert cluster.service.law is not None
    for which, value in enumerate((0.025, 25)):
        low, high = cluster.service.interval(which)
        assert low * 0.99 < value < high * 1.01


def test_the_likelihood_is_highest_near_the_truth() -> None:
    """The likelihood alone, started far away and with no service left out."""
    log = logs.answers(logs.experiment(20_000, 8, stragglers=[PERIODS]))
    services = Services(log.seconds, log.idle, np.ones(len(log)))
    dense = density(Gamma(mean=0.025, shape=25), log.seconds)
    found = slow_periods(services, Densities(dense, dense), 3.0, 2.0, 3.0)
    for name in ("factor", "mean_normal", "mean_slow"):
        low, high = found.interval(name)
        assert low * 0.95 < PERIODS[name] < high * 1.05


def test_newton_finds_the_top_of_a_normal_density() -> None:
    inverse = np.array([[2.0, 0.6], [0.6, 1.0]])
    at, highest, curvature = newton(lambda x: float(-(x - [1, -2]) @ inverse @ (x - [1, -2]) / 2) * 100, np.zeros(2))
    assert at == pytest.approx([1, -2], abs=1e-3)
    assert highest == pytest.approx(0, abs=1e-3)
    assert curvature == pytest.approx(100 * inverse, rel=1e-6)


@pytest.mark.parametrize(
    "law", [Gamma(mean=0.02, shape=3), Lognormal(median=0.02, sigma=0.7), Weibull(scale=0.02, shape=0.8)]
)
def test_laws_of_service_come_back(law: Distribution) -> None:
    times = law.sample(np.random.default_rng(1), 20_000)
    found = best_law(times, np.ones(len(times)))
    assert found is not None
    assert found[0].name == law.kind  # type: ignore[attr-defined]
    for name, value in zip(found[0].parameters, found[1:], strict=True):
        true = law.model_dump(by_alias=True)[name]
        assert value == pytest.approx(true, rel=0.04)
    assert len({one.name for one in LAWS}) == len(LAWS)


def test_no_law_is_forced_upon_two_kinds_of_query() -> None:
    times = Hyperexponential(means=(0.001, 0.1), weights=(0.5, 0.5)).sample(np.random.default_rng(1), 20_000)
    assert best_law(times, np.ones(len(times))) is None


@pytest.mark.parametrize(
    ("true", "kind"),
    [
        (Poisson(rate=100), "poisson"),
        (GammaGaps(rate=100, cv=2), "gamma"),
        (GammaGaps(rate=100, cv=0.5), "gamma"),
        (Bursts(rates=(50, 400), durations=(1.0, 0.3)), "replay"),
    ],
)
def test_arrival_processes_are_told_apart(true: Arrivals, kind: str) -> None:
    for seed in (1, 2, 3):
        times = np.asarray(getattr(true.schedule(20_000, np.random.default_rng(seed)), "times"))  # noqa: B009
        found = arrival_process(times)
        assert found.kind == kind
        rate = true.mean_rate()
        assert rate is not None
        assert abs(found.rate - rate) < 4 * found.rate_error
        if isinstance(true, GammaGaps):
            assert abs(found.cv - true.cv) < 4 * found.cv_error


def test_dependence_is_within_hosts_only() -> None:
    """Services that alternate between hosts of different speed are dependent in time, but not on any host."""
    rng = np.random.default_rng(2)
    counts = np.array([5000, 5000])
    levels = np.repeat([0.0, 3.0], counts)
    found, chance = dependence(rng.standard_normal(10_000) + levels, counts)
    assert abs(found[0]) < 0.05
    assert chance > 1e-3
    slow = np.repeat(rng.standard_normal(1000), 10)
    assert dependence(slow + rng.standard_normal(10_000), counts)[1] < 1e-10


@pytest.mark.parametrize(
    ("queue", "said"),
    [("single_queue", "single_queue"), ("round_robin", "round_robin"), ("shortest_queue", "shortest_queue")],
)
def test_the_queue_is_told_from_waiting(tmp_path: Path, queue: str, said: str) -> None:
    service = {"kind": "exponential", "mean": 0.025}
    cluster = {"instances": 8, "extra": 4, "service": service, "queue": queue}
    file = logs.write(logs.experiment(5000, 1, 250, cluster=cluster), tmp_path / "log.csv")
    fitted = fit(file, None, Columns("latency", time="arrival", mark="arrival"))
    assert fitted.cluster.queue == said
    assert fitted.experiment.cluster.queue.name_in_yaml() == said


def test_services_are_reconstructed_from_latencies(tmp_path: Path) -> None:
    """First come, first served: the services are those that the log also says directly, whatever the order of rows."""
    file = logs.write(logs.experiment(4000, 2, 250, stragglers=[PERIODS]), tmp_path / "log.csv")
    direct = fit(file, tmp_path / "a.yaml", Columns("seconds", time="start", arrival="arrival")).cluster.answers
    waited = fit(file, tmp_path / "b.yaml", Columns("latency", time="arrival", mark="arrival")).cluster.answers
    ended = fit(file, tmp_path / "c.yaml", Columns("seconds", time="end", mark="end")).cluster.answers
    assert waited.seconds == pytest.approx(direct.seconds, abs=1e-9)
    assert np.ptp(waited.start - direct.start) < 1e-9
    assert ended.seconds == pytest.approx(direct.seconds)
    assert np.ptp(ended.start - direct.start) < 1e-9


def test_what_no_law_describes_is_kept_as_it_is(tmp_path: Path) -> None:
    """Two kinds of query and bursts: quantiles and arrivals are written beside the experiment, which runs."""
    service = {"kind": "bimodal", "low": 0.005, "high": 0.05, "probability": 0.3}
    known = logs.experiment(
        6000,
        cluster={"instances": 8, "extra": 4, "service": service},
        workload={"arrivals": {"kind": "bursts", "rates": [50, 400], "durations": [1.0, 0.3]}, "queries": 6000},
    )
    fitted = fit(logs.write(known, tmp_path / "my log.csv"), None, Columns("latency", time="arrival", mark="arrival"))
    names = [file.name for file in fitted.files]
    assert names == ["my log.yaml", "my log.service.json", "my log.arrivals.csv", "my log.fit.png"]
    again = loader.load(tmp_path / "my log.yaml")
    assert again.workload.queries == 6000
    trace = logs.simulated(again.model_copy(update={"policies": again.policies[:1]}))
    observed = np.mean(fitted.comparison.observed.seconds)
    assert np.mean(trace.tasks.finish - trace.tasks.start) == pytest.approx(observed, rel=0.03)


def test_without_hmmlearn_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hmmlearn.hmm", None)
    with pytest.raises(ParmError, match=r"pip install 'parm\[fit\]'"):
        estimated([PERIODS], 1, 8000)
    assert estimated([], 1, 2000).slowness is None  # which needs no library


def test_policies_have_the_same_tail_on_the_fitted_cluster(tmp_path: Path) -> None:
    """The p99.9 of hedged and coded requests on the fitted cluster is within 5% of that on the true one."""
    pytest.importorskip("numba")
    brief = {"kind": "slow_periods", "factor": 4, "mean_normal": 4, "mean_slow": 0.4}
    known = logs.experiment(40_000, 9, stragglers=[brief])
    fitted = fit(logs.write(known, tmp_path / "log.csv"), None, Columns("seconds", time="start", arrival="arrival"))
    policies = fitted.experiment.policies[2:]
    assert [policy.name_in_yaml() for policy in policies] == ["hedged", "coded"]
    for policy in policies:
        tails = []
        for one in (known, fitted.experiment):
            streams = Streams(1)
            schedule = one.workload.arrivals.schedule(300_000, streams.generator("arrivals"))
            trace = simulate(one.machines, policy, one.stragglers, schedule, streams, engine="compiled")
            tails.append(float(np.quantile(trace.queries.latency, 0.999)))
        assert tails[1] == pytest.approx(tails[0], rel=0.05)
