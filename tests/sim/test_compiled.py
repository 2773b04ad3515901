"""The compiled engine gives the same trace as SimPy, to the last bit."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim import compiled
from sim.cluster import Cluster
from sim.compiled import cache
from sim.distributions import Distribution
from sim.distributions.families import Deterministic, Exponential, Uniform
from sim.errors import ParmError
from sim.policies import (
    ApproximateBackup,
    Coded,
    CodedNonsystematic,
    Hedged,
    Policy,
    Replication,
    Uncoded,
)
from sim.policies.replication import Vote
from sim.schedule import OpenSchedule
from sim.simulation import engine_for, simulate
from sim.stragglers import Crashes, Heterogeneous, Multitenancy, PerTask, Shuffles, Straggler
from sim.stragglers.base import Effect, Setting
from sim.stragglers.timeline import effect_of
from sim.streams import Streams
from sim.trace import Trace
from tests.worlds import World, worlds

pytest.importorskip("numba")

WORLDS = int(os.environ.get("PARM_EXAMPLES", "500"))

FURTHER: list[Straggler] = [
    Shuffles(concurrent=2, megabytes=(1.0, 2.0), backlog=Exponential(mean=0.002)),
    Multitenancy(instances=2, rate=20.0, service=Exponential(mean=0.02)),
    Multitenancy(instances=2, rate=20.0, service=Exponential(mean=0.02), mutual=True, queue="shared"),
    Multitenancy(at=(1, 0), rate=90.0, service=Deterministic(value=0.02), mutual=True, slowdown=1.5),
    Multitenancy(instances=2, rate=40.0, service=Uniform(low=0.0, high=0.04), queue="shared"),
    Heterogeneous(factor=Uniform(low=0.5, high=2.0)),
    Crashes(mean_up=2.0, repair=Deterministic(value=0.05), detect=0.0),
    Crashes(mean_up=1.0, repair=Exponential(mean=0.1), retry=False),
]
"""Stragglers that the random worlds do not have, because some of them are possible only in some worlds."""


@st.composite
def all_worlds(draw: st.DrawFn) -> World:
    """The random worlds, with every kind of straggler."""
    world = draw(worlds().filter(lambda world: not world.votes)).without_scaler()
    stragglers = [*world.stragglers, *draw(st.lists(st.sampled_from(FURTHER), max_size=2, unique=True))]
    possible = [
        one
        for one in stragglers
        if not (isinstance(one, Shuffles) and world.cluster.network.gbps is None)
        and not (isinstance(one, Crashes) and not one.retry and world.cluster.deadline is None)
    ]
    return dataclasses.replace(world, stragglers=tuple(possible))


def assert_same(one: Trace, other: Trace) -> None:
    for field in dataclasses.fields(Trace):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if not dataclasses.is_dataclass(left):
            assert left == right and type(left) is type(right), field.name
            continue
        for column in dataclasses.fields(left):
            mine, its = getattr(left, column.name), getattr(right, column.name)
            if mine is None:
                assert its is None, column.name
                continue
            assert mine.dtype == its.dtype and mine.shape == its.shape, column.name
            equal_nan = mine.dtype.kind == "f"
            assert np.array_equal(mine, its, equal_nan=equal_nan), f"{field.name}.{column.name}"


@settings(max_examples=WORLDS, deadline=None, suppress_health_check=list(HealthCheck))
@given(all_worlds())
def test_any_world_gives_the_same_trace_on_both_engines(world: World) -> None:
    assert engine_for("auto", world.cluster, world.policy, world.stragglers, queries=10**9).engine == "compiled"
    assert_same(world.run("simpy"), world.run("compiled"))


CLUSTER = Cluster(instances=3, extra=1, service=Exponential(mean=0.02))


def arrivals(queries: int, rate: float = 120.0) -> OpenSchedule:
    return OpenSchedule.poisson(rate, queries, Streams(5))


def both(cluster: Cluster, policy: Policy, stragglers: Sequence[Straggler], schedule: OpenSchedule) -> Trace:
    """Simulate on both engines, and return what both say."""
    traces = [simulate(cluster, policy, stragglers, schedule, Streams(1), engine=one) for one in ("simpy", "compiled")]
    assert_same(*traces)
    return traces[0]


@pytest.mark.parametrize(
    "policy",
    [Replication(copies=3), Hedged(after_quantile=0.5), Coded(k=3, r=2), CodedNonsystematic(k=3), ApproximateBackup()],
    ids=lambda policy: policy.kind,
)
def test_memory_grows_with_a_queue_without_end(policy: Policy) -> None:
    """Rows, heap, columns and blocks of draws are all used up more than once."""
    both(CLUSTER, policy, (), arrivals(20_000, rate=1000.0))


def test_room_for_attempts_grows_with_crash_after_crash() -> None:
    crashes = Crashes(mean_up=0.03, repair=Deterministic(value=0.01), detect=0.0)
    slow = PerTask(slowdown=Exponential(mean=2.0), probability=0.5)
    trace = both(CLUSTER, Uncoded(), (crashes, slow), arrivals(2_000, rate=60.0))
    assert trace.tasks.attempt.max() > 8


def test_cancelled_timers_are_swept_out_of_the_heap_at_the_same_moments() -> None:
    both(CLUSTER, Hedged(after=5.0), (), arrivals(3_000, rate=100.0))


@pytest.mark.parametrize("queue", ["own", "shared"])
def test_a_second_service_remembers_as_many_of_our_tasks_as_there_are(queue: Literal["own", "shared"]) -> None:
    cluster = CLUSTER.model_copy(update={"service": Exponential(mean=1e-4)})
    tenant = Multitenancy(at=(2, 0), rate=60.0, service=Exponential(mean=0.02), mutual=True, queue=queue)
    both(cluster, Uncoded(), (tenant,), arrivals(4_000, rate=8_000.0))


class Sawtooth(Distribution):
    """A plugin's distribution: only `sample` is its own."""

    kind: Literal["sawtooth"] = "sawtooth"

    def sample(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        return np.arange(n) % 7 * 0.004 + 0.001

    def mean(self) -> float:
        return 0.013


class Tide(Straggler):
    """A plugin's slowness over time."""

    kind: Literal["tide"] = "tide"

    def attach(self, setting: Setting) -> Effect:
        def pieces() -> Iterator[tuple[float, float]]:
            for hour in count(1):
                yield hour * 0.5, 1.0 + hour % 3

        return effect_of([pieces() for _ in setting.pools])


class Whim(Straggler):
    """A plugin's slowness as a function, which compiled code cannot call."""

    kind: Literal["whim"] = "whim"

    def attach(self, setting: Setting) -> Effect:
        return Effect(modifier=lambda task, instance, start, seconds: seconds * 2)


class Mine(Uncoded):
    """A plugin's policy, which may do anything."""

    kind: Literal["mine"] = "mine"  # type: ignore[assignment]


def test_a_plugins_distribution_and_timeline_are_compiled() -> None:
    cluster = CLUSTER.model_copy(update={"service": Sawtooth()})
    both(cluster, Coded(), (Tide(),), arrivals(500))


@pytest.mark.parametrize(
    ("change", "policy", "stragglers", "what"),
    [
        ({}, Mine(), (), "policy 'mine'"),
        ({}, Replication(vote=Vote()), (), "votes"),
        ({}, Uncoded(), (Whim(),), "straggler 'whim', whose effect is a function"),
    ],
)
def test_what_cannot_be_compiled_is_named_or_simulated_on_simpy(
    change: dict[str, object], policy: Policy, stragglers: tuple[Straggler, ...], what: str
) -> None:
    cluster = CLUSTER.model_copy(update=change)
    with pytest.raises(ParmError, match=f"the compiled engine cannot simulate {what}: use"):
        simulate(cluster, policy, stragglers, arrivals(10), Streams(1), engine="compiled")
    choice = engine_for("auto", cluster, policy, stragglers, queries=10**9)
    assert (choice.engine, choice.reason) == ("simpy", f"the compiled engine cannot simulate {what}")
    simulate(cluster, policy, stragglers, arrivals(10), Streams(1))


class Broken(Sawtooth):
    """Fails when drawn from."""

    kind: Literal["broken"] = "broken"  # type: ignore[assignment]

    def sample(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        raise ParmError("nothing is left to draw")


class Short(Straggler):
    kind: Literal["short"] = "short"

    def attach(self, setting: Setting) -> Effect:
        return effect_of([iter([(0.5, 2.0)]) for _ in setting.pools])


def test_an_error_in_a_plugin_comes_out_of_the_kernel_as_it_is() -> None:
    cluster = CLUSTER.model_copy(update={"service": Broken()})
    with pytest.raises(ParmError, match="nothing is left to draw"):
        simulate(cluster, Hedged(), (), arrivals(100), Streams(1), engine="compiled")
    with pytest.raises(ValueError, match="timeline has ended"):
        simulate(CLUSTER, Coded(), (Short(),), arrivals(500), Streams(1), engine="compiled")


def test_without_numba_or_without_need_simpy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "ready", lambda: False)
    few, many = (engine_for("auto", CLUSTER, Uncoded(), (), queries=n) for n in (1000, 10_000_000))
    assert (few.engine, many.engine) == ("simpy", "compiled")
    assert few.reason == "the engine is not compiled yet, and 1,000 queries are not worth it"
    monkeypatch.setattr(compiled, "installed", lambda: False)
    choice = engine_for("auto", CLUSTER, Uncoded(), (), queries=10_000_000)
    assert (choice.engine, choice.reason) == ("simpy", "the compiled engine cannot simulate anything without numba")
    with pytest.raises(ParmError, match="needs numba, which is not installed: use 'engine: auto'"):
        engine_for("compiled", CLUSTER, Uncoded(), (), queries=1)
    assert engine_for("simpy", CLUSTER, Uncoded(), (), queries=1).engine == "simpy"


def test_the_kernel_on_disk_is_that_of_all_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Path(shutil.copytree(cache.HERE, tmp_path / "compiled"))
    monkeypatch.setattr(cache, "HERE", here)
    before = cache.folder.__wrapped__()
    assert before == cache.folder.__wrapped__()
    file = here / "waiting.py"
    file.write_text(file.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert cache.folder.__wrapped__() != before


def test_every_module_of_the_kernel_is_there_when_its_functions_are_compiled(tmp_path: Path) -> None:
    program = """if True:
        from importlib import import_module
        from sim.compiled import cache, memory
        counts = []
        memory.compile_all = lambda: counts.append(len(memory.FUNCTIONS))
        cache._compiled = lambda *_, **__: None
        cache.kernel()
        for name in cache.SOURCES:
            import_module(f"sim.compiled.{name}")
        print(len(memory.FUNCTIONS) - counts[0])
    """
    empty = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=empty)
    assert done.stdout == "0\n", "functions were defined too late for `compile_all`"


def test_another_process_finds_the_kernel_on_disk() -> None:
    compiled.compile_kernel()
    program = (
        "from sim import compiled; from sim.compiled import memory; assert compiled.ready(); "
        "compiled.compile_kernel(); print(sum(len(one.signatures) for one in memory.FUNCTIONS))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n", "it compiled the kernel again"
