"""What `parm plan` has to meet: latency and accuracy targets, judged on as many trials as it takes and no more.

Looking at the data again and again until they say yes would say yes too often. The error that may be made in all looks
together is therefore spent look by look (Lan and DeMets 1983, with Pocock's spending function), and each look's bounds
are one-sided Student's t bounds at the level that it may spend. The levels add up to 1 - confidence, so the guarantee
needs nothing about how the looks depend on each other (Bonferroni); Slud and Wei 1982 would be a little sharper.

Trials that would hardly decide are not run: one stops, undecided, where the predictive power is low (Spiegelhalter,
Freedman and Blackburn 1986), that is, the chance that the trials left will decide, given those seen. That can only keep
a verdict back, so the error stays what it is.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from scipy.special import ndtr, stdtrit

from experiments.analysis import percentiles
from experiments.analysis.estimates import HIGHER_IS_BETTER, sample, unit
from experiments.analysis.outcome import LATENCIES, Outcome
from experiments.analysis.summary import RATES
from experiments.config.widths import MS, parsed
from sim.errors import ParmError

FIRST_LOOK = 5
"""Trials before the first look."""
FUTILE = 0.05
"""Chance that the trials left will decide, below which they are not run."""
UNITS = {"s": 1000.0, "ms": 1.0, "us": 0.001, "µs": 0.001}
"""Milliseconds in each unit."""
_QUANTITY = re.compile(r"([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([^\s0-9.]*)")


@dataclass(frozen=True)
class Target:
    """A metric with the bound that it must keep, over the queries of all trials."""

    metric: str
    bound: float
    """In ms, at most; for accuracy a fraction, and for goodput queries per second, at least."""
    within: float = 0.0
    """By how much missing it does not matter: so much worse it counts as met, where that is what is certain."""

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.metric in HIGHER_IS_BETTER

    @property
    def unit(self) -> str:
        """`ms`, `/s`, or nothing for accuracy."""
        return unit(self.metric)

    def rooms(self, trials: Sequence[Outcome]) -> list[float]:
        """Return by how much the metric over the trials keeps the bound, negative where it does not, trial by trial.

        A trial's number is, to first order, what would be left if all trials were like it; so the mean is that of the
        pooled queries, as in every table, and not that of the trials' percentiles, which is biased.
        """
        found = sample(self.metric, trials)
        values = (found.interval.value + by for by in found.deviations)
        return [value - self.bound if self.at_least else self.bound - value for value in values]

    def value(self, room: float) -> float:
        """Return the metric's value that leaves this much room."""
        return self.bound + room if self.at_least else self.bound - room

    def written(self, value: float) -> str:
        """Return a value of the metric with its unit."""
        return f"{value:.4g}{' ms' if self.unit == 'ms' else self.unit}" if self.unit else f"{value:.4f}"

    def __str__(self) -> str:
        return f"{NAMES.get(self.metric, self.metric)} {'>=' if self.at_least else '<='} {self.written(self.bound)}" + (
            f" (within {self.written(self.within)})" if self.within else ""
        )


ACCURACY = "accuracy_overall"
NAMES = {ACCURACY: "accuracy"}


class TargetVerdict(Enum):
    """What the trials say of one number of instances."""

    MEETS = "meets"
    """Every target is met, with confidence."""
    MISSES = "misses"
    """Some target is missed, with confidence."""
    OPEN = "cannot tell"
    """Neither, so far."""


@dataclass(frozen=True)
class SequentialTest:
    """After how many trials one looks, and how much error each look may spend."""

    most: int
    """Trials at the last look, after which one cannot tell."""
    confidence: float = 0.95

    @property
    def counts(self) -> list[int]:
        """The number of trials at each look: doubling from the first to `most`."""
        first = min(FIRST_LOOK, self.most)
        counts = [first * 2**step for step in range(64) if first * 2**step < self.most]
        return [*counts, self.most]

    def level(self, look: int) -> float:
        """Return the error that look number `look` may spend; those of all looks add up to 1 - confidence."""
        shares = [0.0, *(count / self.most for count in self.counts)]
        spent = [(1 - self.confidence) * math.log1p((math.e - 1) * share) for share in shares]
        return spent[look + 1] - spent[look]


@dataclass(frozen=True)
class Finding:
    """What some trials say of one target."""

    target: Target
    value: float
    """Over the queries of all trials."""
    worst: float
    """The target is met with confidence where this is: a one-sided bound at the look's level."""
    best: float
    """The target is missed with confidence where this does not keep it."""

    @property
    def excess(self) -> float:
        """The value by the bound, or the bound by the value where more is better: above 1 it is missed."""
        if not self.target.at_least:
            return self.value / self.target.bound
        return self.target.bound / self.value if self.value > 0 else math.inf


def judge(
    rooms: Sequence[Sequence[float]], targets: Sequence[Target], level: float
) -> tuple[TargetVerdict, list[Finding]]:
    """Judge trials at one look: `rooms[i]` has, trial by trial, what `targets[i]` has left.

    All targets are met where each is, or is missed by less than it is `within`, at `level`: intersection-union, which
    needs no correction. That any is missed is asked of each at level / targets.
    """
    findings, met, missed = [], True, False
    for target, room in zip(targets, rooms, strict=True):
        sample = np.asarray(room, dtype=float)
        mean, spread = float(sample.mean()), float(sample.std(ddof=1)) / math.sqrt(len(sample))
        low = mean - float(stdtrit(len(sample) - 1, 1 - level)) * spread
        high = mean + float(stdtrit(len(sample) - 1, 1 - level / len(targets))) * spread
        met &= low >= -target.within
        missed |= high < 0
        findings.append(Finding(target, target.value(mean), target.value(low), target.value(high)))
    return (TargetVerdict.MEETS if met else TargetVerdict.MISSES if missed else TargetVerdict.OPEN), findings


def futile(rooms: Sequence[Sequence[float]], targets: Sequence[Target], looks: SequentialTest) -> bool:
    """Say whether the trials that are left, up to `looks.most`, will hardly decide what `judge` left open.

    The mean of n + m trials is normal around that of the n seen, with the variance s^2 m / (n (n + m)); their standard
    deviation s is taken to stay what it is.
    """
    seen, most, level = len(rooms[0]), looks.most, looks.level(len(looks.counts) - 1)
    met, missed = 1.0, 0.0
    for target, room in zip(targets, rooms, strict=True):
        mean, deviation = float(np.mean(room)), float(np.std(room, ddof=1))
        ahead = deviation * math.sqrt((most - seen) / (seen * most))
        if not ahead:
            return False
        half, each = (float(stdtrit(most - 1, 1 - error)) / math.sqrt(most) for error in (level, level / len(targets)))
        met = min(met, float(ndtr((mean + target.within - half * deviation) / ahead)))
        missed = min(1.0, missed + float(ndtr((-mean - each * deviation) / ahead)))
    return met + missed < FUTILE


def parse(slos: Sequence[str], accuracy: float | None, within: str | None = None) -> list[Target]:
    """Return the targets of `--slo p999=40ms`, `--slo goodput=250` and `--accuracy 0.92`.

    `within` is a time by which latencies, or a percentage by which all targets may be missed. Raises ParmError, in one
    sentence.
    """
    targets = [_goodput(text) if text.partition("=")[0].strip() in RATES else _latency(text) for text in slos]
    if accuracy is not None:
        if not 0 < accuracy <= 1:
            raise ParmError(f"--accuracy {accuracy:g}: must be above 0 and at most 1, such as 0.92 for 92%.")
        targets.append(Target(ACCURACY, accuracy))
    if not targets:
        raise ParmError("say what is to be met, such as --slo p999=40ms or --accuracy 0.92.")
    for index, target in enumerate(targets):
        if target.metric in [one.metric for one in targets[:index]]:
            raise ParmError(f"--slo {target.metric}: is given twice.")
    return targets if within is None else [_within(target, within) for target in targets]


def _within(target: Target, within: str) -> Target:
    try:
        number, given = parsed(within)
    except ValueError as error:
        raise ParmError(f"--within: {error}") from None
    if given == "%":
        return replace(target, within=number / 100 * target.bound)
    if given is None:
        raise ParmError(f"--within {within}: needs a unit: 5% of the targets, or a time such as 1ms.")
    return replace(target, within=number * MS[given]) if target.unit == "ms" else target


def _goodput(text: str) -> Target:
    metric, _, quantity = (part.strip() for part in text.partition("="))
    try:
        number = float(quantity.removesuffix("/s"))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ParmError(f"--slo {text}: must be a number of queries per second, such as {metric}=250.")
    return Target(metric, number)


def _latency(text: str) -> Target:
    metric, equals, quantity = (part.strip() for part in text.partition("="))
    if not equals or not metric:
        raise ParmError(f"--slo {text}: must look like p999=40ms.")
    if percentiles.is_percentile(metric):
        try:
            known = percentiles.canonical(metric)
        except ValueError as error:
            raise ParmError(f"--slo {text}: {error}") from None
    elif metric in LATENCIES:
        known = metric
    else:
        near = difflib.get_close_matches(metric.lower(), LATENCIES, n=1)
        raise ParmError(
            f"--slo {text}: there is no latency '{metric}'"
            + (f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(LATENCIES)}, and such as p99.5.")
        )
    match = _QUANTITY.fullmatch(quantity)
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or math.isnan(number):
        raise ParmError(f"--slo {text}: '{quantity}' is not a number with a unit, such as 40ms.")
    if match[2] not in UNITS:
        given = f"there is no unit '{match[2]}'" if match[2] else "it needs a unit"
        raise ParmError(f"--slo {text}: {given}; use s, ms or us, such as {metric}=40ms.")
    if not 0 < number < math.inf:
        raise ParmError(f"--slo {text}: must be above 0.")
    return Target(known, number * UNITS[match[2]])
