"""Simulations that share draws and timelines give the traces that each gives alone."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import Field

from sim.cluster import Cluster
from sim.distributions import Distribution
from sim.distributions.families import Deterministic, Exponential
from sim.engines import Engine
from sim.network import Network
from sim.policies import Coded, Replication
from sim.shared import Shared
from sim.simulation import simulate
from sim.stragglers import Multitenancy, PerTask, Shuffles
from sim.streams import BLOCK, Streams
from sim.trace import Trace
from tests.worlds import World, poisson, worlds

SHUFFLES = Shuffles(concurrent=3, megabytes=(1.0, 2.0), backlog=Exponential(mean=0.002))


def as_bytes(trace: Trace) -> dict[str, Any]:
    whole = {field.name: getattr(trace, field.name) for field in fields(trace)}
    return {
        f"{name}.{one.name}": getattr(value, one.name).tobytes()
        for name, value in whole.items()
        if is_dataclass(value)
        for one in fields(value)
        if getattr(value, one.name) is not None
    } | {name: value for name, value in whole.items() if not is_dataclass(value)}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(worlds(), min_size=2, max_size=4), st.sampled_from([1, 2**14, 2**30]))
def test_what_is_shared_changes_no_trace(several: list[World], room: int) -> None:
    """Other clusters, policies and stragglers of one trial, one after the other; sometimes with hardly any room."""
    shared = Shared(room)
    for number, world in enumerate(several):
        stragglers = (*world.stragglers, SHUFFLES) if world.cluster.network.gbps else world.stragglers
        engine: Engine = "simpy" if number % 2 else "auto"
        alone = replace(world, streams=Streams(1), stragglers=stragglers).run(engine)
        together = replace(world, streams=Streams(1, 0, shared), stragglers=stragglers).run(engine)
        assert as_bytes(together) == as_bytes(alone)


class Counting(Distribution):
    """Counts how often it is asked."""

    kind: Literal["counting"] = "counting"
    average: float
    asked: ClassVar[list[float]] = []

    def sample(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        self.asked.append(self.average)
        return np.asarray(generator.exponential(self.average, n))

    def mean(self) -> float:
        return self.average


def test_policies_and_rates_of_a_trial_draw_once() -> None:
    shared = Shared()
    Counting.asked.clear()
    for rate in (50.0, 80.0):
        for policy in (Replication(copies=2), Coded(k=2)):
            cluster = Cluster(instances=4, extra=2, service=Counting(average=0.01))  # an object of its own
            streams = Streams(3, 1, shared)
            simulate(cluster, policy, (), poisson(rate, BLOCK + 1, streams), streams)
    # Two blocks of services, two of the second copies and one of the parity model.
    assert Counting.asked == [0.01] * 5
    other = Streams(3, 2, shared)  # another trial
    simulate(Cluster(instances=4, service=Counting(average=0.01)), Replication(), (), poisson(50.0, 9, other), other)
    assert len(Counting.asked) == 7


def test_other_distributions_and_other_streams_are_other_draws() -> None:
    streams = Streams(1, 0, Shared())
    one = streams.stream(Exponential(mean=1.0).sample, "service", 0)
    assert streams.stream(Exponential(mean=1.0).sample, "service", 0).block(0) is one.block(0)
    assert streams.stream(Exponential(mean=2.0).sample, "service", 0).block(0) is not one.block(0)
    assert streams.stream(Exponential(mean=1.0).sample, "service", 1).block(0) is not one.block(0)
    assert one.block(1) is not one.block(0)
    assert Streams(1, 1, Shared()).stream(Exponential(mean=1.0).sample, "service", 0).block(0) is not one.block(0)


class Holding(Distribution):
    """Holds an array, so that it cannot be compared."""

    kind: Literal["holding"] = "holding"
    _values: NDArray[np.float64]

    def model_post_init(self, context: Any) -> None:
        self._values = np.arange(3.0)

    def sample(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        return np.asarray(generator.choice(self._values, n))

    def mean(self) -> float:
        return 1.0


class Unhashable(Deterministic):
    """Has an option that cannot be hashed."""

    kind: Literal["unhashable"] = "unhashable"  # type: ignore[assignment]
    options: dict[str, int] = Field(default_factory=dict)


@pytest.mark.parametrize("make", [Holding, lambda: Unhashable(value=1.0)], ids=["holding", "unhashable"])
def test_what_cannot_be_compared_is_drawn_anew(make: Any) -> None:
    streams = Streams(1, 0, Shared())
    one, other = (streams.stream(make().sample, "service", 0).block(0) for _ in range(2))
    assert one is not other
    assert one.tobytes() == other.tobytes()


def test_draws_of_a_straggler_are_its_own() -> None:
    """A function that closes over options is not the same as another that closes over other options."""
    cluster = Cluster(instances=4, extra=2, service=Exponential(mean=0.01))
    shared = Shared()
    for probability in (0.1, 0.9):
        slow = [PerTask(slowdown=Deterministic(value=5.0), probability=probability)]
        traces = [
            simulate(cluster, Replication(), slow, poisson(50.0, 300, streams), streams)
            for streams in (Streams(1), Streams(1, 0, shared))
        ]
        assert as_bytes(traces[0]) == as_bytes(traces[1])


def test_lasting_backlogs_of_other_lengths_are_not_shared() -> None:
    cluster = Cluster(instances=4, extra=2, service=Exponential(mean=0.01), network=Network(gbps=1.0))
    shared = Shared()
    for mean in (0.001, 0.05):
        slow = [SHUFFLES.model_copy(update={"backlog": Exponential(mean=mean), "backlog_per": "flow"})]
        traces = [
            simulate(cluster, Replication(), slow, poisson(50.0, 300, streams), streams)
            for streams in (Streams(1), Streams(1, 0, shared))
        ]
        assert as_bytes(traces[0]) == as_bytes(traces[1])


def test_the_second_service_and_bulk_traffic_are_played_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim.stragglers.shuffles import _Timeline

    played = []
    monkeypatch.setattr(_Timeline, "_play", lambda line, play=_Timeline._play: (played.append(1), play(line)))
    cluster = Cluster.model_validate({"instances": 4, "extra": 2, "service": 0.01, "network": {"gbps": 1.0}})
    stragglers = [SHUFFLES, Multitenancy(rate=20.0, service=Exponential(mean=0.02))]
    shared, counts = Shared(), []
    for queries in (400, 200, 400, 800):
        streams = Streams(1, 0, shared)
        simulate(cluster, Replication(copies=2), stragglers, poisson(50.0, queries, streams), streams, engine="simpy")
        counts.append(len(played))
    assert counts[0] == counts[1] == counts[2] < counts[3] < 3 * counts[0]


class Piece:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_what_was_not_asked_for_the_longest_goes_first_and_what_grows_is_noticed() -> None:
    shared, made = Shared(room=100), []

    def get(name: str, size: int = 40) -> Piece:
        def make() -> Piece:
            made.append(name)
            return Piece(size)

        return shared.get(name, make)

    first = get("a")
    get("b")
    assert get("a") is first
    get("c")  # b has to go
    assert get("a") is first
    get("b")
    assert made == ["a", "b", "c", "b"]
    get("a").nbytes = 90
    assert get("a") is first  # alone now
    get("b")
    assert made == ["a", "b", "c", "b", "b"]
    get("huge", 1000)
    assert get("huge").nbytes == 1000  # the latest stays, whatever its size
    shared.clear()
    assert get("a") is not first
