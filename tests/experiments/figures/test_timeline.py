"""Timelines of any query: chosen by number, the slowest ones, and as SVG text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from experiments.analysis import summary
from experiments.analysis.outcome import measure
from experiments.figures.base import FigureData
from experiments.figures.scene import about
from experiments.figures.timeline import Timeline, svg
from sim.cluster import Cluster
from sim.policies import (
    ApproximateBackup,
    Coded,
    CodedNonsystematic,
    DefaultAnswer,
    EqualResources,
    Policy,
    Replication,
)
from sim.simulation import simulate
from sim.streams import Streams
from sim.trace import Route, Trace
from tests.experiments.figures.material import texts
from workloads.arrivals import Poisson

POLICIES: tuple[Policy, ...] = (
    EqualResources(),
    Replication(),
    Coded(k=2),
    Coded(k=3, parity_pool="low_priority"),
    CodedNonsystematic(k=2),
    ApproximateBackup(after=0.02),
    DefaultAnswer(after=0.03),
)


def run(policy: Policy) -> Trace:
    service = {"kind": "exponential", "mean": 0.01}
    cluster = Cluster.model_validate({"instances": 6, "extra": 3, "service": service, "backup_service": service})
    schedule = Poisson(rate=250).schedule(2001, np.random.default_rng(1))
    return simulate(cluster, policy, (), schedule, Streams(1))


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return [run(policy) for policy in POLICIES]


def data(trace: Trace, **point: float) -> FigureData:
    cell = measure(trace, policy="it", kind="it", point=point, trial=0, warmup=10, seconds={})
    return FigureData(summary.rows([cell]), [cell], lambda _: trace)


def test_a_query_of_every_route_can_be_drawn(traces: list[Trace]) -> None:
    seen = set()
    for trace in traces:
        for route in np.unique(trace.queries.route):
            query = int(np.flatnonzero(trace.queries.route == route)[3])
            seen.add(Route(int(route)))
            scene = about(trace, query, 3)
            assert (scene.query, scene.route) == (query, Route(int(route)))
            assert (scene.used == []) == (route == Route.DEFAULT)
            assert query in scene.queries
            figure = Timeline(query=query).draw(data(trace))
            latency = 1000 * trace.queries.latency[query]
            assert f"{latency:.0f} ms after its arrival" in texts(figure)
    assert seen == set(Route)


def test_the_last_queries_which_fill_no_group_can_be_drawn(traces: list[Trace]) -> None:
    assert traces[2].group[-1] < 0
    for trace in traces:
        figure = Timeline(query=len(trace.queries) - 1).draw(data(trace))
        assert ("coding groups none (A)" in texts(figure)) == (trace.group[-1] < 0 and bool(trace.k))


def test_the_slowest_queries_are_the_slowest_that_count(traces: list[Trace]) -> None:
    trace = traces[2]
    figure = Timeline(slowest=3).draw(data(trace, **{"workload.arrivals.rate": 250}))
    assert figure is not None
    assert len(figure.axes) == 3
    numbers = [int(found) for found in re.findall(r"query (\d+):", texts(figure))]
    assert numbers == (10 + np.argsort(-trace.queries.latency[10:], kind="stable")[:3]).tolist()
    assert "The slowest 3 queries of a trial" in texts(figure)


def test_what_is_not_there_is_said(traces: list[Trace]) -> None:
    some = data(traces[0], rate=1)
    assert Timeline(query=2001).reason(some) == "there is no query 2001: the last one is 2000"
    assert Timeline(query=2, policy="other").reason(some) == "there is no such cell of other"
    assert Timeline(query=2, trial=1).reason(some) == "there is no such cell of any policy"
    assert Timeline(query=2, at={"k": 1}).reason(some) == "'k' is not swept"
    assert Timeline(query=2, at={"rate": 2}).reason(some) == "there is no such cell of any policy"
    assert Timeline(query=2, at={"rate": 1}).reason(some) is None


def test_svg_is_a_small_element_with_text_that_is_the_same_every_time(traces: list[Trace]) -> None:
    for trace in traces:
        query = int(np.argmax(trace.queries.latency))
        text = svg(trace, query, "my <policy>")
        assert text == svg(trace, query, "my <policy>")
        assert len(text.encode()) < 60_000
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        written = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
        assert f"Query {query}: " in written and "my <policy>; " in written
        used = set(re.findall(r"#([a-z0-9]+)", " ".join(re.findall(r'(?:href="|url\()#[a-z0-9]+', text))))
        assert set(re.findall(r' id="([^"]+)"', text)) <= used
