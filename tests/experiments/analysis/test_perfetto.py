"""Chrome's Trace Event JSON of a trace: every task and query once, no slices that overlap, arrows that arrive."""

from __future__ import annotations

import gzip
import io
import itertools
import json
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from experiments.analysis.perfetto import Excerpt, neighbourhood, slowest, write
from sim.trace import Role, Trace
from tests.worlds import World, worlds


def events(*excerpts: Excerpt, compressed: bool = False) -> list[dict[str, Any]]:
    file = io.BytesIO()
    count = write(file, excerpts, compressed=compressed)
    text = gzip.decompress(file.getvalue()) if compressed else file.getvalue()
    found: list[dict[str, Any]] = json.loads(text)["traceEvents"]
    assert len(found) == count
    return found


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_a_whole_cell_shows_every_query_and_every_task_once(world: World) -> None:
    trace = world.run()
    found = events(Excerpt("cell", trace))
    slices = [event for event in found if event["ph"] == "X"]
    ran = trace.tasks.instance >= 0
    assert sum(event["pid"] == 1 for event in slices) == np.count_nonzero(ran)
    assert sum(event["pid"] == 2 for event in slices) == len(trace.queries)
    assert sum(event["ph"] == "i" for event in found) == np.count_nonzero(~ran)
    assert_no_overlap(slices)
    assert_arrows_arrive(found)


def assert_no_overlap(slices: list[dict[str, Any]]) -> None:
    """On one track, a slice begins when those before it have ended (to a nanosecond), or with them in one batch."""
    tracks = defaultdict(list)
    for event in slices:
        assert event["dur"] >= 0
        tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for intervals in tracks.values():
        intervals.sort()
        for (first, end), (begin, _) in itertools.pairwise(intervals):
            assert begin >= end - 2e-3 or begin == first


def assert_arrows_arrive(found: list[dict[str, Any]]) -> None:
    """Every arrow that ends somewhere begins somewhere, inside of a slice."""
    begun = {event["bind_id"] for event in found if event.get("flow_out")}
    assert {event["bind_id"] for event in found if event.get("flow_in")} <= begun
    sent = Counter(event["id"] for event in found if event["ph"] == "s")
    assert sent == Counter(event["id"] for event in found if event["ph"] == "f")
    slices = defaultdict(list)
    for event in found:
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for event in found:
        if event["ph"] in "sf":
            assert any(
                begin - 2e-3 <= event["ts"] <= end + 2e-3 for begin, end in slices[event["pid"], event["tid"]]
            ), event


@pytest.fixture(scope="module")
def trace() -> Trace:
    from sim.cluster import Cluster
    from sim.policies import Coded
    from sim.simulation import simulate
    from sim.streams import Streams
    from workloads.arrivals import Poisson

    streams = Streams(3, 0)
    cluster = Cluster.model_validate({"instances": 4, "extra": 2, "service": {"kind": "exponential", "mean": 0.02}})
    schedule = Poisson(rate=100).schedule(2000, streams.generator("arrivals"))
    return simulate(cluster, Coded(k=2), (), schedule, streams)


def test_the_slowest_come_first_and_the_warmup_is_left_out(trace: Trace) -> None:
    latency = trace.queries.latency
    found = slowest(trace, 5, warmup=100)
    assert found.tolist() == sorted(range(100, 2000), key=lambda query: -latency[query])[:5]
    assert len(slowest(trace, 5000)) == 2000
    assert len(slowest(trace, 5, warmup=5000)) == 0


def test_a_neighbourhood_holds_the_queries_and_all_that_overlaps_them(trace: Trace) -> None:
    chosen = slowest(trace, 3).tolist()
    excerpt = neighbourhood("slow", trace, chosen)
    found = events(excerpt)
    assert {event["name"] for event in found if event.get("cname") == "bad"} == {f"query {query}" for query in chosen}
    names = {event["name"] for event in found if event["pid"] == 2 and event["ph"] == "X"}
    assert len(names) < 1000
    queries = trace.queries
    for query in chosen:
        during = (queries.arrival <= queries.reply[query]) & (queries.reply >= queries.arrival[query])
        assert {f"query {other}" for other in np.flatnonzero(during)} <= names
    assert excerpt.windows is not None
    assert all(before[1] < after[0] for before, after in zip(excerpt.windows, excerpt.windows[1:], strict=False))


def test_several_cells_share_a_file_and_compression_keeps_every_byte(trace: Trace) -> None:
    both = Excerpt("a", trace), Excerpt("b", trace)
    found = events(*both)
    assert {event["pid"] for event in found} == {1, 2, 3, 4}
    assert found == events(*both, compressed=True)
    assert len({event["bind_id"] for event in found if event.get("flow_out")}) == 2 * len(trace.batches)


def test_parity_tasks_are_told_apart(trace: Trace) -> None:
    parity = np.count_nonzero((trace.tasks.role == Role.PARITY) & (trace.tasks.instance >= 0))
    found = events(Excerpt("cell", trace))
    assert sum(event["name"].startswith("parity 0 of group") for event in found if event["ph"] == "X") == parity > 0
    assert sum(event["ph"] == "s" for event in found) == parity
