"""Latencies of all trials' queries together, with intervals that hold for skewed tails.

The estimate is the percentile of the pooled queries. The mean of the trials' own percentiles would be biased where rare
events make the tail: by -21% in one of the worlds of docs/intervals.md, far outside its own interval. That page has the
measured coverage of what is used here and of the alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    _known: dict[tuple[str, float], Sample] = field(default_factory=dict, init=False, repr=False, compare=False)

    def sample(self, metric: str, confidence: float = CONFIDENCE) -> Sample:
        """Return one of `LATENCIES` or another percentile, in ms; a single trial's interval is that of its sections."""
        if len(self.trials) == 1:
            return self._of_sections(metric, confidence)
        if (metric, confidence) not in self._known:  # all of them take hardly longer than one
            found = self._samples(LATENCIES if metric in LATENCIES else (metric,), confidence)
            self._known.update({(name, confidence): one for name, one in found.items()})
        return self._known[metric, confidence]

    def _samples(self, metrics: Sequence[str], confidence: float) -> dict[str, Sample]:
        """Return metrics of several trials by name."""
        names = [name for metric in metrics for name in {"gap": ("p999", "p50"), "mean": ()}.get(metric, (metric,))]
        wanted = np.array([percentiles.probability(name) for name in dict.fromkeys(names)])
        found = dict(zip(dict.fromkeys(names), self._percentiles(wanted, confidence), strict=True))
        if "mean" in metrics:
            found["mean"] = self._mean(confidence)
        if "gap" in metrics:
            found["gap"] = difference(found["p999"], found["p50"])
        return {metric: self._controlled(found[metric], confidence) for metric in metrics}

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

    def _mean(self, confidence: float) -> Sample:
        values = [trial.latency["mean"] * MS for trial in self.trials]
        found = student_t(values, confidence)
        return Sample(found, tuple(value - found.value for value in values))

    def curve(self, probabilities: Floats) -> list[Interval]:
        """Return the quantiles at any probabilities, in ms; without an interval for a single trial.

        At 0 it is the least latency seen, and its own interval.
        """
        if len(self.trials) == 1:
            values = MS * self.quantiles(probabilities)
            found = [Interval(value, math.nan, math.nan) for value in values.tolist()]
        else:
            every = self._percentiles(np.maximum(probabilities, 0.0), CONFIDENCE)
            found = [self._controlled(one, CONFIDENCE).interval for one in every]
        least = MS * self.quantile(0.0)
        start = Interval(least, least, least)
        return [one if probability > 0 else start for one, probability in zip(found, probabilities, strict=True)]

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

    @cached_property
    def _pieces(self) -> tuple[Floats, Floats, Floats]:
        """The share of each trial's queries below a latency, piece by piece: from where, from which share, how steep.

        Shape (trials, n + 1): piece i is entered at latency i - 1. Before the first and after the last it is flat.
        """
        known, seconds = self._functions
        begins, width = np.concatenate([seconds[:, :1], seconds], axis=1), np.diff(seconds, axis=1)
        slopes = np.zeros_like(begins)
        np.divide(np.diff(known), width, out=slopes[:, 1:-1], where=width > 0)
        return begins, np.tile(np.append(known[0], known), (len(seconds), 1)), slopes

    def quantile(self, probability: float) -> float:
        """Return the least latency, in seconds, that at least this share of all queries do not exceed."""
        return float(self.quantiles(np.array([probability]))[0])

    def quantiles(self, probabilities: Floats) -> Floats:
        """Return what `quantile` does for each of several probabilities, which takes hardly longer than for one.

        The share that do not exceed a latency is piecewise linear, and is inverted by false position (Dowell and
        Jarratt 1971, the Illinois algorithm), with halvings for where it jumps.
        """
        theirs = np.array([np.interp(probabilities, self._functions[0], one) for one in self._functions[1]])
        low, high = theirs.min(axis=0), theirs.max(axis=0)
        missing, beyond = probabilities - self._share(low), self._share(high) - probabilities
        found: Floats = np.where(missing <= _EXACT, low, high)
        left = np.flatnonzero(missing > _EXACT)
        wanted, low, high, missing, beyond = (one[left] for one in (probabilities, low, high, missing, beyond))
        again_low = again_high = np.ones(len(left))
        for step in range(_STEPS):
            with np.errstate(divide="ignore"):  # of those that are narrow
                share = 0.5 if step % 8 == 7 else missing / (missing + beyond)
            at = low + np.minimum(share, 1.0) * (high - low)
            over = self._share(at) - wanted
            narrow = (high - low <= 1e-13 * high) | (beyond <= _EXACT)
            done = narrow | (np.abs(over) <= _EXACT)
            if done.any():
                found[left[done]] = np.where(narrow, high, at)[done]
                left, every = left[~done], (wanted, low, high, missing, beyond, again_low, again_high, at, over)
                wanted, low, high, missing, beyond, again_low, again_high, at, over = np.stack(every)[:, ~done]
            if not len(left):
                break
            raised = over < 0
            missing, beyond = np.where(raised, -over, again_high * missing), np.where(raised, again_low * beyond, over)
            low, high = np.where(raised, at, low), np.where(raised, high, at)
            again_low, again_high = np.where(raised, 0.5, 1.0), np.where(raised, 1.0, 0.5)
        found[left] = high
        return found

    def _share(self, latencies: Floats) -> Floats:
        """Return the share of all queries that do not exceed each latency."""
        return np.array([self._weights @ below for below in self._below(latencies)])

    def _below(self, latencies: Floats) -> Floats:
        """Return the share of each trial's queries that do not exceed each latency, shape (latencies, trials)."""
        begins, shares, slopes = self._pieces
        places = np.array([one.searchsorted(latencies, side="right") for one in self._functions[1]])
        places += np.arange(0, begins.size, begins.shape[1])[:, None]
        found: Floats = (slopes.take(places) * (latencies - begins.take(places)) + shares.take(places)).T.copy()
        return found

    def design_effect(self, probability: float) -> float:
        """Return how many times more than independent queries' the share below a percentile varies between trials."""
        (below,) = self._below(self.quantiles(np.array([probability])))
        shares = self._weights * (below - self._weights @ below)
        count, queries = len(self.trials), sum(trial.queries for trial in self.trials)
        return count / (count - 1) * float(shares @ shares) * queries / (probability * (1 - probability))

    def _percentiles(self, probabilities: Floats, confidence: float) -> list[Sample]:
        """Return percentiles of two or more trials, in ms.

        Woodruff's (1952): an interval for the share of queries below the estimate, which is inverted. Shares are means
        over the trials (Francisco and Fuller 1991, for clusters), so that theirs is Student's t, but no narrower than
        for independent queries. An end beyond every query is the largest latency seen, and so is too low.
        """
        values, count = self.quantiles(probabilities), len(self.trials)
        shares = [self._weights * (below - self._weights @ below) for below in self._below(values)]
        errors = np.array([math.sqrt(count / (count - 1) * float(one @ one)) for one in shares])
        level = (1 + confidence) / 2
        t = student_quantile(count - 1, level)
        queries = sum(trial.queries for trial in self.trials)
        independent = normal_quantile(level) * np.sqrt(probabilities * (1 - probabilities) / queries)
        half = np.maximum(t * errors, independent)
        ends = np.concatenate([np.maximum(probabilities - half, 0.0), np.minimum(probabilities + half, 1.0)])
        lows, highs = self.quantiles(ends).reshape(2, -1)
        found = []
        for value, low, high, share, error in zip(
            values.tolist(), lows.tolist(), highs.tolist(), shares, errors, strict=True
        ):
            scale = MS * (high - low) / (2 * t * error) if error > 0 else 0.0
            found.append(Sample(Interval(value, low, high).scaled(MS), tuple((-count * scale * share).tolist())))
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
