"""The wait and the probability of a hedged request, from a log of latencies: SingleR's tuner.

Source: Kaler, He and Elnikety, "Optimal Reissue Policies for Reducing Tail Latency", SPAA 2017. A query without an
answer after d seconds gets one copy with probability q. If copies are independent of the first answer and do not add to
the queues, P(latency <= t) = F(t) + q (1 - F(t)) F(t - d), with the log's distribution function F, and q (1 - F(d))
copies are sent per query.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.errors import ParmError
from sim.files import Floats

LEAST = 100
"""Latencies without which a percentile of them says nothing."""


@dataclass(frozen=True)
class Reissue:
    """A wait and a probability, and what they promise."""

    after: float
    """Seconds without an answer until the copy is sent."""
    probability: float
    """Probability that it is sent then."""
    copies: float
    """Copies per query."""
    percentile: float
    """The latency's percentile with them, in seconds."""
    alone: float
    """The same without copies, in seconds."""
    hedged: float
    """The same with a copy of every query that takes longer than the budget's share of queries does, in seconds."""


def single_r(latencies: Floats, percentile: float, budget: float) -> Reissue:
    """Return the wait and the probability that give the least percentile of latency for `budget` copies per query.

    `latencies` are seconds, shape (queries,); `percentile` is in (0, 100), `budget` in (0, 1). The latency that is
    promised is one of the log. As the wait grows over the log's values, the latency within reach falls or stays, so
    that both are walked once. Where two waits reach the same latency, the one that more queries keep to is taken.

    Raises ParmError where the bounds do not hold, and for a log of fewer than 100 latencies.
    """
    if not (0 < percentile < 100 and 0 < budget < 1):
        raise ParmError("a percentile has to be between 0 and 100, and a budget, in copies per query, between 0 and 1")
    if len(latencies) < LEAST:
        raise ParmError(f"the log has {len(latencies)} latencies; at least {LEAST} are needed")
    log = np.sort(latencies).tolist()
    share = percentile / 100
    hedge = _quantile(log, 1 - budget)
    place, best = _least(log, hedge, 1.0, share, len(log) - 1), (hedge, 1.0)
    hedged, kept = log[place], _within(log, log[place], *best)
    for after in dict.fromkeys([0.0, *log]):
        slower = 1 - bisect_right(log, after) / len(log)
        if after >= log[place] or slower == 0:
            break
        probability = min(1.0, budget / slower)
        lower = _least(log, after, probability, share, place)
        within = _within(log, log[lower], after, probability)
        if lower < place or within > kept:
            place, kept, best = lower, within, (after, probability)
    copies = best[1] * (1 - bisect_right(log, best[0]) / len(log))
    return Reissue(*best, copies, log[place], _quantile(log, share), hedged)


def _least(log: Sequence[float], after: float, probability: float, share: float, place: int) -> int:
    """Return the first place from `place` downwards whose latency that share keeps to, but the one below does not."""
    while place > 0 and _within(log, log[place - 1], after, probability) >= share:
        place -= 1
    return place


def _within(log: Sequence[float], latency: float, after: float, probability: float) -> float:
    """Return P(latency <= t)."""
    first, second = (bisect_right(log, t) / len(log) for t in (latency, latency - after))
    return first + probability * (1 - first) * second


def _quantile(log: Sequence[float], share: float) -> float:
    return float(np.quantile(log, share, method="inverted_cdf"))
