"""Which policy is best at a sweep point, with a confidence that holds for all that is said there at once.

Multiple comparisons with the best (Hsu 1984; with common random numbers: Nelson and Matejcik 1995): every pair of
policies has an interval for its difference, paired by trial, and the error is shared among all pairs (Bonferroni),
which needs nothing about how they depend on each other. An indifference zone says which difference nobody would act on.

The number of trials is taken as given: nothing is sampled until a choice is certain, as fully sequential procedures do
(KN++, Kim and Nelson 2006). `precision` with more trials makes undecided choices rarer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

from experiments.analysis.estimates import common, is_fraction, sample
from experiments.analysis.outcome import Outcome
from experiments.analysis.quantiles import CONFIDENCE, difference
from experiments.analysis.statistics import Interval
from experiments.analysis.summary import point_key
from experiments.analysis.tables import describe

ZONE = 1.0
"""The indifference zone of a latency in ms."""
NAMES = {"p999": "p99.9"}


class Standing(Enum):
    """What is certain of a policy among the others."""

    BEST = "best"
    """Better than every other."""
    CLOSE = "not worse by more than the zone"
    """No other is better by more than the indifference zone."""
    WORSE = "worse"
    """Some other is better, and it may be by more than the zone."""
    UNDECIDED = "undecided"
    """None of these."""


@dataclass(frozen=True)
class Mark:
    """A policy with its standing."""

    policy: str
    standing: Standing
    behind: Interval
    """By how much it is worse than the one with the best estimate; that one itself: than the second, so negative."""


def standings(
    trials: Mapping[str, Sequence[Outcome]], metric: str = "p999", zone: float = ZONE, confidence: float = CONFIDENCE
) -> list[Mark]:
    """Return the standing of each policy of one sweep point, in the given order.

    `trials` holds each policy's outcomes by its name; `zone` is in ms, or a fraction for a share. Less is better, but
    for accuracies. All marks together are right with at least `confidence`; without intervals all are undecided.
    """
    names = list(trials)
    sign = -1.0 if metric.startswith("accuracy") else 1.0
    together = dict(zip(names, common(*trials.values()), strict=True)) if names else {}
    if not names or not together[names[0]]:
        return []
    each = 1 - (1 - confidence) / max(1, len(names) * (len(names) - 1) // 2)
    samples = {name: sample(metric, together[name], each) for name in names}
    behind: dict[tuple[str, str], Interval] = {}
    for one, other in combinations(names, 2):
        worse = _signed(difference(samples[one], samples[other]).interval, sign)
        behind[one, other], behind[other, one] = worse, _signed(worse, -1.0)
    ranked = sorted(names, key=lambda name: sign * samples[name].interval.value)
    found = []
    for name in names:
        others = [behind[name, other] for other in names if other != name]
        if not others or all(one.hi < 0 for one in others):
            standing = Standing.BEST
        elif all(one.hi <= zone for one in others):
            standing = Standing.CLOSE
        elif any(one.lo > 0 for one in others):
            standing = Standing.WORSE
        else:
            standing = Standing.UNDECIDED
        rival = next((other for other in ranked if other != name), name)
        found.append(Mark(name, standing, behind.get((name, rival), Interval(0.0, math.nan, math.nan))))
    return found


def sentences(
    outcomes: Sequence[Outcome], metric: str = "p999", zone: float = ZONE, confidence: float = CONFIDENCE
) -> list[str]:
    """Say for each sweep point with two or more policies which is best, which are as good, and which are undecided."""
    points: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        points.setdefault(point_key(outcome.point), {}).setdefault(outcome.policy, []).append(outcome)
    said = []
    for trials in points.values():
        if len(trials) < 2:
            continue
        marks = standings(trials, metric, zone, confidence)
        written = f"{zone:g}" if is_fraction(metric) else f"{zone:g} ms"
        called = {
            Standing.BEST: "best",
            Standing.CLOSE: f"not worse than the best by more than {written}",
            Standing.WORSE: "worse",
            Standing.UNDECIDED: "undecided",
        }
        parts = [
            f"{words}: {', '.join(names)}"
            for standing, words in called.items()
            if (names := [mark.policy for mark in marks if mark.standing is standing])
        ]
        where = describe(next(iter(trials.values()))[0].point)
        name = NAMES.get(metric, metric)
        said.append(f"{name}{f' at {where}' if where else ''}, all at {confidence:.0%} confidence: {'; '.join(parts)}")
    return said


def _signed(interval: Interval, sign: float) -> Interval:
    return interval if sign > 0 else Interval(-interval.value, -interval.hi, -interval.lo)
