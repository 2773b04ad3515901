"""Latencies of all trials' queries together, with intervals that hold for skewed tails.

The estimate is the percentile of the pooled queries. The mean of the trials' own percentiles would be biased where rare
events make the tail: by -21% in one of the worlds of docs/intervals.md, far outside its own interval. That page has the
measured coverage of what is used here and of the alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from experiments.analysis import percentiles
from experiments.analysis.outcome import LATENCIES, Outcome
from experiments.analysis.statistics import Interval, normal_quantile, sectioning, student_quantile, student_t
from sim.trace import Floats

CONFIDENCE = 0.95
MS = 1000.0
LEAST_CONTROLLED = 30
"""With fewer trials than this, what control variates cost in degrees of freedom may be more than they save."""
_STEPS = 200
_EXACT = 4e-16
"""Rounding of a share near 1."""


@dataclass(frozen=True)
class Sample:
    """An estimate from several trials, with what each trial added to it."""

    interval: Interval
    deviations: tuple[float, ...]
    """One per trial, in the estimate's unit, with mean 0: where the estimate would be if all trials were like this one,
    less where it is. Their Student's t interval is as wide as `interval`, which need not be symmetric."""


@dataclass(frozen=True)
class Latencies:
    """One policy's latencies at one sweep point, in all its trials."""

    trials: Sequence[Outcome]

    def sample(self, metric: str, confidence: float = CONFIDENCE) -> Sample:
        """Return one of `LATENCIES` or another percentile, in ms; a single trial's interval is that of its sections."""
        if len(self.trials) == 1:
            return self._of_sections(metric, confidence)
        return self._controlled(self._sample(metric, confidence), confidence)

    def _controlled(self, found: Sample, confidence: float) -> Sample:
        """Regress on the trials' control variates, if they have any and are many (Lavenberg and Welch 1981)."""
        names = list(self.trials[0].controls)
        count, free = len(self.trials), len(self.trials) - 1 - len(names)
        if not names or count < LEAST_CONTROLLED or any(list(trial.controls) != names for trial in self.trials):
            return found
        known, added = np.array([list(trial.controls.values()) for trial in self.trials]), np.array(found.deviations)
        centre = known.mean(axis=0)
        inverse = np.linalg.pinv((known - centre).T @ (known - centre))
        slopes = inverse @ (known - centre).T @ added
        left, before = added - (known - centre) @ slopes, float(added @ added)
        if before <= 0:
            return found
        level = (1 + confidence) / 2
        share = math.sqrt(float(left @ left) / free * (1 + count * float(centre @ inverse @ centre)))
        share *= (student_quantile(free, level) / student_quantile(count - 1, level)) / math.sqrt(before / (count - 1))
        by, old = -float(centre @ slopes), found.interval
        value, low, high = old.value + by, old.value - old.lo, old.hi - old.value
        spread = math.sqrt(before / float(left @ left)) * share if float(left @ left) > 0 else 0.0
        return Sample(Interval(value, value - share * low, value + share * high), tuple((spread * left).tolist()))

    def _sample(self, metric: str, confidence: float) -> Sample:
        """Return a latency metric of several trials."""
        if metric == "gap":
            return difference(self._sample("p999", confidence), self._sample("p50", confidence))
        if metric == "mean":
            values = [trial.latency["mean"] * MS for trial in self.trials]
            found = student_t(values, confidence)
            return Sample(found, tuple(value - found.value for value in values))
        return self._percentile(percentiles.probability(metric), confidence)

    def at(self, probability: float) -> Interval:
        """Return the quantile at any probability, in ms; without an interval for a single trial.

        At 0 it is the least latency seen, and its own interval.
        """
        if probability <= 0:
            least = MS * self.quantile(0.0)
            return Interval(least, least, least)
        if len(self.trials) == 1:
            return Interval(MS * self.quantile(probability), math.nan, math.nan)
        return self._controlled(self._percentile(probability, CONFIDENCE), CONFIDENCE).interval

    def _of_sections(self, metric: str, confidence: float) -> Sample:
        (trial,) = self.trials
        if metric not in LATENCIES:
            return Sample(Interval(MS * self.quantile(percentiles.probability(metric)), math.nan, math.nan), ())
        value, parts = MS * trial.latency[metric], [MS * block.latency[metric] for block in trial.blocks]
        return Sample(sectioning(value, parts, confidence), tuple(part - value for part in parts))

    @cached_property
    def _weights(self) -> Floats:
        counts = np.array([trial.queries for trial in self.trials], dtype=float)
        weights: Floats = counts / counts.sum()
        return weights

    @cached_property
    def _functions(self) -> tuple[Floats, Floats]:
        """The probabilities, shape (n,), and each trial's latencies at them in seconds, shape (trials, n)."""
        every = [trial.quantiles for trial in self.trials]
        return np.array(every[0]["probabilities"]), np.array([one["seconds"] for one in every])

    def quantile(self, probability: float) -> float:
        """Return the least latency, in seconds, that at least this share of all queries do not exceed.

        The share that do not exceed a latency is piecewise linear, and is inverted by false position (Dowell and
        Jarratt 1971, the Illinois algorithm), with halvings for where it jumps.
        """
        probabilities, seconds = self._functions
        theirs = np.array([np.interp(probability, probabilities, one) for one in seconds])
        low, high = float(theirs.min()), float(theirs.max())
        first = max(int(np.count_nonzero(seconds <= low, axis=1).min()) - 1, 0)
        last = len(probabilities) - int(np.count_nonzero(seconds > high, axis=1).min())
        near = probabilities[first : last + 1], np.ascontiguousarray(seconds[:, first : last + 1])
        missing = probability - float(self._weights @ _below(low, *near))
        beyond = float(self._weights @ _below(high, *near)) - probability
        if missing <= _EXACT:
            return low
        raised: bool | None = None
        for step in range(_STEPS):
            if high - low <= 1e-13 * high or beyond <= _EXACT:
                break
            share = 0.5 if step % 8 == 7 else missing / (missing + beyond)
            at = low + (high - low) * share
            over = float(self._weights @ _below(at, *near)) - probability
            if abs(over) <= _EXACT:
                return at
            if over < 0:
                beyond *= 0.5 if raised is True else 1.0
                low, missing, raised = at, -over, True
            else:
                missing *= 0.5 if raised is False else 1.0
                high, beyond, raised = at, over, False
        return high

    def design_effect(self, probability: float) -> float:
        """Return how many times more than independent queries' the share below a percentile varies between trials."""
        below = _below(self.quantile(probability), *self._functions)
        shares = self._weights * (below - self._weights @ below)
        count, queries = len(self.trials), sum(trial.queries for trial in self.trials)
        return count / (count - 1) * float(shares @ shares) * queries / (probability * (1 - probability))

    def _percentile(self, probability: float, confidence: float) -> Sample:
        """Return a percentile of two or more trials, in ms.

        Woodruff's (1952): an interval for the share of queries below the estimate, which is inverted. Shares are means
        over the trials (Francisco and Fuller 1991, for clusters), so that theirs is Student's t, but no narrower than
        for independent queries. An end beyond every query is the largest latency seen, and so is too low.
        """
        value, count = self.quantile(probability), len(self.trials)
        below = _below(value, *self._functions)
        shares = self._weights * (below - self._weights @ below)
        error = math.sqrt(count / (count - 1) * float(shares @ shares))
        level = (1 + confidence) / 2
        t = student_quantile(count - 1, level)
        queries = sum(trial.queries for trial in self.trials)
        half = max(t * error, normal_quantile(level) * math.sqrt(probability * (1 - probability) / queries))
        low, high = self.quantile(max(probability - half, 0.0)), self.quantile(min(probability + half, 1.0))
        scale = MS * (high - low) / (2 * t * error) if error > 0 else 0.0
        return Sample(Interval(value, low, high).scaled(MS), tuple((-count * scale * shares).tolist()))


def _below(latency: float, probabilities: Floats, seconds: Floats) -> Floats:
    """Return the share of each trial's queries that are at most `latency`, shape (trials,): `np.interp` by row."""
    last = len(probabilities) - 1
    place = np.count_nonzero(seconds <= latency, axis=1) - 1
    at, rows = np.clip(place, 0, last - 1), np.arange(len(seconds))
    left, right = seconds[rows, at], seconds[rows, at + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = (probabilities[at + 1] - probabilities[at]) / (right - left)
        between = slopes * (latency - left) + probabilities[at]
    inside = (place >= 0) & (place < last) & (latency != left)
    found: Floats = np.where(inside, between, probabilities[np.clip(place, 0, last)])
    return found


def difference(one: Sample, other: Sample) -> Sample:
    """Return `one` less `other`, which rest on the same trials (or sections of one) in the same order.

    The interval is recovered from those of the two and from their correlation over the trials (MOVER, Zou 2007). Where
    they are correlated positively, what they share moves both the same way, so that of it only the differences of their
    arms count. For symmetric intervals both are the paired t interval. Trials that deviate alike leave no doubt.
    """
    a, b = one.interval, other.interval
    if len(one.deviations) != len(other.deviations):
        return Sample(Interval(a.value - b.value, math.nan, math.nan), ())
    mine, theirs = np.asarray(one.deviations), np.asarray(other.deviations)
    value, apart = a.value - b.value, mine - theirs
    size = math.sqrt(float(mine @ mine) * float(theirs @ theirs))
    if math.isnan(a.lo) or math.isnan(b.lo):
        return Sample(Interval(value, math.nan, math.nan), tuple(apart.tolist()))
    if size > 0 and float(np.abs(apart).max()) <= 1e-9 * float(np.abs(mine).max()):
        return Sample(Interval(value, value, value), tuple(apart.tolist()))
    correlation = min(float(mine @ theirs) / size, 1.0) if size > 0 else 0.0
    shared, opposed = max(correlation, 0.0), min(correlation, 0.0)
    common = shared * max((a.lo - a.value - b.lo + b.value) ** 2, (a.hi - a.value - b.hi + b.value) ** 2)

    def arm(mine: float, theirs: float) -> float:
        return math.sqrt((1 - shared) * (mine**2 + theirs**2) - 2 * opposed * mine * theirs + common)

    below, above = arm(a.value - a.lo, b.hi - b.value), arm(a.hi - a.value, b.value - b.lo)
    return Sample(Interval(value, value - below, value + above), tuple(apart.tolist()))
