"""Routers against benchmarks that others published, whose servers answer any number of requests at once.

parm's instances serve one batch at a time, so here a closed loop of clients drives the routers alone: a client sends
its next request when it has the answer to the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.dispatching import Discipline, RandomQueue, RoundRobin, uniform
from sim.routing import Learning, LeastRequest, PeakEwma
from sim.streams import Streams

Law = Callable[[np.random.Generator, int], NDArray[np.float64]]


def answered(queue: Discipline, servers: list[Law], clients: int, requests: int, seed: int) -> NDArray[np.float64]:
    """Return a row of each answer, in order: its latency in seconds, its server, and when it came."""
    streams, clock = Streams(seed), SimpleNamespace(now=0.0)
    uniforms = streams.stream(uniform, "routing")
    learner = queue.learner(uniforms, clock, len(servers), print) if isinstance(queue, Learning) else None  # type: ignore[arg-type]
    router = queue.chooser(uniforms) if learner is None else learner
    assert router is not None
    draws = [iter(law(streams.generator("server", number), requests).tolist()) for number, law in enumerate(servers)]
    loads, pending, rows = [0] * len(servers), [], []
    for number in range(clients + requests):
        if number >= clients:
            clock.now, _, place, found, seconds = heappop(pending)
            loads[place] -= 1
            rows.append((seconds, place, clock.now))
            if learner is not None:
                learner.heard(place, found, seconds, lost=False)
        place = router.choose(loads, ())
        seconds = next(draws[place])
        heappush(pending, (clock.now + seconds, number, place, loads[place], seconds))
        loads[place] += 1
    return np.array(rows)


class TestTower:
    """The demonstration in tower-rs/tower, pull request 76 (2018), "balance: Implement a Peak-EWMA load metric".

    50 clients send 50,000 requests to ten servers, which sleep for whole milliseconds, uniform below 1, 10 (four of
    them), 100 (four) and 1000 (`tower-balance/examples/demo.rs`).
    """

    MOST = (1, 10, 10, 10, 10, 100, 100, 100, 100, 1000)
    REQUESTS, RUNS = 50_000, 4
    QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
    LATE = 2
    """Milliseconds that a sleep may take longer: the timer ticks once in one, and latencies are cut to whole ones."""

    @pytest.mark.parametrize(
        ("queue", "wall", "published"),
        [
            (PeakEwma(), 15, (5, 56, 78, 96, 105)),
            (LeastRequest(), 18, (5, 57, 80, 98, 857)),
            (RoundRobin(), 72, (9, 98, 496, 906, 988)),
        ],
        ids=["peak_ewma", "least_request", "round_robin"],
    )
    def test_every_published_percentile_is_in_the_interval(
        self, queue: Discipline, wall: int, published: tuple[int, ...]
    ) -> None:
        """The interval of order statistics: p give or take three standard errors of both samples' fractions below."""
        laws: list[Law] = [lambda draws, n, most=most: draws.integers(0, most, n) * 1e-3 for most in self.MOST]
        runs = [answered(queue, laws, 50, self.REQUESTS, seed) for seed in range(self.RUNS)]
        latencies = np.concatenate([run[:, 0] for run in runs]) * 1e3
        for p, milliseconds in zip(self.QUANTILES, published, strict=True):
            error = 3 * math.sqrt(p * (1 - p) * (1 / self.REQUESTS + 1 / len(latencies)))
            low, high = np.quantile(latencies, [p - error, min(1.0, p + error)])
            assert low - 0.5 <= milliseconds <= high + self.LATE, p
        seconds = np.mean([run[-1, 2] for run in runs])
        error = 3 * latencies.std() * 1e-3 * math.sqrt(self.REQUESTS + self.REQUESTS / self.RUNS) / 50
        assert seconds - error - 0.5 <= wall <= seconds + error + self.LATE * 1e-3 * self.REQUESTS / 50 + 0.5


class TestEnvoy:
    """Envoy's Peak-EWMA benchmark, in envoyproxy/envoy, pull request 40653 (2025).

    Ten clients, ten servers, of which one is ten times slower; milliseconds. How many requests there were, and what a
    server does, is not said. So the laws are read off the table: that of a fast server is `peak_ewma`'s row, in which
    no answer of the slow one is; the slow one's is the upper tenth of `round_robin`'s, from its P90 to its maximum.
    """

    PUBLISHED: ClassVar = {  # average, P50, P90, P95, P99
        "round_robin": (19.08, 8.46, 101.79, 103.39, 105.58),
        "random": (18.66, 8.47, 65.51, 103.28, 106.18),
        "least_request": (11.00, 8.92, 13.10, 15.38, 103.00),
        "peak_ewma": (10.16, 9.66, 13.29, 14.52, 18.56),
    }
    FAST = ([0, 0.5, 0.75, 0.9, 0.95, 0.99, 1], [6.31, 9.66, 11.13, 13.29, 14.52, 18.56, 26.16])
    SLOW = ([0, 0.5, 0.9, 1], [101.79, 103.39, 105.58, 108.02])
    REQUESTS = 100_000

    def run(self, queue: Discipline) -> NDArray[np.float64]:
        """Return latencies in milliseconds and servers; 9 is the slow one."""
        fast: Law = lambda draws, n: np.interp(draws.random(n), *self.FAST) * 1e-3  # noqa: E731
        slow: Law = lambda draws, n: np.interp(draws.random(n), *self.SLOW) * 1e-3  # noqa: E731
        return answered(queue, [fast] * 9 + [slow], 10, self.REQUESTS, 1)[:, :2] * [1e3, 1]

    @pytest.mark.parametrize(
        "queue", [RoundRobin(), RandomQueue(), PeakEwma()], ids=lambda queue: str(queue.name_in_yaml())
    )
    def test_averages_and_tails_are_the_published_ones(self, queue: Discipline) -> None:
        """The average may differ by as much as a row's median from that of `peak_ewma`, whose law it does not have
        (more requests, slower answers), and by what the law read off the table misses in that row. Percentiles: the
        interval of order statistics for 10,000 requests, since their number is not said."""
        average, median, _, *tail = self.PUBLISHED[str(queue.name_in_yaml())]
        row = self.PUBLISHED["peak_ewma"]
        latencies = self.run(queue)[:, 0]
        missed = row[0] - np.interp(np.linspace(0, 1, 10_001), *self.FAST).mean()
        error = 3 * latencies.std() / math.sqrt(len(latencies))
        assert abs(latencies.mean() - average) <= abs(median - row[1]) + abs(missed) + error
        for p, milliseconds in zip((0.95, 0.99), tail, strict=True):
            error = 3 * math.sqrt(p * (1 - p) * (1 / 10_000 + 1 / len(latencies)))
            low, high = np.quantile(latencies, [p - error, p + error])
            assert low <= milliseconds <= high, p

    def test_peak_ewma_leaves_the_slow_server_alone_and_least_request_does_not(self) -> None:
        """Slow answers are all above 101 ms: with P99 at 103.00, below their median, least_request had 1 to 2% of them.

        That share is not reproduced: 2.5% here. Time that a request spends where the proxy does not count it makes it
        less; how much there was is not said.
        """
        learned, counted = (np.mean(self.run(queue)[:, 1] == 9) for queue in (PeakEwma(), LeastRequest()))
        assert learned < 0.001
        assert 0.022 < counted < 0.028
