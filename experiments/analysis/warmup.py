"""Warm-up: the number of queries at the start of a trial that are not measured.

A warm-up estimated from latencies differs between policies and may remove the events of interest: to MSER-5 an outage
looks like a transient. The warm-up here is therefore computed before the simulation, only from the arrivals and the
load of the plain cluster, so that all policies of a trial are compared over the same queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim.kinds import Options

SHORTEST, LONGEST = 0.01, 0.1
"""Least and greatest fraction of a trial's queries in the warm-up under `auto`."""
TIME_CONSTANTS = 4
"""After four time constants a transient has decayed to exp(-4), 2% of its initial value."""
TREND = 0.75
"""Kendall's tau of the means of ten parts from which on they have a trend: exceeded by chance in 0.1% of runs."""


class WarmupSeconds(Options):
    """A warm-up given as time."""

    seconds: float = Field(ge=0, allow_inf_nan=False)
    """Queries that arrive within this many seconds after the trial's first are not measured."""


WarmupRule = Literal["auto", "none"] | int | WarmupSeconds


def warmup_queries(rule: WarmupRule, arrival: NDArray[np.float64], load: float | None) -> int:
    """Return the number of warm-up queries of a trial with these arrival times (seconds, nondecreasing).

    `auto` cuts `TIME_CONSTANTS` times rate * T queries, where T = (c_a^2 + c_s^2) / (2.8 mu (1 - sqrt(rho))^2) is the
    time constant of a queue that starts empty (Odoni and Roth 1983), here with both squared coefficients of variation
    1; it stays between `SHORTEST` and `LONGEST` of all queries. `load` is rho, the offered load of the deployed
    instances; None where it is not known beforehand, which counts as 0.
    """
    if rule == "none":
        return 0
    if isinstance(rule, WarmupSeconds):
        return int(np.searchsorted(arrival, arrival[0] + rule.seconds)) if len(arrival) else 0
    if rule == "auto":
        relaxed = relaxation_queries(load or 0.0)
        return math.floor(min(max(relaxed, SHORTEST * len(arrival)), LONGEST * len(arrival)))
    return int(rule)


def relaxation_queries(load: float) -> float:
    """Return the number of queries that arrive during `TIME_CONSTANTS` time constants; infinite for load >= 1."""
    if load >= 1:
        return math.inf
    return TIME_CONSTANTS * load / (1.4 * (1 - math.sqrt(load)) ** 2)


def has_trend(means: Sequence[float]) -> bool:
    """Return whether the means of consecutive parts of a run have a trend, by Kendall's tau (Kendall 1938).

    Ten parts in random order exceed `TREND` with probability 0.001. Rounding errors count as ties.
    """
    values = np.asarray(means)
    pairs = len(values) * (len(values) - 1) / 2
    if pairs == 0:
        return False
    difference = values[:, None] - values[None, :]
    difference[np.abs(difference) <= 1e-9 * np.abs(values).max()] = 0.0
    below = np.tril(np.sign(difference), -1)
    return abs(float(below.sum())) / pairs >= TREND
