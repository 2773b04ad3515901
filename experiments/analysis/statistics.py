"""Intervals for what a simulation measured.

Queries of one run depend on each other, so that an interval computed as if they did not is far too narrow under load.
Everything here therefore counts trials (or long consecutive sections of a single run), never queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.trace import Floats


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval; `lo` and `hi` are NaN where the data allow none."""

    value: float
    lo: float
    hi: float

    @property
    def margin(self) -> float:
        """The larger of the distances from the value to the two ends; NaN without an interval."""
        return max(self.hi - self.value, self.value - self.lo)

    def scaled(self, factor: float) -> Interval:
        """Return the interval in another unit; `factor` is positive."""
        return Interval(self.value * factor, self.lo * factor, self.hi * factor)

    def overlaps(self, other: Interval) -> bool:
        """Say whether the two intervals have a point in common; false where either has no ends."""
        return self.lo <= other.hi and other.lo <= self.hi


def student_t(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent values with Student's t interval; NaNs are left out.

    mean +- t(n-1) s / sqrt(n), Student 1908; over independent replications: Law, Simulation Modeling and Analysis,
    section 9.4.1.
    """
    sample = np.asarray(values, dtype=float)
    sample = sample[~np.isnan(sample)]
    mean = float(sample.mean()) if len(sample) else math.nan
    return sectioning(mean, sample.tolist(), confidence)


def sectioning(value: float, sections: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval for `value`, an estimate from a whole run, by the same estimate in each of its consecutive sections.

    Batch means around the overall estimate, which for percentiles is less biased than the mean over the sections:
    Asmussen and Glynn 2007, section III.5; Nakayama 2014. NaNs are left out.
    """
    sample = np.asarray(sections, dtype=float)
    sample = sample[~np.isnan(sample)]
    count = len(sample)
    if count < 2:
        return Interval(value, math.nan, math.nan)
    spread = math.sqrt(float(np.sum((sample - value) ** 2)) / (count - 1) / count)
    half = student_quantile(count - 1, (1 + confidence) / 2) * spread
    return Interval(value, value - half, value + half)


def paired(values_a: Sequence[float], values_b: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of `a - b` over trials that shared their random numbers; both sequences have one value per trial.

    The paired-t interval: Law, Simulation Modeling and Analysis, section 10.2.1.
    """
    difference = np.asarray(values_a, dtype=float) - np.asarray(values_b, dtype=float)
    return student_t(difference.tolist(), confidence)


def wilson(correct: float, total: float, confidence: float = 0.95) -> Interval:
    """Score interval for a proportion of independent trials (Wilson 1927); NaN throughout where `total` is 0."""
    if total <= 0:
        return Interval(math.nan, math.nan, math.nan)
    return _score(correct / total, total, confidence)


def wilson_clustered(correct: Sequence[int], total: Sequence[int], confidence: float = 0.95) -> Interval:
    """Wilson's interval for a proportion counted in clusters, one entry of `correct` and `total` per cluster (trial).

    The number of observations is divided by the design effect, the ratio of the variance between clusters to that of
    independent draws, and by (t / z)^2 for the few clusters that it was estimated from; it never exceeds the true
    number, so that the interval is never narrower than `wilson`: Korn and Graubard 1998; Dean and Pagano 2015.
    """
    counts = np.asarray(total, dtype=float)
    hits = np.asarray(correct, dtype=float)[counts > 0]
    counts = counts[counts > 0]
    clusters, everything = len(counts), float(counts.sum())
    if clusters == 0:
        return Interval(math.nan, math.nan, math.nan)
    share = float(hits.sum()) / everything
    effective = everything
    if clusters > 1 and 0 < share < 1:
        residuals = hits - share * counts
        variance = clusters / (clusters - 1) * float(residuals @ residuals) / everything**2
        if variance > 0:
            level = (1 + confidence) / 2
            few = (normal_quantile(level) / student_quantile(clusters - 1, level)) ** 2
            effective = min(everything, share * (1 - share) / variance * few)
    return _score(share, effective, confidence)


def _score(share: float, total: float, confidence: float) -> Interval:
    z = normal_quantile((1 + confidence) / 2)
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At 0 and at 1 the bound equals the share; rounding must not put the share outside its own interval.
    return Interval(share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share))


def student_quantile(freedom: int, probability: float) -> float:
    """Return the quantile of Student's t distribution with so many degrees of freedom."""
    from scipy.special import stdtrit  # late: whoever only simulates does without, and starts sooner

    return float(stdtrit(freedom, probability))


def normal_quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(probability))


def sorted_quantiles(ordered: Floats, probabilities: Floats) -> Floats:
    """Return the quantiles (p,) of values in increasing order (n,): NumPy's `linear` ones, to the last bit.

    NumPy's own function takes four times as long for hundreds of probabilities, since it does not sort.
    """
    at = (len(ordered) - 1) * probabilities
    below = np.floor(at).astype(np.intp)
    low, high, share = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)], at - below
    step = high - low
    result: Floats = np.where(share < 0.5, low + step * share, high - step * (1 - share))
    return result
