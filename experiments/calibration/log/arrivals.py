"""How queries arrived: a Poisson process, a renewal process with gamma gaps, or neither, which is replayed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.calibration.log.conditions import SURE, dependence
from sim.files import Floats

WINDOWS = 60
"""Least number of windows from which an index of dispersion is computed."""
SIGMAS = 3.29
"""Standard errors within which 99.9% of estimates lie."""


@dataclass(frozen=True)
class ArrivalProcess:
    """What was estimated of the arrivals."""

    kind: Literal["poisson", "gamma", "replay"]
    times: Floats
    """The arrivals in seconds, increasing; shape (n,)."""
    rate: float
    """Mean queries per second."""
    rate_error: float
    cv: float
    """Coefficient of variation of the gaps."""
    cv_error: float
    dispersion: tuple[tuple[float, float], ...]
    """(seconds, index of dispersion): variance over mean of the counts in windows of so many seconds. It is 1 at every
    length for a Poisson process, and tends to cv^2 for a renewal process."""

    @property
    def says(self) -> str:
        """The burstiness in words."""
        indices = ", ".join(f"{index:.2g} in {seconds:.3g} s" for seconds, index in self.dispersion)
        return f"gaps vary by cv {self.cv:.3g}; index of dispersion {indices} (Poisson: 1 everywhere)"


def arrival_process(times: Floats, exact: bool = True) -> ArrivalProcess:
    """Estimate the process from the times of arrival in seconds, in any order, shape (n,).

    Poisson and gamma are kept unless the gaps' variation, their serial dependence, or the dispersion of counts says
    otherwise at 99.9%. Times that are not `exact` are starts of services: a queue in front of them changes gaps, but
    not the dispersion of counts in windows that are longer than waits, by which Poisson is then judged alone.
    """
    times = np.sort(times)
    gaps = np.diff(times)
    size, mean = len(gaps), float(gaps.mean())
    cv = float(gaps.std()) / mean
    fourth = float(((gaps - mean) ** 4).mean()) / mean**4
    # Delta method for std / mean: Cramer, Mathematical Methods of Statistics, 27.7.
    third = float(((gaps - mean) ** 3).mean()) / mean**3
    variance = (fourth - cv**4) / (4 * cv**2) - third + cv**4
    cv_error = math.sqrt(max(variance, 0.0) / size)
    dispersion = []
    for each in (10, 100, 1000):
        counts = _counts(times, each * mean)
        if len(counts) >= WINDOWS:
            dispersion.append((each * mean, float(counts.var(ddof=1) / counts.mean()), len(counts)))
    chance = dependence(gaps, np.array([size]))[1]
    renewal = chance > SURE and all(_within(index, cv**2, windows) for _, index, windows in dispersion)
    poisson = abs(cv - 1) <= SIGMAS / math.sqrt(size) and all(_within(index, 1.0, n) for _, index, n in dispersion)
    if not exact:
        poisson, renewal, chance = all(_within(index, 1.0, n) for _, index, n in dispersion[1:]), False, 1.0
    longest = dispersion[-1][1] if dispersion else cv**2
    return ArrivalProcess(
        "poisson" if poisson and chance > SURE else "gamma" if renewal else "replay",
        times - times[0],
        1 / mean,
        math.sqrt(longest / size) / mean,
        cv,
        cv_error,
        tuple((seconds, index) for seconds, index, _ in dispersion),
    )


def _counts(times: Floats, window: float) -> Floats:
    edges = np.arange(times[0], times[-1] + 1e-12, window)
    return np.diff(np.searchsorted(times, edges)).astype(np.float64)


def _within(index: float, expected: float, windows: int) -> bool:
    """Say whether an index of dispersion is within its noise, about a chi-squared one, and 10% of what is expected."""
    return abs(index / expected - 1) <= 0.1 + SIGMAS * math.sqrt(2 / (windows - 1))
