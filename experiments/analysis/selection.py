"""Which policy is best at a sweep point, with a confidence that holds for all that is said there at once.

Policies are compared with the best (Hsu 1984; with common random numbers: Nelson and Matejcik 1995), by the percentile
of all trials' queries, as in every table. For each pair there is an upper bound on how much worse one is than the
other: Student's t over the paired deviations of the trials. Whatever is said is wrong only if one of the bounds on how
much worse the others are than the best one is: there are K - 1 of these for K policies, and they share the error
(Bonferroni), which needs nothing about how they depend on each other.

A `Selection` looks again and again, while trials are added, and stops simulating the policies that are surely not
the best, or than which the leader is surely not worse by more than the zone. It is fully sequential as KN and KN++ (Kim
and Nelson 2001, 2006) are, which eliminate by a line instead of Student's t; there the chance of a wrong answer is
bounded where the best is better than the others by the zone. Here the bounds hold at all looks together (the error is
shared among them: repeated confidence intervals, Jennison and Turnbull 1989), so that the policy that is found is
within the zone of the best whatever the differences are, and a longer search may go on where a shorter one ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np

from experiments.analysis.estimates import HIGHER_IS_BETTER, sample, unit
from experiments.analysis.outcome import Outcome, common
from experiments.analysis.quantiles import CONFIDENCE, Sample
from experiments.analysis.statistics import Interval, student_quantile
from experiments.analysis.summary import Row, point_key
from experiments.analysis.tables import describe
from sim.trace import Floats

FIRST_LOOK = 10
"""Trials at the first look."""
GROWTH = 1.5
"""By how much the number of trials grows from look to look."""
MOST_LOOKS = 18
"""Looks from the first to 10,000 trials, among which the error is shared, however many of them are taken."""
NAMES = {"p999": "p99.9"}


@dataclass(frozen=True)
class Rule:
    """What is best, how sure one wants to be, and which difference nobody would act on."""

    metric: str = "p999"
    """A metric of the summary or a percentile; less is better, but for accuracies and goodput."""
    within: float = 1.0
    """The indifference zone, in the metric's unit, or as a share of the best value."""
    relative: bool = False
    """Whether the zone is a share of the best value."""
    confidence: float = CONFIDENCE
    """Chance that all that is said of a sweep point is right."""
    counts: tuple[int, ...] = ()
    """Trials at each look, growing; empty where the trials are taken as they are."""

    @property
    def zone(self) -> str:
        """The zone in words."""
        if self.relative:
            return f"{100 * self.within:g}%"
        return f"{self.within:g}{' ms' if unit(self.metric) == 'ms' else '/s' if unit(self.metric) == '/s' else ''}"

    @property
    def name(self) -> str:
        """The metric in words."""
        return NAMES.get(self.metric, self.metric)


def looks(first: int, most: int) -> tuple[int, ...]:
    """Return the numbers of trials at which one looks: by half as many more each time, and never more than `most`."""
    counts = [min(first, most)]
    while len(counts) < MOST_LOOKS and math.ceil(counts[-1] * GROWTH) <= most:
        counts.append(math.ceil(counts[-1] * GROWTH))
    return tuple(counts)


class Standing(Enum):
    """What is certain of a policy among the others."""

    BEST = "best"
    """Better than every other."""
    CLOSE = "close"
    """No other is better by more than the indifference zone."""
    WORSE = "worse"
    """Some other is better, and it may be by more than the zone."""
    UNDECIDED = "undecided"
    """None of these."""

    def words(self, rule: Rule) -> str:
        """Return the standing in words."""
        return f"not worse than the best by more than {rule.zone}" if self is Standing.CLOSE else self.value

    def short(self, rule: Rule) -> str:
        """Return the standing as it stands in a table."""
        return f"within {rule.zone}" if self is Standing.CLOSE else self.value


@dataclass(frozen=True)
class Mark:
    """A policy with its standing."""

    policy: str
    standing: Standing
    behind: Interval
    """By how much it is worse than the one with the best estimate; that one itself: than the second, so negative."""
    trials: int
    """Trials that it was given."""
    may_be_best: bool
    """Whether no other policy is surely better."""


@dataclass
class Selection:
    """The comparison of the policies of one sweep point, while trials are added."""

    policies: Sequence[str]
    rule: Rule
    trials: dict[str, int] = field(init=False)
    """How many trials of each policy are wanted so far."""
    settled: bool = False
    """Whether a policy is surely within the zone of the best."""
    _seen: dict[int, dict[str, Sample]] = field(default_factory=dict)
    """By number of trials, each policy's estimate from so many."""
    _worse: Floats = field(init=False)
    """Entry (i, j) is the upper bound on how much worse i is than j, in the metric's unit."""

    def __post_init__(self) -> None:
        """Begin with the first look."""
        count = len(self.policies)
        self.trials = dict.fromkeys(self.policies, self.rule.counts[0])
        self._worse = np.where(np.eye(count, dtype=bool), 0.0, np.inf)

    def look(self, outcomes: Mapping[str, Sequence[Outcome]]) -> bool:
        """Look at the trials that were wanted, the first of each policy's outcomes; return whether more are wanted."""
        for policy in self.policies:
            for count in self.rule.counts:
                if count <= self.trials[policy] and policy not in self._seen.setdefault(count, {}):
                    self._add(policy, count, sample(self.rule.metric, outcomes[policy][:count]))
        return self._go_on()

    def _add(self, policy: str, count: int, mine: Sample) -> None:
        tests = max(1, len(self.policies) - 1) * (MOST_LOOKS if len(self.rule.counts) > 1 else 1)
        level = 1 - (1 - self.rule.confidence) / tests
        sign = -1.0 if self.rule.metric in HIGHER_IS_BETTER else 1.0
        place = {name: index for index, name in enumerate(self.policies)}
        for other, theirs in self._seen[count].items():
            behind = sign * (mine.interval.value - theirs.interval.value)
            room = margin(mine, theirs, level)
            for one, two, by in ((policy, other, behind + room), (other, policy, -behind + room)):
                at = place[one], place[two]
                self._worse[at] = np.nanmin([self._worse[at], by])
        self._seen[count][policy] = mine

    def _go_on(self) -> bool:
        """Ask for more trials of the leader and of all of which it is not settled that it is as good."""
        regret, candidates, zone = self._regret, self._candidates, self.zone
        self.settled = bool(regret.min() <= zone)
        if self.settled:
            return False
        leader = min(candidates, key=lambda at: regret[at])
        open_ = [self.policies[at] for at in candidates if at == leader or self._worse[leader, at] > zone]
        fewest = min(self.trials[policy] for policy in open_)
        more = next((count for count in self.rule.counts if count > fewest), None)
        if more is None:
            return False
        self.trials |= {policy: more for policy in open_ if self.trials[policy] == fewest}
        return True

    @property
    def _candidates(self) -> list[int]:
        """The policies of which no other is surely better."""
        found = [j for j in range(len(self.policies)) if not (self._worse[:, j] < 0).any()]
        return found or list(range(len(self.policies)))

    @property
    def _regret(self) -> Floats:
        """For each policy the upper bound on how much worse it is than the best, in the metric's unit."""
        regret: Floats = self._worse[:, self._candidates].max(axis=1)
        return regret

    def seen(self, policy: str) -> int:
        """Return how many trials of a policy were looked at."""
        return max((count for count, seen in self._seen.items() if policy in seen), default=0)

    def _estimate(self, policy: str) -> float:
        """Return a policy's estimate from most trials; higher is worse."""
        count = self.seen(policy)
        sign = -1.0 if self.rule.metric in HIGHER_IS_BETTER else 1.0
        value = sign * self._seen[count][policy].interval.value
        return math.inf if math.isnan(value) else value

    @property
    def zone(self) -> float:
        """The indifference zone in the metric's unit."""
        best = min(self._estimate(policy) for policy in self.policies)
        return self.rule.within * abs(best) if self.rule.relative else self.rule.within

    def marks(self) -> list[Mark]:
        """Return the standing of each policy."""
        ranked = sorted(self.policies, key=self._estimate)
        place = {policy: index for index, policy in enumerate(self.policies)}
        candidates, regret, found = self._candidates, self._regret, []
        for policy, at in place.items():
            if candidates == [at]:
                standing = Standing.BEST
            elif regret[at] <= self.zone:
                standing = Standing.CLOSE
            elif at not in candidates:
                standing = Standing.WORSE
            else:
                standing = Standing.UNDECIDED
            rival = next((other for other in ranked if other != policy), policy)
            ends = -self._worse[place[rival], at], self._worse[at, place[rival]]
            low, high = (math.nan if math.isinf(end) else float(end) for end in ends)
            behind = Interval(self._estimate(policy) - self._estimate(rival), low, high)
            found.append(Mark(policy, standing, behind, self.seen(policy), at in candidates))
        return found


def margin(one: Sample, other: Sample, level: float) -> float:
    """Return by how much the difference of two estimates may be off, one-sided at `level`; NaN where it is unknown."""
    if len(one.deviations) != len(other.deviations) or len(one.deviations) < 2:
        return math.nan
    apart = np.subtract(one.deviations, other.deviations)
    count = len(apart)
    return student_quantile(count - 1, level) * math.sqrt(float(apart @ apart) / (count - 1) / count)


def standings(trials: Mapping[str, Sequence[Outcome]], rule: Rule | None = None) -> list[Mark]:
    """Return the standing of each policy of one sweep point, in the given order; without bounds all are undecided.

    `trials` holds each policy's outcomes by its name. Without `counts` in the rule the trials that all have are
    taken as they are; else those of a search by `Selection`, whose looks are repeated.
    """
    rule, names = rule or Rule(), list(trials)
    if not names:
        return []
    if rule.counts:
        found = replayed(trials, rule)
    else:
        together = dict(zip(names, common(*trials.values()), strict=True))
        if not together[names[0]]:
            return []
        found = Selection(names, replace(rule, counts=(len(together[names[0]]),)))
        found.look(together)
    return found.marks()


def replayed(trials: Mapping[str, Sequence[Outcome]], rule: Rule) -> Selection:
    """Repeat the looks of a search as far as its trials are there."""
    found = Selection(list(trials), rule)
    while all(len(trials[policy]) >= count for policy, count in found.trials.items()) and found.look(trials):
        pass
    return found


def by_point(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[Outcome]]]:
    """Return the outcomes by sweep point (see `summary.point_key`) and policy, trial by trial."""
    points: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in sorted(outcomes, key=lambda one: one.trial):
        points.setdefault(point_key(outcome.point), {}).setdefault(outcome.policy, []).append(outcome)
    return points


Verdicts = list[tuple[dict[str, Any], list[Mark]]]
"""For each sweep point with two or more policies its values, and the standing of each policy."""


def verdicts(outcomes: Sequence[Outcome], rule: Rule | None = None) -> Verdicts:
    """Return the standings at each sweep point with two or more policies, in the order of the outcomes."""
    points = by_point(outcomes)
    policies = dict.fromkeys(one.policy for one in outcomes)
    found: Verdicts = []
    for key in dict.fromkeys(point_key(one.point) for one in outcomes):
        trials = {policy: points[key][policy] for policy in policies if policy in points[key]}
        if len(trials) > 1:
            found.append((next(iter(trials.values()))[0].point, standings(trials, rule)))
    return found


def marked(rows: Sequence[Row], found: Verdicts, rule: Rule | None = None) -> list[Row]:
    """Return the rows with their standing."""
    said = {(point_key(at), mark.policy): mark.standing.short(rule or Rule()) for at, marks in found for mark in marks}
    return [replace(row, standing=said.get((row.point_key, row.policy), "")) for row in rows]


def sentences(found: Verdicts, rule: Rule | None = None) -> list[str]:
    """Say for each sweep point which policy is best, which are as good, which are worse and which are undecided."""
    return [sentence(marks, rule or Rule(), describe(point)) for point, marks in found]


def sentence(marks: Sequence[Mark], rule: Rule, where: str = "", joined: str = " at ") -> str:
    """Say the standings at a sweep point, which is given in words behind `joined`."""
    parts = [
        f"{standing.words(rule)}: {', '.join(names)}"
        for standing in Standing
        if (names := [mark.policy for mark in marks if mark.standing is standing])
    ]
    return f"{rule.name}{joined + where if where else ''}, all at {rule.confidence:.0%} confidence: {'; '.join(parts)}"
