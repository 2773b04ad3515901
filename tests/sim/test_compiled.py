"""The compiled engine gives the same trace as SimPy, to the last bit."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sim.distributions.families import Deterministic, Exponential, Uniform
from sim.simulation import engine_for
from sim.stragglers import Crashes, Heterogeneous, Multitenancy, Shuffles, Straggler
from sim.trace import Trace
from tests.worlds import World, worlds

pytest.importorskip("numba")

WORLDS = int(os.environ.get("PARM_EXAMPLES", "500"))

FURTHER: list[Straggler] = [
    Shuffles(concurrent=2, megabytes=(1.0, 2.0), backlog=Exponential(mean=0.002)),
    Multitenancy(instances=2, rate=20.0, service=Exponential(mean=0.02)),
    Heterogeneous(factor=Uniform(low=0.5, high=2.0)),
    Crashes(mean_up=2.0, repair=Deterministic(value=0.05), detect=0.0),
    Crashes(mean_up=1.0, repair=Exponential(mean=0.1), retry=False),
]
"""Stragglers that the random worlds do not have, because some of them are possible only in some worlds."""


@st.composite
def all_worlds(draw: st.DrawFn) -> World:
    """The random worlds, with every kind of straggler."""
    world = draw(worlds())
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
            assert mine.dtype == its.dtype and mine.shape == its.shape, column.name
            equal_nan = mine.dtype.kind == "f"
            assert np.array_equal(mine, its, equal_nan=equal_nan), f"{field.name}.{column.name}"


@settings(max_examples=WORLDS, deadline=None, suppress_health_check=list(HealthCheck))
@given(all_worlds())
def test_any_world_gives_the_same_trace_on_both_engines(world: World) -> None:
    choice = engine_for("auto", world.cluster, world.policy, world.stragglers, queries=10**9)
    assume(choice.engine == "compiled")
    assert_same(world.run("simpy"), world.run("compiled"))
