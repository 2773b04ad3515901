"""What would never end, divide by zero or take all memory is refused in one sentence, or bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from sim.cluster import Cluster
from sim.distributions import Distribution
from sim.distributions.families import Deterministic, Exponential
from sim.errors import ParmError
from sim.network import Network
from sim.policies import Uncoded
from sim.schedule import OpenSchedule
from sim.simulation import check, simulate
from sim.stragglers import Multitenancy, Shuffles, Straggler
from sim.streams import Streams
from workloads.arrivals import Arrivals, Bursts

ONE = {"kind": "deterministic", "value": 1}
ZERO = {"kind": "deterministic", "value": 0}
MAYBE = {"kind": "mixture", "parts": [1, 0], "weights": [3, 1]}


@pytest.mark.parametrize("factor", [ZERO, MAYBE])
@pytest.mark.parametrize(
    "straggler",
    [
        lambda factor: {"kind": "slow_periods", "factor": factor, "mean_normal": 1, "mean_slow": 1},
        lambda factor: {"kind": "heterogeneous", "factor": factor},
        lambda factor: {"kind": "sticky", "slowdown": factor, "stickiness": 0.5},
        lambda factor: {"kind": "per_task", "slowdown": factor},
    ],
)
def test_a_factor_of_0_is_refused(straggler: Callable[[Any], Any], factor: Any) -> None:
    with pytest.raises(ValidationError, match="a factor must be above 0, but this one is 0 with probability"):
        TypeAdapter(Straggler).validate_python(straggler(factor))
    assert TypeAdapter(Straggler).validate_python(straggler(ONE))


def test_nothing_may_be_added() -> None:
    assert TypeAdapter(Straggler).validate_python({"kind": "per_task", "slowdown": ZERO, "how": "add"})


@pytest.mark.parametrize(
    ("family", "yaml"),
    [
        (Straggler, {"kind": "slow_periods", "mean_normal": 1e-300, "mean_slow": 1e-300}),
        (Straggler, {"kind": "slow_periods", "mean_normal": 1, "mean_slow": 1e-7}),
        (Straggler, {"kind": "crashes", "mean_up": 1e-300}),
        (Straggler, {"kind": "multitenancy", "rate": 1e300, "service": 1}),
        (Straggler, {"kind": "shuffles", "concurrent": 10**12}),
        (Arrivals, {"kind": "bursts", "rates": [1, 2], "durations": [1e-300, 1e-300]}),
        (Cluster, {"instances": 10**12, "service": 1}),
        (Cluster, {"instances": 1, "extra": 10**12, "service": 1}),
    ],
)
def test_bounds(family: Any, yaml: Any) -> None:
    with pytest.raises(ValidationError, match=r"at least|(less|greater) than or equal to"):
        TypeAdapter(family).validate_python(yaml)


def test_bursts_that_take_too_many_states_are_refused() -> None:
    bursts = Bursts(rates=(1e-6, 2e-6), durations=(1e-6, 1e-6))
    with pytest.raises(ParmError, match="changes of state"):
        bursts.schedule(1000, np.random.default_rng(0))


def test_shuffles_too_fast_to_simulate_are_refused() -> None:
    cluster = Cluster(instances=2, service=Deterministic(value=1), network=Network(gbps=2.0**64))
    with pytest.raises(ValueError, match=r"a shuffle of 128 MB takes .* at least 1e-06 s can be simulated"):
        check(cluster, Uncoded(), [Shuffles()])


def test_an_overloaded_second_service_slows_all_work() -> None:
    """At a load of 1.4 the second service is never idle once it has fallen behind, so all work takes twice as long."""
    second = Multitenancy(instances=2, rate=28, service=Exponential(mean=0.1))
    assert second.load == pytest.approx(1.4)
    cluster = Cluster(instances=2, service=Deterministic(value=0.02))
    trace = simulate(cluster, Uncoded(), [second], OpenSchedule(np.arange(2000) * 0.1 + 100), Streams(1))
    assert np.unique(trace.queries.latency.round(9)).tolist() == [0.04]


@pytest.mark.parametrize("deadline", [0.02, 0.05])
def test_a_deadline_within_the_overhead_is_refused(deadline: float) -> None:
    cluster = Cluster(instances=1, service=Deterministic(value=0.01), deadline=deadline, network=Network(overhead=0.05))
    with pytest.raises(ValueError, match=r"the deadline \(.* s\) has to be above network.overhead \(0.05 s\)"):
        check(cluster, Uncoded(), [])
    check(cluster.model_copy(update={"deadline": 0.051}), Uncoded(), [])


@pytest.mark.parametrize("times", [[-1.0, 1.0], [1.0, 0.5], [0.0, np.inf], [0.0, np.nan, 1.0]])
def test_arrival_times_are_checked(times: list[float]) -> None:
    with pytest.raises(ParmError, match="arrival times have to be finite, not negative, and never decrease"):
        OpenSchedule(np.array(times))


class Broken(Distribution):
    """A plugin's distribution, without a `kind`, so that other tests do not find it among the members."""

    gives: str = "nan"

    def sample(self, generator: np.random.Generator, n: int) -> Any:
        if self.gives == "list":
            return [1.0] * n
        if self.gives == "short":
            return np.ones(n + 1)
        drawn = np.ones(n)
        drawn[n // 2] = float(self.gives)
        return drawn

    def mean(self) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ("nan", "drew nan; draws must be finite and not negative"),
        ("-1", "drew -1; draws"),
        ("inf", "drew inf; draws"),
        ("list", "returned list instead of an array of 4096 numbers"),
        ("short", r"returned shape \(4097,\) of float64 instead of"),
    ],
)
def test_draws_of_plugins_are_checked(gives: str, says: str) -> None:
    cluster = Cluster(instances=1, service=Broken.model_construct(gives=gives))
    with pytest.raises(ParmError, match=rf"distribution 'Broken' \(sample, .*{Path(__file__).name}:\d+\) {says}"):
        simulate(cluster, Uncoded(), [], OpenSchedule(np.arange(4096) * 2.0), Streams(0))
